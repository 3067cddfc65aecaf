"""Real matrices as integers: codes, and the scales that give them meaning.

`nearest` looks at a matrix alone; `gptq` also at the inputs it will meet, of which it takes the mean outer product,
the Hessian of the squared error of the outputs: float64[cols, cols].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

S8_MAX = 127
S4_MIN, S4_MAX = -8, 7
DAMPING = 0.01  # of a Hessian's mean diagonal, added to it
SIZES = np.linspace(1.1, 0.5, 26)  # of a scale: what its largest code stands for, over the largest weight
SWEEPS = 4  # of coordinate descent; twelve do no better

# The matrices of a layer in the order they are met, and what FloatDecoder calls their inputs.
INPUTS = {
    "wq": "att_norm",
    "wk": "att_norm",
    "wv": "att_norm",
    "wo": "attention",
    "w1": "ffn_norm",
    "w3": "ffn_norm",
    "w2": "swiglu",
}


def place(label: str) -> tuple[str, tuple[int, ...]]:
    """Where a matrix is in Model.weights: "layers.0.wq" -> ("wq", (0,)); of an expert, its index follows."""
    *path, name = label.split(".")
    return name, tuple(int(part) for part in path if part.isdigit())


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A matrix in integers: w ~ codes * group_scale * scale[:, None].

    codes: int8[rows, cols], in [-127, 127] of 8 bits and [-8, 7] of 4. scale: float64[rows], > 0. group_scale:
    int8[rows, groups] in [-127, 127], or None: of each run of `group` columns (the last may be shorter); 4 bits only.
    """

    codes: NDArray[np.int8]
    group_scale: NDArray[np.int8] | None
    scale: Floats
    bits: int = 8
    group: int = 0

    def steps(self) -> Floats:
        """What one code is worth: float64[rows, cols]."""
        if self.group_scale is None:
            return np.broadcast_to(self.scale[:, None], self.codes.shape)
        per_column = np.repeat(self.group_scale, self.group, axis=1)[:, : self.codes.shape[1]]
        return per_column * self.scale[:, None]

    def values(self) -> Floats:
        """What the codes stand for: float64[rows, cols]."""
        return self.codes * self.steps()


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A matrix ready to be rounded.

    w: float64[rows, cols], with the scale of its int16 input multiplied in: columns float64[cols]. out_scale:
    float64[rows], the value of one output code.
    """

    w: Floats
    columns: Floats
    out_scale: Floats


def round_rows(w: Floats) -> Grid:
    """Symmetric int8 codes, nearest, the largest of each row +-127. w float[rows, cols]."""
    scale = np.maximum(np.abs(w).max(1), 1e-12) / S8_MAX
    codes = np.clip(np.round(w / scale[:, None]), -S8_MAX, S8_MAX).astype(np.int8)
    return Grid(codes, None, scale)


def round_groups(w: Floats, group: int) -> Grid:
    """int4 codes in groups of columns. w float[rows, cols].

    A group's scale is signed, so that its largest weight is a code of -8; it is the one of a few sizes with the least
    squared error.
    """
    rows, cols = w.shape
    groups = -(-cols // group)
    padded = np.zeros((rows, groups * group))
    padded[:, :cols] = w
    parts = padded.reshape(rows, groups, group)
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(-1, keepdims=True), -1)[..., 0]
    scale = np.maximum(np.abs(extreme).max(1), 1e-12) / 8 / S8_MAX
    best_error = np.full((rows, groups), np.inf)
    best = np.zeros((rows, groups), np.int8)
    codes = np.zeros(parts.shape, np.int8)
    for shrink in np.linspace(1.0, 0.7, 13):
        steps = np.round(-extreme * shrink / 8 / scale[:, None])
        value = np.where(steps == 0, 1e-12, steps * scale[:, None])[..., None]
        trial = np.clip(np.round(parts / value), -8, 7) * (steps != 0)[..., None]
        error = ((parts - trial * value) ** 2).sum(-1)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = np.where(better, steps, best).astype(np.int8)
        codes = np.where(better[..., None], trial, codes).astype(np.int8)
    return Grid(codes.reshape(rows, -1)[:, :cols].copy(), best, scale, 4, group)


def round_int4_rows(w: Floats) -> Grid:
    """int4 codes with one scale per row, that of a few sizes with the least squared error. w float[rows, cols]."""
    scale = _best_values(np.abs(w).max(1), w, np.ones(w.shape[1]))
    return Grid(_nearest_codes(w, scale[:, None], 4), None, scale, 4)


def nearest(w: Floats, bits: int, group: int) -> Grid:
    """The nearest codes of 8 bits, or of 4 in groups of columns (0: one scale per row). w float[rows, cols]."""
    if bits == 8:
        return round_rows(w)
    return round_groups(w, group) if group else round_int4_rows(w)


def _nearest_codes(w: Floats, step: Floats, bits: int) -> NDArray[np.int8]:
    """Codes of weights where one is worth `step`; 0 where that is nothing."""
    low, high = (S4_MIN, S4_MAX) if bits == 4 else (-S8_MAX, S8_MAX)
    codes = np.clip(np.round(w / np.where(step == 0, 1.0, step)), low, high)
    return np.where(step == 0, 0, codes).astype(np.int8)


def _best_values(extreme: Floats, w: Floats, weight: Floats) -> Floats:
    """What an int4 code of each run of weights w[..., n] is worth: of SIZES, the one with the least squared error
    weighted by weight[..., n]. extreme: largest weight of a run, [...]; its sign is that of the codes' -8."""
    best, best_error = np.zeros(extreme.shape), np.full(extreme.shape, np.inf)
    for size in SIZES:
        value = np.maximum(np.abs(extreme), 1e-12) * np.where(extreme < 0, -size, size) / -S4_MIN
        codes = _nearest_codes(w, value[..., None], 4)
        error = (weight * (w - codes * value[..., None]) ** 2).sum(-1)
        better = error < best_error
        best, best_error = np.where(better, value, best), np.where(better, error, best_error)
    return best


# ---------------------------------------------------------------- against a Hessian


def weighted_error(w: Floats, grid: Grid, hessian: Floats) -> Floats:
    """Mean squared error of each output over the inputs that a Hessian stands for: float64[rows]."""
    return _error(w - grid.values(), hessian)


def _error(difference: Floats, hessian: Floats) -> Floats:
    error: Floats = ((difference @ hessian) * difference).sum(1)
    return error


def gptq(w: Floats, hessian: Floats, bits: int, group: int) -> Grid:
    """Codes and scales of a small weighted error: in no row larger than that of `nearest`.

    GPTQ (Frantar et al. 2022), columns of the largest inputs first; then coordinate descent on codes, group scales
    and row scales in turn. w float[rows, cols]; bits and group as of nearest.
    """
    plain = nearest(w, bits, group)
    grid = _compensated(w, hessian, _with_scales(w, np.diag(hessian), plain))
    for _ in range(SWEEPS):
        grid = _with_better_scales(w, hessian, _with_better_codes(w, hessian, grid))
    grid = _with_better_codes(w, hessian, grid)
    better = weighted_error(w, grid, hessian) < weighted_error(w, plain, hessian)
    scales = grid.group_scale
    if scales is not None and plain.group_scale is not None:
        scales = np.where(better[:, None], scales, plain.group_scale)
    codes = np.where(better[:, None], grid.codes, plain.codes)
    return replace(grid, codes=codes, group_scale=scales, scale=np.where(better, grid.scale, plain.scale))


def _with_scales(w: Floats, weight: Floats, plain: Grid) -> Grid:
    """Other scales for an int4 grid: for the least error with columns weighted by weight[cols]."""
    if plain.group_scale is None:
        return plain if plain.bits == 8 else replace(plain, scale=_best_values(np.abs(w).max(1), w, weight))
    rows, groups = plain.group_scale.shape
    padding = ((0, 0), (0, groups * plain.group - w.shape[1]))
    parts = np.pad(w, padding).reshape(rows, groups, plain.group)
    weights = np.pad(weight[None], padding).reshape(1, groups, plain.group)
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(-1, keepdims=True), -1)[..., 0]
    both = [_best_values(sign * extreme, parts, weights) for sign in (-1, 1)]
    errors = [(weights * (parts - _nearest_codes(parts, v[..., None], 4) * v[..., None]) ** 2).sum(-1) for v in both]
    value = np.where(errors[0] <= errors[1], both[0], both[1])
    scale = np.abs(value).max(1) / S8_MAX
    return replace(plain, group_scale=np.round(value / scale[:, None]).astype(np.int8), scale=scale)


def _compensated(w: Floats, hessian: Floats, grid: Grid) -> Grid:
    """GPTQ's codes for the scales of a grid: what rounding a column leaves is taken up by those that follow."""
    damping = DAMPING * max(float(np.diag(hessian).mean()), 1e-30)
    damped = hessian + damping * np.eye(len(hessian))
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T  # upper: inverse = factor.T @ factor
    rest, steps = w[:, order], grid.steps()[:, order]
    codes = np.zeros(w.shape, np.int8)
    for k, column in enumerate(order):
        codes[:, column] = _nearest_codes(rest[:, k], steps[:, k], grid.bits)
        left = (rest[:, k] - codes[:, column] * steps[:, k]) / factor[k, k]
        rest[:, k + 1 :] -= left[:, None] * factor[k, k + 1 :]
    return replace(grid, codes=codes)


def _with_better_codes(w: Floats, hessian: Floats, grid: Grid) -> Grid:
    """Coordinate descent, one pass: the best code of each column, given all others."""
    codes, steps = grid.codes.copy(), grid.steps()
    gradient = (w - grid.values()) @ hessian
    for k in np.flatnonzero(np.diag(hessian)):
        step, old = steps[:, k], codes[:, k]
        new = _nearest_codes(old * step + gradient[:, k] / hessian[k, k], step, grid.bits)
        gradient -= ((new - old.astype(np.float64)) * step)[:, None] * hessian[k]
        codes[:, k] = new
    return replace(grid, codes=codes)


def _with_better_scales(w: Floats, hessian: Floats, grid: Grid) -> Grid:
    """The best group scale of each group in turn, given all else; then the best row scales."""
    if grid.group_scale is not None:
        for index in range(grid.group_scale.shape[1]):
            columns = slice(index * grid.group, (index + 1) * grid.group)
            part = grid.codes[:, columns] * grid.scale[:, None]
            gradient = (w - grid.values()) @ hessian[:, columns]
            change = _ratio((gradient * part).sum(1), _error(part, hessian[columns, columns]), 0.0)
            scales = grid.group_scale.copy()
            scales[:, index] = np.clip(np.round(scales[:, index] + change), -S8_MAX, S8_MAX)
            grid = replace(grid, group_scale=scales)
    values = grid.values()
    factor = _ratio(((w @ hessian) * values).sum(1), _error(values, hessian), 1.0)
    return replace(grid, scale=grid.scale * np.where(factor > 0, factor, 1.0))


def _ratio(over: Floats, under: Floats, otherwise: float) -> Floats:
    """over / under, or `otherwise` where that is no number."""
    usable = under > 1e-30
    return np.where(usable, over / np.where(usable, under, 1.0), otherwise)
