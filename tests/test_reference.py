"""Rung 1: the float reference against an implementation that shares nothing with it, and against llama2.c itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import configs, model_of, random_tokens, shapes, stories, stories_tokenizer

from mcugen.ir import Config, Model
from mcugen.reference import FloatDecoder, sample_sequences
from mcugen.resources import models_dir
from mcugen.sources import DEFAULT_MODEL, read_model_folder
from mcugen.tokenizer import decode, encode


def straight_line(model: Model, tokens: list[int], window: int | None = None) -> np.ndarray:
    """The Llama decoder as its papers have it: one token, one head, one pair after another, in Python's floats.

    window: keys and values beyond the latest `window` are thrown away for good. Returns logits[T, vocab].
    """
    c, w = model.config, model.weights
    head = c.dim // c.n_heads
    cache: list[tuple[list, list]] = [([], []) for _ in range(c.n_layers)]

    def norm(x, gain):
        mean = sum(float(v) * float(v) for v in x) / len(x)
        return np.array([float(v) / math.sqrt(mean + 1e-5) * float(g) for v, g in zip(x, gain, strict=True)])

    def turn(x, position):
        y = np.array(x, float)
        for i in range(0, len(x), 2):
            angle = position / 10000 ** ((i % head) / head)
            y[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
            y[i + 1] = x[i] * math.sin(angle) + x[i + 1] * math.cos(angle)
        return y

    logits = []
    for position, token in enumerate(tokens):
        x = w["token_embedding_table"][token].astype(float)
        for layer in range(c.n_layers):
            h = norm(x, w["rms_att_weight"][layer])
            keys, values = cache[layer]
            keys.append(turn(w["wk"][layer].astype(float) @ h, position))
            values.append(w["wv"][layer].astype(float) @ h)
            if window is not None:
                del keys[:-window], values[:-window]
            q = turn(w["wq"][layer].astype(float) @ h, position)
            out = []
            for i in range(c.n_heads):
                own = i // (c.n_heads // c.n_kv_heads) * head
                scores = [q[i * head : (i + 1) * head] @ k[own : own + head] / math.sqrt(head) for k in keys]
                weights = [math.exp(s - max(scores)) for s in scores]
                mix = sum(p * v[own : own + head] for p, v in zip(weights, values, strict=True))
                out.append(mix / sum(weights))
            x = x + w["wo"][layer].astype(float) @ np.concatenate(out)
            h = norm(x, w["rms_ffn_weight"][layer])
            gate, up = w["w1"][layer].astype(float) @ h, w["w3"][layer].astype(float) @ h
            hidden = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
            x = x + w["w2"][layer].astype(float) @ np.array(hidden)
        logits.append(w["wcls"].astype(float) @ norm(x, w["rms_final_weight"]))
    return np.array(logits)


def close(observed: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-5 of the largest value: the rung's budget."""
    assert observed.shape == expected.shape
    np.testing.assert_allclose(observed, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@shapes()
def test_the_reference_is_the_decoder_of_the_papers(config):
    model, tokens = model_of(config), random_tokens(config, 12)
    close(FloatDecoder(model).forward(tokens[None])[0], straight_line(model, tokens.tolist()))


@settings(max_examples=15)
@given(configs(), st.integers(0, 3))
def test_the_reference_is_the_decoder_of_the_papers_in_any_shape(config, seed):
    model, tokens = model_of(config, seed), random_tokens(config, 5, seed)
    close(FloatDecoder(model).forward(tokens[None])[0], straight_line(model, tokens.tolist()))


def test_the_reference_on_the_real_checkpoint():
    tokens = [1, 403, 407, 261, 378, 9, 511]
    close(FloatDecoder(stories()).forward(np.array([tokens]))[0], straight_line(stories(), tokens))


def test_the_reference_on_the_default_model():
    model, tokenizer = read_model_folder(models_dir() / DEFAULT_MODEL)
    tokens = encode(tokenizer, "turn on the light in the kitchen\n")
    close(FloatDecoder(model).forward(np.array([tokens]))[0], straight_line(model, tokens))


@shapes()
def test_step_by_step_equals_all_at_once(config):
    model, tokens = model_of(config), random_tokens(config, 20)[None]
    at_once = FloatDecoder(model).forward(tokens)
    for cuts in ([7, 8], range(1, 20)):
        decoder = FloatDecoder(model)
        close(np.concatenate([decoder.forward(part) for part in np.split(tokens, cuts, 1)], 1), at_once)


@shapes()
def test_sequences_of_a_batch_are_independent(config):
    model, tokens = model_of(config), random_tokens(config, 30).reshape(3, 10)
    together = FloatDecoder(model, batch=3).forward(tokens)
    for row, logits in zip(tokens, together, strict=True):
        close(logits, FloatDecoder(model).forward(row[None])[0])


@pytest.mark.parametrize("window", [1, 2, 5, 100])
@shapes()
def test_a_window_forgets_old_keys_for_good(config, window):
    model, tokens = model_of(config), random_tokens(config, 14)
    expected = straight_line(model, tokens.tolist(), window)
    decoder = FloatDecoder(model, window=window)
    parts = [decoder.forward(part[None])[0] for part in np.split(tokens, [6, 7])]
    close(np.concatenate(parts), expected)


def test_positions_are_relative():
    """In one layer, a window of the latest tokens equals a fresh start with them, wherever they stand."""
    model = model_of(Config(24, 10, 1, 3, 1, 20, 8, False))
    tokens = random_tokens(model.config, 30)
    late = FloatDecoder(model, window=6).forward(tokens[None])[0, -1]
    close(late, FloatDecoder(model).forward(tokens[None, -6:])[0, -1])


def test_taps_see_what_calibration_needs():
    model, seen = model_of(Config(24, 10, 2, 3, 1, 20, 8, False)), {}
    tokens = random_tokens(model.config, 5)[None]
    logits = FloatDecoder(
        model, tap=lambda name, layer, values: seen.setdefault((name, layer), []).append(values)
    ).forward(tokens)
    per_layer = ("att_norm", "query", "key", "value", "attention", "ffn_norm", "gate", "up", "swiglu")
    assert set(seen) == {(n, i) for n in (*per_layer, "residual") for i in (0, 1)} | {("final_norm", 0)}
    assert [len(seen["residual", i]) for i in (0, 1)] == [3, 2]  # the embedding; after attention, after feed-forward
    np.testing.assert_array_equal(seen["residual", 0][0][0], model.weights["token_embedding_table"][tokens[0]])
    close(seen["final_norm", 0][0] @ model.weights["wcls"].astype(float).T, logits)
    assert seen["key", 1][0].shape == (1, 5, 1, 8)
    assert seen["query", 1][0].shape == (1, 5, 3, 8)


def test_samples_open_with_bos_end_with_eos_and_repeat():
    model = model_of(Config(24, 10, 1, 3, 1, 6, 8, False))
    sequences = sample_sequences(model, count=40, length=9, seed=3)
    assert len(sequences) == 40
    for row in sequences:
        assert row[0] == 1
        assert 2 not in row[:-1]
        assert len(row) == 9 or row[-1] == 2
    assert len({len(row) for row in sequences}) > 3
    again = sample_sequences(model, count=40, length=9, seed=3)
    assert [row.tolist() for row in again] == [row.tolist() for row in sequences]
    other = sample_sequences(model, count=40, length=9, seed=4)
    assert [row.tolist() for row in other] != [row.tolist() for row in sequences]


def test_samples_follow_the_model():
    """The first token after bos: 4,000 draws against the softmax of its logits (chi-square, fixed seed)."""
    model = model_of(Config(24, 10, 1, 3, 1, 6, 8, False))
    drawn = [int(row[1]) for row in sample_sequences(model, count=4000, length=2, seed=0)]
    logits = FloatDecoder(model).forward(np.array([[1]]))[0, 0]
    expected = 4000 * np.exp(logits) / np.exp(logits).sum()
    chi_square = float(((np.bincount(drawn, minlength=6) - expected) ** 2 / expected).sum())
    assert chi_square < 20.5  # 5 degrees of freedom, one chance in a thousand


def test_greedy_story_is_that_of_llama2_c():
    """run.c stories260K.bin -t 0: the text, and the tokens after bos at four positions."""
    decoder, tokens = FloatDecoder(stories()), [1]
    for _ in range(64):
        tokens.append(int(decoder.forward(np.array([tokens[-1:]]))[0, -1].argmax()))
    story = tokens[1:]
    assert [story[i] for i in (0, 15, 31, 63)] == [403, 338, 385, 310]
    text = decode(stories_tokenizer(), story, previous=1).decode()
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
