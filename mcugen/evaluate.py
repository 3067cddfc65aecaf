"""Float model against integers on the same tokens: perplexity, KL divergence, top-1 agreement (rung 2).

Both sides see the same window: the integers' KV ring of graph.context slots, the float decoder the latest
graph.context positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError, UsageError
from mcugen.ir import Graph, Model
from mcugen.reference import FloatDecoder, Floats
from mcugen.simulate import Simulator

LOGIT_UNIT = 2.0**-16  # nats; integer logits are Q16
PREDICT_AT_LEAST = 16  # tokens; fewer say nothing about a model


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the integers cost on `tokens` predicted tokens in `sequences` sequences.

    perplexity_change: integer over float perplexity, minus 1; 0.004 is +0.4 %. standard_error: of that change,
    clustered by sequence since the tokens of one sequence are not independent; None for a single sequence.
    kl: mean KL(float || integer) in nats per token. top1: share of tokens where both find the same likeliest one.
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


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the predicted tokens of one sequence, in nats where they are losses."""

    tokens: int
    float_loss: float
    integer_loss: float
    kl: float
    agree: int


def evaluate(
    model: Model,
    graph: Graph,
    tokens: Sequence[int] | NDArray[np.integer],
    *,
    length: int = 256,
    bos: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Let `model` in float and `graph`, its integers, predict every token of a text.

    tokens: ids without BOS; they are cut into sequences of `length` that each open with bos and start from an empty
    ring. progress(done, total) is called after each sequence. Raises UsageError where length makes no sequence,
    InputError where tokens are too few or no ids of the vocabulary.
    """
    ids = _checked(np.asarray(tokens, np.int64), model.config.vocab_size, length)
    step = length - 1
    total = -(-len(ids) // step)
    simulator = Simulator(graph)
    sums = []
    for done, targets in enumerate(_cut(ids, step), 1):
        inputs = np.concatenate([[bos], targets[:-1]])
        expected = FloatDecoder(model, window=graph.context).forward(inputs[None])[0]
        simulator.reset()
        observed = simulator.feed(inputs).astype(np.float64) * LOGIT_UNIT
        sums.append(_compare(log_softmax(expected), log_softmax(observed), targets))
        if progress is not None:
            progress(done, total)
    return _summary(sums, length, graph.context)


@dataclass(frozen=True, slots=True)
class GreedyAgreement:
    """How far two greedy runs from BOS go together: `prefix` tokens until they first part, `equal` of all `tokens`
    at the same place."""

    tokens: int
    prefix: int
    equal: int


def greedy_agreement(model: Model, graph: Graph, count: int, *, bos: int = 1) -> GreedyAgreement:
    """Let float and integers each continue BOS with their likeliest token, `count` times, past ends of sequences.

    Once they part they tell different stories: the prefix says more than the number of equal tokens.
    """
    decoder, simulator = FloatDecoder(model, window=graph.context), Simulator(graph)
    ours = theirs = bos
    same = []
    for _ in range(count):
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


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _compare(expected: Floats, observed: Floats, targets: NDArray[np.int64]) -> _Sums:
    """expected, observed: log probabilities [T, vocab] of float and integers for targets[T]."""
    rows = np.arange(len(targets))
    return _Sums(
        tokens=len(targets),
        float_loss=-float(expected[rows, targets].sum()),
        integer_loss=-float(observed[rows, targets].sum()),
        kl=float((np.exp(expected) * (expected - observed)).sum()),
        agree=int((expected.argmax(-1) == observed.argmax(-1)).sum()),
    )


def _summary(sums: Sequence[_Sums], length: int, context: int) -> Evaluation:
    count = sum(s.tokens for s in sums)
    float_loss = sum(s.float_loss for s in sums) / count
    integer_loss = sum(s.integer_loss for s in sums) / count
    ratio = float(np.exp(integer_loss - float_loss))
    return Evaluation(
        sequences=len(sums),
        tokens=count,
        length=length,
        context=context,
        float_perplexity=float(np.exp(float_loss)),
        integer_perplexity=float(np.exp(integer_loss)),
        perplexity_change=ratio - 1,
        standard_error=_standard_error(sums, integer_loss - float_loss, count, ratio),
        kl=sum(s.kl for s in sums) / count,
        top1=sum(s.agree for s in sums) / count,
    )


def _standard_error(sums: Sequence[_Sums], mean: float, count: int, ratio: float) -> float | None:
    """Of exp(mean) - 1, where mean is the change of loss per token: a ratio estimator over sequences as clusters
    (Cochran, Sampling Techniques, section 2.11), through the derivative of exp."""
    clusters = len(sums)
    if clusters < 2:
        return None
    residuals = [s.integer_loss - s.float_loss - mean * s.tokens for s in sums]
    variance = clusters / (clusters - 1) * sum(r * r for r in residuals) / count**2
    return ratio * float(np.sqrt(variance))
