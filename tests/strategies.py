"""Hypothesis strategies for the kernels' arguments: the ranges of kernels.h, their corners preferred."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from mcugen.ir import Linear

S8, S16 = (-127, 127), (-(2**15), 2**15 - 1)
PATTERNS = ("zero", "high", "low", "alternating", "single", "small", "extremes", "uniform")


@st.composite
def arrays(draw: st.DrawFn, dtype: str, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Integers in [low, high]: random, or in one of the patterns that break arithmetic."""
    pattern = draw(st.sampled_from(PATTERNS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = int(np.prod(shape))
    zero = min(max(0, low), high)
    flat = np.full(size, zero, np.int64)
    if pattern == "high":
        flat[:] = high
    elif pattern == "low":
        flat[:] = low
    elif pattern == "alternating":
        flat[0::2], flat[1::2] = low, high
    elif pattern == "single":
        flat[rng.integers(size)] = rng.choice([low, low + 1, high, rng.integers(low, high + 1)])
    elif pattern == "small":
        flat[:] = np.clip(rng.integers(zero - 3, zero + 4, size), low, high)
    elif pattern == "extremes":
        flat[:] = rng.choice([low, high], size)
    elif pattern == "uniform":
        flat[:] = rng.integers(low, high, size, endpoint=True)
    return flat.reshape(shape).astype(dtype)


def codes(*shape: int) -> st.SearchStrategy[np.ndarray]:
    """int8 codes of weights, activations, keys and values."""
    return arrays("int8", shape, *S8)


def words(*shape: int) -> st.SearchStrategy[np.ndarray]:
    """int16, the whole range."""
    return arrays("int16", shape, *S16)


def multipliers(n: int) -> st.SearchStrategy[np.ndarray]:
    return arrays("int16", (n,), 0, 2**15 - 1)


@st.composite
def scales(draw: st.DrawFn) -> np.ndarray:
    """mg_scale_t as int32[2]: mantissa and exponent of a block."""
    mantissa = draw(st.sampled_from([2**13, 2**14 - 1]) | st.integers(2**13, 2**14 - 1))
    return np.array([mantissa, draw(st.integers(-13, 2))], np.int32)


@st.composite
def linears(draw: st.DrawFn, rows: int, cols: int, low: int = 3, high: int = 49) -> Linear:
    """A matrix with a shift in [low, high], where most accumulators neither vanish nor saturate preferred."""
    shift = draw(st.integers(14, 30) | st.integers(low, high) | st.sampled_from([low, high]))
    return Linear(draw(codes(rows, cols)), draw(multipliers(rows)), shift)
