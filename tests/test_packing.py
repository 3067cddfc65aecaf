"""Weights as they lie in flash, read back one code at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import linears

from mcugen.families import FAMILIES
from mcugen.ir import Linear
from mcugen.packing import PACKINGS, pack

COLUMNS = st.integers(1, 40) | st.sampled_from([63, 64, 65, 96, 172])


def unpacked_s4(stream: bytes, rows: int, cols: int, group: int) -> tuple[list[list[int]], list[list[int]]]:
    """Codes and group scales of a row-major int4 stream: per row the columns, two a byte, then its group scales."""
    at, codes, scales = 0, [], []
    for _ in range(rows):
        row = []
        for col in range(cols):
            byte = stream[at + col // 2]
            nibble = byte // 16 if col % 2 else byte % 16
            row.append(nibble - 16 if nibble >= 8 else nibble)
        if cols % 2:
            assert stream[at + cols // 2] < 16  # the padding has code 0
        at += (cols + 1) // 2
        groups = -(-cols // group) if group else 0
        scales.append([byte - 256 if byte >= 128 else byte for byte in stream[at : at + groups]])
        at += groups
        codes.append(row)
    assert at == len(stream)
    return codes, scales


@given(st.data(), st.integers(1, 7), COLUMNS)
def test_row_major_int4_comes_back(data: st.DataObject, rows: int, cols: int) -> None:
    w = data.draw(linears(rows, cols, 4))
    packed = pack(w, "row_major")
    assert (packed.stream.dtype, packed.stream.ndim, packed.chunk) == (np.uint8, 1, cols)
    codes, scales = unpacked_s4(packed.stream.tobytes(), rows, cols, w.group)
    assert codes == w.codes.tolist()
    assert scales == ([[]] * rows if w.group_scale is None else w.group_scale.tolist())


@given(st.data(), st.integers(1, 7), COLUMNS)
def test_row_major_int8_is_as_it_is(data: st.DataObject, rows: int, cols: int) -> None:
    w = data.draw(linears(rows, cols))
    packed = pack(w, "row_major")
    assert (packed.stream.dtype, packed.stream.ndim, packed.chunk) == (np.int8, 1, cols)
    assert packed.stream.tolist() == [code for row in w.codes.tolist() for code in row]


@pytest.mark.parametrize("packing", PACKINGS)
@given(st.data(), st.sampled_from([8, 4]), st.integers(1, 7), COLUMNS)
def test_a_packing_is_a_function_of_the_codes(
    packing: str, data: st.DataObject, bits: int, rows: int, cols: int
) -> None:
    """One sequential stream that holds every code, the same each time; the matrix stays as it is."""
    w = data.draw(linears(rows, cols, bits))
    before = [None if a is None else a.copy() for a in (w.codes, w.group_scale)]
    copy = Linear(w.codes.copy(), w.multiplier, w.shift, bits, w.group, w.group_scale)
    one, other = pack(w, packing), pack(copy, packing)
    assert one.stream.dtype in (np.int8, np.uint8, np.uint32)
    assert one.stream.ndim == 1
    assert one.stream.nbytes >= -(-rows * cols * bits // 8)
    assert one.chunk >= 1
    np.testing.assert_array_equal(one.stream, other.stream)
    assert one.chunk == other.chunk
    for array, kept in zip((w.codes, w.group_scale), before, strict=True):
        assert (array is None and kept is None) or np.array_equal(array, kept)


def test_every_family_has_a_packing() -> None:
    assert {family.packing for family in FAMILIES} <= set(PACKINGS)
