"""What every packing makes of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One matrix as a kernel family reads it: one sequential stream.

    stream: int8, uint8 or uint32 array, as it lies in flash. chunk: columns that the stream keeps together; fewer
    than there are where the bound of a packing asks for it. cut_rows: at multiples of so many rows the stream can be
    cut in two, each the stream of its rows; 0 where it cannot. cut_size: elements that so many rows take.
    """

    stream: NDArray[np.integer]
    chunk: int
    cut_rows: int = 0
    cut_size: int = 0
