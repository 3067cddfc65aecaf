"""The constant tables of the integer arithmetic; twin of firmware/kernels/tables.c.

Every table is small, independent of model and context, and interpolated where finer steps are needed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def _read_only(values: list[int], dtype: type[np.generic]) -> NDArray[np.generic]:
    table = np.array(values, dtype)
    table.setflags(write=False)
    return table


# 2**-(i/64) in Q15, down to the last octave that is not nothing, so that a weight is one load; the first entry is
# 32767, not 32768, so that a probability fits int16.
EXP2_Q15 = _read_only([min(32767, round(2.0 ** (15 - i / 64))) for i in range(1024)], np.uint16)

# sin(2 pi i / 512) in Q15, one turn and the first entry again, for linear interpolation.
SINE_Q15 = _read_only([round(32767 * math.sin(2 * math.pi * i / 512)) for i in range(513)], np.int16)

# The logistic function at (i - 32) / 4 in Q15, i.e. on [-8, 8], for linear interpolation.
SIGMOID_Q15 = _read_only([min(32767, round(32768 / (1 + math.exp(-(i - 32) / 4)))) for i in range(65)], np.int16)

# The normal distribution at the same places: GELU is x times it. Its tail at -8 is 2**-51, its complement at 8 rounds
# to 1.
PHI_Q15 = _read_only([min(32767, round(16384 * math.erfc((32 - i) / 4 / math.sqrt(2)))) for i in range(65)], np.int16)


def _phi_tanh(x: float) -> float:
    """What GELU's approximation (Hendrycks and Gimpel 2016, section 2) has for the normal distribution."""
    return (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


PHI_TANH_Q15 = _read_only([min(32767, round(32768 * _phi_tanh((i - 32) / 4))) for i in range(65)], np.int16)
