"""Structured pruning: what is never used costs nothing, the others take over, flash shrinks as predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zoo

from mcugen.boards import load_board
from mcugen.errors import UsageError
from mcugen.ir import Config, Model, weight_shapes
from mcugen.ladder import climb
from mcugen.layout import lay_out
from mcugen.prune import JUDGE_SEED, _loss, keep_columns, prune, weight_bytes
from mcugen.quantize import Calibration, calibrate, quantize
from mcugen.recipes import PruneBudget
from mcugen.reference import FloatDecoder, sample_sequences

CONFIG = zoo.SHAPES["gqa"]  # 6 query heads over 2 KV heads, hidden 172


def calibrated(model: Model) -> Calibration:
    tokens = zoo.random_tokens(model.config, 16 * model.config.seq_len).reshape(16, -1)
    return calibrate(model, tokens, "random tokens")


def changed(model: Model, **weights: np.ndarray) -> Model:
    return replace(model, weights={**model.weights, **weights})


def logits(model: Model) -> np.ndarray:
    return FloatDecoder(model).forward(zoo.random_tokens(model.config, 12, 9)[None])


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("silent", ["w1", "w3", "w2"])
def test_channels_that_do_nothing_go_first_and_change_nothing(silent: str, biased: bool) -> None:
    rng = np.random.default_rng(3)
    model = zoo.model_of(replace(CONFIG, mlp_bias=biased))
    weights = model.weights[silent].copy()
    biases = {name: model.weights[name].copy() for name in ("b1", "b3") if biased}
    for layer in range(CONFIG.n_layers):
        idle = rng.choice(172, 72, replace=False)
        weights[layer][(slice(None), idle) if silent == "w2" else idle] = 0
        for bias in biases.values():
            bias[layer][idle] = 0
    model = changed(model, **{silent: weights}, **biases)
    pruned = prune(model, calibrated(model), PruneBudget(hidden=100 / 172))
    assert pruned.config == replace(model.config, hidden_dim=100)
    assert {name: w.shape for name, w in pruned.weights.items()} == weight_shapes(pruned.config)
    assert np.abs(logits(pruned) - logits(model)).max() < 1e-12
    assert pruned.sha256 != model.sha256


@pytest.mark.parametrize("extra", [{}, {"attention_bias": True, "qk_norm": True}])
def test_a_head_that_does_nothing_goes_and_changes_nothing(extra: dict[str, bool]) -> None:
    config = replace(CONFIG, **extra)
    model = zoo.model_of(config)
    output = model.weights["wo"].copy()
    output[0][:, :24] = 0  # the first KV head's query heads; in the other layer those of the second
    output[1][:, 24:] = 0
    model = changed(model, wo=output)
    pruned = prune(model, calibrated(model), PruneBudget(kv_heads=1))
    assert pruned.config == replace(config, n_heads=3, n_kv_heads=1, head_size=8)
    assert {name: w.shape for name, w in pruned.weights.items()} == weight_shapes(pruned.config)
    assert np.abs(logits(pruned) - logits(model)).max() < 1e-12


def test_heads_are_repaired_for_what_their_outputs_read() -> None:
    """Biases of the values included, which calibration does not see."""
    model = zoo.model_of(replace(CONFIG, attention_bias=True))
    tokens = zoo.random_tokens(CONFIG, 64).reshape(4, 16)
    read: dict[int, list[np.ndarray]] = {0: [], 1: []}

    class Listening(FloatDecoder):
        def _linear(self, name, layer, h, bias=""):  # type: ignore[no-untyped-def]
            if name == "wo":
                read[layer].append(h[0])
            return super()._linear(name, layer, h, bias)

    for row in tokens:
        Listening(model).forward(row[None])
    pruned = prune(model, calibrate(model, tokens, "random tokens"), PruneBudget(kv_heads=1))
    for layer, parts in read.items():
        _, expected = keep_columns(model.weights["wo"][layer].astype(np.float64), np.concatenate(parts), 24, 24)
        assert np.allclose(pruned.weights["wo"][layer], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("samples", [10, 200])
def test_what_stays_takes_over_and_never_does_worse(block: int, samples: int) -> None:
    """Against the same columns unrepaired, and against those of the largest contribution each."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(samples, 40)) @ rng.normal(size=(40, 40)) * np.exp(rng.normal(size=40))
        w = rng.normal(size=(12, 40))
        keep, repaired = keep_columns(w, x, 24, block)
        assert (np.diff(keep) > 0).all() and not (keep.reshape(-1, block)[:, 0] % block).any()
        exact = x @ w.T
        error = np.linalg.norm(exact - x[:, keep] @ repaired.T)
        assert error <= np.linalg.norm(exact - x[:, keep] @ w[:, keep].T)
        size = (np.linalg.norm(x, axis=0) * np.linalg.norm(w, axis=0)).reshape(-1, block).sum(1)
        largest = np.sort(np.argsort(-size)[: 24 // block])
        columns = (largest[:, None] * block + np.arange(block)).reshape(-1)
        best = np.linalg.lstsq(x[:, columns], exact, rcond=None)[0]
        assert error <= np.linalg.norm(exact - x[:, columns] @ best) + 1e-5 * np.linalg.norm(exact)


def test_the_least_loss_goes_first() -> None:
    """One of 6 columns: the one whose removal, by brute force, leaves the least error."""
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(3, 6))
    losses = []
    for gone in range(6):
        rest = np.delete(np.arange(6), gone)
        losses.append(np.linalg.norm(x @ w.T - x[:, rest] @ np.linalg.lstsq(x[:, rest], x @ w.T, rcond=None)[0]))
    keep, _ = keep_columns(w, x, 5)
    assert set(range(6)) - set(keep) == {int(np.argmin(losses))}


@pytest.mark.parametrize("shared", [True, False])
def test_flash_shrinks_as_predicted(shared: bool) -> None:
    model = zoo.model_of(replace(CONFIG, shared_classifier=shared))
    seen = calibrated(model)
    pruned = prune(model, seen, PruneBudget(flash_bytes=weight_bytes(model.config) - 5000))
    assert (
        weight_bytes(model.config) - 5000 - 2 * 2 * 148
        < weight_bytes(pruned.config)
        <= weight_bytes(model.config) - 5000
    )

    def constants(model: Model) -> int:
        integers = quantize(model, calibrated(model))
        return lay_out(integers, zoo.random_tokenizer(300), load_board("host"), 8).demand.constants

    assert constants(model) - constants(pruned) == weight_bytes(model.config) - weight_bytes(pruned.config)


def test_pruned_models_are_verified_on_the_host() -> None:
    model = zoo.model_of(CONFIG)
    pruned = prune(model, calibrated(model), PruneBudget(hidden=0.6, kv_heads=1))
    assert (pruned.config.hidden_dim, pruned.config.n_heads, pruned.config.n_kv_heads) == (104, 3, 1)
    layout = lay_out(quantize(pruned, calibrated(pruned)), zoo.random_tokenizer(300), load_board("host"), 8)
    ladder = climb(layout, None, 20, "test")
    assert ladder.passed and ladder.reports


def test_a_perplexity_is_kept() -> None:
    """On the judge's own text; one pair of channels fewer would not have kept it."""
    model = zoo.model_of(Config(24, 40, 1, 3, 3, 50, 16, True))
    seen = calibrated(model)
    pruned = prune(model, seen, PruneBudget(perplexity=0.05))
    assert pruned.config.hidden_dim < 40
    text = sample_sequences(model, 16, 16, JUDGE_SEED)
    allowed = _loss(model, text) + np.log(1.05)
    assert _loss(pruned, text) <= allowed
    assert _loss(prune(model, seen, PruneBudget(hidden=(pruned.config.hidden_dim - 2) / 40)), text) > allowed


def test_nothing_to_prune_is_the_same_model() -> None:
    model = zoo.model_of(CONFIG)
    for budget in (PruneBudget(), PruneBudget(hidden=1.0), PruneBudget(kv_heads=2), PruneBudget(flash_bytes=10**6)):
        assert prune(model, calibrated(model), budget) is model


def test_models_that_cannot_be_pruned_so() -> None:
    def refusal(config: Config, budget: PruneBudget) -> tuple[str, str]:
        model = zoo.model_of(config)
        with pytest.raises(UsageError) as caught:
            prune(model, calibrated(model), budget)
        assert caught.value.where == "--prune"
        return caught.value.what, caught.value.hint

    experts = replace(CONFIG, n_experts=2, experts_per_token=1)
    assert refusal(experts, PruneBudget(hidden=0.5)) == (
        "random0 has a mixture of experts",
        "prune models with one feed-forward per layer",
    )
    assert refusal(CONFIG, PruneBudget(kv_heads=3)) == ("kv_heads = 3, and random0 has 2", "leave fewer")
    assert refusal(CONFIG, PruneBudget(flash_bytes=9)) == (
        f"2 hidden channels still take {weight_bytes(replace(CONFIG, hidden_dim=2)):,} B, more than flash_bytes = 9",
        "prune kv_heads as well, or take a smaller model",
    )
    assert refusal(CONFIG, PruneBudget(kv_heads=1, perplexity=1e-9)) == (
        "the pruned heads alone cost more than perplexity allows",
        "leave more of them",
    )
