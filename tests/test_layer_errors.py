"""The error of every op: right by an independent computation, and a planted fault is seen where it is."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from zoo import SHAPES, architectures, model_of, quantized, random_tokens

from mcugen.evaluate import evaluate, float_side
from mcugen.ir import Config, Graph, Linear, QuantizedModel
from mcugen.layer_errors import LayerErrors, OpError
from mcugen.lower import lower
from mcugen.reference import FloatDecoder
from mcugen.simulate import simulate

CONFIG = SHAPES["gqa"]
MODEL = model_of(CONFIG)
TOKENS = random_tokens(CONFIG, 150, seed=5)


def errors(graph: Graph, length: int = 16, tokens: np.ndarray = TOKENS) -> dict[str, OpError]:
    meter = LayerErrors(graph)
    evaluate(model_of(graph.model.config), graph, tokens, length=length, meter=meter)
    return {e.op if e.layer is None else f"layers.{e.layer}.{e.op}": e for e in meter.errors()}


def test_every_op_is_met_in_float() -> None:
    graph = lower(quantized(CONFIG), CONFIG.seq_len)
    found = errors(graph)
    assert list(found) == [op.label for op in graph.ops]
    assert [e.kernel for e in found.values()] == [op.kernel for op in graph.ops]
    for label, e in found.items():
        assert e.tokens == 150
        assert 0.001 < e.error < 0.12, label
        assert e.snr_db == pytest.approx(-20 * np.log10(e.error))


@architectures()
def test_every_op_of_a_relative_is_met_in_float(config: Config) -> None:
    """But what experts make of some tokens only, and a post norm's output before it is added."""
    graph = lower(quantized(config), config.seq_len)
    tokens = random_tokens(config, 150, seed=5)
    found = errors(graph, tokens=tokens)
    alone = re.compile(r"choice|rank0.w[123]|rank\d.(w[13]|swiglu|geglu|scaled|hidden_block)|\w+_post_norm")
    last = f"rank{config.experts_per_token - 1}.w2"
    expected = [op.label for op in graph.ops if op.label.endswith(last) or not alone.search(op.label)]
    assert list(found) == expected
    for label, e in found.items():
        assert e.tokens == 150
        assert 0.0005 < e.error < 0.2, label


def test_an_error_is_what_least_squares_leave() -> None:
    """Of one sequence: numpy's own solver, on the trace."""
    graph = lower(quantized(CONFIG), CONFIG.seq_len)
    inputs = [1, *TOKENS[:15].tolist()]
    found = errors(graph, length=17, tokens=TOKENS[:16])
    taps: dict[tuple[str, int], np.ndarray] = {}
    decoder = FloatDecoder(MODEL, tap=lambda name, layer, values: taps.update({(name, layer): values[0]}))
    decoder.forward(np.array([inputs]))
    trace = simulate(graph, inputs)

    def left(label: str, tap: tuple[str, int], whole: bool) -> float:
        [x] = trace.outputs[[op.label for op in graph.ops].index(label)]
        y = taps[tap].reshape(16, -1)
        pairs = [(x.ravel(), y.ravel())] if whole else list(zip(x.T, y.T, strict=True))
        total = 0.0
        for a, b in pairs:
            columns = a[:, None].astype(np.float64)
            total += ((b - columns @ np.linalg.lstsq(columns, b)[0]) ** 2).sum()
        return float(np.sqrt(total / (y**2).sum()))

    whole = {"layers.0.att_norm": ("att_norm", 0), "layers.1.w1": ("gate", 1), "layers.1.w2": ("residual", 1)}
    channels = {"layers.0.wv": ("value", 0), "layers.1.wq": ("query", 1), "layers.1.swiglu": ("swiglu", 1)}
    for label, tap in {**whole, **channels}.items():
        assert found[label].error == pytest.approx(left(label, tap, label in whole), rel=1e-6), label


def planted(model: QuantizedModel, layer: int, name: str, factor: float) -> QuantizedModel:
    """The same model with one matrix off by a factor."""
    w: Linear = getattr(model.layers[layer], name)
    wrong = dataclasses.replace(w, multiplier=np.round(w.multiplier * factor).astype(np.int16))
    layers = list(model.layers)
    layers[layer] = dataclasses.replace(layers[layer], **{name: wrong})
    return dataclasses.replace(model, layers=tuple(layers))


@pytest.mark.parametrize(
    ("name", "seen_at"), [("wo", "wo"), ("w2", "w2"), ("wq", "attention"), ("w1", "w1"), ("w3", "w2"), ("wv", "wo")]
)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_planted_fault_is_seen_at_its_op(layer: int, name: str, seen_at: str) -> None:
    """A factor of 0.9 on a residual shows at once; on what has a scale of its own, where it is used. Some rows of w1
    are off here: a factor of all of them were its scale."""
    model = quantized(CONFIG)
    clean = errors(lower(model, CONFIG.seq_len))
    factor = np.where(np.arange(CONFIG.hidden_dim) % 2, 0.9, 1) if name == "w1" else 0.9
    found = errors(lower(planted(model, layer, name, factor), CONFIG.seq_len))
    worse = [label for label, e in found.items() if e.error > 1.25 * clean[label].error]
    assert worse[0] == f"layers.{layer}.{seen_at}"
    before = list(found)[: list(found).index(f"layers.{layer}.{name}")]
    assert all(found[label] == clean[label] for label in before)


def test_positions_that_were_turned_back_are_met_where_they_are() -> None:
    """Beyond max_position, with a ring that forgets: no op gets worse, rotated keys included."""
    config = SHAPES["mqa"]
    graph = lower(quantized(config), config.seq_len)
    tokens = random_tokens(config, 60, seed=6)
    assert graph.model.max_position < 40
    within, beyond = (errors(graph, length, tokens) for length in (9, 61))
    for label, e in beyond.items():
        assert e.error < 3 * within[label].error + 0.01, label
    assert beyond["layers.0.keys"].error < 0.03


def test_a_floats_side_from_before_gives_the_same_figures() -> None:
    graph = lower(quantized(CONFIG), 7)
    kept = float_side(MODEL, TOKENS, context=7, length=16)
    assert [part.shape for part in kept] == [(15, 300)] * 10
    assert evaluate(MODEL, graph, TOKENS, length=16, floats=kept) == evaluate(MODEL, graph, TOKENS, length=16)


def test_looking_changes_nothing() -> None:
    graph = lower(quantized(CONFIG), CONFIG.seq_len)
    assert evaluate(MODEL, graph, TOKENS, meter=LayerErrors(graph)) == evaluate(MODEL, graph, TOKENS)
