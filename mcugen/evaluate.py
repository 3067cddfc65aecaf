"""Float model against integers on the same tokens: perplexity, KL divergence, top-1 agreement (rung 2).

Both sides see the same window: the integers' KV ring of graph.context slots, the float decoder the latest
graph.context positions. Tokens of one sequence are not independent: what is stated of errors and intervals takes the
sequence as its unit (clusters).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError, UsageError
from mcugen.ir import Graph, Model
from mcugen.reference import FloatDecoder, Floats, Tap, log_softmax
from mcugen.simulate import IntArray, Simulator
from mcugen.statistics import Interval, Ratio, ratio_of

LOGIT_UNIT = 2.0**-16  # nats; integer logits are Q16
PREDICT_AT_LEAST = 16  # tokens; fewer say nothing about a model
WORST = 10  # tokens that are kept with what was before them
CONTEXT_SHOWN = 16  # tokens before a worst one


@dataclass(frozen=True, slots=True)
class WorstToken:
    """A token of the text at which float and integers differ by `kl` nats.

    index: of the token in the text; before: up to CONTEXT_SHOWN tokens of its sequence ahead of it. float_token,
    integer_token: which each side finds likeliest; float_loss, integer_loss: of the text's token, in nats.
    """

    index: int
    token: int
    before: tuple[int, ...]
    kl: float
    float_token: int
    integer_token: int
    float_loss: float
    integer_loss: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % confidence intervals of the figures of an Evaluation, by sequences as clusters."""

    float_perplexity: Interval
    integer_perplexity: Interval
    perplexity_change: Interval
    kl: Interval
    top1: Interval


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the integers cost on `tokens` predicted tokens in `sequences` sequences.

    perplexity_change: integer over float perplexity, minus 1; 0.004 is +0.4 %. standard_error: of that change.
    kl: mean KL(float || integer) in nats per token. top1: share of tokens where both find the same likeliest one.
    worst: the tokens with the largest KL, worst first. standard_error and intervals are None for a single sequence.
    """

    sequences: int
    tokens: int
    length: int
    context: int
    float_perplexity: float
    integer_perplexity: float
    perplexity_change: float
    standard_error: float | None
    kl: float
    top1: float
    intervals: Intervals | None
    worst: tuple[WorstToken, ...]


class Meter(Protocol):
    """Looks at both sides of a sequence: first all float values, then the integers, run by run."""

    def begin(self) -> None:
        """A sequence starts."""

    def floats(self, name: str, layer: int, values: Floats) -> None:
        """As reference.Tap; logits at the end, as "logits"."""

    def integers(self, position: int, op: int, outputs: tuple[IntArray, ...]) -> None:
        """As simulate.Recorder; position: of the run's first token, as the integers count."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sequence:
    """The predicted tokens of one sequence: per token its losses and KL in nats, and whether both sides agree."""

    float_loss: Floats
    integer_loss: Floats
    kl: Floats
    agree: NDArray[np.bool_]


def float_side(
    model: Model, tokens: Sequence[int] | NDArray[np.integer], *, context: int, length: int = 256, bos: int = 1
) -> tuple[Floats, ...]:
    """The log probabilities float64[T, vocab] of every sequence: what evaluate takes as `floats`, computed once for
    many graphs of one model and context. 8 bytes a token and vocabulary entry."""
    ids = _checked(np.asarray(tokens, np.int64), model.config.vocab_size, length)
    return tuple(
        log_softmax(FloatDecoder(model, window=context).forward(_inputs(targets, bos)[None])[0])
        for targets in _cut(ids, length - 1)
    )


def evaluate(
    model: Model,
    graph: Graph,
    tokens: Sequence[int] | NDArray[np.integer],
    *,
    length: int = 256,
    bos: int = 1,
    progress: Callable[[int, int], None] | None = None,
    floats: Sequence[Floats] | None = None,
    meter: Meter | None = None,
) -> Evaluation:
    """Let `model` in float and `graph`, its integers, predict every token of a text.

    tokens: ids without BOS; they are cut into sequences of `length` that each open with bos and start from an empty
    ring. progress(done, total) is called after each sequence. floats: what float_side gave for the same arguments;
    then no float model runs, and a meter would see nothing of it. Raises UsageError where length makes no sequence,
    InputError where tokens are too few or no ids of the vocabulary.
    """
    ids = _checked(np.asarray(tokens, np.int64), model.config.vocab_size, length)
    step = length - 1
    total = -(-len(ids) // step)
    simulator = Simulator(graph)
    found: list[_Sequence] = []
    worst: list[WorstToken] = []
    for done, targets in enumerate(_cut(ids, step)):
        inputs = _inputs(targets, bos)
        if meter is not None:
            meter.begin()
        if floats is not None:
            expected = floats[done]
        else:
            expected = log_softmax(_float_logits(model, inputs, graph.context, meter))
        simulator.reset()
        observed = log_softmax(_integer_logits(simulator, inputs, meter).astype(np.float64) * LOGIT_UNIT)
        sequence = _compare(expected, observed, targets)
        for at in np.argsort(-sequence.kl, kind="stable")[:WORST].tolist():
            worst.append(_worst(sequence, expected, observed, targets, at, done * step))
        worst = sorted(worst, key=lambda token: (-token.kl, token.index))[:WORST]
        found.append(sequence)
        if progress is not None:
            progress(done + 1, total)
    return _summary(found, length, graph.context, tuple(worst))


def _inputs(targets: NDArray[np.int64], bos: int) -> NDArray[np.int64]:
    return np.concatenate([[bos], targets[:-1]])


def _float_logits(model: Model, inputs: NDArray[np.int64], context: int, meter: Meter | None) -> Floats:
    tap: Tap | None = None if meter is None else meter.floats
    logits = FloatDecoder(model, window=context, tap=tap).forward(inputs[None])
    if meter is not None:
        meter.floats("logits", 0, logits)
    return logits[0]


def _integer_logits(simulator: Simulator, inputs: NDArray[np.int64], meter: Meter | None) -> NDArray[np.int32]:
    if meter is None:
        return simulator.feed(inputs)
    return simulator.feed(inputs, lambda op, outputs: meter.integers(simulator.position, op, outputs))


@dataclass(frozen=True, slots=True)
class GreedyAgreement:
    """How far two greedy runs from BOS go together: `prefix` tokens until they first part, `equal` of all `tokens`
    at the same place."""

    tokens: int
    prefix: int
    equal: int


def greedy_agreement(
    model: Model, graph: Graph, count: int, *, bos: int = 1, progress: Callable[[int, int], None] | None = None
) -> GreedyAgreement:
    """Let float and integers each continue BOS with their likeliest token, `count` times, past ends of sequences.

    Once they part they tell different stories: the prefix says more than the number of equal tokens.
    progress(done, total) is called before each token.
    """
    decoder, simulator = FloatDecoder(model, window=graph.context), Simulator(graph)
    ours = theirs = bos
    same: list[bool] = []
    for done in range(count):
        if progress is not None:
            progress(done, count)
        theirs = int(decoder.forward(np.array([[theirs]]))[0, -1].argmax())
        ours = int(simulator.feed([ours])[-1].argmax())
        same.append(ours == theirs)
    return GreedyAgreement(count, same.index(False) if False in same else count, sum(same))


def clean_text(text: str) -> str:
    """Drop the paragraphs (between empty lines) that hold characters beyond ASCII; the rest stays as it is.

    A small model's tokenizer saw few of them in training, and files that were decoded wrongly on their way (a quote
    that became three odd letters) hold bytes it never saw at all: there float perplexity is in the hundreds and its
    change is noise that drowns the measurement.
    """
    paragraphs = re.split(r"\n[ \t]*\n+", text.replace("\r\n", "\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.isascii() and paragraph.strip())


def _checked(ids: NDArray[np.int64], vocab_size: int, length: int) -> NDArray[np.int64]:
    where = "evaluation"
    if length < 2:
        raise UsageError(
            f"sequences of {length} token(s) predict nothing",
            where=where,
            hint="use a length of at least 2: BOS and one token to predict",
        )
    if len(ids) < PREDICT_AT_LEAST:
        raise InputError(
            f"the text has {len(ids)} tokens; at least {PREDICT_AT_LEAST} are needed",
            where=where,
            hint="give a longer text; some 10,000 tokens measure a change of 0.1 %",
        )
    outside = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(outside):
        raise InputError(
            f"token {ids[outside[0]]} at index {outside[0]:,} is not in the vocabulary of {vocab_size:,}",
            where=where,
            hint="encode the text with the tokenizer that belongs to the model",
        )
    return ids


def _cut(ids: NDArray[np.int64], step: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(ids), step):
        yield ids[start : start + step]


def _compare(expected: Floats, observed: Floats, targets: NDArray[np.int64]) -> _Sequence:
    """expected, observed: log probabilities [T, vocab] of float and integers for targets[T]."""
    rows = np.arange(len(targets))
    return _Sequence(
        float_loss=-expected[rows, targets],
        integer_loss=-observed[rows, targets],
        kl=(np.exp(expected) * (expected - observed)).sum(-1),
        agree=expected.argmax(-1) == observed.argmax(-1),
    )


def _worst(
    sequence: _Sequence, expected: Floats, observed: Floats, targets: NDArray[np.int64], at: int, start: int
) -> WorstToken:
    """The token `at` of a sequence that begins at `start` in the text."""
    return WorstToken(
        index=start + at,
        token=int(targets[at]),
        before=tuple(targets[max(0, at - CONTEXT_SHOWN) : at].tolist()),
        kl=float(sequence.kl[at]),
        float_token=int(expected[at].argmax()),
        integer_token=int(observed[at].argmax()),
        float_loss=float(sequence.float_loss[at]),
        integer_loss=float(sequence.integer_loss[at]),
    )


def _summary(found: Sequence[_Sequence], length: int, context: int, worst: tuple[WorstToken, ...]) -> Evaluation:
    counts = np.array([len(s.kl) for s in found])

    def ratio(values: Callable[[_Sequence], Floats]) -> Ratio:
        return ratio_of(np.array([values(s).sum() for s in found]), counts)

    floats, integers = ratio(lambda s: s.float_loss), ratio(lambda s: s.integer_loss)
    change = ratio(lambda s: s.integer_loss - s.float_loss)
    kl, agree = ratio(lambda s: s.kl), ratio(lambda s: s.agree.astype(np.float64))
    intervals = error = None
    if len(found) > 1:
        error = float(np.exp(change.mean)) * change.error
        intervals = Intervals(
            float_perplexity=_map(np.exp, floats.interval()),
            integer_perplexity=_map(np.exp, integers.interval()),
            perplexity_change=_map(np.expm1, change.interval()),
            kl=_map(partial(max, 0.0), kl.interval()),
            top1=agree.share_interval(),
        )
    return Evaluation(
        sequences=len(found),
        tokens=int(counts.sum()),
        length=length,
        context=context,
        float_perplexity=float(np.exp(floats.mean)),
        integer_perplexity=float(np.exp(integers.mean)),
        perplexity_change=float(np.exp(integers.mean - floats.mean)) - 1,
        standard_error=error,
        kl=kl.mean,
        top1=agree.mean,
        intervals=intervals,
        worst=worst,
    )


def _map(function: Callable[[float], float], interval: Interval) -> Interval:
    return float(function(interval[0])), float(function(interval[1]))
