"""Weight layouts that kernel variants read: codes[rows, cols] -> the bytes in flash, as one stream per matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray


def row_major(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Row after row, as the portable kernels read them."""
    return codes.reshape(-1)


PACKINGS: Mapping[str, Callable[[NDArray[np.int8]], NDArray[np.int8]]] = {"row_major": row_major}
