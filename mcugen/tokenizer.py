"""Byte-pair encoding with integer merge ranks: llama2.c's tokenizer without its floats.

File format and algorithm: llama2.c, tokenizer.py (export) and run.c (encode, decode).
Twin: firmware/runtime/tokenizer.c.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import NO_MERGE, Tokenizer

MAX_VOCAB = 65536  # token ids are uint16 in the firmware
MAX_PIECE_BYTES = 1024  # a longer piece means a damaged file
MAX_CODEPOINT_BYTES = 4  # UTF-8, RFC 3629
SPECIAL_TOKENS = 3  # unk, bos, eos are ids 0, 1, 2
NEVER_MERGES_SCORE = -1e10  # run.c merges only what scores above this
C_NO_MERGE = 0xFFFF  # NO_MERGE in the firmware's uint16 ranks

_DAMAGED = "the file is damaged: copy or download it again"

# ---------------------------------------------------------------- file


def read_tokenizer(path: Path, vocab_size: int, *, lowercase: bool = False, prompt_suffix: str = "") -> Tokenizer:
    """Read llama2.c's tokenizer.bin.

    vocab_size: of the model; the file itself does not say how many tokens it holds.
    Raises InputError when the file cannot be read, is damaged, or belongs to another vocabulary.
    """
    where = f"tokenizer {path}"
    if not SPECIAL_TOKENS <= vocab_size <= MAX_VOCAB:
        raise InputError(
            f"a vocabulary of {vocab_size:,} tokens is not supported",
            where=where,
            hint=f"use a model with {SPECIAL_TOKENS} to {MAX_VOCAB:,} tokens",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the tokenizer: {error.strerror}",
            where=where,
            hint="give the path of the tokenizer.bin that belongs to the model",
        ) from error
    pieces, scores = _parse(content, vocab_size, where)
    first_byte = _find_byte_tokens(pieces)
    return Tokenizer(
        pieces=pieces,
        ranks=_ranks_from_scores(pieces, scores, first_byte),
        first_byte=first_byte,
        lowercase=lowercase,
        prompt_suffix=prompt_suffix,
    )


def write_tokenizer(tokenizer: Tokenizer) -> bytes:
    """Return the content of a tokenizer.bin that reads back with the same pieces and order of merges.

    A rank r becomes the score -r (exact in float32 below 2**24), NO_MERGE a score at which run.c never
    merges. `lowercase`, `prompt_suffix` and other ids than llama2.c's for the specials have no place there.
    """
    parts = [struct.pack("<i", max(len(piece) for piece in tokenizer.pieces))]
    for piece, rank in zip(tokenizer.pieces, _dense(tokenizer.ranks).tolist(), strict=True):
        score = NEVER_MERGES_SCORE if rank == NO_MERGE else -float(rank)
        parts.append(struct.pack("<fi", score, len(piece)) + piece)
    return b"".join(parts)


def _parse(content: bytes, vocab_size: int, where: str) -> tuple[tuple[bytes, ...], NDArray[np.float32]]:
    """Return the pieces and the scores float32[vocab_size] of a tokenizer.bin."""
    if len(content) < 4:
        raise InputError(f"the file has {len(content)} bytes, too few for a header of 4", where=where, hint=_DAMAGED)
    (longest,) = struct.unpack_from("<i", content)
    if not 1 <= longest <= MAX_PIECE_BYTES:
        raise InputError(
            f"the longest piece should have {longest:,} bytes; 1 to {MAX_PIECE_BYTES:,} make sense",
            where=f"{where}, header",
            hint="check that this is a tokenizer.bin in llama2.c's format",
        )
    at = 4
    pieces: list[bytes] = []
    scores = np.zeros(vocab_size, np.float32)
    for token in range(vocab_size):
        if at == len(content):
            raise InputError(
                f"the file holds {token:,} tokens, the model's vocabulary {vocab_size:,}",
                where=where,
                hint="use the tokenizer that the model was trained with",
            )
        scores[token], piece = _parse_token(content, at, longest, f"{where}, token {token}, byte {at:,}")
        pieces.append(piece)
        at += 8 + len(piece)
    if at != len(content):
        raise InputError(
            f"{len(content) - at:,} bytes follow the last of {vocab_size:,} tokens",
            where=f"{where}, byte {at:,}",
            hint="use the tokenizer that the model was trained with",
        )
    return tuple(pieces), scores


def _parse_token(content: bytes, at: int, longest: int, where: str) -> tuple[float, bytes]:
    """Return the score and the piece of the token that starts at byte `at`."""
    left = len(content) - at - 8
    if left < 0:
        raise InputError(
            f"the file ends inside a token: score and length take 8 bytes, {left + 8} left",
            where=where,
            hint=_DAMAGED,
        )
    score, length = struct.unpack_from("<fi", content, at)
    if math.isnan(score):
        raise InputError("the score of a token is NaN", where=where, hint=_DAMAGED)
    if not 1 <= length <= longest:
        raise InputError(
            f"a piece of {length:,} bytes; the header allows 1 to {longest:,}", where=where, hint=_DAMAGED
        )
    if left < length:
        raise InputError(
            f"the file ends inside a token: the piece takes {length} bytes, {left} left",
            where=where,
            hint=_DAMAGED,
        )
    return score, content[at + 8 : at + 8 + length]


def _find_byte_tokens(pieces: tuple[bytes, ...]) -> int | None:
    """Return 3 if the ids 3 to 258 are b"<0x00>" to b"<0xFF>" in order, else None."""
    expected = tuple(b"<0x%02X>" % byte for byte in range(256))
    return SPECIAL_TOKENS if pieces[SPECIAL_TOKENS : SPECIAL_TOKENS + 256] == expected else None


def _ranks_from_scores(
    pieces: tuple[bytes, ...], scores: NDArray[np.float32], first_byte: int | None
) -> NDArray[np.int32]:
    """Turn scores into dense ranks: the highest score gets 0, equal scores share a rank.

    Specials, byte tokens and single code points are never the result of a merge; nor is, in run.c, a
    piece that scores NEVER_MERGES_SCORE or less.
    """
    merges = scores > NEVER_MERGES_SCORE
    merges[:SPECIAL_TOKENS] = False
    if first_byte is not None:
        merges[first_byte : first_byte + 256] = False
    merges &= np.array([len(_code_points(piece)) > 1 for piece in pieces])
    ranks = np.full(len(pieces), NO_MERGE, np.int32)
    ranks[merges] = np.unique(-scores[merges], return_inverse=True)[1]
    ranks.setflags(write=False)
    return ranks


def _dense(ranks: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the same order of merges with ranks 0, 1, 2 ...; NO_MERGE stays."""
    dense = np.full(len(ranks), NO_MERGE, np.int32)
    merges = ranks != NO_MERGE
    dense[merges] = np.unique(ranks[merges], return_inverse=True)[1]
    return dense


# ---------------------------------------------------------------- encode


def encode(tokenizer: Tokenizer, text: str | bytes, bos: bool = True) -> list[int]:
    """Return the token ids of `text`, as run.c's encode does.

    Any bytes will do, valid UTF-8 or not. A non-empty text gets a space in front if the vocabulary has
    the piece b" ". `prompt_suffix` is the application's, and is not added here.
    Twin: mg_tokenizer_encode; there the merge is a plain search, here a heap finds the same pair.
    """
    content = text.encode() if isinstance(text, str) else text
    if tokenizer.lowercase:
        content = content.lower()
    ids = piece_ids(tokenizer)
    tokens = [tokenizer.bos] if bos else []
    if content and b" " in ids:
        tokens.append(ids[b" "])
    for code_point in _code_points(content):
        if code_point in ids:
            tokens.append(ids[code_point])
        elif tokenizer.first_byte is not None:
            tokens.extend(tokenizer.first_byte + byte for byte in code_point)
        else:
            tokens.append(tokenizer.unk)
    return _merge(tokenizer, ids, tokens)


def piece_ids(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the id of each piece; the lowest where the vocabulary repeats a piece."""
    last = len(tokenizer.pieces) - 1
    return {piece: last - i for i, piece in enumerate(reversed(tokenizer.pieces))}


def _code_points(content: bytes) -> list[bytes]:
    """Cut bytes where run.c does: after each byte that no continuation byte follows, after 4 at most."""
    code_points = []
    start = 0
    for end in range(1, len(content) + 1):
        continues = end < len(content) and content[end] & 0xC0 == 0x80
        if not continues or end - start == MAX_CODEPOINT_BYTES:
            code_points.append(content[start:end])
            start = end
    return code_points


def _merge(tokenizer: Tokenizer, ids: dict[bytes, int], tokens: list[int]) -> list[int]:
    """Merge the neighbours whose piece has the lowest rank, leftmost on ties, until none is left.

    `tokens` is a linked list over its first positions: a merge keeps the left position, so that the order
    of positions stays the order in the text, and (rank, position) the order of merges.
    """
    pieces, ranks = tokenizer.pieces, tokenizer.ranks.tolist()
    end = len(tokens)
    after = list(range(1, end + 1))
    before = list(range(-1, end - 1))
    heap: list[tuple[int, int, int, int]] = []

    def consider(left: int, right: int) -> None:
        if left < 0 or right >= end:
            return
        merged = ids.get(pieces[tokens[left]] + pieces[tokens[right]])
        if merged is not None and ranks[merged] != NO_MERGE:
            heapq.heappush(heap, (ranks[merged], left, right, merged))

    gone = [False] * end
    for position in range(end):
        consider(position, position + 1)
    while heap:
        _, left, right, merged = heapq.heappop(heap)
        stale = gone[left] or gone[right] or after[left] != right
        if stale or pieces[merged] != pieces[tokens[left]] + pieces[tokens[right]]:
            continue
        tokens[left] = merged
        gone[right] = True
        after[left] = after[right]
        if after[right] < end:
            before[after[right]] = left
        consider(before[left], left)
        consider(left, after[left])
    return [token for token, is_gone in zip(tokens, gone, strict=True) if not is_gone]


# ---------------------------------------------------------------- decode


def decode(tokenizer: Tokenizer, ids: Iterable[int], previous: int | None = None) -> bytes:
    """Return the text of `ids`; `previous` is the token before the first, if any."""
    parts = []
    for token in ids:
        parts.append(piece_text(tokenizer, previous, token))
        previous = token
    return b"".join(parts)


def piece_text(tokenizer: Tokenizer, previous: int | None, token: int) -> bytes:
    """Return what to print for `token` after `previous`.

    The space that encode put in front goes again after bos; specials print nothing; a byte token is its
    byte. Twin: mg_tokenizer_piece.
    """
    if token in (tokenizer.unk, tokenizer.bos, tokenizer.eos):
        return b""
    first_byte = tokenizer.first_byte
    if first_byte is not None and first_byte <= token < first_byte + 256:
        return bytes([token - first_byte])
    piece = tokenizer.pieces[token]
    return piece[1:] if previous == tokenizer.bos and piece[:1] == b" " else piece


# ---------------------------------------------------------------- tables for the firmware


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerTables:
    """The arrays of mg_tokenizer_t, in the order of its fields.

    bytes: uint8[...], all pieces, one after the other.
    offsets: uint32[vocab + 1]; piece i is bytes[offsets[i]:offsets[i + 1]].
    ranks: uint16[vocab], dense; C_NO_MERGE where a piece is never the result of a merge.
    order: uint16[vocab], ids sorted by (piece, id), for the binary search.
    dummy_prefix: id of b" ", or -1 if the vocabulary has no such piece. first_byte: or -1.
    """

    bytes: NDArray[np.uint8]
    offsets: NDArray[np.uint32]
    ranks: NDArray[np.uint16]
    order: NDArray[np.uint16]
    vocab_size: int
    first_byte: int
    dummy_prefix: int
    unk: int
    bos: int
    eos: int
    lowercase: int


def tokenizer_tables(tokenizer: Tokenizer) -> TokenizerTables:
    """Return the tables that the firmware searches instead of a dict."""
    pieces = tokenizer.pieces
    order = sorted(range(len(pieces)), key=lambda token: (pieces[token], token))
    tables = TokenizerTables(
        bytes=np.frombuffer(b"".join(pieces), np.uint8),
        offsets=np.cumsum([0, *map(len, pieces)]).astype(np.uint32),
        ranks=np.minimum(_dense(tokenizer.ranks), C_NO_MERGE).astype(np.uint16),
        order=np.array(order, np.uint16),
        vocab_size=len(pieces),
        first_byte=-1 if tokenizer.first_byte is None else tokenizer.first_byte,
        dummy_prefix=piece_ids(tokenizer).get(b" ", -1),
        unk=tokenizer.unk,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        lowercase=int(tokenizer.lowercase),
    )
    for array in (tables.bytes, tables.offsets, tables.ranks, tables.order):
        array.setflags(write=False)
    return tables
