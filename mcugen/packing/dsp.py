"""Nested digits, for cores with DSP instructions (firmware/kernels/dsp, firmware/kernels/dsp7).

A halfword holds one column of several rows as digits of one number, and a word two columns, so that SMLAD with a pair
of activations adds the products of all rows at once. What is above a digit is then cut off, and SMLAD adds the rest:

    int8: halfword = 256 * w[1] + w[0]                                                   of two rows
    int4: halfword = 4096 * w[3] + 256 * (w[2] + 8) + 16 * (w[1] + 8) + (w[0] + 8)       of four rows

Theorem. Let S[r] be the sum of w[r] * x over a chunk of columns, and 2**d[r] the digit's place. The kernel's sums
wrap modulo 2**32, and the difference of neighbouring ones is S[r] * 2**d[r] modulo 2**32 (the eights are taken off
again, modulo 2**32). An arithmetic shift right by d[r] makes that S[r] if |S[r]| * 2**d[r] < 2**31. Activations are
in [-127, 127], so sum |w[r]| * 127 < 2**(31 - d[r]) is enough, which is checked here for every row on its actual
weights. Where a row fails, all rows are split into more and shorter chunks of columns, whose sums the kernel adds as
int32. 520 columns of any int8 codes pass, and 512 of any int4 codes.

A stream lies in the order of reading: block of four rows by block, and in it column by column; where chunks are
shorter than a row, tiles of 32 rows, in each chunk by chunk, and in a chunk the same. Rows are padded to four,
columns to eight, with codes 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcugen.packing.stream import Packed

BLOCK = 4  # rows that share the loads of activations
TILE = 8  # blocks
STEP = 8  # columns that the kernels take at a time
SUBGROUP = 32  # columns under one group scale; larger groups repeat theirs
GROUPED_CHUNK = 320  # columns with group scales whose sums of activations the kernel keeps
SCALE_ROWS = (0, 2, 1, 3)  # the scales in a word, from its lowest byte up

_Ints = NDArray[np.int64]


def pack_s8(codes: NDArray[np.int8]) -> Packed:
    """int8 codes [rows, cols] in [-127, 127] as words of two rows by two columns.

    Per block and eight columns: four words of rows 1 and 0, then four of rows 3 and 2.
    """
    padded = _padded(codes)
    chunk = _chunk([(padded[1::2], 8)])
    words = _words(256 * padded[1::2] + padded[0::2])
    by_step = words.reshape(-1, 2, words.shape[1] // 4, 4).transpose(0, 2, 1, 3)  # block, step, row pair, word
    return _packed(by_step.reshape(len(padded) // BLOCK, -1), chunk, codes.shape[1], chunk)


def pack_s4(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int) -> Packed:
    """int4 codes [rows, cols] in [-8, 7] as words of four rows by two columns.

    group_scale: int8[rows, groups] in [-127, 127], of `group` columns each (a multiple of 32), or None. With scales,
    the words of 32 columns are followed by one with the scales of rows 0, 2, 1, 3 in its bytes; they need no proof,
    as the sum of 32 products is at most 32 * 8 * 127 < 2**15.
    """
    padded = _padded(codes)
    digits = padded + np.where(np.arange(len(padded)) % BLOCK == BLOCK - 1, 0, 8)[:, None]
    words = _words(sum((digits[row::BLOCK] << 4 * row for row in range(BLOCK)), np.zeros((1, 1), np.int64)))
    if group_scale is None:
        chunk = _chunk([(padded[row::BLOCK], 4 * row) for row in range(BLOCK)])
        return _packed(words, chunk // 2, codes.shape[1], chunk)

    subgroups = -(-codes.shape[1] // SUBGROUP)
    scale = np.zeros((len(padded), subgroups), np.int8)
    scale[: len(codes)] = np.repeat(group_scale, group // SUBGROUP, axis=1)[:, :subgroups]
    by_row = scale.reshape(-1, BLOCK, subgroups).transpose(0, 2, 1)[:, :, SCALE_ROWS]
    scale_words = np.ascontiguousarray(by_row).view("<u4")  # block, subgroup, 1
    per_subgroup = SUBGROUP // 2
    columns = [
        np.concatenate([words[:, i * per_subgroup : (i + 1) * per_subgroup], scale_words[:, i]], 1)
        for i in range(subgroups)
    ]
    chunk_words = GROUPED_CHUNK // SUBGROUP * (per_subgroup + 1)
    return _packed(np.concatenate(columns, 1), chunk_words, codes.shape[1], GROUPED_CHUNK)


def _padded(codes: NDArray[np.int8]) -> _Ints:
    rows, cols = codes.shape
    padded = np.zeros((-(-rows // BLOCK) * BLOCK, -(-cols // STEP) * STEP), np.int64)
    padded[:rows, :cols] = codes
    return padded


def _words(halves: _Ints) -> NDArray[np.uint32]:
    """Neighbouring columns as the low and the high halfword of a word."""
    return (halves[:, 0::2] & 0xFFFF | (halves[:, 1::2] & 0xFFFF) << 16).astype(np.uint32)


def _chunk(digits: list[tuple[_Ints, int]]) -> int:
    """Columns per chunk, a multiple of STEP: as few chunks as the theorem allows. digits: (rows, place)."""
    cols = digits[0][0].shape[1]
    for count in range(1, cols // STEP + 1):
        chunk = -(-cols // (STEP * count)) * STEP
        starts = np.arange(0, cols, chunk)
        sums = [(np.add.reduceat(np.abs(rows), starts, axis=1).max(), place) for rows, place in digits]
        if all(127 * total < 1 << (31 - place) for total, place in sums):
            return chunk
    raise AssertionError("eight columns pass: 8 * 127 * 127 < 2**19")


def _packed(blocks: NDArray[np.uint32], chunk_words: int, cols: int, chunk: int) -> Packed:
    """blocks: [blocks, words], each in the order of columns."""
    if chunk >= cols:
        return Packed(blocks.reshape(-1), cols, BLOCK, blocks.shape[1])
    parts = [
        blocks[tile : tile + TILE, start : start + chunk_words].reshape(-1)
        for tile in range(0, len(blocks), TILE)
        for start in range(0, blocks.shape[1], chunk_words)
    ]
    return Packed(np.concatenate(parts), chunk, TILE * BLOCK, TILE * blocks.shape[1])
