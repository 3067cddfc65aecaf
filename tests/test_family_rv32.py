"""The rv32 kernels on the emulated core, built by both compilers, against their numpy twins."""

from __future__ import annotations

import numpy as np
import on_core
import pytest
from hypothesis import given
from hypothesis import strategies as st
from projects import require

from mcugen import kernels
from mcugen.boards import load_board
from mcugen.ir import Linear
from mcugen.packing import rv32

FILES = (
    *("linear.c", "gemv_s8_rv32.S", "gemv_s4_rv32.S", "block.c", "embed.c", "attention.c"),
    *("rmsnorm.c", "swiglu.c", "score_8_rv32.S", "weigh_rv32.S", "average_8_rv32.S"),
)
SOURCES = (*(f"kernels/rv32/{name}" for name in FILES), "kernels/tables.c")
SHAPES = [(1, 1), (3, 5), (5, 3), (7, 33), (16, 4), (17, 31), (63, 65), (65, 63), (80, 172), (33, 288)]


@pytest.fixture(scope="module", params=["zig", "gcc"])
def core(request: pytest.FixtureRequest) -> on_core.Core:
    require(request.param, load_board("qemu-virt-rv32"))
    return on_core.load("rv32imc", request.param, SOURCES)


def blocks(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """codes int8[tokens, n] as the family's factors, and the scale of each token's block."""
    factors = np.stack([rv32.multipliers(row) for row in codes])
    scale = np.stack([np.array([32768 - t, row.astype(int).sum()], np.int32) for t, row in enumerate(codes)])
    return factors, scale


def matrix(rng: np.random.Generator, codes: np.ndarray, bits: int = 8, group: int = 0) -> Linear:
    """A Linear with these codes, and the smallest shift that its bound allows, or one more."""
    rows, cols = codes.shape
    group_scale = rng.integers(-127, 128, (rows, -(-cols // group))).astype(np.int8) if group else None
    multiplier = rng.integers(0, 32768, rows).astype(np.int16)
    multiplier[rng.random(rows) < 0.3] = 32767
    trial = Linear(codes, multiplier, 32, bits, group, group_scale)
    shift = max(16, kernels.accumulator_bound(trial).bit_length() + 1)
    assert shift <= 32
    return Linear(codes, multiplier, min(shift + int(rng.integers(0, 2)), 32), bits, group, group_scale)


def random_codes(rng: np.random.Generator, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    kind = int(rng.integers(0, 6))
    if kind == 0:
        return rng.integers(low, high + 1, shape).astype(np.int8)
    if kind == 1:
        return np.full(shape, rng.choice([low, high]), np.int8)
    if kind == 2:
        return np.where(np.indices(shape).sum(0) % 2, low, high).astype(np.int8)
    if kind == 3:
        codes = np.zeros(shape, np.int8)
        codes[:, rng.integers(0, shape[1])] = rng.choice([low, high])
        return codes
    if kind == 4:
        return rng.choice(np.array([low, high], np.int8), shape)
    return np.clip(np.rint(rng.normal(0, high / 3, shape)), low, high).astype(np.int8)


def place(core: on_core.Core, w: Linear) -> int:
    packed = rv32.pack_s4(w.codes, w.group_scale, w.group) if w.bits == 4 else rv32.pack_s8(w.codes)
    rows, cols = w.codes.shape
    arrays = core.place(packed.stream), core.place(w.multiplier)
    return core.struct(*arrays, rows, cols, w.shift, packed.chunk, w.group)


def run_linear(core: on_core.Core, kernel: str, w: Linear, x: np.ndarray, residual: np.ndarray | None = None):
    """(what the C kernel wrote, what its twin computes) for x int8[tokens, cols]."""
    core.reset()
    tokens, rows = len(x), len(w.codes)
    factors, scale = blocks(x)
    structure, at_x, at_scale = place(core, w), core.place(factors), core.place(scale)
    twin = getattr(kernels, kernel)
    symbol = f"mg_{kernel}_rv32"
    if residual is not None:
        expected = twin(residual, x, scale, w)
        y = core.place(residual)
        core.call(symbol, y, y, at_x, at_scale, tokens, structure)
    elif kernel.endswith("s8"):
        expected = twin(x, scale, w)
        ring = np.full((tokens + 3, rows), 99, np.int8)
        at = core.place(ring)
        core.call(symbol, at, 2, at_x, at_scale, tokens, structure)
        found = core.read(at, "int8", tokens + 3, rows)
        assert (found[:2] == 99).all() and (found[-1] == 99).all()
        return found[2:-1], expected
    else:
        expected = twin(x, scale, w)
        y = core.place(np.zeros_like(expected))
        core.call(symbol, y, at_x, at_scale, tokens, structure)
    return core.read(y, str(expected.dtype), *expected.shape), expected


INT8 = ("linear_s16", "linear_s32", "linear_s8", "linear_add_s16")
INT4 = ("linear4_s16", "linear4_s8", "linear4_add_s16")


@pytest.mark.parametrize("kernel", INT8)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8(core: on_core.Core, kernel: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for tokens in (1, 3):
        for _ in range(4):
            w = matrix(rng, random_codes(rng, shape, -127, 127))
            x = random_codes(rng, (tokens, shape[1]), -127, 127)
            residual = rng.integers(-32768, 32768, (tokens, shape[0])).astype(np.int16)
            found, expected = run_linear(core, kernel, w, x, residual if "add" in kernel else None)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernel", INT4)
@pytest.mark.parametrize("group", [0, 32, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int4(core: on_core.Core, kernel: str, group: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng((*shape, group))
    for tokens in (1, 2):
        for _ in range(3):
            w = matrix(rng, random_codes(rng, shape, -8, 7), 4, group)
            x = random_codes(rng, (tokens, shape[1]), -127, 127)
            residual = rng.integers(-32768, 32768, (tokens, shape[0])).astype(np.int16)
            found, expected = run_linear(core, kernel, w, x, residual if "add" in kernel else None)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("loud", [0, 1])
def test_a_lane_holds_its_worst_case(core: on_core.Core, bits: int, loud: int) -> None:
    """Codes of the largest magnitude beside activations at the bound of a quad (258), or just above it."""
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    quad = np.array([127, -127, 4, loud], np.int8)
    rng = np.random.default_rng(bits)
    for sign in (1, -1):
        for other in (1, -1):
            x = np.tile(quad * np.int8(sign), 9)[None]
            pattern = np.where(x[0] * other > 0, high, low)
            codes = np.where(np.arange(16)[:, None] % 2, pattern, np.where(pattern == high, low, high))
            found, expected = run_linear(
                core, f"linear{4 * (bits == 4) or ''}_s16", matrix(rng, codes.astype(np.int8), bits), x
            )
            np.testing.assert_array_equal(found, expected)


def test_chunks_hold_what_their_rows_weigh(core: on_core.Core) -> None:
    """int4 rows on either side of what a lane holds in one chunk: 64 * 4 = 256 and 64 * 5 = 320."""
    rng = np.random.default_rng(0)
    for magnitude, chunk in ((4, 64), (5, 32)):
        signs = rng.choice(np.array([-1, 1], np.int8), 64)
        codes = np.tile(magnitude * signs, (32, 1)) * np.array([1, -1] * 16, np.int8)[:, None]
        assert rv32.pack_s4(codes, None, 0).chunk == chunk
        found, expected = run_linear(core, "linear4_s16", matrix(rng, codes, 4), 127 * signs[None])
        np.testing.assert_array_equal(found, expected)


def test_int8_outputs_saturate_symmetrically(core: on_core.Core) -> None:
    codes = np.arange(-127, 128, dtype=np.int8)[:, None]
    w = Linear(codes, np.full(255, 1137, np.int16), 32)  # 1.1 * code
    found, expected = run_linear(core, "linear_s8", w, np.array([[127]], np.int8))
    assert expected.min() == -127 and expected.max() == 127
    np.testing.assert_array_equal(found, expected)


@given(data=st.data())
def test_any_matrix(data: st.DataObject) -> None:
    """Both compilers take the same assembly: one is enough here."""
    require("gcc", load_board("qemu-virt-rv32"))
    rows, cols = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 130))
    bits = data.draw(st.sampled_from([8, 4]))
    group = data.draw(st.sampled_from([0, 32, 64])) if bits == 4 else 0
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    w = matrix(rng, random_codes(rng, (rows, cols), low, high), bits, group)
    x = random_codes(rng, (data.draw(st.integers(1, 2)), cols), -127, 127)
    core = on_core.load("rv32imc", "gcc", SOURCES)
    found, expected = run_linear(core, "linear_s16" if bits == 8 else "linear4_s16", w, x)
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------- blocks, embedding


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 64, 65, 172, 175])
def test_block(core: on_core.Core, n: int) -> None:
    rng = np.random.default_rng(n)
    for top in (32767, 300, 3, 0):
        for kind in range(4):
            x = rng.integers(-top - 1, top + 1, n).astype(np.int16)
            if kind == 1:
                x[:] = rng.choice([-top - 1, top])
            if kind == 2:
                x = (x // 50).astype(np.int16)
                x[rng.integers(0, n)] = -top - 1
            if kind == 3:
                x[:] = 0
            core.reset()
            expected, scale = kernels.block_s8(x)
            factors = rv32.multipliers(expected)
            at, at_scale = core.place(np.full_like(factors, 7)), core.place(np.zeros(2, np.int32))
            core.call("mg_block_s8_rv32", at, at_scale, core.place(x), n)
            np.testing.assert_array_equal(core.read(at, "int32", len(factors)), factors)
            np.testing.assert_array_equal(core.read(at_scale, "int32", 2), scale)


@pytest.mark.parametrize("rest", [0, 1, -1, 2])
def test_a_quad_is_loud_above_258(core: on_core.Core, rest: int) -> None:
    x = np.array([127, -127, 4, rest, 0, -127, 4 - rest, 127], np.int16)  # codes as they are: the peak is 127
    core.reset()
    factors = rv32.multipliers(x.astype(np.int8))
    at = core.place(np.zeros_like(factors))
    core.call("mg_block_s8_rv32", at, core.place(np.zeros(2, np.int32)), core.place(x), len(x))
    np.testing.assert_array_equal(core.read(at, "int32", len(factors)), factors)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_embed(core: on_core.Core, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    codes = rng.integers(-127, 128, shape).astype(np.int8)
    multiplier = rng.integers(0, 32768, shape[0]).astype(np.int16)
    for shift in (1, 7, 20, 40, 62):
        w = Linear(codes, multiplier, shift)
        for token in {0, shape[0] // 2, shape[0] - 1}:
            core.reset()
            y = core.place(np.zeros(shape[1], np.int16))
            core.call("mg_embed_s16_rv32", y, token, place(core, w))
            expected = kernels.embed_s16(np.array(token), w)
            np.testing.assert_array_equal(core.read(y, "int16", shape[1]), expected)


# ---------------------------------------------------------------- attention


def check_attention(core: on_core.Core, q, keys, values, heads: tuple[int, int], length: int, shift: int, drop: int):
    n_heads, n_kv_heads = heads
    head_dim = len(q) // n_heads
    core.reset()
    out, scores = core.place(np.zeros_like(q)), core.place(np.full((2, length), 99, np.int16))
    structure = core.struct(n_heads, n_kv_heads, head_dim, shift, drop)
    core.call(
        "mg_attention_s16_rv32", out, core.place(q), core.place(keys), core.place(values), scores, length, structure
    )
    visible = (np.arange(len(keys)) < length)[None]
    expected = kernels.attention_s16(q[None], keys, values, visible, n_heads, n_kv_heads, shift, drop)
    np.testing.assert_array_equal(core.read(out, "int16", len(q)), expected[0])


@pytest.mark.parametrize("heads", [(1, 1), (2, 1), (8, 4), (6, 2), (3, 3), (5, 1)], ids=str)
@pytest.mark.parametrize("head_dim", [2, 8, 10, 16, 48, 64])
def test_attention(core: on_core.Core, heads: tuple[int, int], head_dim: int) -> None:
    rng = np.random.default_rng((*heads, head_dim))
    for length, drop in ((1, 0), (2, 0), (7, 2), (32, 0)):
        context = length + int(rng.integers(0, 3))
        q = rng.integers(-32768, 32768, heads[0] * head_dim).astype(np.int16)
        keys, values = rng.integers(-127, 128, (2, context, heads[1] * head_dim)).astype(np.int8)
        for shift in (1, 14, 18, 30):
            check_attention(core, q, keys, values, heads, length, shift, drop)


@pytest.mark.parametrize("shift", [1, 15, 30])
def test_attention_at_its_largest_scores(core: on_core.Core, shift: int) -> None:
    q = np.full(2 * 256, 32767, np.int16)
    keys = np.stack([np.full(256, 127), np.full(256, -127)]).astype(np.int8)
    values = np.stack([np.full(256, -127), np.full(256, 127)]).astype(np.int8)
    check_attention(core, q, keys, values, (2, 1), 2, shift, 0)
    check_attention(core, -q - 1, keys, values, (2, 1), 2, shift, 0)


@pytest.mark.parametrize("heads", [(2, 1), (1, 1)], ids=str)
def test_attention_where_weights_vanish(core: on_core.Core, heads: tuple[int, int]) -> None:
    """Distances around the end of the table of weights, 1023 and 1024."""
    q = np.tile(np.array([32, 2, 0, 0, 0, 0, 0, 0], np.int16), heads[0])
    keys = np.zeros((5, 8), np.int8)
    keys[:, 0] = [127, 63, 63, 63, 64]
    keys[:, 1] = [0, 0, 1, -1, 0]  # scores 2032, 1008, 1009, 1007, 1024
    values = np.array([1, 127, -127, 90, 3], np.int8)[:, None] * np.ones(8, np.int8)
    for length in range(1, 6):
        check_attention(core, q, keys, values, heads, length, 1, 0)
    for first in (127, -127):  # a last bit of 1023's weight, 1, shows beside 32767 where values are far apart
        values = np.array([first, -first, -first, -first, 0], np.int8)[:, None] * np.ones(8, np.int8)
        check_attention(core, q, keys, values, heads, 4, 1, 0)


def test_attention_over_a_long_context(core: on_core.Core) -> None:
    rng = np.random.default_rng(0)
    q = rng.integers(-300, 300, 16).astype(np.int16)
    keys, values = rng.integers(-127, 128, (2, 516, 8)).astype(np.int8)
    values[:] = np.where(values > 0, 127, -127)
    check_attention(core, q, keys, values, (2, 1), 516, 12, 0)
    check_attention(core, q * 0, keys, np.full_like(values, 127), (2, 1), 516, 12, 0)


# ---------------------------------------------------------------- elementwise


@pytest.mark.parametrize("dim", [1, 2, 64, 65, 288])
def test_rmsnorm(core: on_core.Core, dim: int) -> None:
    rng = np.random.default_rng(dim)
    for top in (32767, 2000, 5, 0):
        for frac in (-14, -1, 0, 8, 15):
            x = rng.integers(-top - 1, top + 1, dim).astype(np.int16)
            gain = rng.integers(-32768, 32768, dim).astype(np.int16)
            for eps in (1, 2**20, 2**50):
                core.reset()
                y = core.place(np.zeros(dim, np.int16))
                structure = core.place(
                    np.array([core.place(gain), dim, frac, 0, eps, eps >> 32]).astype(np.uint32).tobytes(), 8
                )
                core.call("mg_rmsnorm_s16_rv32", y, core.place(x), structure)
                expected = kernels.rmsnorm_s16(x, gain, frac, eps)
                np.testing.assert_array_equal(core.read(y, "int16", dim), expected)


@pytest.mark.parametrize("frac", range(4, 12))
def test_swiglu(core: on_core.Core, frac: int) -> None:
    rng = np.random.default_rng(frac)
    edges = np.array([-32768, -(8 << frac) - 1, -(8 << frac), -1, 0, 1, (8 << frac) - 1, 8 << frac, 32767])
    gate = np.concatenate([edges.clip(-32768, 32767), rng.integers(-(9 << frac), 9 << frac, 60)]).clip(-32768, 32767)
    gate, n = gate.astype(np.int16), len(gate)
    for up in (rng.integers(-32768, 32768, n), np.full(n, 32767), np.full(n, -32768)):
        for shift in (1, 9, 15, 30):
            core.reset()
            y = core.place(gate)
            core.call("mg_swiglu_s16_rv32", y, y, core.place(up.astype(np.int16)), n, frac, shift)
            expected = kernels.swiglu_s16(gate, up.astype(np.int16), frac, shift)
            np.testing.assert_array_equal(core.read(y, "int16", n), expected)
