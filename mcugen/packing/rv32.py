"""Words of two rows, for cores that multiply 32 by 32 bits and have no SIMD (firmware/kernels/rv32).

A register holds two sums, "lanes" of 16 bits, of an even row (the lower half) and of the odd row after it. Weights
are stored with an offset, u = w + 128 (int8) or w + 8 (int4), so that a lane is a number without a sign:

    int8: a word is two columns, u(even, 0) + 2**8 * u(even, 1) + 2**16 * u(odd, 0) + 2**24 * u(odd, 1)
    int4: a word is four columns, whose codes lie in each half in the order 0, 2, 1, 3 from the lowest bits up

With activations a0 ... a3 of four columns, a quad, the kernels need a0 * u0 + ... + a3 * u3 in each lane. They
multiply the word as it is by a0, which gives the other columns a wrong factor, a power of two times a0, and what they
add for the other columns makes up for it: (a1 - 2**8 * a0) * u1 and so on. So one column of a word costs no mask.
`multipliers` lists these factors; mg_block_s8_rv32 writes them.

Lanes are emptied into int32 before they overflow: with less than 2**15 in magnitude they are read back exactly (the
.S files prove it). For int8 weights, a quad of activations whose magnitudes add up to 258 at most bounds a lane by
258 * 127, whatever the weights; louder quads are recognised at run time and taken in two halves. For int4, a lane
collects a chunk of columns. Theorem: it holds |sum of a * w| <= 127 * sum |w|, so that 258 = LOUDEST bounds sum |w|
of every row in every chunk. That is checked here on the actual weights, and chunks made as short as the loudest row
needs; 32 columns of any int4 codes pass. Sums of lanes are int32, which every kernel needs
(kernels.accumulator_bound).

A stream lies in the order of reading: block of 16 rows by block; per quad the words of the eight pairs of rows (int8:
two each); int4 with group scales: after each chunk its 16 scales, which are stored twice where groups of 64 columns
do not pass as chunks. Rows are padded to 16, columns to 4, with codes 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcugen.packing.stream import Packed

BLOCK = 16  # rows
QUAD = 4  # columns
LOUDEST = (2**15 - 1) // 127  # sum |w| or |a| that a lane holds
CHUNK, CHUNK_MAX = 32, 480  # columns of int4 codes that a lane always holds; that the kernel counts


def pack_s8(codes: NDArray[np.int8]) -> Packed:
    """int8[rows, cols] in [-127, 127] -> uint32[blocks * quads * 16]."""
    offset = (_padded(codes).astype(np.int16) + 128).astype(np.uint8)
    blocks, quads = offset.shape[0] // BLOCK, offset.shape[1] // QUAD
    # block, pair, row of the pair, quad, half of the quad, column of the half
    split = offset.reshape(blocks, BLOCK // 2, 2, quads, 2, 2)
    words = np.ascontiguousarray(split.transpose(0, 3, 1, 4, 2, 5)).reshape(-1).view("<u4")
    return Packed(words, codes.shape[1])


def pack_s4(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int) -> Packed:
    """int8[rows, cols] in [-8, 7] -> uint32. group_scale: int8[rows, groups] of `group` columns, or None."""
    offset = (_padded(codes) + 8).astype(np.uint32)
    blocks, quads = offset.shape[0] // BLOCK, offset.shape[1] // QUAD
    split = offset.reshape(blocks, BLOCK // 2, 2, quads, QUAD)
    place = np.array([[0, 8, 4, 12], [16, 24, 20, 28]], np.uint32)  # of a column's code in the even and the odd row
    words = (split << place[:, None]).sum((2, 4), dtype=np.uint32).transpose(0, 2, 1)  # block, quad, pair
    chunk = min(_chunk(codes, group), codes.shape[1])
    parts = []
    for start in range(0, quads, -(-chunk // QUAD)):
        parts.append(words[:, start : start + -(-chunk // QUAD)].reshape(blocks, -1))
        if group_scale is not None:
            scale = np.zeros(blocks * BLOCK, np.int8)
            scale[: len(group_scale)] = group_scale[:, start * QUAD // group]
            parts.append(scale.reshape(blocks, BLOCK).view("<u4"))
    return Packed(np.concatenate(parts, 1).reshape(-1), chunk)


def _chunk(codes: NDArray[np.int8], group: int) -> int:
    """The longest chunk, a multiple of 32 columns, of which every row passes; with group scales, at most a group."""
    longest = group or min(-(-codes.shape[1] // CHUNK) * CHUNK, CHUNK_MAX)
    weights = np.abs(codes.astype(np.int64))
    for chunk in range(longest, CHUNK, -CHUNK):
        if np.add.reduceat(weights, range(0, codes.shape[1], chunk), axis=1).max() <= LOUDEST:
            return chunk
    return CHUNK


def multipliers(codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """What mg_block_s8_rv32 makes of int8[n] activation codes: int32[4 * quads], the specification of its layout.

    Per quad int16 a0, a1 - 2**8 * a0, a2, a3 - 2**8 * a2; int32 c = -128 * (1 + 2**16) * (a0 + a1 + a2 + a3) + 2**15
    modulo 2**32, plus 1 where |a0| + |a1| + |a2| + |a3| > 258; int16 a2 - 2**4 * a0, a3 - 2**4 * a1.
    """
    a = np.zeros((-(-len(codes) // QUAD), QUAD), np.int64)
    a.reshape(-1)[: len(codes)] = codes
    c = -128 * 65537 * a.sum(1) + 2**15 + (np.abs(a).sum(1) > 258)
    halves = [a[:, 0], a[:, 1] - 256 * a[:, 0], a[:, 2], a[:, 3] - 256 * a[:, 2]]
    halves += [c & 0xFFFF, c >> 16 & 0xFFFF, a[:, 2] - 16 * a[:, 0], a[:, 3] - 16 * a[:, 1]]
    return np.stack(halves, 1).astype(np.int16).view("<i4").reshape(-1)


def _padded(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    rows, cols = codes.shape
    whole = np.zeros((-(-rows // BLOCK) * BLOCK, -(-cols // QUAD) * QUAD), np.int8)
    whole[:rows, :cols] = codes
    return whole
