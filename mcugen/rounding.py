"""Real matrices as integers: codes, and the scales that give them meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

S8_MAX = 127


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

    def values(self) -> Floats:
        """What the codes stand for: float64[rows, cols]."""
        if self.group_scale is None:
            return self.codes * self.scale[:, None]
        per_column = np.repeat(self.group_scale, self.group, axis=1)[:, : self.codes.shape[1]]
        return self.codes * per_column.astype(np.int64) * self.scale[:, None]


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
