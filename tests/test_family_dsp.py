"""The kernels for cores with DSP instructions on the emulated cores, built by both compilers, against their numpy twins;
and the streams that they read."""

from __future__ import annotations

import ctypes

import native
import numpy as np
import on_core
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import require
from strategies import arrays, blocks, codes, linears, tables, words

from mcugen import kernels
from mcugen.boards import load_board
from mcugen.families import PORTABLE, family_named
from mcugen.ir import Linear
from mcugen.layouts import decode
from mcugen.packing import dsp
from mcugen.tables import EXP2_Q15, SIGMOID_Q15

BOARDS = {"cortex-m4": "mps2-an386", "cortex-m7": "mps2-an500", "cortex-m33": "mps2-an505"}
FAMILY = {"cortex-m4": "dsp", "cortex-m7": "dsp7", "cortex-m33": "dsp"}
BUILDS = [(core, toolchain) for core in BOARDS for toolchain in ("zig", "gcc")]
SHAPES = [(1, 1), (3, 5), (4, 8), (5, 7), (7, 33), (9, 48), (63, 65), (33, 64), (66, 56), (12, 172), (5, 520)]
few = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module", params=BUILDS, ids="-".join)
def core(request: pytest.FixtureRequest) -> on_core.Core:
    name, toolchain = request.param
    require(toolchain, load_board(BOARDS[name]))
    own = family_named(FAMILY[name]).kernels.values()
    sources = {source for variant in own for source in variant.sources} | {"kernels/tables.c"}
    return on_core.load(name, toolchain, tuple(sorted(sources)))


def test_a_core_with_two_pipelines_has_matrix_kernels_of_its_own() -> None:
    one, two = (family_named(name) for name in ("dsp", "dsp7"))
    rare = {"rebase_s8", "keep_s16", "values4_s16", "attention4_s16", "fc_s16", "fc_add_s16"}
    of_relatives = {
        "add_s16", "scale_s16", "headnorm_s16", "geglu_s16", "geglu_tanh_s16", "reglu_s16", "relu2glu_s16", "route_s32",
    }  # fmt: skip
    assert one.kernels.keys() == two.kernels.keys() == PORTABLE.keys() - rare - of_relatives
    assert one.forms == two.forms
    for kernel, variant in one.kernels.items():
        assert variant.symbol == two.kernels[kernel].symbol
        assert (variant.sources != two.kernels[kernel].sources) == kernel.startswith("linear")


def up(count: int, step: int) -> int:
    return -(-count // step) * step


def halfwords(x: np.ndarray) -> np.ndarray:
    """int8 codes [..., n] as the family keeps them: int16, padded with zeros to a multiple of 8."""
    room = np.zeros((*x.shape[:-1], up(x.shape[-1], 8)), np.int16)
    room[..., : x.shape[-1]] = x
    return room


def value_ring(values: np.ndarray) -> np.ndarray:
    """int8[slots, channels] as pairs of slots; what no slot fills is noise."""
    slots, channels = values.shape
    ring = np.random.default_rng(0).integers(-128, 128, (up(slots, 2), channels)).astype(np.int8)
    ring[:slots] = values
    return np.ascontiguousarray(ring.reshape(-1, 2, channels // 2, 2).transpose(0, 2, 1, 3))


# ---------------------------------------------------------------- packing


def tiles(rows: int, cols: int, chunk: int) -> list[tuple[range, range]]:
    """(rows of a block, columns of a chunk) in the order of a stream: independent of how it is made."""
    height, width = up(rows, 4), up(cols, 8)
    order = []
    for tile in range(0, height, 32 if chunk < cols else height):
        for start in range(0, width, chunk if chunk < cols else width):
            for block in range(tile, min(tile + 32, height) if chunk < cols else height, 4):
                end = min(start + chunk, width) if chunk < cols else width
                order.append((range(block, block + 4), range(start, end)))
    return order


def signed(value: int, bits: int) -> int:
    return (value & (1 << bits) - 1) - (1 << bits if value >> bits - 1 & 1 else 0)


def read_s8(stream: list[int], rows: int, cols: int, chunk: int) -> np.ndarray:
    found, words_left = np.zeros((up(rows, 4), up(cols, 8)), int), iter(stream)
    for block, columns in tiles(rows, cols, chunk):
        for step in columns[::8]:
            for pair in (0, 2):
                for col in range(step, step + 8, 2):
                    word = next(words_left)
                    for half in (0, 1):
                        digits = signed(word >> 16 * half, 16)
                        low = signed(digits, 8)
                        found[block[pair], col + half] = low
                        found[block[pair + 1], col + half] = (digits - low) // 256
    assert next(words_left, None) is None
    return found


def read_s4(stream: list[int], rows: int, cols: int, chunk: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    found, words_left = np.zeros((up(rows, 4), up(cols, 8)), int), iter(stream)
    scales = np.zeros((up(rows, 4), -(-cols // 32)), int)
    for block, columns in tiles(rows, cols, chunk):
        for col in columns[::2]:
            word = next(words_left)
            for half in (0, 1):
                for row in range(4):
                    digit = word >> 16 * half + 4 * row & 15
                    found[block[row], col + half] = signed(digit, 4) if row == 3 else digit - 8
            if group and (col % 32 == 30 or col == columns[-2]):
                word = next(words_left)
                for place, row in enumerate((0, 2, 1, 3)):
                    scales[block[row], col // 32] = signed(word >> 8 * place, 8)
    assert next(words_left, None) is None
    return found, scales


SIZES = st.tuples(st.integers(1, 9) | st.integers(30, 40), st.integers(1, 40) | st.sampled_from([172, 600, 1030]))


@given(st.data(), SIZES)
@settings(max_examples=40, deadline=None)
def test_int8_streams_hold_the_codes_and_zeros(data: st.DataObject, size: tuple[int, int]) -> None:
    rows, cols = size
    w = data.draw(codes(rows, cols))
    packed = dsp.pack_s8(w)
    found = read_s8(packed.stream.tolist(), rows, cols, packed.chunk)
    np.testing.assert_array_equal(found[:rows, :cols], w)
    assert not found[rows:].any() and not found[:, cols:].any()


@given(st.data(), SIZES, st.sampled_from([0, 32, 64]))
@settings(max_examples=40, deadline=None)
def test_int4_streams_hold_the_codes_and_their_scales(data: st.DataObject, size: tuple[int, int], group: int) -> None:
    rows, cols = size
    w = data.draw(arrays("int8", (rows, cols), -8, 7))
    scale = data.draw(codes(rows, -(-cols // group))) if group else None
    packed = dsp.pack_s4(w, scale, group)
    found, scales = read_s4(packed.stream.tolist(), rows, cols, packed.chunk, group)
    np.testing.assert_array_equal(found[:rows, :cols], w)
    assert not found[rows:].any() and not found[:, cols:].any()
    if scale is not None:
        np.testing.assert_array_equal(scales[:rows], np.repeat(scale, group // 32, 1)[:, : scales.shape[1]])
        assert not scales[rows:].any()
        assert packed.chunk == min(cols, 320)


@given(st.data(), st.integers(1, 6), st.sampled_from([300, 520, 521, 700, 1024, 2000]))
@settings(max_examples=40, deadline=None)
def test_no_chunk_can_overflow_and_none_is_shorter_than_need_be(data: st.DataObject, rows: int, cols: int) -> None:
    """A digit at place d is exact where the sums of its row are below 2**(31 - d), for any activations."""
    for bits, low in ((8, -127), (4, -8)):
        w = data.draw(arrays("int8", (rows, cols), low, -low - (bits == 4)))
        packed = dsp.pack_s8(w) if bits == 8 else dsp.pack_s4(w, None, 0)
        chunk = packed.chunk
        assert chunk == cols or (chunk % 8 == 0 and chunk < cols)

        def fits(chunk: int, w: np.ndarray = w, bits: int = bits) -> bool:
            for row, weights in enumerate(np.abs(w.astype(int))):
                place = 8 * (row % 2) if bits == 8 else 4 * (row % 4)
                for start in range(0, cols, chunk):
                    if 127 * weights[start : start + chunk].sum() * 2**place >= 2**31:
                        return False
            return True

        assert fits(chunk)
        count = -(-cols // chunk)
        assert count == 1 or not fits(up(-(-cols // (count - 1)), 8))


def test_how_many_columns_of_any_codes_are_exact() -> None:
    assert dsp.pack_s8(np.full((2, 520), 127, np.int8)).chunk == 520
    assert dsp.pack_s8(np.full((2, 528), -127, np.int8)).chunk == 264
    assert dsp.pack_s8(np.full((1, 2000), 127, np.int8)).chunk == 2000  # a lower row alone
    assert dsp.pack_s4(np.full((4, 512), -8, np.int8), None, 0).chunk == 512
    assert dsp.pack_s4(np.full((4, 520), -8, np.int8), None, 0).chunk == 264
    assert dsp.pack_s4(np.full((3, 2000), -8, np.int8), None, 0).chunk == 2000  # no top row


# ---------------------------------------------------------------- linear layers


def place(core: on_core.Core, w: Linear) -> int:
    packed = dsp.pack_s4(w.codes, w.group_scale, w.group) if w.bits == 4 else dsp.pack_s8(w.codes)
    arrays_of = core.place(packed.stream), core.place(w.multiplier)
    return core.struct(*arrays_of, *w.codes.shape, w.shift, packed.chunk, w.group)


def check_linear(core: on_core.Core, kernel: str, w: Linear, x: np.ndarray, scale: np.ndarray, seed: int = 0) -> None:
    """Every token's row, and in the ring the slots before and behind as they were."""
    core.reset()
    rng = np.random.default_rng(seed)
    tokens, rows = len(x), len(w.codes)
    given_x = core.place(halfwords(x)), core.place(scale), tokens, place(core, w)
    twin = getattr(kernels, kernel)
    if kernel.endswith("add_s16"):
        residual = rng.integers(-(2**15), 2**15, (tokens, rows)).astype(np.int16)
        expected = twin(residual, x, scale, w)
        at = core.place(residual)
        core.call(f"mg_{kernel}_dsp", at, at, *given_x)
        np.testing.assert_array_equal(core.read(at, "int16", tokens, rows), expected)
        y = core.place(bytes(2 * tokens * rows))
        core.call(f"mg_{kernel}_dsp", y, core.place(residual), *given_x)
        np.testing.assert_array_equal(core.read(y, "int16", tokens, rows), expected)
    elif kernel.endswith("s8"):
        slot = int(rng.integers(0, 4))
        ring = rng.integers(-127, 128, (slot + tokens + 2, rows)).astype(np.int8)
        stored = value_ring(ring)
        at = core.place(stored)
        core.call(f"mg_{kernel}_dsp", at, slot, *given_x)
        ring[slot : slot + tokens] = twin(x, scale, w)
        content = core.read(at, "int8", stored.size).tobytes()
        np.testing.assert_array_equal(decode(content, "value_pairs", "int8", ring.shape), ring)
    else:
        expected = twin(x, scale, w)
        y = core.place(bytes(expected.nbytes))
        core.call(f"mg_{kernel}_dsp", y, *given_x)
        np.testing.assert_array_equal(core.read(y, str(expected.dtype), tokens, rows), expected)


KERNELS = ["linear_s16", "linear_s32", "linear_s8", "linear_add_s16", "linear4_s16", "linear4_s8", "linear4_add_s16"]


@pytest.mark.parametrize("kernel", KERNELS)
@given(data=st.data())
@few
def test_linear(core: on_core.Core, kernel: str, data: st.DataObject) -> None:
    rows, cols = data.draw(st.sampled_from(SHAPES) | st.tuples(st.integers(1, 70), st.integers(1, 100)))
    rows += rows % 2 if kernel.endswith("s8") else 0
    tokens = data.draw(st.sampled_from([1, 2, 3, 5]))
    w = data.draw(linears(rows, cols, 4 if "4" in kernel else 8))
    check_linear(core, kernel, w, *data.draw(blocks(tokens, cols)), seed=data.draw(st.integers(0, 99)))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [*SHAPES, (8, 16), (8, 24), (8, 96), (40, 288)], ids=str)
def test_every_product_counts(core: on_core.Core, shape: tuple[int, int], bits: int) -> None:
    """Outputs that are the accumulators themselves: multiplier * peak is 2^shift. int16 holds those of int4 weights and
    small activations."""
    rng = np.random.default_rng(shape)
    rows, cols = shape
    multiplier = np.full(rows, 2**14, np.int16)
    for tokens, group in ((1, 0), (2, 0), (3, 0)) if bits == 8 else ((1, 0), (2, 0), (3, 32), (1, 64)):
        low, high = (-127, 127) if bits == 8 else (-8, 7)
        w = rng.integers(low, high + 1, shape).astype(np.int8)
        scale = rng.integers(-3, 4, (rows, -(-cols // group))).astype(np.int8) if group else None
        matrix = Linear(w, multiplier, 29, bits, group, scale)
        amplitude = 127 if bits == 8 else 20
        x = rng.integers(-amplitude, amplitude + 1, (tokens, cols)).astype(np.int8)
        scales = np.stack([np.full(tokens, 2**15), x.sum(1)], 1).astype(np.int32)
        kernel = "linear_s32" if bits == 8 else "linear4_s16"
        exact = kernels.accumulate(x, matrix)
        np.testing.assert_array_equal(getattr(kernels, kernel)(x, scales, matrix), exact)
        check_linear(core, kernel, matrix, x, scales)


def adversary(rng: np.random.Generator, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    return np.where(rng.random(shape) < 0.5, low, high).astype(np.int8)


@pytest.mark.parametrize("group", [None, 0, 32, 64], ids=["int8", "int4", "groups of 32", "groups of 64"])
def test_rows_beyond_the_proof_are_exact(core: on_core.Core, group: int | None) -> None:
    """1024 columns of the largest codes, with activations of the same signs: the sums reach their bounds."""
    rng = np.random.default_rng(7)
    for rows in (4, 37):
        bits, low, high = (8, -127, 127) if group is None else (4, -8, 7)
        w = adversary(rng, (rows, 1024), low, high)
        w[1] = low
        scale = adversary(rng, (rows, 1024 // group), -127, 127) if group else None
        shift = 26 if group is None else 32 if group else 22
        matrix = Linear(w, np.full(rows, 32767, np.int16), shift, bits, group or 0, scale)
        assert kernels.accumulator_bound(matrix) < 2 ** (shift - 1)
        packed = dsp.pack_s4(w, scale, group) if group is not None else dsp.pack_s8(w)
        assert packed.chunk < 1024
        for row in (0, 1, 2, 3):
            weights = w[row].astype(int) * (1 if scale is None else np.repeat(scale[row], group))
            x = np.where(weights < 0, -127, 127).astype(np.int8)[None]
            for tokens in (1, 3):
                peaks = np.array([[1, 0], [32768, 0], [77, 0]][:tokens], np.int32)
                codes_of = np.repeat(x, tokens, 0)
                codes_of[1:] *= -1
                peaks[:, 1] = codes_of.sum(1)
                kernel = "linear_s32" if group is None else "linear4_s16"
                check_linear(core, kernel, matrix, codes_of, peaks)


# ---------------------------------------------------------------- what is not a matrix


@given(data=st.data())
@few
def test_embed(core: on_core.Core, data: st.DataObject) -> None:
    rows, cols = data.draw(st.sampled_from([(1, 1), (5, 7), (33, 9), (40, 64), (37, 1100), (6, 600)]))
    table = data.draw(tables(rows, cols))
    token = data.draw(st.integers(0, rows - 1))
    core.reset()
    y = core.place(bytes(2 * cols))
    core.call("mg_embed_s16_dsp", y, token, place(core, table))
    np.testing.assert_array_equal(core.read(y, "int16", cols), kernels.embed_s16(np.int64(token), table))


def test_embed_from_chunks(core: on_core.Core) -> None:
    rng = np.random.default_rng(2)
    w = adversary(rng, (37, 1100), -127, 127)
    w[:, ::5] = rng.integers(-127, 128, (37, 220))
    table = Linear(w, np.arange(37, dtype=np.int16) + 9000, 11)
    assert dsp.pack_s8(table.codes).chunk < 1100
    for token in (0, 3, 30, 31, 32, 35, 36):
        core.reset()
        y = core.place(bytes(2200))
        core.call("mg_embed_s16_dsp", y, token, place(core, table))
        np.testing.assert_array_equal(core.read(y, "int16", 1100), kernels.embed_s16(np.int64(token), table))


@given(data=st.data(), n=st.integers(1, 40) | st.sampled_from([64, 172]))
@settings(few, max_examples=60)
def test_block(core: on_core.Core, data: st.DataObject, n: int) -> None:
    x = data.draw(words(n) | arrays("int16", (n,), -9, 9))
    core.reset()
    y, at, scale = core.place(b"\x55" * 2 * up(n, 8)), core.place(x), core.place(bytes(8))
    core.call("mg_block_s8_dsp", y, scale, at, n)
    expected, expected_scale = kernels.block_s8(x)
    np.testing.assert_array_equal(core.read(y, "int16", up(n, 8)), halfwords(expected))
    np.testing.assert_array_equal(core.read(scale, "int32", 2), expected_scale)


def test_every_code_of_a_block(core: on_core.Core) -> None:
    for peak in (1, 2, 127, 128, 1000, 4095, 32767, 32768):
        x = np.unique(np.concatenate([np.linspace(-peak, min(peak, 32767), 3001), [-peak]])).astype(np.int16)
        core.reset()
        y, scale = core.place(bytes(2 * up(len(x), 8))), core.place(bytes(8))
        core.call("mg_block_s8_dsp", y, scale, core.place(x), len(x))
        expected, expected_scale = kernels.block_s8(x)
        np.testing.assert_array_equal(core.read(y, "int16", len(x)), expected)
        np.testing.assert_array_equal(core.read(scale, "int32", 2), expected_scale)


def test_rmsnorm_with_every_shift(core: on_core.Core) -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for gain_frac in range(-14, 16):
        for eps in (1, 2**20, 2**40, 2**50):
            x, gain = rng.integers(-900, 901, 10).astype(np.int16), rng.integers(-(2**15), 2**15, 10).astype(np.int16)
            core.reset()
            fields = np.array(
                [core.place(gain), 10, gain_frac & 0xFFFFFFFF, 0, eps & 0xFFFFFFFF, eps >> 32], np.uint32
            )
            y = core.place(bytes(20))
            core.call("mg_rmsnorm_s16_dsp", y, core.place(x), core.place(fields, 8))
            np.testing.assert_array_equal(core.read(y, "int16", 10), kernels.rmsnorm_s16(x, gain, gain_frac, eps))
            bits = (int((x.astype(int) ** 2).sum()) + eps).bit_length()
            seen.add(31 + gain_frac - ((32 - bits & ~1) >> 1))
    assert seen >= set(range(15, 50))


@given(data=st.data(), dim=st.integers(1, 40) | st.sampled_from([64, 288]), gain_frac=st.integers(-14, 15))
@settings(few, max_examples=60)
def test_rmsnorm(core: on_core.Core, data: st.DataObject, dim: int, gain_frac: int) -> None:
    """Shifts from 2 to 62: the two fast loops, and what is beyond them."""
    high = data.draw(st.sampled_from([0, 1, 30, 1000, 2**15 - 1]))
    x, gain = data.draw(arrays("int16", (dim,), -high, high) | words(dim)), data.draw(words(dim))
    eps = data.draw(st.sampled_from([1, 7, 2**31, 2**45]))
    core.reset()
    at = core.place(x), core.place(gain)
    norm = core.place(np.array([at[1], dim, gain_frac & 0xFFFFFFFF, 0, eps & 0xFFFFFFFF, eps >> 32], np.uint32), 8)
    y = core.place(bytes(2 * dim))
    core.call("mg_rmsnorm_s16_dsp", y, at[0], norm)
    np.testing.assert_array_equal(core.read(y, "int16", dim), kernels.rmsnorm_s16(x, gain, gain_frac, eps))


def test_the_root_is_exact(core: on_core.Core) -> None:
    """One value of 1, with eps chosen so that the sum is at and around squares and powers of two."""
    roots = np.array([2**15, 2**15 + 1, 40000, 46340, 46341, 2**16 - 2, 2**16 - 1], object)
    totals = {int(r) ** 2 + d for r in roots for d in (-1, 0, 1)} | {2**30, 2**31, 2**32 - 1, 2**32 + 5, 2**46 - 1}
    x = np.array([32767], np.int16)
    for total in sorted(t for t in totals if t > 32767**2):
        eps = total - 32767**2
        core.reset()
        gain = core.place(x)
        norm = core.place(np.array([gain, 1, 0, 0, eps & 0xFFFFFFFF, eps >> 32], np.uint32), 8)
        y = core.place(bytes(2))
        core.call("mg_rmsnorm_s16_dsp", y, core.place(x), norm)
        np.testing.assert_array_equal(core.read(y, "int16", 1), kernels.rmsnorm_s16(x, x, 0, eps))


@given(data=st.data(), shift=st.integers(1, 30), frac=st.integers(4, 11) | st.just(11))
@settings(few, max_examples=40)
def test_swiglu(core: on_core.Core, data: st.DataObject, shift: int, frac: int) -> None:
    n = data.draw(st.sampled_from([1, 2, 7, 172]))
    gate, upper = (
        data.draw(words(n) | arrays("int16", (n,), -(9 << frac), 9 << frac).filter(len)),
        data.draw(words(n)),
    )
    core.reset()
    at, out = core.place(gate), core.place(bytes(2 * n))
    core.call("mg_swiglu_s16_dsp", out, at, core.place(upper), n, frac, shift)
    expected = kernels.swiglu_s16(gate, upper, frac, shift)
    np.testing.assert_array_equal(core.read(out, "int16", n), expected)
    core.call("mg_swiglu_s16_dsp", at, at, core.place(upper), n, frac, shift)
    np.testing.assert_array_equal(core.read(at, "int16", n), expected)


@pytest.mark.parametrize("frac", range(4, 12))
def test_swiglu_of_every_gate_around_the_ends_of_the_table(core: on_core.Core, frac: int) -> None:
    limit = 8 << frac
    near = {end + d for end in (-limit, 0, limit) for d in range(-40, 41)} | {-(2**15), 2**15 - 1}
    gate = np.array(sorted({*near, *range(-(2**15), 2**15, 97)}.intersection(range(-(2**15), 2**15))), np.int16)
    upper = np.full(len(gate), 32767, np.int16)
    for shift in (3, 15):
        core.reset()
        out = core.place(bytes(gate.nbytes))
        core.call("mg_swiglu_s16_dsp", out, core.place(gate), core.place(upper), len(gate), frac, shift)
        np.testing.assert_array_equal(
            core.read(out, "int16", len(gate)), kernels.swiglu_s16(gate, upper, frac, shift)
        )


@given(data=st.data(), heads=st.integers(1, 4), pairs=st.sampled_from([1, 3, 4, 24]), shift=st.integers(0, 7))
@settings(few, max_examples=40)
def test_rope(core: on_core.Core, data: st.DataObject, heads: int, pairs: int, shift: int) -> None:
    n, limit = 2 * heads * pairs, 127 * 2 ** (15 + shift)
    x, zero = data.draw(words(n)), data.draw(arrays("int32", (n,), -limit, limit))
    step = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2**32, pairs, np.uint32)
    position = data.draw(st.integers(0, 5000))
    core.reset()
    at = core.place(x)
    rope = core.struct(core.place(step), core.place(zero), heads, 2 * pairs, shift)
    y = core.place(bytes(2 * n))
    core.call("mg_rope_s16_dsp", y, at, position, rope)
    np.testing.assert_array_equal(core.read(y, "int16", n), kernels.rope_s16(x, np.int64(position), step))
    ring = np.full((3, n), 99, np.int8)
    keys = core.place(ring)
    core.call("mg_rope_s8_dsp", keys, 1, at, position, rope)
    ring[1] = kernels.rope_s8(x, np.int64(position), step, zero, shift)
    np.testing.assert_array_equal(core.read(keys, "int8", 3, n), ring)
    core.call("mg_rope_s16_dsp", at, at, position, rope)
    np.testing.assert_array_equal(core.read(at, "int16", n), kernels.rope_s16(x, np.int64(position), step))


# ---------------------------------------------------------------- attention

HEADS = [
    (2, 1, 8),
    (4, 2, 8),
    (3, 1, 8),
    (1, 1, 8),
    (2, 2, 8),
    (5, 1, 16),
    (2, 1, 24),
    (1, 1, 24),
    (4, 2, 48),
    (2, 2, 48),
]
HEADS += [(2, 1, 64), (1, 1, 128), (2, 1, 256), (1, 1, 256), (2, 1, 2), (3, 3, 6), (2, 1, 12), (2, 1, 20)]


def check_attention(
    core: on_core.Core, q: np.ndarray, keys: np.ndarray, values: np.ndarray, shape: tuple[int, int, int],
    length: int, shift: int, drop: int,
) -> None:  # fmt: skip
    core.reset()
    at = core.place(q)
    scores = core.place(bytes(4 * up(len(keys), 16)))
    rings = core.place(keys), core.place(value_ring(values))
    visible = (np.arange(len(keys)) < length)[None]
    expected = kernels.attention_s16(q[None], keys, values, visible, *shape[:2], shift, drop)[0]
    group = shape[0] // shape[1]
    narrower = ["_singles"] if group == 1 else [] if group % 2 else ["_pairs"]
    for form in ("", *narrower):
        out = core.place(b"\x55" * q.nbytes)
        symbol = f"mg_attention{form}_s16_dsp"
        core.call(symbol, out, at, *rings, scores, length, core.struct(*shape, shift, drop))
        np.testing.assert_array_equal(core.read(out, "int16", len(q)), expected)
        np.testing.assert_array_equal(core.read(at, "int16", len(q)), q)


@pytest.mark.parametrize("shape", HEADS, ids=str)
@given(data=st.data(), length=st.integers(1, 20) | st.just(33), spare=st.integers(0, 3))
@settings(few, max_examples=10)
def test_attention(
    core: on_core.Core, shape: tuple[int, int, int], data: st.DataObject, length: int, spare: int
) -> None:
    """Queries from small ones to such as saturate their scores; slots beyond the length hold anything."""
    n_heads, n_kv, head_dim = shape
    high = data.draw(st.sampled_from([3, 300, 5000, 2**15 - 1]))
    q = data.draw(arrays("int16", (n_heads * head_dim,), -high, high))
    keys, values = (data.draw(codes(length + spare, n_kv * head_dim)) for _ in range(2))
    shift = data.draw(st.integers(5, 16) | st.integers(1, 30))
    drop = data.draw(st.sampled_from([0, 0, 1, 3, 4, 5]))
    check_attention(core, q, keys, values, shape, length, shift, drop)


@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_attention_to_all_slots(core: on_core.Core, shape: tuple[int, int, int]) -> None:
    """Scores some octaves apart, so that many slots matter."""
    n_heads, n_kv, head_dim = shape
    rng = np.random.default_rng(shape)
    for length in (1, 2, 3, 4, 5, 6, 7, 9, 11, 16, 17, 31):
        q = rng.integers(-1000, 1001, n_heads * head_dim).astype(np.int16)
        keys, values = (rng.integers(-127, 128, (length + 1, n_kv * head_dim)).astype(np.int8) for _ in range(2))
        shift = 8 + head_dim.bit_length() // 2
        check_attention(core, q, keys, values, shape, length, shift, length % 3 and 1)


def test_scores_at_the_limit_of_saturation(core: on_core.Core) -> None:
    """Two heads of eight around sum(q^2) * 8 = 2^(2 * shift + 16), beyond which scores go the way that saturates."""
    for shift in (2, 5, 7, 10, 12, 13, 30):
        size = min(2**15 - 1, int(2 ** (shift + 6.5) / 16**0.5 / 2**0.5))
        for around in (-1, 0, 1, 2, 3 * size):
            q = np.full(16, min(2**15 - 1, size + around), np.int16)
            keys = np.full((3, 8), 127, np.int8)
            keys[1], keys[2, 3] = -127, 5
            check_attention(core, q, keys, keys, (2, 1, 8), 3, shift, 0)
            check_attention(core, -q, keys, keys, (2, 1, 8), 3, shift, 0)


def test_weights_at_the_end_of_their_table(core: on_core.Core) -> None:
    """Distances 1022 to 1025, and the largest there is: 2^16 - 1."""
    for shape in ((2, 1, 8), (1, 1, 8)):
        q = np.zeros(8 * shape[0], np.int16)
        q[::8], q[1::8] = 4, 2048
        keys = np.zeros((6, 8), np.int8)
        keys[:, 0] = [0, 2, 1, 0, -1, -2]  # scores of one for each unit, with a shift of 2
        keys[:, 1] = [2, 0, 0, 0, 0, 0]
        check_attention(core, q, keys, keys[:, ::-1], shape, 6, 2, 0)
        q[::8], q[1::8] = 32767, 32767
        keys[:, 0] = [127, -127, 127, -127, 0, 1]
        keys[:, 1] = [127, -127, 127, -127, 0, 1]
        check_attention(core, q, keys, keys[:, ::-1], shape, 6, 4, 0)
        for length in (1, 3, 5):  # all scores the least there is
            values = np.arange(40, dtype=np.int8).reshape(5, 8)
            check_attention(core, q, np.full((5, 8), -127, np.int8), values, shape, length, 2, 0)


@pytest.mark.slow
def test_attention_over_a_long_context(core: on_core.Core) -> None:
    rng = np.random.default_rng(3)
    for shape, length, drop in (((2, 1, 8), 516, 0), ((1, 1, 8), 517, 1), ((2, 1, 16), 1030, 1)):
        keys, values = (rng.integers(-127, 128, (length, shape[1] * shape[2])).astype(np.int8) for _ in range(2))
        values[:] = 127
        q = rng.integers(-2, 3, shape[0] * shape[2]).astype(np.int16)
        check_attention(core, q, keys, values, shape, length, 9, drop)


# ---------------------------------------------------------------- tables


def test_the_tables_are_those_of_numpy() -> None:
    folder = on_core.FIRMWARE / "kernels" / "dsp"
    library = native.load([folder / "tables_dsp.c"], [folder])
    exp2 = np.array((ctypes.c_uint16 * 1025).in_dll(library, "mg_exp2_reversed_q15"))
    np.testing.assert_array_equal(exp2, [0, *EXP2_Q15[::-1]])
    halves = np.array((ctypes.c_uint32 * 128).in_dll(library, "mg_sigmoid_halves_q15"))
    sigmoid = SIGMOID_Q15.astype(int)
    np.testing.assert_array_equal(halves >> 16, np.repeat(np.diff(sigmoid), 2))
    np.testing.assert_array_equal(halves & 0xFFFF, np.stack([sigmoid[:-1], sigmoid[1:]], 1).reshape(-1))
