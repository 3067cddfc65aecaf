"""QuantizedModel -> the same with its matrices for TFLite Micro's FULLY_CONNECTED: the profile w8a8kv8-fc8.

wq, wk, wo, w1, w3 and w2 give int8 codes of their products, by one scale per matrix, before our own kernel applies
the block's peak and the row's multiplier. A block always uses the whole range of its codes, so that products spread
alike for loud and quiet vectors, and one scale, chosen from the model's own text, does. Design and measurements:
DESIGN.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import UsageError
from mcugen.evaluate import LOGIT_UNIT
from mcugen.ir import FC_MATRICES, Graph, Linear, QuantizedLayer, QuantizedModel
from mcugen.kernels import FC_SHIFT_MAX, FC_SHIFT_MIN, SHIFT_MAX, SHIFT_MIN, accumulate
from mcugen.lower import lower
from mcugen.plain import check_plain
from mcugen.quantize import out_of_range, to_multiplier
from mcugen.reference import Floats, log_softmax
from mcugen.sampler import make_sampler, sample
from mcugen.simulate import Recorder, Simulator

PROFILE = "w8a8kv8-fc8"
LENGTH = 256  # tokens of a sampled sequence, at most
TOKENS, SEED = 2048, 0  # of calibration; with half or twice as many, perplexity moves by 0.15 % or less
HELD_OUT_TOKENS, HELD_OUT_SEED = 4096, 1
CLIPS = np.linspace(0.2, 1.1, 37)  # of the largest accumulator seen: what the largest code stands for

Progress = Callable[[int, int], None]


def _ignore(done: int, total: int) -> None:
    """A Progress that shows nothing."""


def is_fc8(model: QuantizedModel) -> bool:
    """Whether a model's matrices are for FULLY_CONNECTED."""
    return model.layers[0].wq.fc is not None


def to_fc8(
    model: QuantizedModel, *, bos: int = 1, eos: int = 2, tokens: int = TOKENS, progress: Progress = _ignore
) -> QuantizedModel:
    """Calibrate a model of int8 weights for FULLY_CONNECTED, on `tokens` tokens of text that it samples itself.

    progress(tokens sampled, of how many). The same model gives the same result. Raises UsageError for int4 weights
    and for models that TFLite Micro does not compute (mcugen.plain), InputError where a scale leaves the range of the
    integer arithmetic.
    """
    check_plain(model, "tflm")
    bits = min(getattr(layer, name).bits for layer in model.layers for name in FC_MATRICES)
    if bits != 8:
        raise UsageError(
            f"FULLY_CONNECTED multiplies int8 weights only; those of {model.name} are int{bits}",
            where="--fc",
            hint="--fc custom",
        )
    seen = sampled_accumulators(model, bos, eos, tokens, progress)
    layers = tuple(_fc_layer(layer, index, seen) for index, layer in enumerate(model.layers))
    return replace(model, layers=layers, recipe=model.recipe.replace("w8a8kv8", PROFILE, 1))


# ---------------------------------------------------------------- the scale of a matrix


def fc_scale(scale: float) -> tuple[int, int]:
    """The multiplier and shift nearest to a real scale > 0 of accumulators (ir.Linear.fc); below 1 in any case."""
    fraction, exponent = np.frexp(min(scale, 1 - 2.0**-24))
    multiplier = round(float(fraction) * 2**24)
    if multiplier == 2**24:
        multiplier, exponent = 2**23, exponent + 1
    return multiplier << 7, int(np.clip(exponent, FC_SHIFT_MIN, FC_SHIFT_MAX))


def to_fc(w: Linear, acc: NDArray[np.int64], where: str) -> Linear:
    """The matrix with an fc that suits the accumulators acc int64[samples, rows], and multipliers for its codes."""
    multiplier, shift = fc_scale(1 / best_step(acc, w.multiplier.astype(np.float64)))
    steps = 2.0 ** (31 - shift) / multiplier  # what one code stands for
    ratio = w.multiplier.astype(np.float64) * (steps * 2.0**-w.shift)
    row_multiplier, row_shift = to_multiplier(ratio, where, SHIFT_MAX)
    if row_shift < SHIFT_MIN:
        raise out_of_range(f"codes of FULLY_CONNECTED need a shift of {row_shift}, below {SHIFT_MIN}", where)
    return replace(w, multiplier=row_multiplier, shift=row_shift, fc=(multiplier, shift))


def best_step(acc: NDArray[np.int64], weight: Floats) -> float:
    """How many units of acc[samples, rows] one code stands for: of CLIPS, the least squared error of acc * weight."""
    real = acc.astype(np.float64)
    largest = max(float(np.abs(real).max()), 1.0)

    def error(step: float) -> float:
        codes = np.clip(np.round(real / step), -128, 127)
        return float((((codes * step - real) * weight) ** 2).mean())

    return min((float(clip) * largest / 127 for clip in CLIPS), key=error)


def _fc_layer(layer: QuantizedLayer, index: int, seen: Mapping[str, NDArray[np.int64]]) -> QuantizedLayer:
    made: dict[str, Any] = {}
    for name in FC_MATRICES:
        label = f"layers.{index}.{name}"
        made[name] = to_fc(getattr(layer, name), seen[label], label)
    return replace(layer, **made)


# ---------------------------------------------------------------- the model's own text


def own_text(
    graph: Graph, count: int, seed: int, bos: int, eos: int, progress: Progress, record: Recorder | None = None
) -> list[NDArray[np.int64]]:
    """Sample `count` tokens in all, at temperature 1, in sequences int64[<= LENGTH] that open with bos.

    A sequence ends before the next bos or eos. The integers that draw are the firmware's: the same text on every
    machine. record: see Simulator.feed.
    """
    simulator, sampler = Simulator(graph), make_sampler(1.0, 0, 1.0, seed)
    sequences: list[list[int]] = []
    token = eos  # of a sequence before the first
    for done in range(count):
        if token in (bos, eos) or len(sequences[-1]) == LENGTH:
            simulator.reset()
            sequences.append([])
            token = bos
        sequences[-1].append(token)
        token, sampler = sample(sampler, simulator.feed([token], record)[-1])
        progress(done + 1, count)
    return [np.array(sequence) for sequence in sequences]


def sampled_accumulators(
    model: QuantizedModel, bos: int, eos: int, tokens: int, progress: Progress
) -> dict[str, NDArray[np.int64]]:
    """The accumulators int64[tokens, rows] of FC_MATRICES, by label, while the model wrote its own text."""
    graph = lower(model, model.config.seq_len)
    seen: dict[str, list[NDArray[np.integer]]] = defaultdict(list)

    def keep(index: int, outputs: tuple[NDArray[np.integer], ...]) -> None:
        if graph.ops[index].kernel == "block_s8":
            seen[graph.ops[index].outputs[0]].append(outputs[0])

    own_text(graph, tokens, SEED, bos, eos, progress, keep)
    codes = {name: np.concatenate(parts) for name, parts in seen.items()}
    matrices = [op for op in graph.ops if op.label.rpartition(".")[2] in FC_MATRICES]
    return {op.label: accumulate(codes[op.inputs[-2]], op.parameters["w"]) for op in matrices}


# ---------------------------------------------------------------- what it costs


@dataclass(frozen=True, slots=True)
class FcCost:
    """What FULLY_CONNECTED costs against our own kernels, on text that the latter sampled.

    perplexity, fc_perplexity: of the two. change: the second over the first, minus 1. kl: mean KL(ours || theirs) in
    nats per token. top1: share of tokens where both find the same likeliest one.
    """

    tokens: int
    sequences: int
    perplexity: float
    fc_perplexity: float
    change: float
    kl: float
    top1: float

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def fc8_cost(
    graph: Graph,
    fc_graph: Graph,
    *,
    bos: int = 1,
    eos: int = 2,
    tokens: int = HELD_OUT_TOKENS,
    progress: Progress = _ignore,
) -> FcCost:
    """Let a model of our own kernels and its fc8 twin predict text of the former that calibration did not see.

    Every sequence starts from an empty ring; both rings have their graph's context.
    """
    sequences = own_text(graph, tokens, HELD_OUT_SEED, bos, eos, progress)
    ours, theirs = (np.concatenate(_predictions(g, sequences)) for g in (graph, fc_graph))
    targets = np.concatenate([sequence[1:] for sequence in sequences])
    rows = np.arange(len(targets))
    loss, fc_loss = (-float(found[rows, targets].mean()) for found in (ours, theirs))
    return FcCost(
        tokens=len(targets),
        sequences=len(sequences),
        perplexity=float(np.exp(loss)),
        fc_perplexity=float(np.exp(fc_loss)),
        change=float(np.exp(fc_loss - loss)) - 1,
        kl=float((np.exp(ours) * (ours - theirs)).sum(-1).mean()),
        top1=float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
    )


def _predictions(graph: Graph, sequences: Sequence[NDArray[np.int64]]) -> list[Floats]:
    """Log probabilities [len(sequence) - 1, vocab] of all that follows the first token of each sequence."""
    simulator, found = Simulator(graph), []
    for sequence in sequences:
        simulator.reset()
        found.append(log_softmax(simulator.feed(sequence[:-1]).astype(np.float64) * LOGIT_UNIT))
    return found
