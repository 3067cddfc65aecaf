"""Words whose digits are rows, for cores that multiply 32 by 32 bits and have no SIMD (firmware/kernels/v6m, v7m).

A word holds one column of several rows as digits of one number, w[r] plus an offset:

    int8: 2**24 * u[3] + 2**16 * u[2] + 2**8 * u[1] + u[0],   u = w + 128      four rows
    int4: the sum of 2**(4 * r) * u[r] for r in 0..7,         u = w + 8        eight rows

The kernels add products of x with the word and with a few rearrangements of it, all modulo 2**32, and solve for the
rows' sums at the end. With S[r] = sum of u[r] * x less the offsets, i.e. sum of w[r] * x, they know modulo 2**32

    int8: P = S[0] + 2**8 * S[1] + 2**16 * S[2] + 2**24 * S[3]      the word
          A = S[2] + 2**8 * S[3]                                    its upper half
          R = S[1] + 2**8 * S[0] + 2**16 * S[3] + 2**24 * S[2]      bytes of each half exchanged (REV16)
          (v7m takes the upper half of R, S[3] + 2**8 * S[2], in the place of A: it mirrors what follows)
    int4: P, A, R of the bytes as digits, S[2 * j] + 2**4 * S[2 * j + 1] in the place of S[j]; and of the word with
          only the odd digits left as bytes,
          H = S[1] + 2**8 * S[3] + 2**16 * S[5] + 2**24 * S[7] and its REV16, G = S[3] + 2**8 * S[1] + ...

which is three products for four rows, and five for eight.

Theorem. Let M = 2**31 // 257, and |S[r]| <= M for the four digits of P, A, R. Then they have one solution.
Proof. |S[2] + 2**8 * S[3]| <= 257 * M < 2**31: A is that number itself, not only modulo 2**32. So is
C = P - 2**16 * A = S[0] + 2**8 * S[1]. R - 2**8 * C is S[1] modulo 2**16, and (C >> 8) - S[1] = S[0] >> 8 lies in
[-2**15, 2**15), since |S[0]| < 2**23: its lowest 16 bits, with a sign, are S[0] >> 8. That gives S[1], then S[0]. The
upper half of R - S[1] - 2**8 * S[0] is S[3] + 2**8 * S[2] modulo 2**16, from which A gives S[3] and S[2] likewise.
For int4, let |S[r]| <= M // 17. Then the bytes' sums are at most M, and found. H - 2**8 * G is S[1] modulo 2**16, and
(S[0] + 2**4 * S[1] >> 4) - S[1] = S[0] >> 4 lies in [-2**15, 2**15): as before. So for S[3], and, in the upper halves
once S[1] and S[3] are taken off, for S[5] and S[7].

Activations are in [-127, 127], so sum |w[r]| * 127 <= M (M // 17) is enough, which is checked here for every row on
its actual weights. Where a row fails, all rows are split into more and shorter chunks of columns, whose sums the
kernel adds as int32. 518 columns of any int8 codes pass, and 483 of any int4 codes. With group scales the sums are
solved for in each group, which needs no proof: on v6m 32 or 64 columns, 64 * 8 * 255 < M // 17. On v7m 32 columns,
and larger groups repeat their scales: 32 * 8 * 127 < 2**15, so that nibbles four apart alone give two sums, as
halves.

A stream lies in the order of reading: block of eight rows by block, in a block chunk by chunk, and in a chunk column
by column the words of the block (two int8, one int4); with group scales, each group is followed by the scales of the
eight rows. Rows are padded to eight with codes 0, columns with codes 0 to STEP.

On v6m, activations come as x + 128. What that adds is taken off by words that the sums start from: six (int8) or five
(int4) in front of each chunk, or, with group scales, the eight rows' sums of w * group scale * -128 in front of each
chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mcugen.packing.stream import Packed

BLOCK = 8  # rows that share the loads of activations
STEP = 8  # columns: padding of activations, and what the kernels take at a time
LARGEST_BYTE = 2**31 // 257  # M of the theorem: sums of four digits of eight bits
LARGEST_NIBBLE = LARGEST_BYTE // 17
GROUPS = 16  # groups whose sums of activations the kernel keeps on its stack
GROUP_V7M = 32  # the one size of group that the kernel of v7m knows

_Ints = NDArray[np.int64]


def pack_s8_v7m(codes: NDArray[np.int8]) -> Packed:
    """int8 codes [rows, cols] in [-127, 127]; activations int8."""
    return _pack_s8(codes, biased=False)


def pack_s8_v6m(codes: NDArray[np.int8]) -> Packed:
    """int8 codes [rows, cols] in [-127, 127]; activations uint8, 128 more than their value."""
    return _pack_s8(codes, biased=True)


def pack_s4_v7m(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int) -> Packed:
    """int4 codes [rows, cols] in [-8, 7] with group_scale int8[rows, groups] of `group` columns each, a multiple of
    32, or None; activations int8."""
    if group_scale is not None:
        scales = -(-codes.shape[1] // GROUP_V7M)
        group_scale, group = np.repeat(group_scale, group // GROUP_V7M, 1)[:, :scales], GROUP_V7M
    return _pack_s4(codes, group_scale, group, biased=False)


def pack_s4_v6m(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int) -> Packed:
    """The same; activations uint8, 128 more than their value."""
    return _pack_s4(codes, group_scale, group, biased=True)


def _pack_s8(codes: NDArray[np.int8], *, biased: bool) -> Packed:
    w = _padded(codes)
    chunk = _chunk(w, LARGEST_BYTE)
    parts = []
    for columns in _chunks(w, chunk):
        words = _number(columns + 128, 8, 4)  # [block, half, column]
        stream = words.transpose(0, 2, 1).reshape(len(words), -1)
        parts.append(_start(_starts_s8, columns, 128, stream) if biased else stream)
    return _packed(parts, chunk, codes.shape[1])


def _pack_s4(codes: NDArray[np.int8], group_scale: NDArray[np.int8] | None, group: int, *, biased: bool) -> Packed:
    w = _padded(codes)
    if group_scale is None:
        chunk = _chunk(w, LARGEST_NIBBLE)
        parts = []
        for columns in _chunks(w, chunk):
            stream = _number(columns + 8, 4, 8)[:, 0]
            parts.append(_start(_starts_s4, columns, 8, stream) if biased else stream)
        return _packed(parts, chunk, codes.shape[1])

    scale = np.zeros((len(w), group_scale.shape[1]), np.int64)
    scale[: len(codes)] = group_scale
    scale_words = scale.astype(np.int8).reshape(-1, BLOCK, scale.shape[1]).transpose(0, 2, 1).copy().view("<u4")
    chunk = min(-(-w.shape[1] // STEP) * STEP, GROUPS * group)
    per_chunk = chunk // group + (chunk % group > 0)
    parts = []
    for i, columns in enumerate(_chunks(w, chunk)):
        words = _number(columns + 8, 4, 8)[:, 0]
        first = i * per_chunk
        pieces = []
        if biased:
            each = np.repeat(scale[:, first : first + per_chunk], group, 1)[:, : columns.shape[1]]
            pieces.append((-128 * (columns * each).sum(1)).reshape(-1, BLOCK))
        for start in range(0, words.shape[1], group):
            pieces += [words[:, start : start + group], scale_words[:, first + start // group].astype(np.int64)]
        parts.append(np.concatenate(pieces, 1))
    return _packed(parts, chunk, codes.shape[1])


def _padded(codes: NDArray[np.int8]) -> _Ints:
    rows, cols = codes.shape
    padded = np.zeros((-(-rows // BLOCK) * BLOCK, -(-cols // STEP) * STEP), np.int64)
    padded[:rows, :cols] = codes
    return padded


def _chunk(w: _Ints, largest: int) -> int:
    """Columns per chunk, a multiple of STEP: as few chunks as the theorem allows."""
    cols = w.shape[1]
    for count in range(1, cols // STEP + 1):
        chunk = -(-cols // (STEP * count)) * STEP
        if (127 * np.add.reduceat(np.abs(w), np.arange(0, cols, chunk), axis=1) <= largest).all():
            return chunk
    raise AssertionError("eight columns pass: 8 * 127 * 127 and 8 * 127 * 8 are far below the bounds")


def _chunks(w: _Ints, chunk: int) -> list[_Ints]:
    return [w[:, start : start + chunk] for start in range(0, w.shape[1], chunk)]


def _number(digits: _Ints, bits: int, rows: int) -> _Ints:
    """`rows` rows at a time as digits of `bits` bits: [block, words of a block, column]."""
    number = sum((digits[row::rows] << bits * row for row in range(rows)), np.zeros((1, 1), np.int64))
    return number.reshape(-1, BLOCK // rows, digits.shape[1])


def _bytes_starts(byte: list[_Ints]) -> list[_Ints]:
    """P, A, R from what is to be added to each digit of eight bits."""
    b0, b1, b2, b3 = byte
    upper = b2 + (b3 << 8)
    return [b0 + (b1 << 8) + (upper << 16), upper, b1 + (b0 << 8) + (b3 << 16) + (b2 << 24)]


def _starts_s8(row: list[_Ints]) -> list[_Ints]:
    return _bytes_starts(row[:4]) + _bytes_starts(row[4:])


def _starts_s4(row: list[_Ints]) -> list[_Ints]:
    odd = row[1::2]
    exchanged = [odd[1], odd[0], odd[3], odd[2]]
    numbers = [sum((o << 8 * i for i, o in enumerate(order)), np.int64(0)) for order in (odd, exchanged)]
    return _bytes_starts([row[2 * j] + (row[2 * j + 1] << 4) for j in range(4)]) + [np.asarray(n) for n in numbers]


def _start(starts: Callable[[list[_Ints]], list[_Ints]], w: _Ints, offset: int, stream: _Ints) -> _Ints:
    """The stream of a chunk behind the words that its sums start from.

    With X = x + 128: sum of (w + offset) * X = sum of w * x + 128 * sum of w + offset * (sum of x + 128 * columns).
    The kernel takes offset * sum of x off; the rest is known here.
    """
    row = -128 * w.sum(1) - 128 * offset * w.shape[1]
    return np.concatenate([np.stack(starts([row[r::BLOCK] for r in range(BLOCK)]), 1), stream], 1)


def _packed(chunks: list[_Ints], chunk: int, cols: int) -> Packed:
    """chunks: per chunk of columns [blocks, words]."""
    blocks = np.concatenate(chunks, 1) & 0xFFFFFFFF
    return Packed(blocks.reshape(-1).astype(np.uint32), min(chunk, cols), BLOCK, blocks.shape[1])
