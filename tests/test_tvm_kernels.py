"""The kernels that Apache TVM makes, but for the matrices: C on this computer against the numpy twins, bit for bit."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import microtvm
import native
import numpy as np
import pytest
from fence import InOut, Out, Same, call
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import arrays, codes, words

from mcugen import kernels
from mcugen.lower import probability_drop
from mcugen.microtvm.emitter import emit
from mcugen.microtvm.functions import Function
from mcugen.tables import EXP2_Q15, SIGMOID_Q15, SINE_Q15

quick = settings(max_examples=60)

VECTORS = (1, 2, 3, 4, 5, 7, 33, 64, 172, 4097)
HEADS = ((1, 2), (3, 2), (2, 6), (1, 8), (3, 8), (2, 24))  # heads, head_dim
MANY = 4096  # channels of a head
SLOTS = 4  # rows that a rebase turns back
# heads, kv heads, head_dim, drop
ATTENTIONS = (
    (1, 1, 2, 0), (2, 1, 2, 14), (3, 3, 6, 0), (2, 1, 6, 5), (6, 2, 8, 0), (3, 1, 8, 1), (4, 2, 4, 2), (4, 2, 12, 4),
    (2, 2, 16, 0), (2, 1, 24, 3), (1, 1, 256, 0), *((1, 1, 2, drop) for drop in range(1, 5)),
)  # fmt: skip


def vector(kernel: str, size: str, n: int, intrinsics: str = "") -> Function:
    return Function(kernel, ((size, n),), intrinsics)


def turning(kernel: str, heads: int, head_dim: int, intrinsics: str = "") -> Function:
    rows = {"rows": SLOTS} if kernel == "rebase_s8" else {}
    return Function(kernel, tuple({**rows, "heads": heads, "head_dim": head_dim}.items()), intrinsics)


def attending(heads: int, kv_heads: int, head_dim: int, drop: int, intrinsics: str = "") -> Function:
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "drop": drop}
    return Function("attention_s16", tuple(sizes.items()), intrinsics)


FUNCTIONS = (
    *(vector("rmsnorm_s16", "dim", n) for n in VECTORS),
    *(vector("swiglu_s16", "n", n) for n in VECTORS),
    *(turning(kernel, *heads) for kernel in ("rope_s16", "rope_s8", "rebase_s8") for heads in HEADS),
    turning("rope_s16", 1, MANY),
    *(attending(*shape) for shape in ATTENTIONS),
)
BLOCKS = {intrinsics: tuple(vector("block_s8", "n", n, intrinsics) for n in VECTORS) for intrinsics in ("", "mve")}


@pytest.fixture(scope="module", autouse=True)
def _tvm() -> None:
    microtvm.require_tvm()


@functools.cache
def library(functions: Sequence[Function]) -> ctypes.CDLL:
    """The functions in C that TVM makes, compiled to trap on undefined behaviour."""
    source = emit(functions, "tvm_").source.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{hashlib.sha256(source).hexdigest()[:16]}.c"
        path.write_bytes(source)
        return native.load([path], [])


def run_c(function: Function, *arguments, of: Sequence[Function] = FUNCTIONS) -> list[np.ndarray]:
    return call(getattr(library(of), f"tvm_{function.name}"), *arguments)


def equal(observed: np.ndarray, expected: np.ndarray) -> None:
    assert observed.dtype == expected.dtype
    np.testing.assert_array_equal(observed, expected)


def of_vectors(kernel: str, size: str):
    return st.sampled_from([vector(kernel, size, n) for n in VECTORS[:-1]])


# ---------------------------------------------------------------- normalisation, blocks


def check_rmsnorm(x: np.ndarray, gain: np.ndarray, gain_frac: int, eps: int) -> None:
    function = vector("rmsnorm_s16", "dim", len(x))
    (y,) = run_c(function, Out("int16", x.shape), x, gain, gain_frac, ctypes.c_int64(eps))
    equal(y, kernels.rmsnorm_s16(x, gain, gain_frac, eps))


@quick
@given(st.data(), st.sampled_from(VECTORS), st.integers(-14, 15))
def test_rmsnorm_s16(data, dim, gain_frac):
    eps = data.draw(st.just(1) | st.integers(1, 1000) | st.integers(1, 2**46))
    check_rmsnorm(data.draw(words(dim)), data.draw(words(dim)), gain_frac, eps)


@pytest.mark.parametrize("exponent", range(1, 52))
def test_rmsnorm_s16_at_every_power_of_two(exponent):
    """Sums just below, at and above 2**n: where the number of bits, the parity of the shift and the loop change."""
    x, gain = np.array([1, 0, 0], np.int16), np.array([32767, 3, -1], np.int16)
    for total in (2**exponent - 1, 2**exponent, 2**exponent + 1):
        for gain_frac in range(-14, 16):
            check_rmsnorm(x, gain, gain_frac, max(1, total - 1))


@pytest.mark.parametrize("start", range(0, 2**16, 2**13))
def test_rmsnorm_s16_at_perfect_squares(start):
    """Where a root is exact, one less is a wrong one; the gain makes an output show it."""
    x, gain = np.array([1], np.int16), np.array([24577], np.int16)
    for root in range(start + 1, start + 2**13, 61):
        for square in (root * root - 1, root * root, root * root + 2 * root):
            check_rmsnorm(x, gain, 1 - root.bit_length(), max(1, square - 1))


@pytest.mark.parametrize("intrinsics", BLOCKS)
@quick
@given(data=st.data(), n=st.sampled_from(VECTORS))
@example(data=None, n=4097)
def test_block_s8(intrinsics, data, n):
    x = np.full(n, -32768, np.int16) if data is None else data.draw(words(n))  # a sum of the codes beyond int16
    dtype, columns = {"": ("int8", 1), "mve": ("int8", 16)}[intrinsics]
    stored = Out(dtype, (-(-n // columns) * columns,))
    function = vector("block_s8", "n", n, intrinsics)
    codes_c, scale_c = run_c(function, stored, Out("int32", (2,)), x, of=BLOCKS[intrinsics])
    codes_numpy, scale_numpy = kernels.block_s8(x)
    equal(codes_c[:n], codes_numpy.astype(dtype))
    assert not codes_c[n:].any()
    equal(scale_c, scale_numpy)


def test_block_s8_of_every_peak():
    peaks = np.arange(32769)
    x = np.stack([-peaks, peaks // 2, peaks // 3 + 1], -1).astype(np.int16)
    codes_numpy, scale_numpy = kernels.block_s8(x)
    for i in range(0, len(peaks), 97):
        codes_c, scale_c = run_c(
            vector("block_s8", "n", 3), Out("int8", (3,)), Out("int32", (2,)), x[i], of=BLOCKS[""]
        )
        equal(codes_c, codes_numpy[i])
        equal(scale_c, scale_numpy[i])


# ---------------------------------------------------------------- rotary position embedding

POSITIONS = st.integers(0, 3) | st.integers(0, 2**31 - 1)


def steps(head_dim: int) -> st.SearchStrategy[np.ndarray]:
    return arrays("uint32", (head_dim // 2,), 0, 2**32 - 1)


@st.composite
def key_parameters(draw: st.DrawFn, size: int) -> tuple[np.ndarray, int]:
    """zero and shift: |zero| <= 127 * 2**(15 + shift)."""
    shift = draw(st.integers(0, 7))
    limit = 127 << (15 + shift)
    return draw(arrays("int32", (size,), -limit, limit)), shift


@quick
@given(st.data(), st.sampled_from(HEADS), POSITIONS, st.booleans())
def test_rope_s16(data, heads, position, in_place):
    x, step = data.draw(words(heads[0] * heads[1])), data.draw(steps(heads[1]))
    y_and_x = (InOut(x), Same(0)) if in_place else (Out("int16", x.shape), x)
    (y,) = run_c(turning("rope_s16", *heads), *y_and_x, position, step, SINE_Q15)
    equal(y, kernels.rope_s16(x, np.int64(position), step))


@pytest.mark.parametrize("offset", [-1, 0, 1, 255, 256])
def test_rope_s16_at_every_entry_of_the_sine(offset):
    """All 512 entries and the values around them, at the largest inputs."""
    x = np.tile(np.array([-32768, -32768, 32767, -32768], np.int16), 2)
    for start in range(0, 512, 4):
        step = (((start + np.arange(4)) << 23) + offset & 0xFFFFFFFF).astype(np.uint32)
        (y,) = run_c(turning("rope_s16", 1, 8), Out("int16", (8,)), x, 1, step, SINE_Q15)
        equal(y, kernels.rope_s16(x, np.int64(1), step))


def test_rope_s16_at_any_phase():
    """Enough pairs for the last bit of the interpolation to show."""
    for seed in range(4):
        step = np.random.default_rng(seed).integers(0, 2**32, MANY // 2, dtype=np.uint32)
        x = np.tile(np.array([-32768, 0], np.int16), len(step))
        (y,) = run_c(turning("rope_s16", 1, MANY), Out("int16", x.shape), x, 1, step, SINE_Q15)
        equal(y, kernels.rope_s16(x, np.int64(1), step))


@quick
@given(st.data(), st.sampled_from(HEADS), POSITIONS, st.integers(0, 2))
def test_rope_s8(data, heads, position, slot):
    """Into one slot of a ring; the others stay as they are."""
    size = heads[0] * heads[1]
    x, step = data.draw(words(size)), data.draw(steps(heads[1]))
    zero, shift = data.draw(key_parameters(size))
    ring = data.draw(arrays("int8", (3, size), -128, 127))
    (y,) = run_c(turning("rope_s8", *heads), InOut(ring), slot, x, position, step, zero, shift, SINE_Q15)
    expected = ring.copy()
    expected[slot] = kernels.rope_s8(x, np.int64(position), step, zero, shift)
    equal(y, expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_rope_s8_at_its_largest_sum(sign):
    """An eighth of a turn of the largest pair, plus the largest zero point: the bound that tir.py proves."""
    x = np.full(8, -32768 if sign < 0 else 32767, np.int16)
    zero = np.full(8, sign * (127 << 22), np.int32)
    step = np.array([2**29, 2**32 - 2**29, 3 * 2**29, 2**32 - 3 * 2**29], np.uint32)
    (y,) = run_c(turning("rope_s8", 1, 8), Out("int8", (8,)), 0, x, 1, step, zero, 7, SINE_Q15)
    equal(y, kernels.rope_s8(x, np.int64(1), step, zero, 7))


@quick
@given(st.data(), st.sampled_from(HEADS), POSITIONS)
def test_rebase_s8(data, heads, delta):
    size = heads[0] * heads[1]
    keys, step = data.draw(codes(SLOTS, size)), data.draw(steps(heads[1]))
    zero, shift = data.draw(key_parameters(size))
    (y,) = run_c(turning("rebase_s8", *heads), InOut(keys), delta, step, zero, shift, SINE_Q15)
    equal(y, kernels.rebase_s8(keys, delta, step, zero, shift))


# ---------------------------------------------------------------- attention


def check_attention(q, keys, values, shape, shift, length=None) -> None:
    """length: slots that are seen, of those that there are; all of them unless told otherwise."""
    n_heads, n_kv_heads, _, drop = shape
    length = len(keys) if length is None else length
    scratch = Out("int16", (length,))
    out, _ = run_c(attending(*shape), Out("int16", q.shape), q, keys, values, scratch, length, shift, EXP2_Q15)
    visible = np.arange(len(keys))[None] < length
    equal(out, kernels.attention_s16(q[None], keys, values, visible, n_heads, n_kv_heads, shift, drop)[0])


@settings(max_examples=120)
@given(st.data(), st.sampled_from(ATTENTIONS))
def test_attention_s16(data, shape):
    heads, kv_heads, head_dim, _ = shape
    slots = data.draw(st.integers(1, 3) | st.integers(1, 40))
    keys, values = (data.draw(codes(slots, kv_heads * head_dim)) for _ in range(2))
    shift = data.draw(st.integers(6, 16) | st.integers(1, 30))
    check_attention(data.draw(words(heads * head_dim)), keys, values, shape, shift, data.draw(st.integers(1, slots)))


@pytest.mark.parametrize("shift", [1, 13, 14, 15, 16, 29, 30])
def test_attention_s16_at_its_largest_scores(shift):
    """Products of +-2**30, whose scores saturate up to a shift of 14, and those beside them."""
    q = np.full(256, -32768, np.int16)
    keys = np.stack([np.full(256, 127), np.full(256, -127), np.tile([127, -127], 128), np.full(256, -126)])
    values = np.stack([np.full(256, code) for code in (127, -127, 5, 99)]).astype(np.int8)
    check_attention(q, keys.astype(np.int8), values, (1, 1, 256, 0), shift)
    check_attention(-(q + 1), keys.astype(np.int8), values, (1, 1, 256, 0), shift)


@pytest.mark.parametrize("length", [515, 516, 517, 1032, 1033, 2065, 4130])
@pytest.mark.parametrize("value", [127, -127])
def test_attention_s16_at_its_largest_sums(length, value):
    """Equal scores and values at the context where sum(p * v) comes closest to 2**31."""
    values = np.full((length, 2), value, np.int8)
    values[-1, 1] = -value
    shape = (1, 1, 2, probability_drop(length))
    check_attention(np.zeros(2, np.int16), np.ones((length, 2), np.int8), values, shape, 1)


@pytest.mark.parametrize("last", [1023, 1024, 1025])
def test_attention_s16_forgets_what_is_far(last):
    """Every distance around the octaves, to the one where a weight becomes nothing: 1,024 steps."""
    for distance in (0, 1, 63, 64, 65, 511, 960, 1022, last, 2 * last, 32767):
        keys = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.int8)
        q = np.array([-2 * min(distance, 16383), -2 * last], np.int16)  # scores 0, -distance, -last, their sum
        values = np.array([[1, -127], [127, 5], [-127, 127], [33, 64]], np.int8)
        check_attention(q, keys, values, (1, 1, 2, 0), 1)


# ---------------------------------------------------------------- feed-forward


@quick
@given(st.data(), of_vectors("swiglu_s16", "n"), st.integers(4, 11), st.integers(1, 30), st.booleans())
def test_swiglu_s16(data, function, gate_frac, shift, in_place):
    gate, up = data.draw(words(function["n"])), data.draw(words(function["n"]))
    y_and_gate = (InOut(gate), Same(0)) if in_place else (Out("int16", gate.shape), gate)
    (y,) = run_c(function, *y_and_gate, up, gate_frac, shift, SIGMOID_Q15)
    equal(y, kernels.swiglu_s16(gate, up, gate_frac, shift))


@pytest.mark.parametrize("up", [-32768, -1, 1, 32767])
@pytest.mark.parametrize("gate_frac", [4, 7, 11])
@pytest.mark.parametrize("shift", [1, 15, 30])
def test_swiglu_s16_of_every_gate(up, gate_frac, shift):
    for gate in np.arange(-(2**15), 2**15 + 1, dtype=np.int64)[: 4097 * 15].reshape(15, 4097):
        gates, ups = gate.astype(np.int16), np.full(4097, up, np.int16)
        (y,) = run_c(
            vector("swiglu_s16", "n", 4097), Out("int16", (4097,)), gates, ups, gate_frac, shift, SIGMOID_Q15
        )
        equal(y, kernels.swiglu_s16(gates, ups, gate_frac, shift))
