"""Which matrix gets how many bits: the most accuracy within a budget.

What rounding one matrix costs is measured: the KL divergence of the float model to itself with this matrix alone in
int4, on the model's own samples. Small errors add up, and KL is quadratic in them: another precision costs as much
more or less as its weighted error (rounding.weighted_error) is larger or smaller, both rounded to nearest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import UsageError
from mcugen.ir import Config, Model
from mcugen.recipes import INT4, INT4_COARSE, INT8, Budget, Precision, Recipe, tied
from mcugen.reference import FloatDecoder, log_softmax
from mcugen.rounding import INPUTS, Floats, Folded, gptq, nearest, place, weighted_error
from mcugen.sheet import Sheet

TOKENS = 512  # that the cost of a matrix is measured on

Progress = Callable[[int, int], None]
_Sizes = Mapping[str, tuple[int, ...]]  # (rows, cols) by label


@dataclass(frozen=True, slots=True)
class Chosen:
    """A matrix and what it got. kl: nats per token that it costs alone with this precision; kl4: with int4/32."""

    label: str
    rows: int
    cols: int
    precision: Precision
    bytes: int
    kl: float
    kl4: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision of every matrix.

    recipe: states them all. bits: per weight of the layers' matrices, scales included; bits_of_all: of embedding and
    classifier, too. bytes: of all matrices. kl: the predicted sum.
    """

    recipe: Recipe
    matrices: tuple[Chosen, ...]
    bits: float
    bits_of_all: float
    bytes: int
    kl: float

    def to_json(self) -> dict[str, object]:
        """All but the recipe, which follows from it."""
        return {name: value for name, value in asdict(self).items() if name != "recipe"}

    def sheet(self) -> Sheet:
        rows = tuple(
            (m.label, f"{m.rows}x{m.cols}", str(m.precision), f"{m.bytes:,}", f"{m.kl4:.6f}", f"{m.kl:.6f}")
            for m in sorted(self.matrices, key=lambda m: (-m.kl4 / (m.rows * m.cols), m.label))
        )
        return Sheet(
            "precision of each matrix",
            ("matrix", "shape", "precision", "bytes", "KL with int4/32", "KL as chosen"),
            rows,
            frozenset({1, 2}),
            f"{self.bits:.2f} bits per weight of these matrices, {self.bits_of_all:.2f} with embedding and "
            f"classifier; {self.bytes:,} B in all. KL: nats per token of rounding this matrix alone, {self.kl:.4f} "
            "for the sum of all. Most sensitive weights first.",
        )


def choice_from_json(facts: Mapping[str, Any], recipe: Recipe) -> Choice:
    """The Choice that to_json gave, of this recipe. Raises KeyError or TypeError for anything else."""
    matrices = tuple(Chosen(**{**m, "precision": Precision(**m["precision"])}) for m in facts["matrices"])
    stating = _stating(recipe, {matrix.label: matrix.precision for matrix in matrices})
    return Choice(**{**facts, "matrices": matrices, "recipe": stating})


def _stating(recipe: Recipe, chosen: Mapping[str, Precision]) -> Recipe:
    return replace(recipe, overrides=tuple(sorted(chosen.items())), budget=None)


def choose(
    model: Model,
    folded: Mapping[str, Folded],
    values: Mapping[tuple[str, int], Floats],
    sequences: Sequence[NDArray[np.int64]],
    recipe: Recipe,
    progress: Progress = lambda done, total: None,
) -> Choice:
    """Choose precisions within recipe.budget: from the coarsest up, what saves the most KL per byte first.

    values: what the float model saw in `sequences`. progress(matrices measured, of how many). Raises UsageError where
    the coarsest choice is beyond the budget, and where the finest is.
    """
    assert recipe.budget is not None
    sizes = {label: part.w.shape for label, part in folded.items()}
    costs = _costs(model, folded, values, sequences, recipe, progress)
    chosen = {label: recipe.stated(label) or INT4_COARSE for label in folded}
    free = [labels for _, labels in sorted(tied(folded).items()) if recipe.stated(labels[0]) is None]

    def saved(labels: Sequence[str], to: Precision) -> float:
        return sum(costs[label, chosen[label]] - costs[label, to] for label in labels)

    def added(labels: Sequence[str], to: Precision) -> int:
        return sum(to.bytes(*sizes[label]) - chosen[label].bytes(*sizes[label]) for label in labels)

    while not _enough(recipe.budget, sum(costs[label, chosen[label]] for label in folded)):
        steps = [
            (saved(labels, to) / added(labels, to), labels, to)
            for labels in free
            for to in (INT4, INT8)
            if added(labels, to) > 0 < saved(labels, to)
            and _fits(recipe.budget, model.config, sizes, {**chosen, **dict.fromkeys(labels, to)})
        ]
        if not steps:
            break
        _, labels, to = max(steps, key=lambda step: step[0])
        chosen |= dict.fromkeys(labels, to)
    result = _choice(recipe, model.config, sizes, chosen, costs)
    _check(recipe.budget, result)
    return result


def _enough(budget: Budget, kl: float) -> bool:
    """On text that it wrote itself, a model's loss grows by just the KL divergence."""
    return budget.kind == "perplexity" and kl <= math.log1p(budget.limit)


def _fits(budget: Budget, config: Config, sizes: _Sizes, chosen: Mapping[str, Precision]) -> bool:
    inside = _bytes(sizes, chosen)
    if budget.kind == "bits":
        return 8 * inside <= budget.limit * _weights(sizes)
    return budget.kind != "flash_bytes" or inside + _outside(config) <= budget.limit


def _bytes(sizes: _Sizes, chosen: Mapping[str, Precision]) -> int:
    return sum(chosen[label].bytes(rows, cols) for label, (rows, cols) in sizes.items())


def _weights(sizes: _Sizes) -> int:
    return sum(rows * cols for rows, cols in sizes.values())


def _outside(config: Config) -> int:
    """Bytes of embedding and classifier; a shared classifier has multipliers of its own."""
    table = INT8.bytes(config.vocab_size, config.dim)
    return table + (2 * config.vocab_size if config.shared_classifier else table)


def _choice(
    recipe: Recipe,
    config: Config,
    sizes: _Sizes,
    chosen: Mapping[str, Precision],
    costs: Mapping[tuple[str, Precision], float],
) -> Choice:
    matrices = tuple(
        Chosen(label, rows, cols, chosen[label], chosen[label].bytes(rows, cols),
               costs[label, chosen[label]], costs[label, INT4])
        for label, (rows, cols) in sizes.items()
    )  # fmt: skip
    inside, weights = _bytes(sizes, chosen), _weights(sizes)
    everything = inside + _outside(config)
    all_weights = weights + config.vocab_size * config.dim * (1 if config.shared_classifier else 2)
    return Choice(
        _stating(recipe, chosen),
        matrices,
        8 * inside / weights,
        8 * everything / all_weights,
        everything,
        sum(matrix.kl for matrix in matrices),
    )


def _check(budget: Budget, found: Choice) -> None:
    limits = {"bits": found.bits, "flash_bytes": float(found.bytes), "perplexity": math.expm1(found.kl)}
    if limits[budget.kind] > budget.limit:
        best = {"bits": f"{found.bits:.2f}bits", "flash_bytes": f"{found.bytes}B",
                "perplexity": f"{100 * math.expm1(found.kl):.3f}%"}  # fmt: skip
        raise UsageError(
            f"no choice of precisions stays within {budget}; the nearest is {best[budget.kind]}",
            where="budget",
            hint="allow as much, or state fewer overrides",
        )


# ---------------------------------------------------------------- what a matrix costs


def _costs(
    model: Model,
    folded: Mapping[str, Folded],
    values: Mapping[tuple[str, int], Floats],
    sequences: Sequence[NDArray[np.int64]],
    recipe: Recipe,
    progress: Progress,
) -> dict[tuple[str, Precision], float]:
    """KL in nats per token of each matrix alone with each precision."""
    read = _some(sequences)
    expected = [log_softmax(FloatDecoder(model).forward(sequence[None])[0]) for sequence in read]
    costs: dict[tuple[str, Precision], float] = {}
    for label, part in folded.items():
        name, (layer, *expert) = place(label)
        seen = values[INPUTS[name], layer] / part.columns
        hessian = seen.T @ seen / len(seen)
        if recipe.rounding == "gptq":
            grid = gptq(part.w, hessian, INT4.bits, INT4.group)
        else:
            grid = nearest(part.w, INT4.bits, INT4.group)
        weights = model.weights[name].copy()
        weights[layer, *expert] = grid.values() / part.columns
        measured = _kl(replace(model, weights={**model.weights, name: weights}), read, expected)
        errors = {
            precision: float(weighted_error(part.w, nearest(part.w, precision.bits, precision.group), hessian).sum())
            for precision in (INT4, *sorted(recipe.precisions()))
        }
        for precision, error in errors.items():
            costs[label, precision] = measured * error / errors[INT4] if errors[INT4] else 0.0
        progress(len({at for at, _ in costs}), len(folded))
    return costs


def _some(sequences: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """The first sequences, TOKENS in all or a little more."""
    counts = np.cumsum([0, *map(len, sequences)])
    return [sequence for sequence, before in zip(sequences, counts, strict=False) if before < TOKENS]


def _kl(model: Model, sequences: Sequence[NDArray[np.int64]], expected: Sequence[Floats]) -> float:
    total = 0.0
    for sequence, reference in zip(sequences, expected, strict=True):
        observed = log_softmax(FloatDecoder(model).forward(sequence[None])[0])
        total += float((np.exp(reference) * (reference - observed)).sum())
    return total / sum(map(len, sequences))
