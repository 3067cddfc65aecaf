"""Streams beyond the trained length: the measurement itself on random models, and what it says of stories260K."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zoo

from mcugen.errors import InputError, UsageError
from mcugen.evaluate import LOGIT_UNIT
from mcugen.lower import lower
from mcugen.quantize import quantize, self_calibration
from mcugen.reference import FloatDecoder, log_softmax
from mcugen.simulate import Simulator
from mcugen.stream import CHUNK, SinksTried, best_sinks, cut_streams, stream, try_sinks

MQA = zoo.SHAPES["mqa"]


def by_hand(config: zoo.Config, targets: np.ndarray, sinks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Losses of float and integers, KL, and the tokens where integers turned keys back: every stream by itself, whole."""
    graph, rows, turned = lower(zoo.quantized(config), 6, sinks=sinks), [], []
    for row in targets:
        inputs = np.concatenate([[1], row[:-1]])
        expected = log_softmax(FloatDecoder(zoo.model_of(config), window=6, sinks=sinks).forward(inputs[None])[0])
        turned.clear()
        observed = log_softmax(Simulator(graph).feed(inputs, rebased=turned.append) * LOGIT_UNIT)
        at = np.arange(len(row)), row
        rows.append((-expected[at], -observed[at], (np.exp(expected) * (expected - observed)).sum(-1)))
    floats, integers, kl = (np.array(part) for part in zip(*rows, strict=True))
    return floats, integers, kl, turned


@pytest.mark.parametrize("sinks", [0, 2])
def test_figures_are_those_of_whole_streams(sinks: int) -> None:
    """Computed in pieces, several streams at once; past the trained 8 tokens by themselves; errors by stream."""
    targets = cut_streams(zoo.random_tokens(MQA, 3 * 150 + 7), 150)
    assert targets.shape == (3, 150) and CHUNK < 150
    seen: list[tuple[int, int]] = []
    graph = lower(zoo.quantized(MQA), 6, sinks=sinks)
    found = stream(zoo.model_of(MQA), graph, targets, progress=lambda *done: seen.append(done))
    floats, integers, kl, turned = by_hand(MQA, targets, sinks)
    assert (found.streams, found.length, found.context, found.sinks, found.trained) == (3, 150, 6, sinks, 8)
    assert found.rebasings == len(turned) > 10
    assert seen == [(3 * CHUNK, 450), (450, 450)]
    assert found.beyond is not None
    for span, first in ((found.whole, 0), (found.beyond, 8)):
        difference = (integers - floats)[:, first:]
        per_stream = difference.mean(1)
        assert span.tokens == difference.size
        assert span.float_perplexity == pytest.approx(np.exp(floats[:, first:].mean()))
        assert span.integer_perplexity == pytest.approx(np.exp(integers[:, first:].mean()))
        assert span.perplexity_change == pytest.approx(np.exp(difference.mean()) - 1)
        assert span.standard_error == pytest.approx(
            np.exp(difference.mean()) * per_stream.std(ddof=1) / np.sqrt(3)
        )  # streams are of equal length
        assert span.kl == pytest.approx(kl[:, first:].mean())
        assert 0.5 < span.top1 <= 1
    assert dataclasses.asdict(found) == found.to_json()


def test_a_single_short_stream() -> None:
    found = stream(zoo.model_of(MQA), lower(zoo.quantized(MQA), 6), zoo.random_tokens(MQA, 8)[None])
    assert (found.beyond, found.whole.standard_error, found.rebasings) == (None, None, 0)


def test_sinks_are_tried_in_float() -> None:
    targets = cut_streams(zoo.random_tokens(MQA, 300), 150)
    tried = try_sinks(zoo.model_of(MQA), 6, targets)
    assert [one.sinks for one in tried] == [0, 1, 4]
    for one in tried:
        floats, _, _, _ = by_hand(MQA, targets, one.sinks)
        assert one.perplexity == pytest.approx(np.exp(floats.mean()))
        assert one.change == pytest.approx(one.perplexity / tried[0].perplexity - 1)
    assert (tried[0].change, tried[0].standard_error) == (0.0, 0.0)
    assert [one.sinks for one in try_sinks(zoo.model_of(MQA), 4, targets[:1])] == [0, 1]


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ([(0, 0.0, 0.0), (1, -0.1, 0.01), (4, -0.2, 0.01)], 4),
        ([(0, 0.0, 0.0), (1, -0.2, 0.01), (4, -0.1, 0.01)], 1),
        ([(0, 0.0, 0.0), (1, 0.01, 0.01), (4, 0.2, 0.01)], 0),
        ([(0, 0.0, 0.0), (1, -0.001, 0.0006), (4, 0.2, 0.01)], 0),  # within twice its error
        ([(0, 0.0, None), (1, -0.001, None)], 1),
    ],
)
def test_sinks_must_help(changes: list[tuple[int, float, float | None]], best: int) -> None:
    assert (
        best_sinks([SinksTried(sinks, 4.0 * (1 + change), change, error) for sinks, change, error in changes]) == best
    )


def test_what_makes_no_stream() -> None:
    with pytest.raises(InputError) as short:
        cut_streams(range(99), 100)
    assert str(short.value) == (
        "the text has 99 tokens, fewer than a stream of 100\n"
        "  where: evaluation\n"
        "  try:   --stream 99, more --tokens, or a longer text"
    )
    with pytest.raises(UsageError) as one:
        cut_streams(range(99), 1)
    assert str(one.value) == (
        "streams of 1 token(s) say nothing\n  where: --stream\n  try:   use at least 2,000 tokens"
    )


@pytest.mark.slow
def test_endless_text_costs_stories260k_little() -> None:
    """Two re-basings in 2,304 tokens; a few streams only, so a wide bound on perplexity and a narrow one on KL."""
    model = zoo.stories()
    integers = quantize(model, self_calibration(model))
    targets = cut_streams(zoo.stories_tokens()[: 2 * 2304], 2304)
    for sinks in (0, 4):
        found = stream(model, lower(integers, 64, sinks=sinks), targets)
        assert found.rebasings == 2
        assert found.beyond is not None
        for span in (found.whole, found.beyond):
            assert abs(span.perplexity_change) < 0.01
            assert span.kl < 0.005
