"""Rung 3: every C kernel equals its numpy twin, bit for bit, and stays inside its arrays.

Below, the numpy twins themselves are held against the real arithmetic they stand for.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import inspect
import math
import re
from fractions import Fraction
from pathlib import Path

import native
import numpy as np
import pytest
from fence import InOut, Out, Same, Struct, call
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import arrays, blocks, codes, fcs, linears, multipliers, tables, within, words

from mcugen import kernels
from mcugen.families import FAMILIES, PORTABLE
from mcugen.ir import Linear
from mcugen.lower import probability_drop
from mcugen.packing.row_major import pack_s4
from mcugen.reference import gelu, gelu_tanh, relu, relu2

FOLDER = Path(__file__).resolve().parent.parent / "firmware" / "kernels"
SOURCES = sorted(FOLDER.glob("*.c"))
HEADER = (FOLDER / "kernels.h").read_text(encoding="utf-8")

quick = settings(max_examples=60)


@functools.cache
def library() -> ctypes.CDLL:
    return native.load(SOURCES, [FOLDER])


def run_c(kernel: str, *arguments) -> list[np.ndarray]:
    return call(getattr(library(), f"mg_{kernel}"), *arguments)


def equal(observed: np.ndarray, expected: np.ndarray) -> None:
    assert observed.dtype == expected.dtype
    np.testing.assert_array_equal(observed, expected)


# ---------------------------------------------------------------- the parameter structs of kernels.h


class CScale(ctypes.Structure):
    _fields_ = (("peak", ctypes.c_int32), ("sum", ctypes.c_int32))


class CLinear(ctypes.Structure):
    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("multiplier", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("shift", ctypes.c_int32),
        ("chunk", ctypes.c_int32),
        ("group", ctypes.c_int32),
    )


class CRescale(ctypes.Structure):
    _fields_ = (("multiplier", ctypes.c_void_p), ("rows", ctypes.c_int32), ("shift", ctypes.c_int32))


class CNorm(ctypes.Structure):
    _fields_ = (
        ("gain", ctypes.c_void_p),
        ("dim", ctypes.c_int32),
        ("gain_frac", ctypes.c_int32),
        ("eps", ctypes.c_int64),
    )


class CRope(ctypes.Structure):
    _fields_ = (
        ("step", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("shift", ctypes.c_int32),
    )


class CAttention(ctypes.Structure):
    _fields_ = (
        ("n_heads", ctypes.c_int32),
        ("n_kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("shift", ctypes.c_int32),
        ("drop", ctypes.c_int32),
    )


def linear_struct(w: Linear) -> Struct:
    rows, cols = w.codes.shape
    stream = pack_s4(w.codes, w.group_scale, w.group).stream if w.bits == 4 else w.codes
    sizes = {"rows": rows, "cols": cols, "shift": w.shift, "chunk": cols, "group": w.group}
    return Struct(CLinear, {"codes": stream, "multiplier": w.multiplier, **sizes})


def rope_struct(step: np.ndarray, heads: int, zero: np.ndarray | int = 0, shift: int = 0) -> Struct:
    return Struct(CRope, {"step": step, "zero": zero, "heads": heads, "head_dim": 2 * len(step), "shift": shift})


C_TYPES = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64}


@pytest.mark.parametrize("kind", [CScale, CLinear, CRescale, CNorm, CRope, CAttention])
def test_ctypes_structs_are_those_of_the_header(kind: type[ctypes.Structure]):
    name = kind.__name__[1:].lower()
    (body,) = re.findall(rf"typedef struct {{([^}}]*)}} mg_{name}_t;", HEADER)
    declared = re.findall(r"([\w ]+\*?) ?\b(\w+);", body)
    expected = tuple(
        (field, ctypes.c_void_p if "*" in c_type else C_TYPES[c_type.strip()]) for c_type, field in declared
    )
    assert kind._fields_ == expected


# ---------------------------------------------------------------- the set of kernels


def test_c_and_numpy_have_the_same_kernels():
    """A kernel's name ends in the type of its output; saturate_* are arithmetic, not kernels. Of FULLY_CONNECTED, only
    what follows it is C of ours."""
    in_c = set(re.findall(r"^void mg_(\w+)\(", HEADER, re.MULTILINE))
    functions = inspect.getmembers(kernels, inspect.isfunction)
    in_numpy = {name for name, _ in functions if re.fullmatch(r"[a-z]\w*_s(8|16|32)", name)}
    assert in_c == in_numpy - {"saturate_s8", "saturate_s16", "saturate_s32", *FC}
    assert in_c == {FC.get(kernel, kernel) for kernel in PORTABLE}
    assert all(variant.symbol == f"mg_{FC.get(kernel, kernel)}" for kernel, variant in PORTABLE.items())


def test_every_kernel_is_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    for kernel in PORTABLE:
        assert f'"{kernel}"' in text, kernel


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_variant_is_where_it_says(family):
    """Every source is there, and one of them defines the symbol: in C, as a label, or by an assembler's macro."""
    assert set(family.kernels) <= set(PORTABLE)
    for kernel in PORTABLE:
        variant = family.variant(kernel)
        texts = [(FOLDER.parent / source).read_text(encoding="utf-8") for source in variant.sources]
        defined = rf"^void {variant.symbol}\(|^{variant.symbol}:|^ +[A-Z][A-Z0-9_]* {variant.symbol}\b"
        assert sum(len(re.findall(defined, text, re.MULTILINE)) for text in texts) == 1, variant


def test_c_compiles_without_a_warning():
    native.compile_clean(SOURCES, [FOLDER])


# ---------------------------------------------------------------- embedding, blocks


@quick
@given(st.data())
def test_embed_s16(data):
    vocab, dim = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    table = data.draw(tables(vocab, dim))
    token = data.draw(st.integers(0, vocab - 1))
    (y,) = run_c("embed_s16", Out("int16", (dim,)), token, linear_struct(table))
    equal(y, kernels.embed_s16(np.int64(token), table))


@quick
@given(st.integers(1, 70).flatmap(words))
@example(np.array([-32768], np.int16))  # peak 2**15, the largest
@example(np.array([32767, -32767, 1, 0], np.int16))
@example(np.array([16384, -3, 2], np.int16))
@example(np.array([1, 0, -1], np.int16))  # the smallest peak
@example(np.full(4097, -32768, np.int16))  # a sum of the codes beyond int16
@example(np.zeros(7, np.int16))  # peak counts as 1
def test_block_s8(x):
    codes_c, scale_c = run_c("block_s8", Out("int8", x.shape), Out("int32", (2,)), x, len(x))
    codes_numpy, scale_numpy = kernels.block_s8(x)
    equal(codes_c, codes_numpy)
    equal(scale_c, scale_numpy)
    assert np.abs(codes_c.astype(int)).max() <= 127  # -128 is not a code
    assert scale_c[0] == max(1, np.abs(x.astype(int)).max())
    assert scale_c[1] == sum(codes_c.tolist())


def test_block_s8_of_every_peak():
    """All 32,769 peaks, each with its own reciprocal: a numpy block per peak, the C on a sample of them."""
    peaks = np.arange(32769)
    x = np.stack([-peaks, peaks // 2, peaks // 3 + 1], -1).astype(np.int16)
    codes_numpy, scale_numpy = kernels.block_s8(x)
    assert (codes_numpy[1:, 0] == -127).all()
    for i in range(0, len(peaks), 97):
        codes_c, scale_c = run_c("block_s8", Out("int8", (3,)), Out("int32", (2,)), x[i], 3)
        equal(codes_c, codes_numpy[i])
        equal(scale_c, scale_numpy[i])


# ---------------------------------------------------------------- linear layers

LINEAR = {
    "linear_s8": "int8", "linear_s16": "int16", "linear_s32": "int32", "linear_add_s16": "int16",
    "linear4_s8": "int8", "linear4_s16": "int16", "linear4_add_s16": "int16",
}  # fmt: skip
ROWS = st.integers(1, 11)
COLUMNS = st.integers(1, 40) | st.sampled_from([63, 64, 65, 96, 129, 172])


def bits_of(kernel: str) -> int:
    return 4 if kernel.startswith("linear4") else 8


def check_linear(
    kernel: str, x: np.ndarray, scale: np.ndarray, w: Linear, residual: np.ndarray | None = None
) -> None:
    """A kernel of LINEAR on x int8[tokens, cols]; those that write slots of a ring write the middle of one."""
    tokens, rows = len(x), len(w.codes)
    given = () if residual is None else (residual,)
    expected = getattr(kernels, kernel)(*given, x, scale, w)
    if kernel.endswith("_s8"):
        ring = np.random.default_rng(0).integers(-128, 128, (2 + tokens + 1, rows)).astype(np.int8)
        (y,) = run_c(kernel, InOut(ring), 2, x, scale, tokens, linear_struct(w))
        ring[2:-1] = expected
        expected = ring
    else:
        (y,) = run_c(kernel, Out(LINEAR[kernel], (tokens, rows)), *given, x, scale, tokens, linear_struct(w))
    equal(y, expected)


@pytest.mark.parametrize("kernel", [kernel for kernel in LINEAR if "_add_" not in kernel])
@quick
@given(st.data(), ROWS, COLUMNS, st.integers(1, 3))
def test_linear(kernel, data, rows, cols, tokens):
    x, scale = data.draw(blocks(tokens, cols))
    check_linear(kernel, x, scale, data.draw(linears(rows, cols, bits_of(kernel))))


@pytest.mark.parametrize("kernel", ["linear_add_s16", "linear4_add_s16"])
@quick
@given(st.data(), ROWS, COLUMNS, st.integers(1, 3), st.booleans())
def test_linear_add(kernel, data, rows, cols, tokens, in_place):
    x, scale = data.draw(blocks(tokens, cols))
    residual, w = data.draw(words(tokens, rows)), data.draw(linears(rows, cols, bits_of(kernel)))
    if not in_place:
        return check_linear(kernel, x, scale, w, residual)
    (y,) = run_c(kernel, InOut(residual), Same(0), x, scale, tokens, linear_struct(w))
    equal(y, getattr(kernels, kernel)(residual, x, scale, w))


@pytest.mark.parametrize("kernel", LINEAR)
def test_tokens_at_once_are_tokens_one_by_one(kernel):
    rng = np.random.default_rng(0)
    x, residual = (
        rng.integers(-127, 128, (8, 70)).astype(np.int8),
        rng.integers(-(2**15), 2**15, (8, 9)).astype(np.int16),
    )
    scale = np.stack([rng.integers(1, 2**15 + 1, 8), x.sum(1)], -1).astype(np.int32)
    w = Linear(rng.integers(-8, 8, (9, 70)).astype(np.int8), rng.integers(0, 2**15, 9).astype(np.int16), 26,
               bits_of(kernel))  # fmt: skip
    given = (residual,) if "_add_" in kernel else ()
    check_linear(kernel, x, scale, w, *given)
    for t in range(8):
        check_linear(kernel, x[t : t + 1], scale[t : t + 1], w, *(array[t : t + 1] for array in given))


SHIFTS = [16, 17, 24, 31, 32]


@pytest.mark.parametrize(
    ("kernel", "group"), [(k, g) for k in LINEAR for g in ((0, 32, 64) if bits_of(k) == 4 else (0,))]
)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_largest_accumulators(kernel, group, shift, sign):
    """The largest sums that check_graph lets pass at a shift, with the smallest and the largest peak: int8 codes of
    127, or int4 codes of -8, in groups that count 127 times."""
    bits = bits_of(kernel)
    code, count = (127, 1) if bits == 8 else (-8, -127 if group else 1)
    cols = (2 ** (shift - 1) - 1) // 127 // abs(code * count) + 2  # two too many, of which within() sees to one
    codes = np.full((3, cols), code, np.int8)
    codes[2] = 0
    groups = -(-cols // group) if group else 0
    group_scale = np.full((3, groups), count, np.int8) if group else None
    w = within(Linear(codes, np.array([32767, 1, 32767], np.int16), shift, bits, group, group_scale), shift)
    bound = kernels.accumulator_bound(w)
    assert bound < 2 ** (shift - 1) <= bound + 127 * abs(code * count)
    x = np.full((2, cols), sign * 127, np.int8)
    scale = np.stack([[1, 2**15], x.sum(1, dtype=np.int32)], -1).astype(np.int32)
    residual = np.array([[-32768, 32767, 5], [32767, -1, -32768]], np.int16)
    check_linear(kernel, x, scale, w, *((residual,) if "_add_" in kernel else ()))


@pytest.mark.parametrize("kernel", LINEAR)
@pytest.mark.parametrize("shift", range(16, 33))
@pytest.mark.parametrize("peak", [1, 2**15])
def test_rounding_around_every_half(kernel, shift, peak):
    """Accumulators -258 to 257 by one multiplier: products just below, at and above the halves where there are any."""
    acc = np.arange(-256, 257)
    x = np.stack([acc // 2, acc - acc // 2], -1).clip(-127, 127).astype(np.int8)
    multiplier = np.array([1, 2**14, 2**14 + 1, 2**15 - 1], np.int16)
    w = Linear(np.tile(np.array([1, 1], np.int8), (4, 1)), multiplier, shift, bits_of(kernel))
    scale = np.stack([np.full(len(x), peak), x.sum(1)], -1).astype(np.int32)
    check_linear(kernel, x, scale, w, *((np.zeros((len(x), 4), np.int16),) if "_add_" in kernel else ()))


@quick
@given(st.data(), st.integers(1, 4), COLUMNS, st.sampled_from([8, 4]))
def test_no_accumulator_is_beyond_its_bound(data, rows, cols, bits):
    """... and one reaches it: codes of 127 with the signs of the row's weights."""
    w = data.draw(linears(rows, cols, bits))
    bound = kernels.accumulator_bound(w)
    assert bound < 2 ** (w.shift - 1)
    x = data.draw(codes(3, cols))
    assert np.abs(kernels.accumulate(x, w)).max() <= bound
    real = w.codes.astype(int)
    if w.group_scale is not None:
        real *= np.array([[w.group_scale[row, col // w.group] for col in range(cols)] for row in range(rows)], int)
    largest = kernels.accumulate((127 * np.sign(real)).astype(np.int8), w).diagonal()
    assert largest.max() == bound


# ---------------------------------------------------------------- what follows FULLY_CONNECTED

FC = {"fc_s16": "rescale_s16", "fc_add_s16": "rescale_add_s16"}


def check_rescale(codes: np.ndarray, scale: np.ndarray, w: Linear, residual: np.ndarray, in_place: bool) -> None:
    """Both kernels on codes int8[rows] of a block with scale int32[2]; residual int16[rows]."""
    rescale = Struct(CRescale, {"multiplier": w.multiplier, "rows": len(w.multiplier), "shift": w.shift})
    (y,) = run_c("rescale_s16", Out("int16", codes.shape), codes, scale, rescale)
    equal(y, kernels.rescale_s16(codes, scale, w))
    y_and_residual = (InOut(residual), Same(0)) if in_place else (Out("int16", codes.shape), residual)
    (y,) = run_c("rescale_add_s16", *y_and_residual, codes, scale, rescale)
    equal(y, kernels.rescale_add_s16(residual, codes, scale, w))


@quick
@given(st.data(), st.integers(1, 40), st.integers(16, 32), st.booleans())
def test_rescale(data, rows, shift, in_place):
    _, scale = data.draw(blocks(1, 1))
    w = Linear(np.zeros((rows, 1), np.int8), data.draw(multipliers(rows)), shift)
    codes = data.draw(arrays("int8", (rows,), -128, 127))
    check_rescale(codes, scale[0], w, data.draw(words(rows)), in_place)


@pytest.mark.parametrize("shift", range(16, 33))
@pytest.mark.parametrize("peak", [1, 2**15])
def test_rescale_of_every_code(shift, peak):
    """By multipliers that put products below, at and above the halves, and at the largest; onto every residual edge."""
    codes = np.tile(np.arange(-128, 128).astype(np.int8), 5)
    multiplier = np.repeat(np.array([1, 2**14, 2**14 + 1, 2**15 - 1, 0], np.int16), 256)
    w = Linear(np.zeros((len(codes), 1), np.int8), multiplier, shift)
    residual = np.resize(np.array([-32768, 32767, -1, 0, 5], np.int16), len(codes))
    check_rescale(codes, np.array([peak, -7], np.int32), w, residual, in_place=False)


@quick
@given(st.data(), st.integers(1, 6), COLUMNS, st.integers(1, 3))
def test_fc_is_fully_connected_and_what_follows_it(data, rows, cols, tokens):
    x, scale = data.draw(blocks(tokens, cols))
    w = dataclasses.replace(data.draw(linears(rows, cols)), fc=data.draw(fcs()), shift=data.draw(st.integers(16, 32)))
    residual = data.draw(words(tokens, rows))
    codes = kernels.fc_codes(x, w)
    equal(kernels.fc_s16(x, scale, w), kernels.rescale_s16(codes, scale, w))
    equal(kernels.fc_add_s16(residual, x, scale, w), kernels.rescale_add_s16(residual, codes, scale, w))
    factor = Fraction(w.fc[0]) * Fraction(2) ** (w.fc[1] - 31)
    for acc, code in zip(kernels.accumulate(x, w).ravel().tolist(), codes.ravel().tolist(), strict=True):
        assert abs(min(max(acc * factor, -128), 127) - code) < 1  # two roundings


# ---------------------------------------------------------------- normalisation


@quick
@given(st.data())
def test_rmsnorm_s16(data):
    dim = data.draw(st.integers(1, 70))
    x, gain = data.draw(words(dim)), data.draw(words(dim))
    gain_frac = data.draw(st.integers(-14, 15))
    eps = data.draw(st.just(1) | st.integers(1, 1000) | st.integers(1, 2**46))
    check_rmsnorm(x, gain, gain_frac, eps)


def check_rmsnorm(x: np.ndarray, gain: np.ndarray, gain_frac: int, eps: int) -> None:
    norm = Struct(CNorm, {"gain": gain, "dim": len(x), "gain_frac": gain_frac, "eps": eps})
    (y,) = run_c("rmsnorm_s16", Out("int16", x.shape), x, norm)
    equal(y, kernels.rmsnorm_s16(x, gain, gain_frac, eps))


@pytest.mark.parametrize("exponent", range(1, 52))
def test_rmsnorm_s16_at_every_power_of_two(exponent):
    """Sums just below, at and above 2**n: where the number of bits and the parity of the shift change."""
    x, gain = np.array([1, 0, 0], np.int16), np.array([32767, 3, -1], np.int16)
    for total in (2**exponent - 1, 2**exponent, 2**exponent + 1):
        for gain_frac in (-14, 0, 15):
            check_rmsnorm(x, gain, gain_frac, max(1, total - 1))


@pytest.mark.parametrize("start", range(0, 2**14, 2**10))
def test_rmsnorm_s16_at_perfect_squares(start):
    """Where a root is exact, one less is a wrong one; the gain makes an output show it."""
    x, gain = np.array([1], np.int16), np.array([24577], np.int16)
    for root in range(start + 1, start + 2**10, 61):
        check_rmsnorm(x, gain, 1 - root.bit_length(), max(1, root * root - 1))


@given(st.integers(0, 2**32 - 1) | st.integers(0, 2**16 - 1).map(lambda root: root * root))
@example(2**32 - 1)
def test_isqrt32_is_exact(square):
    for x in (square, max(0, square - 1)):
        assert int(kernels.isqrt32(np.int64(x))) == math.isqrt(x)


# ---------------------------------------------------------------- rotary position embedding


@st.composite
def ropes(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """step and heads."""
    step = draw(arrays("uint32", (draw(st.integers(1, 16)),), 0, 2**32 - 1))
    return step, draw(st.integers(1, 3))


POSITIONS = st.integers(0, 3) | st.integers(0, 2**31 - 1)


@quick
@given(st.data(), ropes(), POSITIONS, st.booleans())
def test_rope_s16(data, rope, position, in_place):
    step, heads = rope
    x = data.draw(words(heads * 2 * len(step)))
    y_and_x = (InOut(x), Same(0)) if in_place else (Out("int16", x.shape), x)
    (y,) = run_c("rope_s16", *y_and_x, position, rope_struct(step, heads))
    equal(y, kernels.rope_s16(x, np.int64(position), step))


@pytest.mark.parametrize("offset", [-1, 0, 1, 255, 256])
def test_rope_s16_at_every_entry_of_the_sine(offset):
    """All 512 entries and the values around them, at the largest inputs."""
    x = np.array([-32768, -32768, 32767, -32768], np.int16)
    for start in range(0, 512, 32):
        step = (((start + np.arange(32)) << 23) + offset & 0xFFFFFFFF).astype(np.uint32)
        vector = np.tile(x, 16)
        (y,) = run_c("rope_s16", Out("int16", (64,)), vector, 1, rope_struct(step, 1))
        equal(y, kernels.rope_s16(vector, np.int64(1), step))


def test_rope_s16_at_any_phase():
    """One head of 16,384 pairs: enough for the last bit of the interpolation to show."""
    step = np.random.default_rng(0).integers(0, 2**32, 2**14, dtype=np.uint32)
    x = np.tile(np.array([-32768, 0], np.int16), len(step))
    (y,) = run_c("rope_s16", Out("int16", x.shape), x, 1, rope_struct(step, 1))
    equal(y, kernels.rope_s16(x, np.int64(1), step))


@st.composite
def key_parameters(draw: st.DrawFn, size: int) -> tuple[np.ndarray, int]:
    """zero and shift: |zero| <= 127 * 2**(15 + shift)."""
    shift = draw(st.integers(0, 7))
    limit = 127 << (15 + shift)
    return draw(arrays("int32", (size,), -limit, limit)), shift


@quick
@given(st.data(), ropes(), POSITIONS, st.integers(0, 2))
def test_rope_s8(data, rope, position, slot):
    """Into one slot of a ring; the others stay as they are."""
    step, heads = rope
    size = heads * 2 * len(step)
    x, (zero, shift) = data.draw(words(size)), data.draw(key_parameters(size))
    ring = data.draw(arrays("int8", (3, size), -128, 127))
    (y,) = run_c("rope_s8", InOut(ring), slot, x, position, rope_struct(step, heads, zero, shift))
    expected = ring.copy()
    expected[slot] = kernels.rope_s8(x, np.int64(position), step, zero, shift)
    equal(y, expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_rope_s8_at_its_largest_sum(sign):
    """An eighth of a turn of the largest pair, plus the largest zero point: the bound that rope.c proves."""
    x = np.full(4, -32768 if sign < 0 else 32767, np.int16)
    zero = np.full(4, sign * (127 << 22), np.int32)
    step = np.array([2**29, 2**32 - 2**29], np.uint32)
    (y,) = run_c("rope_s8", Out("int8", (4,)), 0, x, 1, rope_struct(step, 1, zero, 7))
    equal(y, kernels.rope_s8(x, np.int64(1), step, zero, 7))


@quick
@given(st.data(), st.integers(1, 8), st.integers(0, 10), st.integers(1, 40))
def test_keep_s16(data, rows, row, n):
    """The twin takes several tokens at once, and shows every step."""
    kept, x = (data.draw(arrays("int16", (count, n), -(2**15), 2**15 - 1)) for count in (rows, 3))
    steps = kernels.keep_s16(kept, row, x)
    for i, step in enumerate(steps):
        (kept,) = run_c("keep_s16", InOut(kept), rows, row + i, x[i], n)
        equal(kept, step)


@quick
@given(st.data(), ropes(), st.integers(1, 4), POSITIONS)
def test_rebase_s8(data, rope, rows, delta):
    step, heads = rope
    size = heads * 2 * len(step)
    keys, (zero, shift) = data.draw(codes(rows, size)), data.draw(key_parameters(size))
    (y,) = run_c("rebase_s8", InOut(keys), Same(0), rows, delta, rope_struct(step, heads, zero, shift))
    equal(y, kernels.rebase_s8(keys, delta, step, zero, shift))


# ---------------------------------------------------------------- attention


def check_attention(q, keys, values, shape, shift, drop, length=None, name="attention_s16") -> None:
    """length: slots that are seen, of those that there are; all of them unless told otherwise."""
    n_heads, n_kv_heads, head_dim = shape
    length = len(keys) if length is None else length
    sizes = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim, "shift": shift, "drop": drop}
    attention = Struct(CAttention, sizes)
    scratch = Out("int16", (length,))
    out, _ = run_c(name, Out("int16", q.shape), q, keys, values, scratch, length, attention)
    visible = np.arange(len(keys))[None] < length
    expected = getattr(kernels, name)(q[None], keys, values, visible, n_heads, n_kv_heads, shift, drop)
    equal(out, expected[0])


@settings(max_examples=120)
@given(st.data())
def test_attention_s16(data):
    n_kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    head_dim = 2 * data.draw(st.integers(1, 8) | st.just(24))
    slots = data.draw(st.integers(1, 3) | st.integers(1, 40))
    n_heads = n_kv_heads * group
    keys, values = data.draw(codes(slots, n_kv_heads * head_dim)), data.draw(codes(slots, n_kv_heads * head_dim))
    shift = data.draw(st.integers(6, 16) | st.integers(1, 30))
    check_attention(
        data.draw(words(n_heads * head_dim)), keys, values, (n_heads, n_kv_heads, head_dim), shift,
        data.draw(st.just(0) | st.integers(0, 14)), data.draw(st.integers(1, slots)),
    )  # fmt: skip


@pytest.mark.parametrize("shift", [1, 13, 14, 15, 16, 29, 30])
def test_attention_s16_at_its_largest_scores(shift):
    """Products of +-2**30, whose scores saturate up to a shift of 14, and those beside them."""
    q = np.full(256, -32768, np.int16)
    keys = np.stack([np.full(256, 127), np.full(256, -127), np.tile([127, -127], 128), np.full(256, -126)])
    values = np.stack([np.full(256, code) for code in (127, -127, 5, 99)]).astype(np.int8)
    check_attention(q, keys.astype(np.int8), values, (1, 1, 256), shift, 0)
    check_attention(-(q + 1), keys.astype(np.int8), values, (1, 1, 256), shift, 0)


@pytest.mark.parametrize("score", [-32770, -32769, -32768, -32767, 32766, 32767, 32768, 32769])
def test_attention_s16_around_the_saturation_of_a_score(score):
    """Scores from half a step below to half a step above, next to one at the edge that it may reach."""
    for product in (2 * score - 1, 2 * score, 2 * score + 1):
        parts = [product // 127, 1, product - product // 127 * 127, 0]
        near = np.sign(product) * (2**16 - 2 * 20)  # 20 steps inside
        q = np.array([parts[0], parts[2], near // 127, near - near // 127 * 127], np.int16)
        keys = np.array([[127, 1, 0, 0], [0, 0, 127, 1]], np.int8)
        values = np.array([[127, -127, 1, 2], [-127, 64, 2, 1]], np.int8)
        assert keys[0].astype(int) @ q == product
        check_attention(q, keys, values, (1, 1, 4), 1, 0)


@pytest.mark.parametrize("length", [515, 516, 517, 1032, 1033, 2065, 4130])
@pytest.mark.parametrize("value", [127, -127])
def test_attention_s16_at_its_largest_sums(length, value):
    """Equal scores and values at the context where sum(p * v) comes closest to 2**31."""
    drop = probability_drop(length)
    values = np.full((length, 2), value, np.int8)
    values[-1, 1] = -value
    check_attention(np.zeros(2, np.int16), np.ones((length, 2), np.int8), values, (1, 1, 2), 1, drop)


@pytest.mark.parametrize("drop", [0, 1, 14])
@pytest.mark.parametrize("last", [1023, 1024, 1025])
def test_attention_s16_forgets_what_is_far(drop, last):
    """Every distance around the octaves, to the one where a weight becomes nothing: 1,024 steps."""
    for distance in (0, 1, 63, 64, 65, 511, 960, 1022, last, 2 * last, 32767):
        keys = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int8)
        q = np.array([-2 * min(distance, 16383), -2 * last], np.int16)  # scores 0, -distance, -last, their sum
        values = np.array([[1, -127], [127, 5], [-127, 127], [33, 64]], np.int8)
        check_attention(q, keys, values, (1, 1, 2), 1, drop)


@quick
@given(st.data())
def test_values4_s16(data):
    n, slots = 2 * data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    slot = data.draw(st.integers(0, slots - 1))
    x = data.draw(words(n) | codes(n).map(lambda c: c.astype(np.int16)))
    ring = np.full((slots, kernels.values4_bytes(n)), 0x33, np.int8)
    (y,) = run_c("values4_s16", InOut(ring), slot, x, n)
    expected = ring.copy()
    expected[slot] = kernels.values4_s16(x)
    equal(y, expected)


def test_values4_s16_of_every_value_and_peak():
    """A value is within half a step, 9 at most, whatever the peak beside it; beyond 127 it saturates."""
    for peak in (0, 1, 7, 8, 63, 126, 127, 128, 2000, 32767, -32768):
        x = np.arange(-130, 131, dtype=np.int16)[:, None] * np.ones(2, np.int16)
        x = np.clip(x, -abs(peak), abs(peak)).astype(np.int16)
        x[:, 1] = peak
        for row in x:
            (y,) = run_c("values4_s16", Out("int8", (2,)), 0, row, 2)
            equal(y, kernels.values4_s16(row))
        back = kernels.unpack_values4(kernels.values4_s16(x), 2)
        step = min(max(-(-abs(peak) // 7), 1), 18)
        assert (abs(back - np.clip(x, -126, 126)) <= step / 2).all()


@settings(max_examples=100)
@given(st.data())
def test_attention4_s16(data):
    n_kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    head_dim = 2 * data.draw(st.integers(1, 10) | st.just(24))
    slots = data.draw(st.integers(1, 3) | st.integers(1, 40))
    n_heads, kv_dim = n_kv_heads * group, n_kv_heads * head_dim
    keys, values = data.draw(codes(slots, kv_dim)), data.draw(codes(slots, kv_dim))
    check_attention(
        data.draw(words(n_heads * head_dim)), keys, kernels.values4_s16(values), (n_heads, n_kv_heads, head_dim),
        data.draw(st.integers(6, 16) | st.integers(1, 30)), data.draw(st.just(0) | st.integers(0, 14)),
        data.draw(st.integers(1, slots)), name="attention4_s16",
    )  # fmt: skip


@pytest.mark.parametrize("length", [516, 517, 4130])
def test_attention4_s16_at_its_largest_sums(length):
    values = kernels.values4_s16(np.full((length, 2), [127, -127], np.int16))
    q, keys = np.zeros(2, np.int16), np.ones((length, 2), np.int8)
    check_attention(q, keys, values, (1, 1, 2), 1, probability_drop(length), name="attention4_s16")


# ---------------------------------------------------------------- elementwise, heads


@quick
@given(st.data(), st.integers(1, 70), st.booleans())
def test_add_s16(data, n, in_place):
    x, b = data.draw(words(n)), data.draw(words(n))
    (y,) = run_c("add_s16", *((InOut(x), Same(0)) if in_place else (Out("int16", (n,)), x)), b, n)
    equal(y, kernels.add_s16(x, b))
    assert y.tolist() == [min(max(int(one) + int(two), -32768), 32767) for one, two in zip(x, b, strict=True)]


@quick
@given(st.data(), st.integers(1, 70), st.integers(0, 32767) | st.sampled_from([0, 1, 32767]), st.booleans())
def test_scale_s16(data, n, weight, in_place):
    x = data.draw(words(n))
    (y,) = run_c("scale_s16", *((InOut(x), Same(0)) if in_place else (Out("int16", (n,)), x)), n, weight)
    equal(y, kernels.scale_s16(x, np.int16(weight)))
    np.testing.assert_allclose(y, x * (weight / 2**15), atol=0.5)


@quick
@given(st.data(), st.integers(1, 4), st.integers(1, 24), st.integers(-14, 15))
def test_headnorm_s16(data, heads, dim, gain_frac):
    """Each head alone, with its own gains."""
    x, gain = data.draw(words(heads * dim)), data.draw(words(heads * dim))
    eps = data.draw(st.just(1) | st.integers(1, 2**46))
    norm = Struct(CNorm, {"gain": gain, "dim": dim, "gain_frac": gain_frac, "eps": eps})
    (y,) = run_c("headnorm_s16", Out("int16", x.shape), x, heads, norm, library().mg_rmsnorm_s16)
    equal(y, kernels.headnorm_s16(x, gain, gain_frac, eps, heads))
    for head in range(heads):
        own = slice(head * dim, (head + 1) * dim)
        equal(y[own], kernels.rmsnorm_s16(x[own], gain[own], gain_frac, eps))


# ---------------------------------------------------------------- feed-forward

GATES = {"swiglu_s16": True, "geglu_s16": True, "geglu_tanh_s16": True, "reglu_s16": False, "relu2glu_s16": False}


def check_gate(kernel: str, gate: np.ndarray, up: np.ndarray, gate_frac: int, shift: int, in_place: bool) -> None:
    """gate_frac: of the kernels that meet a table."""
    parameters = (gate_frac, shift) if GATES[kernel] else (shift,)
    y_and_gate = (InOut(gate), Same(0)) if in_place else (Out("int16", gate.shape), gate)
    (y,) = run_c(kernel, *y_and_gate, up, len(gate), *parameters)
    equal(y, getattr(kernels, kernel)(gate, up, *parameters))


@pytest.mark.parametrize("kernel", GATES)
@quick
@given(st.data(), st.integers(4, 11), st.integers(1, 30), st.booleans())
def test_gates(kernel, data, gate_frac, shift, in_place):
    n = data.draw(st.integers(1, 70))
    check_gate(kernel, data.draw(words(n)), data.draw(words(n)), gate_frac, shift, in_place)


@pytest.mark.parametrize("kernel", GATES)
@pytest.mark.parametrize("up", [-32768, -1, 1, 32767])
@pytest.mark.parametrize("gate_frac", [4, 7, 11])
@pytest.mark.parametrize("shift", [1, 15, 30])
def test_gates_of_every_value(kernel, up, gate_frac, shift):
    gate = np.arange(-(2**15), 2**15, dtype=np.int16)
    check_gate(kernel, gate, np.full(len(gate), up, np.int16), gate_frac, shift, False)


# ---------------------------------------------------------------- the router

LOGITS = st.integers(-(2**31), 2**31 - 1) | st.integers(-(2**18), 2**18) | st.sampled_from([-(2**31), 2**31 - 1, 0])


def check_route(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    outputs = Out("int32", (count,)), Out("int16", (count,))
    choice, weight = run_c("route_s32", *outputs, logits, len(logits), count)
    expected = kernels.route_s32(logits, count)
    equal(choice, expected[0])
    equal(weight, expected[1])
    return choice, weight


@quick
@given(st.data(), st.lists(LOGITS, min_size=1, max_size=kernels.MAX_EXPERTS))
def test_route_s32(data, logits):
    count = data.draw(st.integers(1, min(len(logits), 4)) | st.just(len(logits)))
    choice, weight = check_route(np.array(logits, np.int32), count)
    assert choice.tolist() == sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:count]
    assert (np.diff(weight.astype(int)) <= 0).all()
    assert abs(int(weight.sum()) - 2**15) <= count


def test_route_s32_at_every_distance():
    """Two experts, up to 16 nats apart and beyond: where a step, and where the last weight, ends."""
    for distance in (*range(0, 2**20, 1021), 2**20 - 1, 2**20, 2**20 + 1, 2**31, 2**32 - 1):
        logits = np.array([-(2**31), -(2**31) + distance], np.int64).astype(np.int32)
        _, weight = check_route(logits, 2)
        near = 1 / (1 + np.exp(-distance / 2**16))
        np.testing.assert_allclose(weight, [near * 2**15, (1 - near) * 2**15], atol=2**15 * 0.25 * 0.0056 + 2)
    for high in (2**31 - 1, 0, -5):  # equals: the lowest ids, in their order
        assert check_route(np.full(64, high, np.int32), 3)[0].tolist() == [0, 1, 2]


def test_one_expert_has_all_the_weight():
    assert check_route(np.array([5, 7, 7], np.int32), 1)[0].tolist() == [1]
    assert check_route(np.array([5, 7, 7], np.int32), 1)[1].tolist() == [32767]


# ---------------------------------------------------------------- the specification against real arithmetic


@quick
@given(st.integers(1, 70).flatmap(words))
@example(np.array([15119, -4095, 32569], np.int16))
def test_a_block_is_within_half_a_code(x):
    """... and what the reciprocal loses below its last bit: peak / 2**23 of a code."""
    block, (peak, _) = kernels.block_s8(x)
    error = block * (peak / 127) - x
    assert np.abs(error).max() <= (0.5 + peak / 2**23) * (peak / 127) + 1e-9


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 0), (4, 32), (4, 64)])
def test_linear_is_the_product_in_real_numbers(bits, group):
    rng = np.random.default_rng(0)
    x = rng.integers(-3000, 3001, 172).astype(np.int16)
    codes = rng.integers(-8, 8, (9, 172)).astype(np.int8) * (15 if bits == 8 else 1)
    group_scale = rng.integers(-127, 128, (9, -(-172 // group))).astype(np.int8) if group else None
    w = Linear(codes, rng.integers(2**13, 2**15, 9).astype(np.int16), 26, bits, group, group_scale)
    counts = np.repeat(group_scale, group, axis=1)[:, :172].astype(float) if group else 1.0
    block, scale = kernels.block_s8(x)
    real = ((codes * counts) @ block) * (w.multiplier * 2.0**-26) * np.abs(x).max()
    np.testing.assert_allclose(kernels.linear_s32(block, scale, w), real, rtol=1e-12, atol=0.5)


@pytest.mark.parametrize("size", [3, 300, 30000])
def test_rmsnorm_is_the_formula(size):
    rng = np.random.default_rng(size)
    x = rng.integers(-size, size + 1, 64).astype(np.int16)
    gain = rng.integers(-32767, 32768, 64).astype(np.int16)
    real = x * (gain / 2**3) / np.sqrt((x.astype(float) ** 2).sum() + 5)
    np.testing.assert_allclose(kernels.rmsnorm_s16(x, gain, 3, 5), real, rtol=2**-14, atol=0.51)


@quick
@given(st.integers(0, 2**32 - 1))
def test_sine_is_the_sine(phase):
    assert abs(int(kernels.sine_q15(np.int64(phase))) - 32767 * np.sin(2 * np.pi * phase / 2**32)) < 1.8


def test_rope_turns_interleaved_pairs_by_their_position():
    x = np.random.default_rng(0).integers(-20000, 20001, 16).astype(np.int16)
    step = np.array([2**32 // 6, 2**32 // 60, 5, 2**31], np.uint32)
    turned = (x[0::2] + 1j * x[1::2]) * np.tile(np.exp(2j * np.pi * 7 * (step / 2**32)), 2)
    y = kernels.rope_s16(x, np.int64(7), step).astype(float)
    np.testing.assert_allclose(y[0::2] + 1j * y[1::2], turned, atol=3)


@quick
@given(st.integers(0, 500), st.integers(1, 500), st.integers(0, 7))
def test_a_rebased_key_is_the_key_of_the_earlier_position(position, delta, shift):
    """... to the rounding of two codes. The key stays inside the range of its zero point, as calibration sees to."""
    rng = np.random.default_rng(position)
    step = np.array([2**32 // 6, 2**32 // 60, 2**32 // 600], np.uint32)
    zero = rng.integers(-20 << (15 + shift), 20 << (15 + shift), 6).astype(np.int32)
    x = (rng.integers(-70, 71, 6) << shift).astype(np.int16)
    there = kernels.rope_s8(x, np.array(position + delta), step, zero, shift)
    back = kernels.rebase_s8(there[None], delta, step, zero, shift)[0]
    here = kernels.rope_s8(x, np.array(position), step, zero, shift)
    assert np.abs(back.astype(int) - here).max() <= 2


def test_attention_is_the_softmax_in_real_numbers():
    """A score is right to half a step of 1/64 octave, 0.55 %: the mean moves by 0.55 % of the values' range."""
    rng = np.random.default_rng(0)
    n_heads, n_kv_heads, head_dim, length = 6, 2, 8, 50
    q = rng.integers(-9000, 9001, n_heads * head_dim).astype(np.int16)
    keys, values = rng.integers(-127, 128, (2, length, n_kv_heads * head_dim)).astype(np.int8)
    out = kernels.attention_s16(q[None], keys, values, np.ones((1, length), bool), n_heads, n_kv_heads, 12, 0)
    out = out[0].reshape(n_heads, head_dim)
    for head in range(n_heads):
        own = slice(head // 3 * head_dim, (head // 3 + 1) * head_dim)
        octaves = keys[:, own] @ q.reshape(n_heads, -1)[head].astype(float) / 2.0 ** (12 + 6)
        weight = np.exp2(octaves - octaves.max())
        real = (weight / weight.sum()) @ values[:, own].astype(float)
        np.testing.assert_allclose(out[head] / 256, real, atol=0.0055 * 254)


def test_attention_does_not_see_what_is_invisible():
    rng = np.random.default_rng(1)
    q = rng.integers(-9000, 9001, (1, 8)).astype(np.int16)
    keys, values = rng.integers(-127, 128, (2, 20, 4)).astype(np.int8)
    visible = rng.random((1, 20)) < 0.5
    arguments = (2, 1, 12, 0)
    some = kernels.attention_s16(q, keys, values, visible, *arguments)
    kept = visible[0]
    alone = kernels.attention_s16(q, keys[kept], values[kept], np.ones((1, kept.sum()), bool), *arguments)
    equal(some, alone)


@pytest.mark.parametrize("up", [-32768, 1000, 32767])
@pytest.mark.parametrize("gate_frac", [4, 11])
def test_swiglu_is_the_formula(up, gate_frac):
    gate = np.arange(-(2**15), 2**15, 7).astype(np.int16)
    real_gate = gate / 2**gate_frac
    real = (
        real_gate / (1 + np.exp(-np.clip(real_gate, -8, 8))) * up * 2 ** (gate_frac - 15)
    )  # the logistic function is flat beyond 8
    y = kernels.swiglu_s16(gate, np.full(len(gate), up, np.int16), gate_frac, 15)
    np.testing.assert_allclose(y, real, atol=1 + 1.5e-4 * abs(up))


@pytest.mark.parametrize("up", [-32768, 1000, 32767])
@pytest.mark.parametrize(
    ("kernel", "activation", "gate_frac"),
    [("geglu_s16", gelu, 4), ("geglu_s16", gelu, 11), ("geglu_tanh_s16", gelu_tanh, 11), ("reglu_s16", relu, 11)],
)
def test_gates_are_their_formulas(kernel, activation, gate_frac, up):
    """Between two entries of Phi's table, a straight line is off by up to 0.0019: h**2 / 8 of its curvature."""
    gate = np.arange(-(2**15), 2**15, 7).astype(np.int16)
    parameters = {"gate_frac": gate_frac} if GATES[kernel] else {}
    y = getattr(kernels, kernel)(gate, np.full(len(gate), up, np.int16), **parameters, shift=15)
    real = activation(gate / 2**gate_frac) * 2**gate_frac * up / 2**15
    size = np.abs(gate.astype(float))
    loose = 0.0019 * np.minimum(size, 5 * 2**gate_frac) + size / 2**15
    assert (np.abs(y - real) <= 1 + (loose + 0.5) * abs(up) / 2**15).all()


@pytest.mark.parametrize("up", [-32768, 1000, 32767])
def test_relu2glu_is_the_formula(up):
    gate = np.arange(-(2**15), 2**15, 7).astype(np.int16)
    y = kernels.relu2glu_s16(gate, np.full(len(gate), up, np.int16), 15)
    np.testing.assert_allclose(y, relu2(gate.astype(float)) / 2**15 * up / 2**15, atol=0.5 + abs(up) / 2**16)
