"""Endless text: float model against integers in streams far longer than the trained context (rung 2).

Both sides keep the same window of the latest tokens and the same attention sinks; the integers turn their keys back
whenever positions come to an end, and what that costs over and over is what is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError, UsageError
from mcugen.evaluate import LOGIT_UNIT
from mcugen.ir import Graph, Model
from mcugen.reference import FloatDecoder, Floats, log_softmax
from mcugen.simulate import Simulator
from mcugen.statistics import ratio_of

CHUNK = 128  # tokens of every stream that are computed at once; bounds memory
SINKS_TRIED = (0, 1, 4)  # of StreamingLLM's table 2: none, one, and as many as it recommends

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Span:
    """What the integers cost on the tokens of a stream from position `first` on, of all streams together.

    As evaluate.Evaluation; standard_error is clustered by stream, and None for a single one.
    """

    first: int
    tokens: int
    float_perplexity: float
    integer_perplexity: float
    perplexity_change: float
    standard_error: float | None
    kl: float
    top1: float


@dataclass(frozen=True, slots=True)
class SinksTried:
    """Float perplexity with so many sinks; change: against none, and its standard error, None for a single stream."""

    sinks: int
    perplexity: float
    change: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class Streamed:
    """Streams of `length` predicted tokens each, with a window of `context` tokens, `sinks` of them the first.

    trained: tokens that the model has seen at once in training. rebasings: how often the integers turned their keys
    back in each stream. whole: all tokens; beyond: those at positions past the trained context, if there are any.
    tried: how many sinks were tried, if that was asked for.
    """

    streams: int
    length: int
    context: int
    sinks: int
    trained: int
    rebasings: int
    whole: Span
    beyond: Span | None
    tried: tuple[SinksTried, ...] = ()

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def cut_streams(tokens: Sequence[int] | NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """A text as streams int64[streams, length], one after the other; what is left over is dropped.

    Raises UsageError where length is below 2, InputError where the text is shorter than one stream.
    """
    if length < 2:
        raise UsageError(
            f"streams of {length} token(s) say nothing", where="--stream", hint="use at least 2,000 tokens"
        )
    if len(tokens) < length:
        raise InputError(
            f"the text has {len(tokens):,} tokens, fewer than a stream of {length:,}",
            where="evaluation",
            hint=f"--stream {len(tokens)}, more --tokens, or a longer text",
        )
    count = len(tokens) // length
    return np.asarray(tokens, np.int64)[: count * length].reshape(count, length)


def stream(
    model: Model,
    graph: Graph,
    targets: NDArray[np.int64],
    *,
    bos: int = 1,
    tried: tuple[SinksTried, ...] = (),
    progress: Progress | None = None,
) -> Streamed:
    """Let `model` in float and `graph`, its integers, predict every token of streams int64[streams, length].

    Each stream opens with bos and an empty ring. progress(done, total) counts tokens.
    """
    count, length = targets.shape
    decoder = FloatDecoder(model, batch=count, window=graph.context, sinks=graph.sinks)
    simulators = [Simulator(graph) for _ in range(count)]
    inputs = _inputs(targets, bos)
    parts: list[Floats] = []
    rebasings = 0
    for start in range(0, length, CHUNK):
        read, wanted = inputs[:, start : start + CHUNK], targets[:, start : start + CHUNK]
        turned: list[int] = []
        expected = log_softmax(decoder.forward(read))
        observed = np.array([s.feed(r, rebased=turned.append) for s, r in zip(simulators, read, strict=True)])
        parts.append(_compare(expected, log_softmax(observed * LOGIT_UNIT), wanted))
        rebasings += len(turned) // count
        if progress is not None:
            progress(min(start + CHUNK, length) * count, targets.size)
    found = np.concatenate(parts, -1)
    trained = model.config.seq_len
    beyond = _span(found, trained) if length > trained else None
    return Streamed(count, length, graph.context, graph.sinks, trained, rebasings, _span(found, 0), beyond, tried)


def try_sinks(
    model: Model, context: int, targets: NDArray[np.int64], *, bos: int = 1, progress: Progress | None = None
) -> tuple[SinksTried, ...]:
    """The float model's perplexity on streams int64[streams, length] with each of SINKS_TRIED that has room."""
    candidates = [sinks for sinks in SINKS_TRIED if sinks < context]
    losses = []
    for i, sinks in enumerate(candidates):
        decoder = FloatDecoder(model, batch=len(targets), window=context, sinks=sinks)
        inputs, found = _inputs(targets, bos), []
        for start in range(0, targets.shape[1], CHUNK):
            wanted = targets[:, start : start + CHUNK]
            found.append(_losses(log_softmax(decoder.forward(inputs[:, start : start + CHUNK])), wanted))
            if progress is not None:
                done = i * targets.shape[1] + min(start + CHUNK, targets.shape[1])
                progress(done * len(targets), targets.size * len(candidates))
        losses.append(np.concatenate(found, -1))
    tried = []
    for sinks, loss in zip(candidates, losses, strict=True):
        change, error = _change(loss - losses[0])
        tried.append(SinksTried(sinks, float(np.exp(loss.mean())), change, error))
    return tuple(tried)


def best_sinks(tried: Sequence[SinksTried]) -> int:
    """The number of sinks with the least perplexity, or none where that is no better than by twice its error."""
    best = min(tried, key=lambda one: (one.perplexity, one.sinks))
    return best.sinks if best.change < -2 * (best.standard_error or 0.0) else 0


def _inputs(targets: NDArray[np.int64], bos: int) -> NDArray[np.int64]:
    return np.concatenate([np.full((len(targets), 1), bos), targets[:, :-1]], 1)


def _losses(log_probability: Floats, targets: NDArray[np.int64]) -> Floats:
    """Of targets int64[B, T], in nats, from log probabilities [B, T, vocab]."""
    found: Floats = -np.take_along_axis(log_probability, targets[..., None], -1)[..., 0]
    return found


def _compare(expected: Floats, observed: Floats, targets: NDArray[np.int64]) -> Floats:
    """Per token float loss, integer loss, KL in nats, and 1 where both find the same likeliest token: [4, B, T]."""
    kl = (np.exp(expected) * (expected - observed)).sum(-1)
    agree = expected.argmax(-1) == observed.argmax(-1)
    return np.stack([_losses(expected, targets), _losses(observed, targets), kl, agree])


def _span(found: Floats, first: int) -> Span:
    """found: what _compare gave, of whole streams."""
    floats, integers, kl, agree = found[..., first:]
    change, error = _change(integers - floats)
    return Span(
        first=first,
        tokens=floats.size,
        float_perplexity=math.exp(floats.mean()),
        integer_perplexity=math.exp(integers.mean()),
        perplexity_change=change,
        standard_error=error,
        kl=float(kl.mean()),
        top1=float(agree.mean()),
    )


def _change(difference: Floats) -> tuple[float, float | None]:
    """Of perplexity, exp(mean) - 1 of differences of losses [streams, T]; its error by the derivative of exp."""
    streams, length = difference.shape
    ratio = ratio_of(difference.sum(1), np.full(streams, length))
    factor = math.exp(ratio.mean)
    return factor - 1, factor * ratio.error if streams > 1 else None
