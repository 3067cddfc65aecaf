"""The kernels for a Cortex-M55 with vectors, on the emulated core, built by both compilers, against their numpy twins."""

from __future__ import annotations

import numpy as np
import on_m55
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import require

from mcugen import kernels
from mcugen.boards import load_board
from mcugen.families import family_named
from mcugen.ir import Linear
from mcugen.layouts import LAYOUTS, decode, stored_bytes
from mcugen.packing import mve

SOURCES = (
    "kernels/tables.c",
    *(f"kernels/mve/{name}_mve.S" for name in ("linear", "gemv_s8", "gemv_s4", "gemv_s4_groups", "attend")),
    *(f"kernels/mve/{name}.c" for name in ("linear", "block", "embed", "rmsnorm", "rope", "attention", "swiglu")),
)
SHAPES = [(1, 1), (3, 5), (7, 16), (8, 17), (9, 48), (5, 64), (64, 64), (72, 64)]
SHAPES += [(63, 65), (65, 100), (130, 33), (24, 172), (72, 1100)]
examples = settings(
    max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=["zig", "gcc"])
def core(request: pytest.FixtureRequest) -> on_m55.M55:
    require(request.param, load_board("mps3-an547"))
    return on_m55.load(request.param, SOURCES)


def padded(x: np.ndarray, columns: int) -> np.ndarray:
    """x with its last axis filled up with zeros."""
    room = np.zeros((*x.shape[:-1], -(-x.shape[-1] // columns) * columns), x.dtype)
    room[..., : x.shape[-1]] = x
    return room


def key_ring(keys: np.ndarray) -> np.ndarray:
    """int8[slots, channels] as kernels_mve.h lays keys out; what no slot or channel fills is noise."""
    rng = np.random.default_rng(0)
    slots, channels = keys.shape
    ring = rng.integers(-128, 128, (-(-slots // 16) * 16, -(-channels // 8) * 8)).astype(np.int8)
    ring[:slots, :channels] = keys
    return ring.reshape(-1, 16, ring.shape[1] // 8, 8).transpose(0, 2, 1, 3).copy()


def value_ring(values: np.ndarray) -> np.ndarray:
    """int8[slots, channels] as kernels_mve.h lays values out."""
    rng = np.random.default_rng(0)
    slots, channels = values.shape
    ring = rng.integers(-128, 128, (-(-slots // 16) * 16, channels)).astype(np.int8)
    ring[:slots] = values
    return ring.reshape(-1, 16, channels).transpose(0, 2, 1).copy()


def slots_of(layout: str, ring: np.ndarray, slots: int, channels: int) -> np.ndarray:
    return decode(ring.tobytes(), layout, "int8", (slots, channels))


@given(data=st.data())
def test_the_layouts_of_the_rings_are_the_familys(data: st.DataObject) -> None:
    """What verification decodes is what the tests below place."""
    family = family_named("mve")
    slots, channels = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
    codes = data.draw(strategies.codes(slots, channels))
    for layout, ring in ((family.keys, key_ring(codes)), (family.values, value_ring(codes))):
        assert ring.nbytes == stored_bytes(layout, "int8", (slots, channels))
        np.testing.assert_array_equal(slots_of(layout, ring, slots, channels), codes)
    assert LAYOUTS[family.codes].columns == mve.LANES


# ---------------------------------------------------------------- packing


def rows_of(stream: np.ndarray, cols: int) -> np.ndarray:
    """Codes [blocks * 8, padded columns] of an int8 stream, one at a time."""
    vectors = -(-cols // 16)
    rows = np.zeros((len(stream) // (16 * vectors), 16 * vectors), np.int8)
    for row, col in np.ndindex(rows.shape):
        place = row % 8 // 2 + 4 * (row % 2)
        rows[row, col] = stream[row // 8 * 128 * vectors + col // 16 * 128 + place * 16 + col % 16]
    return rows


@given(data=st.data())
def test_int8_streams_hold_the_codes_and_zeros(data: st.DataObject) -> None:
    rows, cols = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    codes = data.draw(strategies.codes(rows, cols))
    packed = mve.pack_s8(codes)
    assert packed.chunk == cols
    found = rows_of(packed.stream, cols)
    np.testing.assert_array_equal(found[:rows, :cols], codes)
    assert not found[rows:].any() and not found[:, cols:].any()


@given(data=st.data())
def test_int4_streams_hold_the_codes_and_their_scales(data: st.DataObject) -> None:
    """Read as the kernel does: tile by tile, pass by pass, block by block, group by group."""
    rows, cols = data.draw(st.integers(1, 20) | st.integers(60, 140)), data.draw(st.integers(1, 70) | st.just(900))
    group = data.draw(st.sampled_from([0, 32, 64]))
    codes = data.draw(strategies.arrays("int8", (rows, cols), -8, 7))
    scales = data.draw(strategies.codes(rows, -(-cols // group))) if group else None
    packed = mve.pack_s4(codes, scales, group)
    assert packed.chunk == (group or cols)
    stream, at = packed.stream.astype(np.int16), 0
    padded_codes = np.zeros((-(-rows // 8) * 8, -(-cols // 16) * 16), np.int16)
    padded_codes[:rows, :cols] = codes
    width, per_pass = group or padded_codes.shape[1], 8 * group or padded_codes.shape[1]
    for tile in range(0, len(padded_codes), 64):
        for first in range(0, cols, per_pass):
            for block in range(tile, min(tile + 64, len(padded_codes)), 8):
                for start in range(first, min(first + per_pass, cols), width):
                    for vector in range(start, min(start + width, padded_codes.shape[1]), 16):
                        for pair in range(4):
                            high, low = padded_codes[block + 2 * pair : block + 2 * pair + 2, vector : vector + 16]
                            np.testing.assert_array_equal(stream[at : at + 16], 16 * high + low + 8)
                            at += 16
                    if scales is not None:
                        for place, row in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                            expected = scales[block + row, start // group] if block + row < rows else 0
                            assert stream[at + place] == expected
                        at += 8
    assert at == len(stream)


# ---------------------------------------------------------------- matrices


def place(core: on_m55.M55, w: Linear) -> int:
    packed = mve.pack_s4(w.codes, w.group_scale, w.group) if w.bits == 4 else mve.pack_s8(w.codes)
    arrays = core.place(packed.stream), core.place(w.multiplier)
    return core.struct(*arrays, *w.codes.shape, w.shift, packed.chunk, w.group)


def run_linear(
    core: on_m55.M55, kernel: str, w: Linear, x: np.ndarray, scale: np.ndarray, residual: np.ndarray
) -> None:
    """Call a kernel and compare. x int8[tokens, cols], residual int16[tokens, rows]."""
    core.reset()
    tokens, rows = len(x), len(w.codes)
    arguments = core.place(padded(x, 16)), core.place(scale), tokens, place(core, w)
    twin, symbol = getattr(kernels, kernel), f"mg_{kernel}_mve"
    if kernel.endswith("s8"):
        ring = value_ring(np.full((48, rows), 99, np.int8))
        for slot in (0, 14):
            at = core.place(ring)
            core.call(symbol, at, slot, *arguments)
            expected = np.full((48, rows), 99, np.int8)
            expected[slot : slot + tokens] = twin(x, scale, w)
            found = core.read(at, "int8", ring.size)
            np.testing.assert_array_equal(slots_of("value_columns", found, 48, rows), expected)
        return
    if "add" in kernel:
        expected = twin(residual, x, scale, w)
        y, in_place = core.place(np.zeros_like(expected)), core.place(residual)
        core.call(symbol, y, in_place, *arguments)
        core.call(symbol, in_place, in_place, *arguments)
        np.testing.assert_array_equal(core.read(in_place, "int16", tokens, rows), expected)
    else:
        expected = twin(x, scale, w)
        y = core.place(np.zeros_like(expected))
        core.call(symbol, y, *arguments)
    np.testing.assert_array_equal(core.read(y, str(expected.dtype), *expected.shape), expected)


INT8 = ("linear_s16", "linear_s32", "linear_s8", "linear_add_s16")
INT4 = ("linear4_s16", "linear4_s8", "linear4_add_s16")


@examples
@given(data=st.data())
@pytest.mark.parametrize("kernel", [*INT8, *INT4])
def test_any_matrix(core: on_m55.M55, kernel: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 20) | st.integers(56, 140), "rows")
    cols = data.draw(st.integers(1, 70) | st.sampled_from([64, 128, 172, 384, 400, 800]), "cols")
    w = data.draw(strategies.linears(rows, cols, 4 if "4" in kernel else 8), "w")
    x, scale = data.draw(strategies.blocks(data.draw(st.sampled_from([1, 1, 3])), cols), "x")
    run_linear(core, kernel, w, x, scale, data.draw(strategies.words(len(x), rows)))


@pytest.mark.parametrize("kernel", [*INT8, *INT4])
def test_shapes_that_no_block_likes(core: on_m55.M55, kernel: str) -> None:
    bits = 4 if "4" in kernel else 8
    for rows, cols in SHAPES:
        rng = np.random.default_rng((rows, cols))
        for group in (0, 32, 64) if bits == 4 else (0,):
            codes = rng.integers(-8, 8, (rows, cols)) if bits == 4 else rng.integers(-127, 128, (rows, cols))
            group_scale = rng.integers(-127, 128, (rows, -(-cols // group))).astype(np.int8) if group else None
            multiplier = rng.integers(0, 2**15, rows).astype(np.int16)
            w = Linear(codes.astype(np.int8), multiplier, 32, bits, group, group_scale)
            w = strategies.within(w, max(16, kernels.accumulator_bound(w).bit_length() + 1))
            x = rng.integers(-127, 128, (2, cols)).astype(np.int8)
            scale = np.stack([rng.integers(1, 2**15 + 1, 2), x.sum(1, dtype=int)], 1).astype(np.int32)
            residual = rng.integers(-(2**15), 2**15, (2, rows)).astype(np.int16)
            run_linear(core, kernel, w, x, scale, residual)


@pytest.mark.parametrize("loud", [127, -127])
def test_sums_at_their_largest(core: on_m55.M55, loud: int) -> None:
    """Every product of one sign, and every peak and multiplier at its end."""
    x = np.full((1, 1030), loud, np.int8)
    scale = np.array([[2**15, x.sum(dtype=int)]], np.int32)
    for bits, low, high in ((8, -127, 127), (4, -8, 7)):
        for group in (0, 32, 64) if bits == 4 else (0,):
            codes = np.where(np.arange(16)[:, None] % 3, low, high) * np.ones((1, 1030), np.int8)
            group_scale = np.full((16, -(-1030 // group)), 127, np.int8) if group else None
            w = Linear(codes.astype(np.int8), np.full(16, 2**15 - 1, np.int16), 32, bits, group, group_scale)
            for shift in {max(16, kernels.accumulator_bound(w).bit_length() + 1), 32}:
                w = strategies.within(w, shift)
                kernel = "linear_s16" if bits == 8 else "linear4_s16"
                run_linear(core, kernel, w, x, scale, np.zeros((1, 16), np.int16))


def test_int4_rows_that_one_group_cannot_hold_are_packed_in_groups(core: on_m55.M55) -> None:
    """sum|h| * 127 * 16 beyond 2**31: no model that fits a board comes near."""
    cols = 132_200
    codes = np.full((2, cols), -8, np.int8)
    assert mve.pack_s4(codes[:, : cols - 200], None, 0).chunk == cols - 200
    packed = mve.pack_s4(codes, None, 0)
    assert packed.chunk == 64
    w = Linear(codes, np.array([3, 32767], np.int16), 29, 4)
    x = np.full((1, cols), 127, np.int8)
    run_linear(core, "linear4_s16", w, x, np.array([[1, 127 * cols]], np.int32), np.zeros((1, 2), np.int16))


@examples
@given(data=st.data())
def test_embed(core: on_m55.M55, data: st.DataObject) -> None:
    rows, cols = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 70))
    table = data.draw(strategies.tables(rows, cols))
    for token in range(rows):
        core.reset()
        y = core.place(np.zeros(cols, np.int16))
        core.call("mg_embed_s16_mve", y, token, place(core, table))
        np.testing.assert_array_equal(core.read(y, "int16", cols), kernels.embed_s16(np.array(token), table))


# ---------------------------------------------------------------- vectors


@examples
@given(data=st.data())
def test_block(core: on_m55.M55, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 70) | st.sampled_from([64, 172, 288]))
    x = data.draw(strategies.words(n) | strategies.arrays("int16", (n,), -127, 127))
    core.reset()
    codes, scale = core.place(np.full(-(-n // 16) * 16, 77, np.int8)), core.place(np.zeros(2, np.int32))
    core.call("mg_block_s8_mve", codes, scale, core.place(x), n)
    expected = kernels.block_s8(x)
    np.testing.assert_array_equal(core.read(codes, "int8", -(-n // 16) * 16), padded(expected[0], 16))
    np.testing.assert_array_equal(core.read(scale, "int32", 2), expected[1])


@examples
@given(data=st.data())
def test_rmsnorm(core: on_m55.M55, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 70) | st.sampled_from([64, 288]))
    x = data.draw(strategies.words(n) | strategies.arrays("int16", (n,), -3, 3))
    gain = data.draw(strategies.words(n))
    gain_frac = data.draw(st.integers(-14, 15))
    eps = data.draw(st.integers(1, 100) | st.integers(1, 2**40) | st.sampled_from([1, 2**32 - 1, 2**32]))
    core.reset()
    y = core.place(np.zeros(n, np.int16))
    norm = core.struct(core.place(gain), n, gain_frac, 0, eps, eps >> 32)
    core.call("mg_rmsnorm_s16_mve", y, core.place(x), norm)
    np.testing.assert_array_equal(core.read(y, "int16", n), kernels.rmsnorm_s16(x, gain, gain_frac, eps))


def test_rmsnorm_finds_every_root(core: on_m55.M55) -> None:
    """Sums right at, below and above squares: the root's last bit."""
    roots = np.random.default_rng(0).integers(2**15, 2**16, 40)
    for root in [2**15, 2**15 + 1, 2**16 - 1, *roots.tolist()]:
        for total in (root * root - 1, root * root, root * root + 2 * root):
            core.reset()
            x, gain = np.array([7], np.int16), np.array([32767], np.int16)  # the largest results that do not saturate
            y = core.place(np.zeros(1, np.int16))
            eps = total - 49
            core.call(
                "mg_rmsnorm_s16_mve", y, core.place(x), core.struct(core.place(gain), 1, -12, 0, eps, eps >> 32)
            )
            np.testing.assert_array_equal(core.read(y, "int16", 1), kernels.rmsnorm_s16(x, gain, -12, eps))


def test_newtons_root_is_the_floor_of_the_root() -> None:
    """isqrt32 of rmsnorm.c, at every square in its range and right below: it can only fail there."""
    root = np.arange(2**15, 2**16, dtype=np.int64)
    for x in (root * root, np.minimum(root * root + 2 * root, 2**32 - 1)):
        r = (((x >> 16) * 22487) >> 15) + 22487
        for _ in range(2):
            r = (r + x // r) >> 1
        r -= x // r < r
        np.testing.assert_array_equal(r, root)


@examples
@given(data=st.data())
def test_swiglu(core: on_m55.M55, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40) | st.just(172))
    gate, up = data.draw(strategies.words(n)), data.draw(strategies.words(n))
    frac, shift = data.draw(st.integers(4, 11)), data.draw(st.integers(1, 30))
    core.reset()
    y, in_place = core.place(np.zeros(n, np.int16)), core.place(gate)
    core.call("mg_swiglu_s16_mve", y, in_place, core.place(up), n, frac, shift)
    core.call("mg_swiglu_s16_mve", in_place, in_place, core.place(up), n, frac, shift)
    expected = kernels.swiglu_s16(gate, up, frac, shift)
    np.testing.assert_array_equal(core.read(y, "int16", n), expected)
    np.testing.assert_array_equal(core.read(in_place, "int16", n), expected)


# ---------------------------------------------------------------- rope


def turning(data: st.DataObject, head_dim: int) -> tuple[np.ndarray, int]:
    """Steps and a position; the steps' patterns meet the table's first and last entries."""
    step = data.draw(strategies.arrays("int64", (head_dim // 2,), 0, 2**32 - 1)).astype(np.uint32)
    return step, data.draw(st.integers(0, 2**20) | st.sampled_from([0, 1, 511, 512]))


HEADS = [(1, 2), (3, 2), (2, 6), (5, 4), (1, 10), (8, 8), (3, 8), (2, 24), (1, 64)]  # heads, head_dim


@examples
@given(data=st.data())
def test_rope_s16(core: on_m55.M55, data: st.DataObject) -> None:
    heads, head_dim = data.draw(st.sampled_from(HEADS))
    x = data.draw(strategies.words(heads * head_dim))
    step, position = turning(data, head_dim)
    core.reset()
    rope = core.struct(core.place(step), 0, heads, head_dim, 0)
    y, in_place = core.place(np.zeros_like(x)), core.place(x)
    core.call("mg_rope_s16_mve", y, in_place, position, rope)
    core.call("mg_rope_s16_mve", in_place, in_place, position, rope)
    expected = kernels.rope_s16(x, np.array(position), step)
    np.testing.assert_array_equal(core.read(y, "int16", len(x)), expected)
    np.testing.assert_array_equal(core.read(in_place, "int16", len(x)), expected)


@examples
@given(data=st.data())
def test_rope_s8(core: on_m55.M55, data: st.DataObject) -> None:
    heads, head_dim = data.draw(st.sampled_from(HEADS))
    size = heads * head_dim
    x = data.draw(strategies.words(size))
    step, position = turning(data, head_dim)
    shift, slot = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 40))
    zero = data.draw(strategies.arrays("int32", (size,), -127 << (15 + shift), 127 << (15 + shift)))
    core.reset()
    rope = core.struct(core.place(step), core.place(zero), heads, head_dim, shift)
    before = np.full((48, size), 99, np.int8)
    ring = key_ring(before)
    at = core.place(ring)
    core.call("mg_rope_s8_mve", at, slot, core.place(x), position, rope)
    before[slot] = kernels.rope_s8(x, np.array(position), step, zero, shift)
    found = core.read(at, "int8", ring.size)
    np.testing.assert_array_equal(slots_of("key_octets", found, 48, size), before)


@examples
@given(data=st.data())
def test_rebase_s8(core: on_m55.M55, data: st.DataObject) -> None:
    heads, head_dim = data.draw(st.sampled_from(HEADS))
    size, rows = heads * head_dim, data.draw(st.integers(1, 20))
    keys = data.draw(strategies.codes(rows, size))
    step, delta = turning(data, head_dim)
    shift = data.draw(st.integers(0, 7))
    zero = data.draw(strategies.arrays("int32", (size,), -127 << (15 + shift), 127 << (15 + shift)))
    core.reset()
    rope = core.struct(core.place(step), core.place(zero), heads, head_dim, shift)
    ring = key_ring(keys)
    at = core.place(ring)
    core.call("mg_rebase_s8_mve", at, at, rows, delta, rope)
    found = slots_of("key_octets", core.read(at, "int8", ring.size), rows, size)
    np.testing.assert_array_equal(found, kernels.rebase_s8(keys, delta, step, zero, shift))


# ---------------------------------------------------------------- attention


def check_attention(
    core: on_m55.M55,
    q: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    heads: tuple[int, int],
    shift: int,
    drop: int,
) -> None:
    n_heads, n_kv_heads = heads
    length, head_dim = len(keys), len(q) // n_heads
    core.reset()
    out = core.place(np.zeros_like(q))
    scores = core.place(np.full((2, -(-length // 16) * 16), 99, np.int16))
    structure = core.struct(n_heads, n_kv_heads, head_dim, shift, drop)
    rings = core.place(key_ring(keys)), core.place(value_ring(values))
    core.call("mg_attention_s16_mve", out, core.place(q), *rings, scores, length, structure)
    visible = np.ones((1, length), bool)
    expected = kernels.attention_s16(q[None], keys, values, visible, n_heads, n_kv_heads, shift, drop)
    np.testing.assert_array_equal(core.read(out, "int16", len(q)), expected[0])


@examples
@given(data=st.data())
def test_attention(core: on_m55.M55, data: st.DataObject) -> None:
    n_kv_heads, group = data.draw(st.integers(1, 3), "kv heads"), data.draw(st.integers(1, 4), "group")
    head_dim = data.draw(st.sampled_from([2, 4, 6, 8, 8, 10, 16, 22, 32, 64]), "head_dim")
    length = data.draw(st.integers(1, 40) | st.sampled_from([64, 127, 128]), "length")
    q = data.draw(strategies.words(n_kv_heads * group * head_dim), "q")
    keys = data.draw(strategies.codes(length, n_kv_heads * head_dim), "keys")
    values = data.draw(strategies.codes(length, n_kv_heads * head_dim), "values")
    shift, drop = data.draw(st.integers(1, 30) | st.integers(10, 16), "shift"), data.draw(st.integers(0, 9), "drop")
    check_attention(core, q, keys, values, (n_kv_heads * group, n_kv_heads), shift, drop)


@pytest.mark.parametrize("heads", [(1, 1), (2, 1), (8, 4), (6, 2), (3, 3), (5, 1)], ids=str)
@pytest.mark.parametrize("head_dim", [2, 8, 10, 16, 48])
def test_attention_of_every_shape(core: on_m55.M55, heads: tuple[int, int], head_dim: int) -> None:
    rng = np.random.default_rng((*heads, head_dim))
    for length in (1, 7, 16, 33, 70):
        q = rng.integers(-2000, 2000, heads[0] * head_dim).astype(np.int16)
        keys, values = rng.integers(-127, 128, (2, length, heads[1] * head_dim)).astype(np.int8)
        check_attention(core, q, keys, values, heads, 12, 0)


def check_weights(core: on_m55.M55, scores: np.ndarray, drop: int) -> None:
    core.reset()
    length = len(scores)
    room = np.full(-(-length // 16) * 16, 99, np.int16)
    room[:length] = scores
    at = core.place(room)
    total = core.call("mg_weigh_mve", at, length, drop)
    wide = scores.astype(np.int64)
    expected = kernels.softmax_weight(wide.max() - wide, drop)
    np.testing.assert_array_equal(core.read(at, "int16", len(room)), padded(expected, 16))
    assert total == expected.sum()


@examples
@given(data=st.data())
def test_weights(core: on_m55.M55, data: st.DataObject) -> None:
    """Distances around the table's end, and the largest that there are."""
    length = data.draw(st.integers(1, 40))
    scores = data.draw(strategies.words(length) | strategies.arrays("int16", (length,), 20_000, 21_030))
    check_weights(core, scores, data.draw(st.integers(0, 9)))


@pytest.mark.parametrize("drop", [0, 1])
def test_weights_of_every_distance(core: on_m55.M55, drop: int) -> None:
    check_weights(core, np.arange(20_000, 20_000 - 1_030, -1).astype(np.int16), drop)


@pytest.mark.parametrize("shift", [1, 15, 30])
def test_attention_at_its_largest_scores(core: on_m55.M55, shift: int) -> None:
    q = np.full(2 * 256, 32767, np.int16)
    keys = np.stack([np.full(256, 127), np.full(256, -127)]).astype(np.int8)
    for queries in (q, -q - 1):
        check_attention(core, queries, keys, -keys, (2, 1), shift, 0)


def test_attention_over_a_long_context(core: on_m55.M55) -> None:
    """516 slots: the most whose weights drop no bits, and beyond."""
    rng = np.random.default_rng(0)
    q = rng.integers(-300, 300, 16).astype(np.int16)
    for length, drop in ((516, 0), (1030, 1)):
        keys = rng.integers(-127, 128, (length, 8)).astype(np.int8)
        values = rng.choice(np.array([-127, 127], np.int8), (length, 8))
        check_attention(core, q, keys, values, (2, 1), 12, drop)
        check_attention(core, q * 0, keys, np.full_like(values, 127), (2, 1), 12, drop)
