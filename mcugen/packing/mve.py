"""Streams for the vector unit of a Cortex-M55 (firmware/kernels/mve): eight rows by sixteen columns at a time.

A block of eight rows keeps its even rows before its odd ones: four accumulators of each fill a vector, and the two
vectors interleave again when they are narrowed. Rows are padded to 8 and columns to 16; padding weighs nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcugen.packing.stream import Packed

BLOCK = 8  # rows
LANES = 16  # columns of a vector
TILE = 64  # rows whose accumulators a kernel holds at a time
PASS = 8  # groups whose activation sums a kernel holds at a time
_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
_SAFE_GROUP = 64  # columns per group where one group of all columns would not be exact


def pack_s8(codes: NDArray[np.int8]) -> Packed:
    """int8[rows, cols] as [block][vector][row of the block] of 16 codes each.

    Exact for any codes: accumulators of 32 bits, whose final values fit (lower.check_graph), whatever they pass on
    the way.
    """
    return Packed(_blocks(codes, LANES)[:, _ORDER].transpose(0, 2, 1, 3).reshape(-1), codes.shape[1])


def pack_s4(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int) -> Packed:
    """int4 codes in [-8, 7] as [block][vector][pair of rows] of 16 bytes each, 16 * even row + (odd row + 8).

    codes: int8[rows, cols]; group_scale: int8[rows, groups] of `group` columns each, 32 or 64, or None.
    With group scales [tile][pass][block][group], and each group ends with its scales of the even and the odd rows.

    A kernel sums R = sum((16 h + l + 8) x) and L = sum((l + 8) x) of a pair of rows; R - L = 16 sum(h x) is exact
    where it fits int32, that is where sum|h| * 127 * 16 < 2**31. Where a row fails this, its columns are summed in
    groups of 64 with scales of one: 64 * 8 * 127 * 16 < 2**31.
    """
    if group_scale is None:
        reach = np.abs(codes.astype(np.int64)).sum(1).max() * 127 * 16
        if reach < 2**31:
            return Packed(_pairs(codes, LANES).reshape(-1), codes.shape[1])
        group = _SAFE_GROUP
        group_scale = np.ones((len(codes), -(-codes.shape[1] // group)), np.int8)
    assert group in (32, 64), f"groups of {group} columns have no kernel"
    groups = -(-codes.shape[1] // group)
    vectors = -(-codes.shape[1] // LANES)
    pairs = _pairs(codes, LANES)
    scales = _blocks(group_scale, 1)[..., 0][:, _ORDER]  # [block, row, group]
    per_group = group // LANES
    stream: list[NDArray[np.int8]] = []
    for tile in range(0, len(pairs), TILE // BLOCK):
        for first in range(0, groups, PASS):
            for block in range(tile, min(tile + TILE // BLOCK, len(pairs))):
                for g in range(first, min(first + PASS, groups)):
                    stream.append(pairs[block, g * per_group : min((g + 1) * per_group, vectors)].reshape(-1))
                    stream.append(scales[block, :, g])
    return Packed(np.concatenate(stream), group)


def _blocks(codes: NDArray[np.int8], lanes: int) -> NDArray[np.int8]:
    """int8[rows, cols] -> [block, row, vector, lane], padded with zeros."""
    rows, cols = codes.shape
    padded = np.zeros((-(-rows // BLOCK) * BLOCK, -(-cols // lanes) * lanes), np.int8)
    padded[:rows, :cols] = codes
    return padded.reshape(-1, BLOCK, padded.shape[1] // lanes, lanes)


def _pairs(codes: NDArray[np.int8], lanes: int) -> NDArray[np.int8]:
    """int4[rows, cols] -> bytes [block, vector, pair, lane]; the odd row is kept 8 higher, in the low bits."""
    blocks = _blocks(codes, lanes).astype(np.int16)
    return (16 * blocks[:, 0::2] + blocks[:, 1::2] + 8).astype(np.int8).transpose(0, 2, 1, 3)
