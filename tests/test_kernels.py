"""Rung 3: every C kernel equals its numpy twin, bit for bit, and stays inside its arrays.

Below, the numpy twins themselves are held against the real arithmetic they stand for.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import math
import re
from pathlib import Path

import native
import numpy as np
import pytest
from fence import InOut, Out, Same, Struct, call
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import arrays, codes, linears, multipliers, scales, words

from mcugen import kernels
from mcugen.ir import Linear
from mcugen.lower import VARIANTS, probability_drop

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


class CLinear(ctypes.Structure):
    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("multiplier", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("shift", ctypes.c_int32),
    )


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
        ("multiplier", ctypes.c_void_p),
        ("n_heads", ctypes.c_int32),
        ("n_kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("shift", ctypes.c_int32),
        ("drop", ctypes.c_int32),
    )


def linear_struct(w: Linear) -> Struct:
    rows, cols = w.codes.shape
    fields = {"codes": w.codes, "multiplier": w.multiplier, "rows": rows, "cols": cols, "shift": w.shift}
    return Struct(CLinear, fields)


def rope_struct(step: np.ndarray, heads: int, zero: np.ndarray | int = 0, shift: int = 0) -> Struct:
    return Struct(CRope, {"step": step, "zero": zero, "heads": heads, "head_dim": 2 * len(step), "shift": shift})


def test_ctypes_structs_are_those_of_the_header():
    for kind, name in ((CLinear, "linear"), (CNorm, "norm"), (CRope, "rope"), (CAttention, "attention")):
        (body,) = re.findall(rf"typedef struct {{([^}}]*)}} mg_{name}_t;", HEADER)
        declared = [(field, "*" in kind_of) for kind_of, field in re.findall(r"([\w ]+\*?) ?\b(\w+);", body)]
        assert declared == [(field, c_type is ctypes.c_void_p) for field, c_type in kind._fields_]


# ---------------------------------------------------------------- the set of kernels


def test_c_and_numpy_have_the_same_kernels():
    """A kernel's name ends in the type of its output; saturate_* are arithmetic, not kernels."""
    in_c = set(re.findall(r"^void mg_(\w+)\(", HEADER, re.MULTILINE))
    functions = inspect.getmembers(kernels, inspect.isfunction)
    in_numpy = {name for name, _ in functions if re.fullmatch(r"[a-z]\w*_s(8|16|32)", name)}
    assert in_c == in_numpy - {"saturate_s8", "saturate_s16", "saturate_s32"}
    assert in_c == set(VARIANTS)


def test_every_kernel_is_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    for kernel in VARIANTS:
        assert f'run_c("{kernel}"' in text or f'"{kernel}": ' in text, kernel


def test_every_variant_is_where_it_says():
    for variants in VARIANTS.values():
        for variant in variants:
            source = (FOLDER.parent / variant.source).read_text(encoding="utf-8")
            assert f"\nvoid {variant.symbol}(" in source
        assert not variants[-1].needs  # the last one runs everywhere


def test_c_compiles_without_a_warning():
    native.compile_clean(SOURCES, [FOLDER])


# ---------------------------------------------------------------- embedding, blocks


@quick
@given(st.data())
def test_embed_s16(data):
    vocab, dim = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    table = data.draw(linears(vocab, dim, 1, 62))
    token = data.draw(st.integers(0, vocab - 1))
    (y,) = run_c("embed_s16", Out("int16", (dim,)), token, linear_struct(table))
    equal(y, kernels.embed_s16(np.int64(token), table))


@quick
@given(st.integers(1, 70).flatmap(words))
@example(np.array([-32768], np.int16))  # peak 2**15: the largest exponent
@example(np.array([32767, -32767, 1, 0], np.int16))
@example(np.array([16384, -3, 2], np.int16))
@example(np.array([1, 0, -1], np.int16))  # the smallest exponent
@example(np.zeros(7, np.int16))  # peak counts as 1
def test_block_s8(x):
    codes_c, scale_c = run_c("block_s8", Out("int8", x.shape), Out("int32", (2,)), x, len(x))
    codes_numpy, scale_numpy = kernels.block_s8(x)
    equal(codes_c, codes_numpy)
    equal(scale_c, scale_numpy)
    assert np.abs(codes_c.astype(int)).max() <= 127  # -128 is not a code
    assert 2**13 <= scale_c[0] < 2**14
    assert -13 <= scale_c[1] <= 2


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

LINEAR = {"linear_s8": "int8", "linear_s16": "int16", "linear_s32": "int32"}


@pytest.mark.parametrize("kernel", LINEAR)
@quick
@given(st.data())
def test_linear(kernel, data):
    rows, cols = data.draw(st.integers(1, 11)), data.draw(st.integers(1, 40) | st.just(172))
    x, scale, w = data.draw(codes(cols)), data.draw(scales()), data.draw(linears(rows, cols))
    (y,) = run_c(kernel, Out(LINEAR[kernel], (rows,)), x, scale, linear_struct(w))
    equal(y, getattr(kernels, kernel)(x, scale, w))


@quick
@given(st.data(), st.booleans())
def test_linear_add_s16(data, in_place):
    rows, cols = data.draw(st.integers(1, 11)), data.draw(st.integers(1, 40))
    residual, x = data.draw(words(rows)), data.draw(codes(cols))
    scale, w = data.draw(scales()), data.draw(linears(rows, cols))
    y_and_residual = (InOut(residual), Same(0)) if in_place else (Out("int16", (rows,)), residual)
    (y,) = run_c("linear_add_s16", *y_and_residual, x, scale, linear_struct(w))
    equal(y, kernels.linear_add_s16(residual, x, scale, w))


@pytest.mark.parametrize("kernel", [*LINEAR, "linear_add_s16"])
@pytest.mark.parametrize(
    ("sign", "exponent", "shift"), [(1, 2, 3), (-1, 2, 3), (1, -13, 49), (-1, -13, 3), (1, 2, 20)]
)
def test_largest_accumulators(kernel, sign, exponent, shift):
    """The largest sums that check_graph lets pass, 133,144 products of 127 by 127, at the corners of all shifts."""
    cols = (2**31 - 1) // 127**2
    x = np.full(cols, 127, np.int8)
    w = Linear(np.full((5, cols), sign * 127, np.int8), np.array([32767, 32767, 1, 0, 16384], np.int16), shift)
    scale = np.array([2**14 - 1, exponent], np.int32)
    residual = np.array([-32768, 32767, 5, -1, 0], np.int16)
    first = (residual,) if kernel == "linear_add_s16" else ()
    (y,) = run_c(kernel, Out(LINEAR.get(kernel, "int16"), (5,)), *first, x, scale, linear_struct(w))
    equal(y, getattr(kernels, kernel)(*first, x, scale, w))


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
@given(st.data(), ropes(), POSITIONS)
def test_rope_s8(data, rope, position):
    step, heads = rope
    size = heads * 2 * len(step)
    x, (zero, shift) = data.draw(words(size)), data.draw(key_parameters(size))
    (y,) = run_c("rope_s8", Out("int8", (size,)), x, position, rope_struct(step, heads, zero, shift))
    equal(y, kernels.rope_s8(x, np.int64(position), step, zero, shift))


@pytest.mark.parametrize("sign", [1, -1])
def test_rope_s8_at_its_largest_sum(sign):
    """An eighth of a turn of the largest pair, plus the largest zero point: the bound that rope.c proves."""
    x = np.full(4, -32768 if sign < 0 else 32767, np.int16)
    zero = np.full(4, sign * (127 << 22), np.int32)
    step = np.array([2**29, 2**32 - 2**29], np.uint32)
    (y,) = run_c("rope_s8", Out("int8", (4,)), x, 1, rope_struct(step, 1, zero, 7))
    equal(y, kernels.rope_s8(x, np.int64(1), step, zero, 7))


@quick
@given(st.data(), ropes(), st.integers(1, 4), POSITIONS)
def test_rebase_s8(data, rope, rows, delta):
    step, heads = rope
    size = heads * 2 * len(step)
    keys, (zero, shift) = data.draw(codes(rows, size)), data.draw(key_parameters(size))
    (y,) = run_c("rebase_s8", InOut(keys), Same(0), rows, delta, rope_struct(step, heads, zero, shift))
    equal(y, kernels.rebase_s8(keys, delta, step, zero, shift))


# ---------------------------------------------------------------- attention


def check_attention(q, keys, values, shape, multiplier, shift, drop) -> None:
    n_heads, n_kv_heads, head_dim = shape
    sizes = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim, "shift": shift, "drop": drop}
    attention = Struct(CAttention, {"multiplier": multiplier, **sizes})
    scratch = Out("int32", (len(keys),))
    out, _ = run_c("attention_s16", Out("int16", q.shape), q, keys, values, scratch, len(keys), attention)
    visible = np.ones((1, len(keys)), bool)
    expected = kernels.attention_s16(q[None], keys, values, visible, n_heads, n_kv_heads, multiplier, shift, drop)
    equal(out, expected[0])


@settings(max_examples=120)
@given(st.data())
def test_attention_s16(data):
    n_kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    head_dim = 2 * data.draw(st.integers(1, 8) | st.just(24))
    length = data.draw(st.integers(1, 3) | st.integers(1, 40))
    n_heads = n_kv_heads * group
    keys, values = data.draw(codes(length, n_kv_heads * head_dim)), data.draw(codes(length, n_kv_heads * head_dim))
    shift = data.draw(st.integers(20, 36) | st.integers(1, 62))
    check_attention(
        data.draw(words(n_heads * head_dim)), keys, values, (n_heads, n_kv_heads, head_dim),
        data.draw(multipliers(n_heads)), shift, data.draw(st.just(0) | st.integers(0, 14)),
    )  # fmt: skip


@pytest.mark.parametrize("shift", [1, 20, 62])
def test_attention_s16_at_its_largest_scores(shift):
    """Scores of +-2**30 and the largest distance between two of them."""
    q = np.full(256, -32768, np.int16)
    keys = np.stack([np.full(256, 127), np.full(256, -127), np.tile([127, -127], 128)]).astype(np.int8)
    check_attention(q, keys, keys, (1, 1, 256), np.array([32767], np.int16), shift, 0)


@pytest.mark.parametrize("length", [515, 516, 517, 1032, 1033, 2065, 4130])
@pytest.mark.parametrize("value", [127, -127])
def test_attention_s16_at_its_largest_sums(length, value):
    """Equal scores and values at the context where sum(p * v) comes closest to 2**31."""
    drop = probability_drop(length)
    values = np.full((length, 2), value, np.int8)
    values[-1, 1] = -value
    check_attention(
        np.zeros(2, np.int16), np.ones((length, 2), np.int8), values, (1, 1, 2), np.array([1], np.int16), 1, drop
    )


@pytest.mark.parametrize("drop", [0, 1, 14])
def test_attention_s16_forgets_what_is_far(drop):
    """Distances around each octave, to the one where a weight becomes nothing."""
    for octave in range(19):
        keys = np.zeros((4, 2), np.int8)
        keys[:, 0] = [0, 1, 2, 3]
        q = np.array([-21, 0], np.int16)  # scores 0, -21, -42, -63
        multiplier = np.array([octave * 64 // 21 + 1], np.int16)
        values = np.array([[1, -127], [127, 5], [-127, 127], [33, 64]], np.int8)
        check_attention(q, keys, values, (1, 1, 2), multiplier, 1, drop)


# ---------------------------------------------------------------- feed-forward


@quick
@given(st.data(), st.integers(4, 11), st.integers(1, 30), st.booleans())
def test_swiglu_s16(data, gate_frac, shift, in_place):
    n = data.draw(st.integers(1, 70))
    gate, up = data.draw(words(n)), data.draw(words(n))
    y_and_gate = (InOut(gate), Same(0)) if in_place else (Out("int16", (n,)), gate)
    (y,) = run_c("swiglu_s16", *y_and_gate, up, n, gate_frac, shift)
    equal(y, kernels.swiglu_s16(gate, up, gate_frac, shift))


@pytest.mark.parametrize("up", [-32768, -1, 1, 32767])
@pytest.mark.parametrize("gate_frac", [4, 7, 11])
@pytest.mark.parametrize("shift", [1, 15, 30])
def test_swiglu_s16_of_every_gate(up, gate_frac, shift):
    gate = np.arange(-(2**15), 2**15, dtype=np.int16)
    ups = np.full(len(gate), up, np.int16)
    (y,) = run_c("swiglu_s16", Out("int16", gate.shape), gate, ups, len(gate), gate_frac, shift)
    equal(y, kernels.swiglu_s16(gate, ups, gate_frac, shift))


# ---------------------------------------------------------------- the specification against real arithmetic


@quick
@given(st.integers(1, 70).flatmap(words))
def test_a_block_is_within_half_a_code(x):
    block, (mantissa, exponent) = kernels.block_s8(x)
    peak = max(1, int(np.abs(x.astype(int)).max()))
    assert peak - 2 ** max(0, int(exponent)) < mantissa * 2.0**exponent <= peak
    error = block * (peak / 127) - x
    assert np.abs(error).max() <= 0.501 * peak / 127


def test_linear_is_the_product_in_real_numbers():
    rng = np.random.default_rng(0)
    x = rng.integers(-3000, 3001, 172).astype(np.int16)
    w = Linear(rng.integers(-127, 128, (9, 172)).astype(np.int8), rng.integers(2**13, 2**15, 9).astype(np.int16), 20)
    block, scale = kernels.block_s8(x)
    real = (w.codes.astype(float) @ block) * (w.multiplier * 2.0**-35) * np.abs(x).max()
    np.testing.assert_allclose(kernels.linear_s32(block, scale, w), real, rtol=2**-11, atol=0.5)


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
    """A weight is right to half a step of 1/64 octave, 0.55 %: the mean moves by 0.55 % of the values' range."""
    rng = np.random.default_rng(0)
    n_heads, n_kv_heads, head_dim, length = 6, 2, 8, 50
    q = rng.integers(-9000, 9001, n_heads * head_dim).astype(np.int16)
    keys, values = rng.integers(-127, 128, (2, length, n_kv_heads * head_dim)).astype(np.int8)
    multiplier, shift = rng.integers(2**14, 2**15, n_heads).astype(np.int16), 28
    out = kernels.attention_s16(
        q[None], keys, values, np.ones((1, length), bool), n_heads, n_kv_heads, multiplier, shift, 0
    )[0].reshape(n_heads, head_dim)
    for head in range(n_heads):
        own = slice(head // 3 * head_dim, (head // 3 + 1) * head_dim)
        octaves = keys[:, own] @ q.reshape(n_heads, -1)[head].astype(float) * multiplier[head] / 2.0 ** (shift + 6)
        weight = np.exp2(octaves - octaves.max())
        real = (weight / weight.sum()) @ values[:, own].astype(float)
        np.testing.assert_allclose(out[head] / 256, real, atol=0.0055 * 254)


def test_attention_does_not_see_what_is_invisible():
    rng = np.random.default_rng(1)
    q = rng.integers(-9000, 9001, (1, 8)).astype(np.int16)
    keys, values = rng.integers(-127, 128, (2, 20, 4)).astype(np.int8)
    visible = rng.random((1, 20)) < 0.5
    arguments = (2, 1, np.array([20000, 30000], np.int16), 28, 0)
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
