"""Row after row, as the portable kernels read them (firmware/kernels/linear.c)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcugen.packing.stream import Packed


def pack_s8(codes: NDArray[np.int8]) -> Packed:
    """int8[rows, cols], as it is."""
    return Packed(codes.reshape(-1), codes.shape[1])


def pack_s4(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int) -> Packed:
    """int4 codes in [-8, 7]: per row two columns a byte, the even one in the low bits; then the row's group scales.

    codes: int8[rows, cols]; group_scale: int8[rows, groups] of `group` columns each, or None.
    """
    rows, cols = codes.shape
    nibbles = np.zeros((rows, cols + cols % 2), np.uint8)
    nibbles[:, :cols] = codes.view(np.uint8) & 15
    pairs = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    parts = [pairs] if group_scale is None else [pairs, group_scale.view(np.uint8)]
    return Packed(np.concatenate(parts, 1).reshape(-1), cols)
