"""Hypothesis strategies for the kernels' arguments: the ranges of kernels.h, their corners preferred."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from mcugen.ir import Linear
from mcugen.kernels import accumulator_bound

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
def blocks(draw: st.DrawFn, tokens: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8[tokens, cols] and their scales as mg_scale_t: int32[tokens, 2], peak and sum of the codes."""
    x = draw(codes(tokens, cols))
    peaks = draw(arrays("int32", (tokens,), 1, 2**15))
    return x, np.stack([peaks, x.sum(-1, dtype=np.int32)], -1)


@st.composite
def tables(draw: st.DrawFn, rows: int, cols: int) -> Linear:
    """An embedding table."""
    shift = draw(st.integers(14, 30) | st.integers(1, 62) | st.sampled_from([1, 62]))
    return Linear(draw(codes(rows, cols)), draw(multipliers(rows)), shift)


@st.composite
def linears(draw: st.DrawFn, rows: int, cols: int, bits: int = 8) -> Linear:
    """A matrix whose accumulators are below 2**(shift - 1), of int8 codes or of int4 codes in groups of 32, 64, 0.

    The shift is any in [16, 32], preferred where accumulators come closest to their bound; codes that would go
    beyond it are 0.
    """
    group = draw(st.sampled_from([32, 64, 0])) if bits == 4 else 0
    drawn = draw(codes(rows, cols) if bits == 8 else arrays("int8", (rows, cols), -8, 7))
    group_scale = draw(codes(rows, -(-cols // group))) if group else None
    w = Linear(drawn, draw(multipliers(rows)), 32, bits, group, group_scale)
    tight = max(16, accumulator_bound(w).bit_length() + 1)
    return within(w, draw(st.sampled_from([16, tight, 32]) | st.integers(16, 32)))


@st.composite
def fcs(draw: st.DrawFn) -> tuple[int, int]:
    """Multiplier and shift of FULLY_CONNECTED."""
    return draw(st.integers(2**23, 2**24 - 1) | st.sampled_from([2**23, 2**24 - 1])) << 7, draw(st.integers(-31, 0))


def within(w: Linear, shift: int) -> Linear:
    """The matrix with this shift: in each row, codes are 0 from where its accumulator could reach 2**(shift - 1)."""
    weights = np.abs(w.codes.astype(np.int64))
    for row, col in np.ndindex(weights.shape if w.group_scale is not None else (0, 0)):
        weights[row, col] *= abs(int(w.group_scale[row, col // w.group]))
    kept = weights.cumsum(1) * 127 < 2 ** (shift - 1)
    return dataclasses.replace(w, codes=np.where(kept, w.codes, np.int8(0)), shift=shift)
