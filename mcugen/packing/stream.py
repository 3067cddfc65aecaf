"""What every packing makes of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One matrix as a kernel family reads it: one sequential stream.

    stream: int8, uint8 or uint32 array, as it lies in flash. chunk: columns that the stream keeps together; fewer
    than there are where the bound of a packing asks for it.
    """

    stream: NDArray[np.integer]
    chunk: int
