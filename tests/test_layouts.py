"""Buffer layouts against memory written one element at a time, from the words that mcugen/layouts.py describes them in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcugen.families import FAMILIES
from mcugen.ir import Buffer
from mcugen.layouts import LAYOUTS, decode, stored_bytes

SIGN = 0x80  # the top bit of a byte


def up(count: int, step: int) -> int:
    return count + (-count) % step


@dataclass(frozen=True)
class Model:
    """One layout by hand. place: (slot, column, columns) -> index of the element stored; code: (value, slot, column)
    -> what is stored, as an unsigned number; size: its bytes; rows, columns: what these are padded to."""

    place: Callable[[int, int, int], int]
    code: Callable[[int, int, int], int] = lambda value, slot, column: value
    dtype: str = ""
    rows: int = 1
    columns: int = 1
    unit: int = 0  # bytes that `place` counts in, where they are not an element's
    width: int = 0  # bytes written, likewise


def in_rows(step: int = 1) -> Callable[[int, int, int], int]:
    return lambda slot, column, columns: slot * up(columns, step) + column


MODELS = {
    "plain": Model(in_rows()),
    "words16": Model(in_rows(8), dtype="int16", columns=8),
    "factors": Model(  # the low byte of the first four halfwords of 16 bytes
        lambda slot, column, columns: slot * up(columns, 4) * 4 + column // 4 * 16 + column % 4 * 2,
        dtype="int32",
        columns=4,
        unit=1,
        width=1,
    ),
    "unsigned8": Model(in_rows(8), lambda value, slot, column: value + 128, dtype="uint8", columns=8),
    "padded8": Model(in_rows(8), columns=8),
    "padded16": Model(in_rows(16), columns=16),
    "value_pairs": Model(
        lambda slot, column, columns: (
            4 * (slot // 2 * (up(columns, 2) // 2) + column // 2) + 2 * (slot % 2) + column % 2
        ),
        rows=2,
        columns=2,
    ),
    "key_quads": Model(
        lambda slot, column, columns: 4 * (slot // 4 * columns + column) + slot % 4,
        lambda value, slot, column: value if slot % 4 == 3 else value & 0xFF ^ SIGN,
        rows=4,
    ),
    "value_quads": Model(
        in_rows(4), lambda value, slot, column: value if column % 4 == 3 else value & 0xFF ^ SIGN, columns=4
    ),
    "key_octets": Model(
        lambda slot, column, columns: (
            16 * (slot // 16 * up(columns, 8) + column // 8 * 8) + slot % 16 * 8 + column % 8
        ),
        rows=16,
        columns=8,
    ),
    "value_columns": Model(lambda slot, column, columns: 16 * (slot // 16 * columns + column) + slot % 16, rows=16),
}


def written(model: Model, values: np.ndarray, garbage: bytes) -> bytes:
    """values [rows, columns] as they lie in memory that held garbage before."""
    itemsize = np.dtype(model.dtype or values.dtype).itemsize
    unit, size = model.unit or itemsize, model.width or itemsize
    memory = bytearray(garbage)
    rows, columns = values.shape
    for slot in range(rows):
        for column in range(columns):
            stored = model.code(int(values[slot, column]), slot, column) % 256**size
            at = unit * model.place(slot, column, columns)
            memory[at : at + size] = stored.to_bytes(size, "little")
    assert len(memory) == len(garbage)
    return bytes(memory)


def test_every_layout_has_a_model_here() -> None:
    assert set(MODELS) == set(LAYOUTS)
    for family in FAMILIES:
        assert {family.codes, family.keys, family.values} <= set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_ring_comes_back(layout: str, slots: int, columns: int, seed: int) -> None:
    model, rng = MODELS[layout], np.random.default_rng(seed)
    size = stored_bytes(layout, "int8", (slots, columns))
    width = np.dtype(model.dtype or "int8").itemsize
    assert size == width * up(slots, model.rows) * up(columns, model.columns)
    values = rng.integers(-128, 128, (slots, columns)).astype(np.int8)
    found = decode(written(model, values, rng.bytes(size)), layout, "int8", (slots, columns))
    assert found.shape == values.shape
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("layout", [name for name, model in MODELS.items() if model.rows == 1])
@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_vectors_of_several_tokens_come_back(layout: str, tokens: int, columns: int, seed: int) -> None:
    """Vectors lie one after the other, each with its padding: so does one token of a pass on several."""
    model, rng = MODELS[layout], np.random.default_rng(seed)
    values = rng.integers(-127, 128, (tokens, columns)).astype(np.int8)
    each = stored_bytes(layout, "int8", (columns,))
    content = written(model, values, rng.bytes(tokens * each))
    np.testing.assert_array_equal(decode(content, layout, "int8", (tokens, columns)), values)
    for t in range(tokens):
        one = decode(content[t * each : (t + 1) * each], layout, "int8", (columns,))
        assert one.shape == (columns,)
        np.testing.assert_array_equal(one, values[t])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_begins_plain_where_its_first_bytes_are_the_values(layout: str) -> None:
    model, columns = MODELS[layout], 37
    values = np.arange(-18, 19).astype(np.int8)[None]
    content = written(model, values, bytes(stored_bytes(layout, "int8", (1, columns))))
    plain = content[:columns] == values.tobytes() and model.rows == 1
    assert LAYOUTS[layout].begins_plain == plain == (layout in ("plain", "padded8", "padded16"))


@pytest.mark.parametrize(("dtype", "low", "high"), [("int16", -(2**15), 2**15), ("int32", -(2**31), 2**31)])
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_what_is_plain_is_little_endian(dtype: str, low: int, high: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(low, high, (1, columns)).astype(dtype)
    size = stored_bytes("plain", dtype, (columns,))
    found = decode(written(MODELS["plain"], values, rng.bytes(size)), "plain", dtype, (columns,))
    assert str(found.dtype) == dtype
    np.testing.assert_array_equal(found, values[0])


def test_a_buffer_has_the_bytes_of_all_its_tokens() -> None:
    codes = Buffer("codes", "int8", (70,), layout="words16", tokens=8)
    assert (codes.token_bytes, codes.nbytes) == (2 * 72, 8 * 2 * 72)
    ring = Buffer("keys", "int8", (5, 6), state=True, layout="key_quads")
    assert (ring.token_bytes, ring.nbytes) == (2 * 4 * 6, 2 * 4 * 6)
    assert Buffer("scores", "int16", (2, 32)).nbytes == 2 * 2 * 32
