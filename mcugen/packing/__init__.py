"""Weight layouts that kernel families read: the codes of a matrix -> the bytes in flash, as one stream."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen.ir import Linear
from mcugen.packing import dsp, mve, row_digits, row_major, rv32
from mcugen.packing.stream import Packed

__all__ = ["PACKINGS", "Packed", "Packing", "pack"]


@dataclass(frozen=True, slots=True)
class Packing:
    """The two streams of a family: of int8 codes, and of int4 codes with their group scales."""

    pack_s8: Callable[[NDArray[np.int8]], Packed]
    pack_s4: Callable[[NDArray[np.int8], NDArray[np.int8] | None, int], Packed]


PACKINGS: Mapping[str, Packing] = {
    "row_major": Packing(row_major.pack_s8, row_major.pack_s4),
    "dsp": Packing(dsp.pack_s8, dsp.pack_s4),
    "mve": Packing(mve.pack_s8, mve.pack_s4),
    "rv32": Packing(rv32.pack_s8, rv32.pack_s4),
    "v6m": Packing(row_digits.pack_s8_v6m, row_digits.pack_s4_v6m),
    "v7m": Packing(row_digits.pack_s8_v7m, row_digits.pack_s4_v7m),
}


@functools.lru_cache(maxsize=512)  # a plan asks for the same matrices at every context that it tries
def pack(w: Linear, packing: str) -> Packed:
    """The stream of a matrix in a packing."""
    if w.bits == 4:
        return PACKINGS[packing].pack_s4(w.codes, w.group_scale, w.group)
    return PACKINGS[packing].pack_s8(w.codes)
