"""What the tests of the families v6m and v7m have in common: drawn arguments, and equality with the numpy twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import on_core
import unicorn
from hypothesis import strategies as st
from row_digits import FILLING, Family, key_ring, value_ring
from strategies import arrays, blocks, codes, linears, multipliers, tables, within, words

from mcugen import kernels, layouts
from mcugen.families import family_named
from mcugen.ir import Linear
from mcugen.packing import Packed, pack
from mcugen.packing.row_digits import GROUPS, LARGEST_BYTE, LARGEST_NIBBLE

LINEAR = ("linear_s8", "linear_s16", "linear_s32", "linear_add_s16", "linear4_s8", "linear4_s16", "linear4_add_s16")
LARGEST_STACK = 512  # bytes of one kernel, what it calls included
ROWS = st.integers(1, 11) | st.sampled_from([64, 67])
COLUMNS = st.integers(1, 41) | st.sampled_from([63, 64, 65, 96, 129, 172])


def equal(observed: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(observed, expected)


# ---------------------------------------------------------------- linear layers


def check_linear(family: Family, data: st.DataObject, kernel: str) -> None:
    rows, cols = data.draw(ROWS), data.draw(COLUMNS)
    tokens = data.draw(st.integers(1, 3)) if rows < 12 and cols < 42 else 1
    x, scale = data.draw(blocks(tokens, cols))
    w = data.draw(linears(rows, cols, 4 if "4" in kernel else 8))
    if "_add_" not in kernel:
        equal(family.linear(kernel, x, scale, w), getattr(kernels, kernel)(x, scale, w))
        return
    residual, in_place = data.draw(words(tokens, rows)), data.draw(st.booleans())
    observed = family.linear(kernel, x, scale, w, residual, in_place=in_place)
    equal(observed, getattr(kernels, kernel)(residual, x, scale, w))


def check_largest_sums(family: Family, bits: int, cols: int, group: int, chunks: int) -> None:
    """Rows of the largest codes and the smallest, side by side, on a vector that adds all products up; with as many
    chunks of columns as the proof asks for."""
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    rng = np.random.default_rng(cols)
    rows = [[low, high, low, low, high, high, low, high, low]]
    w_codes = np.repeat(np.array(rows, np.int8), cols, 0).T.copy()
    x = np.full((1, cols), rng.choice([-127, 127]), np.int8)
    if bits == 8:
        flip = rng.choice(np.array([-1, 1], np.int8), cols)
        w_codes, x = w_codes * flip, x * flip
    group_scale = rng.choice(np.array([-127, 127], np.int8), (9, -(-cols // group))) if group else None
    w = Linear(w_codes, rng.integers(0, 2**15, 9).astype(np.int16), 32, bits, group, group_scale)
    packed = family.pack(w)
    halves = group == 64 and not family.biased  # v7m takes groups of 64 as twice 32
    assert -(-cols // packed.chunk) == (2 if halves else 1) * chunks
    scale = np.array([[2**15, int(x.astype(int).sum())]], np.int32)
    kernel = "linear_s32" if bits == 8 else "linear4_s16"
    equal(family.linear(kernel, x, scale, w, packed=packed), getattr(kernels, kernel)(x, scale, w))
    if bits == 8:  # an embedding table in chunks
        table = dataclasses.replace(w, shift=9)
        equal(family.embed(8, table, packed), kernels.embed_s16(np.int64(8), table))


# bits, columns, group, chunks
LARGEST_SUMS = [
    (8, 518, 0, 1), (8, 519, 0, 2), (8, 1200, 0, 3), (4, 483, 0, 1), (4, 484, 0, 2), (4, 1000, 0, 3),
    (4, 64 * GROUPS, 64, 1), (4, 32 * GROUPS, 32, 1), (4, 32 * GROUPS + 1, 32, 2), (4, 32 * 2 * GROUPS + 40, 32, 3),
]  # fmt: skip


def check_chunks_of_weak_rows(family: Family) -> None:
    """One row beyond the bound shortens the chunks of all; columns of zeros do not count."""
    chunks = []
    for count in (518, 519):
        w_codes = np.zeros((3, 640), np.int8)
        w_codes[1, :count] = 127
        chunks.append(family.pack(Linear(w_codes, np.zeros(3, np.int16), 32)).chunk)
    assert chunks == [640, 320]
    assert 127 * 127 * 518 <= LARGEST_BYTE < 127 * 127 * 519
    assert 127 * 8 * 483 <= LARGEST_NIBBLE < 127 * 8 * 484


def check_tokens(family: Family, kernel: str) -> None:
    """Several tokens are as many calls, where tiles, groups and chunks change between them."""
    rng = np.random.default_rng(7)
    bits, cols = (4, 32 * GROUPS + 70) if "4" in kernel else (8, 72)
    high = 127 if bits == 8 else 7
    x = rng.integers(-127, 128, (3, cols)).astype(np.int8)
    scale = np.stack([[1, 2**15, 77], x.sum(1, dtype=np.int32)], -1).astype(np.int32)
    group_scale = rng.integers(-127, 128, (70, -(-cols // 32))).astype(np.int8) if bits == 4 else None
    w_codes = rng.integers(-high, high + 1, (70, cols)).astype(np.int8)
    w = Linear(w_codes, rng.integers(0, 2**15, 70).astype(np.int16), 32, bits, 32 if bits == 4 else 0, group_scale)
    residual = rng.integers(-(2**15), 2**15, (3, 70)).astype(np.int16) if "_add_" in kernel else None
    given = () if residual is None else (residual,)
    equal(family.linear(kernel, x, scale, w, residual), getattr(kernels, kernel)(*given, x, scale, w))


FINISH = {"s8": "int8", "s16": "int16", "s32": "int32", "add_s16": "int16"}


def check_finish(family: Family, data: st.DataObject, kind: str) -> None:
    """The output stage on accumulators up to their bound."""
    rows, shift = data.draw(st.integers(1, 9)), data.draw(st.integers(16, 32))
    bound = 2 ** (shift - 1) - 1
    acc = data.draw(arrays("int32", (rows,), -bound, bound))
    multiplier = data.draw(multipliers(rows))
    peak = data.draw(st.sampled_from([1, 2, 2**14 + 1, 2**15 - 1, 2**15]) | st.integers(1, 2**15))
    product = kernels.requantize(acc.astype(np.int64), multiplier.astype(np.int64) * peak, shift)
    saturate = {"int8": kernels.saturate_s8, "int16": kernels.saturate_s16, "int32": kernels.saturate_s32}[
        FINISH[kind]
    ]

    core = family.core
    core.reset()
    y = core.place(np.full(rows, FILLING, FINISH[kind]))
    residual = data.draw(words(rows))
    if kind == "add_s16":
        product = product + residual
    arguments = (y, core.place(acc), core.place(multiplier), rows, peak, shift, core.place(residual))
    family.call(f"finish_{kind}", *arguments)
    observed = core.read(y, FINISH[kind], rows)
    if kind == "s8":  # as a row of the ring of values
        observed = observed.view(np.uint8) ^ np.where(np.arange(rows) % 4 == 3, 0, 128).astype(np.uint8)
        observed = observed.view(np.int8)
    equal(observed, saturate(product))


def check_finish_at_its_carries(family: Family) -> None:
    """Where the pieces of a product carry most: factors next to powers of two, in all combinations."""
    near = np.array([2**k + i for k in (0, 8, 15, 16, 17, 24, 31) for i in (-1, 0, 1)])
    factors = np.array([0, 1, 2, 3, 2**8 - 1, 2**14, 2**15 - 2, 2**15 - 1])
    for peak in (1, 2**8, 2**15 - 1, 2**15):
        for shift in (16, 17, 24, 31, 32):
            acc, multiplier = np.meshgrid(np.concatenate([near, -near]), factors)
            inside = np.abs(acc) < 2 ** (shift - 1)
            acc, multiplier = acc[inside], multiplier[inside]
            expected = kernels.requantize(acc, multiplier * peak, shift)
            core = family.core
            core.reset()
            y = core.place(np.zeros(len(acc), np.int32))
            places = core.place(acc.astype(np.int32)), core.place(multiplier.astype(np.int16))
            family.call("finish_s32", y, *places, len(acc), peak, shift, 0)
            equal(core.read(y, "int32", len(acc)), expected)


def check_embed(family: Family, data: st.DataObject) -> None:
    vocab, dim = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    table = data.draw(tables(vocab, dim))
    token = data.draw(st.integers(0, vocab - 1))
    equal(family.embed(token, table), kernels.embed_s16(np.int64(token), table))


# ---------------------------------------------------------------- the rest


def check_block(family: Family, x: np.ndarray) -> None:
    observed, scale = family.block(x)
    expected, expected_scale = kernels.block_s8(x)
    equal(observed[: len(x)], expected)
    assert not observed[len(x) :].any()
    equal(scale, expected_scale)


def check_rmsnorm(family: Family, data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, 21))
    x, gain = data.draw(words(dim)), data.draw(words(dim))
    frac, eps = data.draw(st.integers(-14, 15)), data.draw(st.sampled_from([1, 1000, 2**40]) | st.integers(1, 2**34))
    equal(family.rmsnorm(x, gain, frac, eps), kernels.rmsnorm_s16(x, gain, frac, eps))


def check_every_shift_of_a_norm(family: Family) -> None:
    """All formats of gains, on vectors from the smallest to the largest sum of squares."""
    gain = np.array([-(2**15), 2**15 - 1, 1, -3, 2**14], np.int16)
    for frac in range(-14, 16):
        for peak, eps in ((0, 1), (1, 1), (9, 1), (300, 77), (5000, 1), (2**15 - 1, 1), (5000, 2**35), (77, 2**43)):
            x = np.array([peak, -peak, peak // 2, 1, -peak // 3], np.int16)
            equal(family.rmsnorm(x, gain, frac, eps), kernels.rmsnorm_s16(x, gain, frac, eps))
        for k in range(1, 22, 2):  # a sum that is a power of four has the largest reciprocal, 2**16
            x = np.array([0, 1, 0, 0, 0], np.int16)
            equal(family.rmsnorm(x, gain, frac, 4**k - 1), kernels.rmsnorm_s16(x, gain, frac, 4**k - 1))


def check_swiglu(family: Family, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 21))
    gate, up = data.draw(words(n)), data.draw(words(n))
    frac, shift = data.draw(st.integers(4, 11)), data.draw(st.integers(1, 30))
    observed = family.swiglu(gate, up, frac, shift, data.draw(st.booleans()))
    equal(observed, kernels.swiglu_s16(gate, up, frac, shift))


def check_every_gate(family: Family, frac: int) -> None:
    """Gates all over the table and beyond its ends."""
    limit = min(8 << frac, 2**15 - 1)
    edges = [edge + i for edge in (-limit, 0, limit) for i in range(-3, 4)]
    gate = np.clip([*edges, *range(-limit, limit, 997), -(2**15), 2**15 - 1], -(2**15), 2**15 - 1).astype(np.int16)
    up = np.full(len(gate), -(2**15), np.int16)
    equal(family.swiglu(gate, up, frac, 15, False), kernels.swiglu_s16(gate, up, frac, 15))


def check_rope(family: Family, data: st.DataObject, rebase: bool) -> None:
    heads, pairs = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    slots, size = data.draw(st.integers(1, 9)), 2 * heads * pairs
    shift = data.draw(st.integers(0, 7))
    step = data.draw(arrays("uint32", (pairs,), 0, 2**32 - 1))
    zero = data.draw(arrays("int32", (size,), -127 << (15 + shift), 127 << (15 + shift)))
    keys = data.draw(codes(slots, size))
    position = data.draw(st.integers(0, 2**20))
    if rebase:
        observed = family.rebase(keys, position, step, zero, shift)
        equal(observed, kernels.rebase_s8(keys, position, step, zero, shift))
        return
    slot, x = data.draw(st.integers(0, slots - 1)), data.draw(words(size))
    expected = keys.copy()
    expected[slot] = kernels.rope_s8(x, np.int64(position), step, zero, shift)
    equal(family.rope_s8(keys, slot, x, position, step, zero, shift), expected)


def check_weigh_at_the_end_of_the_table(family: Family) -> None:
    """A distance of 1023 has the last weight, one of 1024 none."""
    table = np.arange(1, 1027).astype(np.uint16)
    best = np.array([2**15 - 1, 700], np.int32)
    distance = np.array([0, 1, 1022, 1023, 1024, 1025, 2**16 - 1, 1023, 0], np.int32)
    core = family.core
    core.reset()
    places = core.place(table), core.place(best)
    if family.biased:
        scores = core.place((best[0] - distance).astype(np.int16))
        total = family.core.call(f"mg_weigh_{family.name}", scores, len(distance), int(best[0]), places[0])
        observed = core.read(scores, "int16", len(distance))
    else:
        beside = best[1] - np.minimum(distance, 2**15)
        scores = core.place(np.stack([best[0] - distance, beside], -1).astype(np.int16))
        totals = core.place(np.zeros(2, np.uint32))
        family.call("weigh", totals, scores, len(distance), places[1], places[0])
        both = core.read(scores, "int16", len(distance), 2)
        equal(both[:, 0], both[:, 1])
        observed = both[:, 0]
        total, other = core.read(totals, "uint32", 2)
        assert total == other
    expected = np.where(distance < 1024, table[np.minimum(distance, 1023)], 0)
    equal(observed, expected)
    assert total == expected.sum()


def attended(q: np.ndarray, keys: np.ndarray, values: np.ndarray, length: int, heads: tuple[int, int], shift: int,
             drop: int) -> np.ndarray:  # fmt: skip
    visible = np.ones((1, length), bool)
    return kernels.attention_s16(q[None], keys[:length], values[:length], visible, *heads, shift, drop)[0]


def check_attention(family: Family, data: st.DataObject) -> None:
    kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    head_dim = data.draw(st.sampled_from([2, 4, 6, 8, 10, 12, 16, 22]))
    length, unused = data.draw(st.integers(1, 19)), data.draw(st.integers(0, 3))
    q = data.draw(words(kv_heads * group * head_dim))
    keys, values = (data.draw(codes(length + unused, kv_heads * head_dim)) for _ in range(2))
    shift = data.draw(st.integers(1, 30) | st.integers(6, 16))
    drop = data.draw(st.integers(0, 15) | st.just(0))
    observed = family.attention(q, keys, values, length, kv_heads * group, shift, drop)
    equal(observed, attended(q, keys, values, length, (kv_heads * group, kv_heads), shift, drop))


def check_attention_of_shape(family: Family, head_dim: int, group: int, length: int) -> None:
    """Sums at their bounds: the largest queries and keys, all weights alike."""
    rng = np.random.default_rng(head_dim)
    q = np.full(group * head_dim, -(2**15), np.int16)
    keys = np.full((length, head_dim), -127, np.int8)
    values = rng.choice(np.array([-127, 127], np.int8), (length, head_dim))
    values[:, 0], values[:, -1] = 127, -127
    for shift in (1, 15, 30):
        observed = family.attention(q, keys, values, length, group, shift, 0)
        equal(observed, attended(q, keys, values, length, (group, 1), shift, 0))
    q = rng.integers(-400, 400, len(q)).astype(np.int16)
    keys = rng.integers(-127, 128, keys.shape).astype(np.int8)
    observed = family.attention(q, keys, values, length, group, 6, 0)
    equal(observed, attended(q, keys, values, length, (group, 1), 6, 0))


# ---------------------------------------------------------------- layouts, stack


def check_layouts(family: Family) -> None:
    """What verification decodes is what the kernels read and write, and the family has the packing called here."""
    chosen = family_named(family.name)
    rng = np.random.default_rng(3)
    x = rng.integers(-127, 128, (2, 13)).astype(np.int8)
    equal(layouts.decode(family.coded(x).tobytes(), chosen.codes, "int8", x.shape), x)
    ring = rng.integers(-127, 128, (7, 6)).astype(np.int8)
    equal(layouts.decode(key_ring(ring).tobytes(), chosen.keys, "int8", ring.shape), ring)
    equal(layouts.decode(value_ring(ring).tobytes(), chosen.values, "int8", ring.shape), ring)
    w = Linear(rng.integers(-8, 8, (9, 70)).astype(np.int8), np.zeros(9, np.int16), 32)
    grouped = dataclasses.replace(w, bits=4, group=32, group_scale=rng.integers(-127, 128, (9, 3)).astype(np.int8))
    for matrix in (w, dataclasses.replace(w, bits=4), grouped):
        here, there = family.pack(matrix), pack(matrix, chosen.packing)
        assert here.chunk == there.chunk
        equal(here.stream, there.stream)


def check_stack(family: Family) -> None:
    """No kernel takes more than it may, with all that it calls."""
    rng = np.random.default_rng(5)
    group_scale = np.full((65, GROUPS), 100, np.int8)
    w = Linear(np.full((65, 32 * GROUPS), 7, np.int8), np.full(65, 2**14, np.int16), 32, 4, 32, group_scale)
    x = rng.integers(-127, 128, (2, 32 * GROUPS)).astype(np.int8)
    scale = np.stack([[5, 6], x.sum(1, dtype=np.int32)], -1).astype(np.int32)
    long = within(Linear(rng.integers(-127, 128, (65, 600)).astype(np.int8), w.multiplier, 32), 32)
    q, ring = rng.integers(-99, 99, 48).astype(np.int16), rng.integers(-127, 128, (9, 24)).astype(np.int8)
    calls = {
        "linear4": lambda: family.linear("linear4_add_s16", x, scale, w, np.zeros((2, 65), np.int16)),
        "linear": lambda: family.linear("linear_s16", x[:, :600], scale, long, packed=chunked(family, long)),
        "attention": lambda: family.attention(q, ring, ring, 9, 4, 5, 0),
        "rmsnorm": lambda: family.rmsnorm(q, q, 0, 1),
        "block": lambda: family.block(q),
    }
    used = {name: stack_of(family.core, call) for name, call in calls.items()}
    assert max(used.values()) <= LARGEST_STACK, used


def check_no_library_calls(family: Family) -> None:
    """Nothing of the compiler's library runs: no division, no 64-bit product."""
    symbols, called = family.core.symbols, []
    library = {name: at for name, at in symbols.items() if name.startswith(("__", "compiler_rt"))}
    assert any("idiv" in name or "divsi3" in name for name in library)
    rng = np.random.default_rng(6)
    x, ring = rng.integers(-999, 999, 64).astype(np.int16), rng.integers(-127, 128, (9, 32)).astype(np.int8)
    block, scale = kernels.block_s8(x[None])
    w = Linear(rng.integers(-127, 128, (70, 64)).astype(np.int8), np.full(70, 2**14, np.int16), 32)
    step, zero = np.arange(4, dtype=np.uint32), np.zeros(32, np.int32)
    hooks = [
        family.core.uc.hook_add(unicorn.UC_HOOK_CODE, lambda *a, name=name: called.append(name), begin=at, end=at)
        for name, at in library.items()
    ]
    for kernel in ("linear_s8", "linear_s16", "linear_s32"):
        family.linear(kernel, block, scale, w)
    family.linear("linear_add_s16", block, scale, w, np.zeros((1, 70), np.int16))
    family.embed(3, w)
    family.block(x)
    family.rmsnorm(x, x, 0, 1)
    family.swiglu(x, x, 11, 11, False)
    family.rope_s8(ring, 3, x[:32], 9, step, zero, 3)
    family.rebase(ring, 3, step, zero, 3)
    family.attention(x, ring, ring, 9, 8, 6, 0)
    for hook in hooks:
        family.core.uc.hook_del(hook)
    assert not called


def chunked(family: Family, w: Linear) -> Packed:
    packed = family.pack(dataclasses.replace(w, codes=np.where(w.codes < 0, -127, 127).astype(np.int8)))
    assert packed.chunk < w.codes.shape[1]
    return packed


def stack_of(core: on_core.Core, call: Callable[[], object]) -> int:
    """Bytes of stack that a call writes."""
    depth = 4096
    core.uc.mem_write(on_core.STACK - depth, bytes([FILLING]) * depth)
    call()
    written = bytes(core.uc.mem_read(on_core.STACK - depth, depth)).lstrip(bytes([FILLING]))
    return core.entry_stack - (on_core.STACK - len(written))
