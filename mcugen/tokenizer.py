"""Byte-pair encoding with integer merge ranks: llama2.c's tokenizer without its floats, and Hugging Face's.

File format and algorithm of the one: llama2.c, tokenizer.py (export) and run.c (encode, decode). The other, with
merges, is BPE of the library `tokenizers` on text without special tokens; mcugen.tokenizer_json reads its file.
Twins: firmware/runtime/tokenizer.c and tokenizer_pairs.c.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.ir import NO_MERGE, Tokenizer
from mcugen.split import SPLITS, KindTables, Split, kind_tables, words

MAX_VOCAB = 65536  # token ids are uint16 in the firmware
MAX_PIECE_BYTES = 1024  # a longer piece means a damaged file
MAX_CODEPOINT_BYTES = 4  # UTF-8, RFC 3629
SPECIAL_TOKENS = 3  # unk, bos, eos are ids 0, 1, 2
NEVER_MERGES_SCORE = -1e10  # run.c merges only what scores above this
C_NO_MERGE = 0xFFFF  # NO_MERGE in the firmware's uint16 ranks
PREFIXES = ("never", "missing", "always")  # as MG_PREFIX_* in the firmware
MAX_MERGES = 2**24  # ranks have 24 bits there
SPACE_MARK = "▁"  # U+2581, a space in SentencePiece's vocabularies

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

    The tokenizer has ranks of pieces: llama2.c's files have no merges.
    A rank r becomes the score -r (exact in float32 below 2**24), NO_MERGE a score at which run.c never
    merges. `lowercase`, `prompt_suffix` and other ids than llama2.c's for the specials have no place there.
    """
    assert tokenizer.merges is None
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
    merges &= np.array([len(code_points(piece)) > 1 for piece in pieces])
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


# ---------------------------------------------------------------- parts


def tokenizer_from_parts(
    model: str,
    tokens: Sequence[bytes | str],
    scores: Sequence[float] | None,
    merges: Sequence[str] | None,
    token_types: Sequence[int] | None,
    *,
    pre: str = "",
    unk: int | None,
    bos: int | None,
    eos: int | None,
    add_space_prefix: bool,
    where: str,
) -> Tokenizer:
    """Return the tokenizer of a GGUF file from its arrays under tokenizer.ggml.

    model: "llama" (SentencePiece: scores of pieces, U+2581 for a space) or "gpt2" (byte-level: merges of pairs).
    pre: which pattern cuts a text into words, by llama.cpp's name. token_types: llama.cpp's LLAMA_TOKEN_TYPE_*; None
    where all are plain. Raises InputError.
    """
    types = list(token_types) if token_types is not None else [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise InputError(
            f"{len(types):,} token types for {len(tokens):,} tokens", where=f"{where}, token_type", hint=_DAMAGED
        )
    texts = [_text_of(token, f"{where}, tokens[{i}]") for i, token in enumerate(tokens)]
    specials = {i for i, kind in enumerate(types) if kind in (_UNKNOWN, _CONTROL)}
    ends = {"bos": bos, "eos": eos, "unk": unk}
    if model == "llama":
        if scores is None or len(scores) != len(tokens):
            raise InputError(
                f"{0 if scores is None else len(scores):,} scores for {len(tokens):,} tokens",
                where=f"{where}, scores",
                hint=_DAMAGED,
            )
        return _scored_tokenizer(texts, scores, types, specials, ends, add_space_prefix, where)
    if model != "gpt2":
        raise InputError(
            f"tokenizer model {model!r} is not supported",
            where=f"{where}, model",
            hint='use a model whose tokenizer is "llama" (SentencePiece) or "gpt2" (byte-level BPE)',
        )
    if pre not in _PRE:
        raise InputError(
            f"the pattern {pre!r} is not supported",
            where=f"{where}, pre",
            hint=f"supported: {', '.join(sorted(_PRE))}",
        )
    pairs = [split_merge(text, f"{where}, merges[{i}]") for i, text in enumerate(merges or ())]
    plain = {token for token, kind in enumerate(types) if kind == _NORMAL}
    return pairs_tokenizer(
        texts,
        pairs,
        plain,
        specials,
        ends,
        where=where,
        byte_level=True,
        split=_PRE[pre],
        whole_words=_PRE[pre] == "llama3",
        prefix="missing" if add_space_prefix else "never",
    )


# llama.cpp, include/llama.h: LLAMA_TOKEN_TYPE_*
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
# llama.cpp, src/llama-vocab.cpp: values of tokenizer.ggml.pre whose patterns are among SPLITS
_PRE = {
    "": "gpt2", "default": "gpt2", "gpt-2": "gpt2", "qwen2": "qwen2", "llama3": "llama3", "llama-v3": "llama3",
    "llama-bpe": "llama3", "smollm": "gpt2-digit", "starcoder": "gpt2-digit",
}  # fmt: skip


def _text_of(token: bytes | str, where: str) -> str:
    try:
        text = token if isinstance(token, str) else token.decode()
        text.encode()
    except UnicodeError as error:
        raise InputError("a piece is not UTF-8", where=where, hint=_DAMAGED) from error
    return text


def _scored_tokenizer(
    texts: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    specials: set[int],
    ends: Mapping[str, int | None],
    add_space_prefix: bool,
    where: str,
) -> Tokenizer:
    pieces = tuple(_checked_piece(text.replace(SPACE_MARK, " ").encode(), where, i) for i, text in enumerate(texts))
    first_byte = _find_bytes(pieces)
    values = np.array(scores, np.float64)
    if np.isnan(values).any():
        raise InputError("the score of a token is NaN", where=f"{where}, scores", hint=_DAMAGED)
    merges = np.array([kind == _NORMAL and len(code_points(p)) > 1 for kind, p in zip(types, pieces, strict=True)])
    if first_byte is not None:
        merges[first_byte : first_byte + 256] = False
    ranks = np.full(len(pieces), NO_MERGE, np.int32)
    ranks[merges] = np.unique(-values[merges], return_inverse=True)[1]
    ranks.setflags(write=False)
    unk, bos, eos = _ends(ends, len(pieces), where)
    if first_byte is None and unk < 0:
        raise InputError(
            "there are no 256 byte tokens in order, and no token for what is unknown",
            where=where,
            hint="use a model with byte tokens <0x00> to <0xFF>, or with an unknown token",
        )
    return Tokenizer(
        pieces, ranks, unk, bos, eos, first_byte, prefix="always" if add_space_prefix else "never",
        specials=tuple(sorted(specials)),
    )  # fmt: skip


def split_merge(text: str, where: str) -> tuple[str, str]:
    """Two pieces, as a merge is written: "t h"."""
    left, _, right = text.partition(" ")
    if not left or not right or " " in right:
        raise InputError(f"a merge is two pieces with a space between: {short(text)}", where=where, hint=_DAMAGED)
    return left, right


def short(value: object) -> str:
    """A value as an error shows it: whatever a file holds, in a few dozen characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def pairs_tokenizer(
    texts: Sequence[str],
    merges: Sequence[tuple[str, str]],
    plain: set[int],
    specials: set[int],
    ends: Mapping[str, int | None],
    *,
    where: str,
    byte_level: bool,
    split: str,
    prefix: str,
    whole_words: bool = False,
    fuse_unk: bool = False,
    byte_fallback: bool = False,
) -> Tokenizer:
    """A Tokenizer with merges from texts as the files have them: in GPT-2's alphabet of bytes, or with U+2581.

    texts: of every token. merges: in order of rank, of plain texts. plain: the tokens that a text may become; the
    others print their text as it is, specials nothing. ends: "bos", "eos" and "unk". Raises InputError.
    """
    first_byte = _find_bytes(tuple(text.encode() for text in texts)) if not byte_level and byte_fallback else None
    if first_byte is not None:
        plain, specials = (tokens - set(range(first_byte, first_byte + 256)) for tokens in (plain, specials))
    unk, bos, eos = _ends(ends, len(texts), where)
    plain = plain - specials - {unk, bos, eos}
    pieces = []
    for token, text in enumerate(texts):
        if byte_level and token in plain:
            content = _from_byte_alphabet(text, f"{where}, token {token}")
        else:
            content = (text if byte_level or token not in plain else text.replace(SPACE_MARK, " ")).encode()
        pieces.append(_checked_piece(content, where, token))
    symbols = _find_symbols(texts, plain, byte_level, whole_words)
    if byte_level and (lost := set(range(256)) - {pieces[i][0] for i in symbols if len(pieces[i]) == 1}):
        raise InputError(
            f"{len(lost)} of the 256 bytes are no pieces, the first is 0x{min(lost):02X}",
            where=where,
            hint="a byte-level vocabulary must hold the whole alphabet of bytes: train it with ByteLevel.alphabet()",
        )
    if byte_fallback and first_byte is None:
        raise InputError(
            "byte_fallback needs the 256 tokens <0x00> to <0xFF>, one after the other",
            where=where,
            hint="use a vocabulary that holds them in order, as Llama's do",
        )
    ids = {text: token for token, text in enumerate(texts)}
    if len(ids) < len(texts):
        twice = next(token for token, text in enumerate(texts) if ids[text] != token)
        what = f"the piece {short(texts[twice])} is there twice"
        raise InputError(what, where=f"{where}, token {twice}", hint=_DAMAGED)
    known = {}
    for rank, (left, right) in enumerate(merges):
        parts = [ids[text] for text in (left, right, left + right) if text in ids]
        first = len(texts) if first_byte is None else first_byte
        if len(parts) < 3 or any(first <= token < first + 256 for token in parts):
            raise InputError(
                f"{short(left)} and {short(right)} merge: they and what they become must be pieces, and no bytes",
                where=f"{where}, merges[{rank}]",
                hint=_DAMAGED,
            )
        if plain.issuperset(parts):  # a text never becomes a special token
            known[parts[0], parts[1]] = (rank, parts[2])
    if len(known) >= MAX_MERGES:
        raise InputError(f"{len(known):,} merges", where=where, hint=f"below {MAX_MERGES:,} are supported")
    ranked = sorted((rank, left, right, merged) for (left, right), (rank, merged) in known.items())
    return Tokenizer(
        pieces=tuple(pieces),
        ranks=read_only(np.full(len(pieces), NO_MERGE, np.int32)),
        unk=unk,
        bos=bos,
        eos=eos,
        first_byte=first_byte,
        prefix=prefix,
        specials=tuple(sorted(specials)),
        merges=read_only(np.array(ranked, np.int32).reshape(-1, 4)[:, 1:].copy()),
        symbols=read_only(np.array(symbols, np.int32)),
        byte_level=byte_level,
        split=split,
        whole_words=whole_words,
        fuse_unk=fuse_unk,
    )


def check_tokenizer(tokenizer: Tokenizer, where: str) -> None:
    """Raise InputError where a tokenizer's fields do not go together: what encode and the firmware rely on."""
    t, problem = tokenizer, ""
    if t.merges is None or t.symbols is None:
        off = (t.merges, t.symbols, t.byte_level, t.split, t.whole_words, t.fuse_unk)
        problem = "settings of merges without merges" if off != (None, None, False, "", False, False) else ""
        problem = problem or ("a prefix that only merges have" if t.prefix == "missing" else "")
    else:
        silent = {t.unk, t.bos, t.eos, *t.specials}
        symbols = t.symbols.tolist()
        texts = [t.pieces[token] for token in symbols]
        texts_of_bytes = {bytes([byte]) for byte in range(256)}
        joined = (t.pieces[left] + t.pieces[right] == t.pieces[merged] for left, right, merged in t.merges.tolist())
        first = len(t.pieces) if t.first_byte is None else t.first_byte
        if t.byte_level and (t.first_byte is not None or not texts_of_bytes <= set(texts)):
            problem = "the vocabulary of bytes does not hold every byte once"
        elif len(set(texts)) < len(texts) or silent & set(symbols) or any(first <= i < first + 256 for i in symbols):
            problem = "a symbol is there twice, or prints nothing, or is a byte token"
        elif (t.split in SPLITS and not t.byte_level) or (t.split == "space" and t.byte_level):
            problem = f"the split {t.split!r} belongs to another kind of vocabulary"
        elif (t.whole_words and not t.byte_level) or t.lowercase:
            problem = "whole_words or lowercase do not go with the merges"
        elif len({(left, right) for left, right, _ in t.merges.tolist()}) < len(t.merges) or not all(joined):
            problem = "a merge is there twice, or its pieces do not add up"
    if problem:
        raise InputError(problem, where=where, hint="the tokenizer is damaged: read it again from where it came")


def read_only(array: NDArray[np.int32]) -> NDArray[np.int32]:
    array.setflags(write=False)
    return array


def _find_symbols(texts: Sequence[str], plain: set[int], byte_level: bool, whole_words: bool) -> list[int]:
    """The plain tokens of one character: a byte in GPT-2's alphabet, or a code point; all where words are looked up.

    A literal space is none where U+2581 stands for it.
    """
    return [i for i in sorted(plain) if whole_words or (len(texts[i]) == 1 and (byte_level or texts[i] != " "))]


def _ends(ends: Mapping[str, int | None], count: int, where: str) -> tuple[int, int, int]:
    """unk, bos and eos; one of the latter two stands in for the other, and unk is -1 where it is None."""
    for name, token in ends.items():
        if token is not None and not 0 <= token < count:
            raise InputError(f"{name} is token {token} of {count:,}", where=where, hint=_DAMAGED)
    unk, bos, eos = ends["unk"], ends["bos"], ends["eos"]
    if bos is None and eos is None:
        raise InputError(
            "no token begins or ends a text",
            where=where,
            hint="the vocabulary needs one, such as <s>, </s> or <|endoftext|>",
        )
    begins, stops = (bos, eos) if bos is not None else (eos, eos)
    assert begins is not None
    return -1 if unk is None else unk, begins, begins if stops is None else stops


def _checked_piece(piece: bytes, where: str, token: int) -> bytes:
    if not 1 <= len(piece) <= MAX_PIECE_BYTES:
        raise InputError(
            f"a piece of {len(piece):,} bytes; 1 to {MAX_PIECE_BYTES:,} make sense",
            where=f"{where}, token {token}",
            hint=_DAMAGED,
        )
    return piece


def _find_bytes(pieces: tuple[bytes, ...]) -> int | None:
    """The id of b"<0x00>" if all 256 byte tokens follow in order from there, else None."""
    expected = tuple(b"<0x%02X>" % byte for byte in range(256))
    if expected[0] not in pieces:
        return None
    first = pieces.index(expected[0])
    return first if pieces[first : first + 256] == expected else None


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a visible character for each byte (bytes_to_unicode in its encoder.py)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _from_byte_alphabet(text: str, where: str) -> bytes:
    alphabet = byte_alphabet()
    for character in text:
        if character not in alphabet:
            raise InputError(
                f"the piece {short(text)} has a character outside the alphabet of bytes", where=where, hint=_DAMAGED
            )
    return bytes(alphabet[character] for character in text)


# ---------------------------------------------------------------- encode


Lookup = Callable[[int, int], tuple[int, int] | None]  # two neighbours -> their rank, and what they become


def encode(tokenizer: Tokenizer, text: str | bytes, bos: bool = True, states: set[int] | None = None) -> list[int]:
    """Return the token ids of `text`, as run.c's encode does, or `tokenizers` where the vocabulary has merges.

    Any bytes will do, valid UTF-8 or not. A non-empty text gets a space in front as `prefix` says. `prompt_suffix` is
    the application's, and is not added here. states: gets every token that the text consists of before, between and
    after merges.
    Twin: mg_tokenizer_encode; there the merge is a plain search, here a heap finds the same pair.
    """
    content = text.encode() if isinstance(text, str) else text
    if tokenizer.merges is not None:
        return _encode_words(tokenizer, content, bos, states)
    if tokenizer.lowercase:
        content = content.lower()
    ids = piece_ids(tokenizer)
    tokens = [tokenizer.bos] if bos else []
    if content and tokenizer.prefix != "never" and b" " in ids:
        tokens.append(ids[b" "])
    for code_point in code_points(content):
        if code_point in ids:
            tokens.append(ids[code_point])
        elif tokenizer.first_byte is not None:
            tokens.extend(tokenizer.first_byte + byte for byte in code_point)
        else:
            tokens.append(tokenizer.unk)
    pieces, ranks = tokenizer.pieces, tokenizer.ranks.tolist()

    def lookup(left: int, right: int) -> tuple[int, int] | None:
        merged = ids.get(pieces[left] + pieces[right])
        return None if merged is None or ranks[merged] == NO_MERGE else (ranks[merged], merged)

    return _merge(lookup, tokens, states)


def _encode_words(tokenizer: Tokenizer, content: bytes, bos: bool, states: set[int] | None) -> list[int]:
    assert tokenizer.merges is not None and tokenizer.symbols is not None
    ranked = enumerate(tokenizer.merges.tolist())
    merges = {(left, right): (rank, merged) for rank, (left, right, merged) in ranked}
    symbols = {tokenizer.pieces[token]: token for token in tokenizer.symbols.tolist()}
    known: dict[bytes, list[int]] = {}  # words come again and again
    tokens = [tokenizer.bos] if bos else []
    for units in _words(tokenizer, content):
        word = b"".join(units)
        if word not in known:
            whole = [symbols[word]] if tokenizer.whole_words and word in symbols else None
            parts = _symbols_of(tokenizer, symbols, units) if whole is None else whole
            known[word] = _merge(lambda left, right: merges.get((left, right)), parts, states)
        tokens += known[word]
    return tokens


def _words(tokenizer: Tokenizer, content: bytes) -> Iterator[list[bytes]]:
    """The words of a text, each as its code points, with the space in front."""
    units = code_points(content)
    if not tokenizer.byte_level:
        units = [b" " if unit == SPACE_MARK.encode() else unit for unit in units]
    if units and (tokenizer.prefix == "always" or (tokenizer.prefix == "missing" and units[0] != b" ")):
        units.insert(0, b" ")
    if tokenizer.split in SPLITS:
        ends = [end for _, end in words(SPLITS[tokenizer.split], units)]
    elif tokenizer.split == "space":
        ends = [end for end in range(1, len(units) + 1) if end == len(units) or units[end] == b" "]
    else:
        ends = [len(units)] if units else []
    start = 0
    for end in ends:
        yield units[start:end]
        start = end


def _symbols_of(tokenizer: Tokenizer, symbols: dict[bytes, int], units: list[bytes]) -> list[int]:
    """The tokens of a word before anything merges."""
    if tokenizer.byte_level:
        return [symbols[bytes([byte])] for unit in units for byte in unit]
    tokens = []
    fuses = False
    for unit in units:
        if unit in symbols:
            tokens.append(symbols[unit])
        elif tokenizer.first_byte is not None:
            tokens += [tokenizer.first_byte + byte for byte in unit]
        elif tokenizer.unk >= 0 and not fuses:
            tokens.append(tokenizer.unk)
        fuses = tokenizer.fuse_unk and unit not in symbols
    return tokens


def piece_ids(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the id of each piece; the lowest where the vocabulary repeats a piece."""
    last = len(tokenizer.pieces) - 1
    return {piece: last - i for i, piece in enumerate(reversed(tokenizer.pieces))}


def code_points(content: bytes) -> list[bytes]:
    """Cut bytes where run.c does: after each byte that no continuation byte follows, after 4 at most."""
    found = []
    start = 0
    for end in range(1, len(content) + 1):
        continues = end < len(content) and content[end] & 0xC0 == 0x80
        if not continues or end - start == MAX_CODEPOINT_BYTES:
            found.append(content[start:end])
            start = end
    return found


def _merge(lookup: Lookup, tokens: list[int], states: set[int] | None) -> list[int]:
    """Merge the neighbours with the lowest rank, leftmost on ties, until none is left.

    `tokens` is a linked list over its first positions: a merge keeps the left position, so that the order
    of positions stays the order in the text, and (rank, position) the order of merges.
    """
    end = len(tokens)
    after = list(range(1, end + 1))
    before = list(range(-1, end - 1))
    heap: list[tuple[int, int, int, int]] = []
    if states is not None:
        states.update(tokens)

    def consider(left: int, right: int) -> None:
        if left < 0 or right >= end:
            return
        found = lookup(tokens[left], tokens[right])
        if found is not None:
            heapq.heappush(heap, (found[0], left, right, found[1]))

    gone = [False] * end
    for position in range(end):
        consider(position, position + 1)
    while heap:
        rank, left, right, merged = heapq.heappop(heap)
        stale = gone[left] or gone[right] or after[left] != right
        if stale or lookup(tokens[left], tokens[right]) != (rank, merged):
            continue
        tokens[left] = merged
        if states is not None:
            states.add(merged)
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
    if token in (tokenizer.unk, tokenizer.bos, tokenizer.eos) or token in tokenizer.specials:
        return b""
    first_byte = tokenizer.first_byte
    if first_byte is not None and first_byte <= token < first_byte + 256:
        return bytes([token - first_byte])
    piece = tokenizer.pieces[token]
    strips = previous == tokenizer.bos and tokenizer.prefix != "never"
    return piece[1:] if strips and piece[:1] == b" " else piece


# ---------------------------------------------------------------- tables for the firmware


@dataclass(frozen=True, slots=True, eq=False)
class TokenizerTables:
    """The arrays of mg_tokenizer_t, in the order of its fields.

    bytes: uint8[...], all pieces, one after the other.
    offsets: uint32[vocab + 1]; piece i is bytes[offsets[i]:offsets[i + 1]].
    ranks: uint16[vocab], dense; C_NO_MERGE where a piece is never the result of a merge. Empty beside merges.
    order: uint16[vocab], ids sorted by (piece, id), for the binary search; beside merges, of the symbols only.
    dummy_prefix: id of b" ", or -1 if the vocabulary has no such piece. first_byte: or -1.
    pairs: what a vocabulary with merges has more, or None.
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
    pairs: PairTables | None = None

    @property
    def nbytes(self) -> int:
        """What the arrays take of the flash."""
        size = sum(array.nbytes for array in (self.bytes, self.offsets, self.ranks, self.order))
        if (p := self.pairs) is not None:
            more = (p.pairs, p.ranks, p.ranks_high, p.results)
            size += sum(array.nbytes for array in more if array is not None)
            size += 0 if p.split is None else p.kinds.nbytes
        return size


@dataclass(frozen=True, slots=True, eq=False)
class PairTables:
    """What mg_pairs_t has beside its base.

    pairs: uint32[n], left * 65536 + right, ascending. ranks, ranks_high: uint16[n] and uint8[n], lower and upper bits
    of their ranks; the upper ones None where all are 0. results: uint16[n], what a pair becomes, by rank; None where
    it is first_result + rank. split: of the words, or None; kinds: of code points, for it.
    """

    pairs: NDArray[np.uint32]
    ranks: NDArray[np.uint16]
    ranks_high: NDArray[np.uint8] | None
    results: NDArray[np.uint16] | None
    first_result: int
    byte_level: int
    prefix: int
    whole_words: int
    fuse_unk: int
    spaces: int
    split: Split | None
    kinds: KindTables


def tokenizer_tables(tokenizer: Tokenizer) -> TokenizerTables:
    """Return the tables that the firmware searches instead of a dict.

    Raises InputError where there are more tokens than its ids can name.
    """
    pieces = tokenizer.pieces
    if len(pieces) > MAX_VOCAB:
        raise InputError(
            f"a vocabulary of {len(pieces):,} tokens is too large for the firmware, whose token ids have 16 bits",
            where="tokenizer",
            hint=f"keep at most {MAX_VOCAB:,}: --vocab-from TEXT leaves out those that a text does not need",
        )
    candidates = range(len(pieces))
    ranks = np.minimum(_dense(tokenizer.ranks), C_NO_MERGE).astype(np.uint16)
    pairs = None
    if tokenizer.merges is not None and tokenizer.symbols is not None:
        candidates, ranks, pairs = tokenizer.symbols.tolist(), ranks[:0], _pair_tables(tokenizer, tokenizer.merges)
        pieces = tuple(_printed(tokenizer, token) for token in range(len(pieces)))
    order = sorted(candidates, key=lambda token: (pieces[token], token))
    tables = TokenizerTables(
        bytes=np.frombuffer(b"".join(pieces), np.uint8),
        offsets=np.cumsum([0, *map(len, pieces)]).astype(np.uint32),
        ranks=ranks,
        order=np.array(order, np.uint16),
        vocab_size=len(pieces),
        first_byte=-1 if tokenizer.first_byte is None else tokenizer.first_byte,
        dummy_prefix=piece_ids(tokenizer).get(b" ", -1) if pairs is None and tokenizer.prefix != "never" else -1,
        unk=tokenizer.unk,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        lowercase=int(tokenizer.lowercase),
        pairs=pairs,
    )
    for array in (tables.bytes, tables.offsets, tables.ranks, tables.order):
        array.setflags(write=False)
    return tables


def _printed(tokenizer: Tokenizer, token: int) -> bytes:
    """A piece as the firmware keeps it beside merges: what it prints, where no space is left out."""
    return piece_text(tokenizer, None, token)


def _pair_tables(tokenizer: Tokenizer, merges: NDArray[np.int32]) -> PairTables:
    left, right, merged = merges.astype(np.uint32).T
    pairs = left << 16 | right
    order = np.argsort(pairs)
    first = int(merged[0]) if len(merged) else 0
    dense = np.array_equal(merged, first + np.arange(len(merged)))
    tables = PairTables(
        pairs=pairs[order],
        ranks=(order & 0xFFFF).astype(np.uint16),
        ranks_high=(order >> 16).astype(np.uint8) if len(order) > 2**16 else None,
        results=None if dense else merged.astype(np.uint16),
        first_result=first if dense else 0,
        byte_level=int(tokenizer.byte_level),
        prefix=PREFIXES.index(tokenizer.prefix),
        whole_words=int(tokenizer.whole_words),
        fuse_unk=int(tokenizer.fuse_unk),
        spaces=int(tokenizer.split == "space"),
        split=SPLITS.get(tokenizer.split),
        kinds=kind_tables(),
    )
    for array in (tables.pairs, tables.ranks, tables.ranks_high, tables.results):
        if array is not None:
            array.setflags(write=False)
    return tables
