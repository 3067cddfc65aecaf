"""The tokenizer: its file, run.c's algorithm written down once more as an oracle, and the C twin."""

from __future__ import annotations

import ctypes
import functools
import math
import struct
from pathlib import Path

import native
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcugen.errors import InputError
from mcugen.ir import NO_MERGE, Tokenizer
from mcugen.tokenizer import (
    decode,
    encode,
    piece_text,
    read_tokenizer,
    tokenizer_tables,
    write_tokenizer,
)

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RUNTIME = ROOT / "firmware" / "runtime"
SPECIALS = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
BYTE_TOKENS = [b"<0x%02X>" % byte for byte in range(256)]


def tokenizer_bin(pieces: list[bytes], scores: list[float], longest: int | None = None) -> bytes:
    """A file as llama2.c's tokenizer.py writes it."""
    tokens = (struct.pack("<fi", score, len(piece)) + piece for piece, score in zip(pieces, scores, strict=True))
    return struct.pack("<i", longest or max(map(len, pieces))) + b"".join(tokens)


def run_c_encode(pieces: list[bytes], scores: list[float], text: bytes, byte_fallback: bool) -> list[int]:
    """run.c's encode, step by step over the float scores; unk where a vocabulary has no byte tokens."""
    tokens = [1]
    if text and b" " in pieces:
        tokens.append(pieces.index(b" "))
    code_point = b""
    for at in range(len(text)):
        code_point += text[at : at + 1]
        if at + 1 < len(text) and text[at + 1] & 0xC0 == 0x80 and len(code_point) < 4:
            continue
        if code_point in pieces:
            tokens.append(pieces.index(code_point))
        elif byte_fallback:
            tokens += [byte + 3 for byte in code_point]
        else:
            tokens.append(0)
        code_point = b""
    while True:
        best_score, best_at, best_token = -1e10, -1, -1
        for at in range(len(tokens) - 1):
            joined = pieces[tokens[at]] + pieces[tokens[at + 1]]
            if joined in pieces and scores[pieces.index(joined)] > best_score:
                best_token = pieces.index(joined)
                best_score, best_at = scores[best_token], at
        if best_at < 0:
            return tokens
        tokens[best_at : best_at + 2] = [best_token]


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[list[bytes], list[float], bool]:
    """Pieces, scores with many ties, and whether the byte tokens are among them."""
    byte_fallback = draw(st.booleans())
    letters = st.sampled_from(["a", "b", " ", "B", "é", "日"])
    words = draw(st.lists(st.text(letters, min_size=2, max_size=4), min_size=1, max_size=30, unique=True))
    words += draw(st.lists(letters, unique=True))
    fixed = SPECIALS + (BYTE_TOKENS if byte_fallback else [])
    scores = draw(st.lists(st.integers(-5, 0), min_size=len(words), max_size=len(words)))
    return fixed + [word.encode() for word in words], [0.0] * len(fixed) + [float(s) for s in scores], byte_fallback


def make_tokenizer(folder: Path, pieces: list[bytes], scores: list[float], lowercase: bool = False) -> Tokenizer:
    path = folder / "tokenizer.bin"
    path.write_bytes(tokenizer_bin(pieces, scores))
    return read_tokenizer(path, len(pieces), lowercase=lowercase)


@functools.cache
def real_tokenizer() -> Tokenizer:
    path = DATA / "tok512.bin"
    if not path.exists():
        pytest.skip("no ../shared/data/tok512.bin")
    return read_tokenizer(path, 512)


def real_excerpts() -> list[str]:
    path = DATA / "tinystories.txt"
    if not path.exists():
        pytest.skip("no ../shared/data/tinystories.txt")
    return path.read_text(encoding="utf-8").split("\n\n")


TEXTS = st.one_of(
    st.text("ab", max_size=30).map(str.encode),
    st.text(" abBé日c", max_size=30).map(str.encode),
    st.binary(max_size=20),
)
# Overlapping pairs of equal rank: "aaa" is (aa)a, "abab" with "ab" and "ba" is (ab)(ab).
TIES = ([*SPECIALS, b"a", b"b", b"aa", b"ab", b"ba"], [0.0] * 8, False)


# ---------------------------------------------------------------- Python


@given(vocabularies(), TEXTS)
@example(TIES, b"aaababa")
@example(TIES, b"\x80" * 9)  # three code points of 4, 4 and 1 bytes, none in the vocabulary
def test_encode_is_run_c(tmp_path_factory, vocabulary, text):
    pieces, scores, byte_fallback = vocabulary
    tokenizer = make_tokenizer(tmp_path_factory.getbasetemp(), pieces, scores)
    assert encode(tokenizer, text) == run_c_encode(pieces, scores, text, byte_fallback)


@given(st.binary(max_size=40))
@example(b"\xe6\x97")  # a code point cut short
@example(b"\x80" * 9)  # nothing but continuation bytes
@example(b" \x00<0x41>")
def test_any_bytes_survive_encode_and_decode(text):
    tokenizer = real_tokenizer()
    tokens = encode(tokenizer, text)
    assert tokens[0] == tokenizer.bos
    assert decode(tokenizer, tokens) == text


def test_encode_real_text():
    # The ids at places 0 and 15 of llama2.c's own story, which opens with this text.
    tokens = encode(
        real_tokenizer(),
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
        bos=False,
    )
    assert (tokens[0], tokens[15]) == (403, 338)


def test_leftmost_of_equal_ranks_merges_first(tmp_path):
    pieces, scores, _ = TIES
    assert encode(make_tokenizer(tmp_path, pieces, scores), "aaababa", bos=False) == [5, 6, 6, 3]


def test_encode_of_nothing_is_bos_alone():
    assert encode(real_tokenizer(), "") == [1]
    assert encode(real_tokenizer(), "", bos=False) == []


def test_lowercase(tmp_path):
    pieces = [*SPECIALS, b"a", b"b", b"ab", "É".encode()]
    tokenizer = make_tokenizer(tmp_path, pieces, [0.0] * len(pieces), lowercase=True)
    assert encode(tokenizer, "ABÉ", bos=False) == [5, 6]  # only ASCII is lowered


def test_ranks(tmp_path):
    pieces = [*SPECIALS, *BYTE_TOKENS, b"a", "é".encode(), b"ab", b"bc", b"cd", b"de"]
    scores = [9.0] * 261 + [-7.5, -2.0, -7.5, -1e10]
    tokenizer = make_tokenizer(tmp_path, pieces, scores)
    assert tokenizer.first_byte == 3
    assert set(tokenizer.ranks[:261].tolist()) == {NO_MERGE}
    assert tokenizer.ranks[261:].tolist() == [1, 0, 1, NO_MERGE]
    assert not tokenizer.ranks.flags.writeable


def test_byte_tokens_count_only_in_order(tmp_path):
    pieces = [*SPECIALS, *BYTE_TOKENS[:10], *BYTE_TOKENS[11:], BYTE_TOKENS[10]]
    assert make_tokenizer(tmp_path, pieces, [0.0] * len(pieces)).first_byte is None


@given(vocabularies())
def test_written_tokenizer_reads_back(tmp_path_factory, vocabulary):
    pieces, scores, _ = vocabulary
    folder = tmp_path_factory.getbasetemp()
    before = make_tokenizer(folder, pieces, scores)
    (folder / "again.bin").write_bytes(write_tokenizer(before))
    after = read_tokenizer(folder / "again.bin", len(pieces))
    assert (after.pieces, after.first_byte) == (before.pieces, before.first_byte)
    np.testing.assert_array_equal(after.ranks, before.ranks)


def test_piece_text(tmp_path):
    pieces = [*SPECIALS, *BYTE_TOKENS, b" a"]
    tokenizer = make_tokenizer(tmp_path, pieces, [0.0] * len(pieces))
    assert [piece_text(tokenizer, None, token) for token in (0, 1, 2)] == [b"", b"", b""]
    assert piece_text(tokenizer, 1, 259) == b"a"
    assert piece_text(tokenizer, 259, 259) == b" a"
    assert piece_text(tokenizer, 1, 3 + 0x20) == b" "  # a byte token stays as it is
    assert decode(tokenizer, [259, 259], previous=1) == b"a a"


def test_tables(tmp_path):
    pieces = [*SPECIALS, b" ", b"b", b"ab", b"b"]
    tables = tokenizer_tables(make_tokenizer(tmp_path, pieces, [0.0] * len(pieces), lowercase=True))
    assert tables.bytes.tobytes() == b"".join(pieces)
    assert tables.offsets.tolist() == [0, 5, 10, 16, 17, 18, 20, 21]
    assert tables.ranks.tolist() == [0xFFFF] * 5 + [0, 0xFFFF]
    assert tables.order.tolist() == [2, 1, 3, 0, 5, 4, 6]  # equal pieces by id
    assert (tables.vocab_size, tables.first_byte, tables.dummy_prefix, tables.lowercase) == (7, -1, 3, 1)
    assert [array.dtype.name for array in (tables.bytes, tables.offsets, tables.ranks, tables.order)] == [
        "uint8",
        "uint32",
        "uint16",
        "uint16",
    ]


# ---------------------------------------------------------------- errors

GOOD = tokenizer_bin([*SPECIALS, b"a"], [0.0, 0.0, 0.0, -1.0])  # tokens at bytes 4, 17, 30 and 44; 53 bytes
DAMAGED = "the file is damaged: copy or download it again"
OTHER_MODEL = "use the tokenizer that the model was trained with"


@pytest.mark.parametrize(
    ("content", "vocab_size", "what", "place", "hint"),
    [
        (GOOD, 2, "a vocabulary of 2 tokens is not supported", "", "use a model with 3 to 65,536 tokens"),
        (GOOD, 70000, "a vocabulary of 70,000 tokens is not supported", "", "use a model with 3 to 65,536 tokens"),
        (b"\x07\x00", 4, "the file has 2 bytes, too few for a header of 4", "", DAMAGED),
        (
            b"GGUF" + GOOD[4:],
            4,
            "the longest piece should have 1,179,993,927 bytes; 1 to 1,024 make sense",
            ", header",
            "check that this is a tokenizer.bin in llama2.c's format",
        ),
        (GOOD, 5, "the file holds 4 tokens, the model's vocabulary 5", "", OTHER_MODEL),
        (GOOD, 3, "9 bytes follow the last of 3 tokens", ", byte 44", OTHER_MODEL),
        (GOOD + b"\0", 4, "1 bytes follow the last of 4 tokens", ", byte 53", OTHER_MODEL),
        (
            GOOD[:35],
            4,
            "the file ends inside a token: score and length take 8 bytes, 5 left",
            ", token 2, byte 30",
            DAMAGED,
        ),
        (
            GOOD[:40],
            4,
            "the file ends inside a token: the piece takes 6 bytes, 2 left",
            ", token 2, byte 30",
            DAMAGED,
        ),
        (
            tokenizer_bin([*SPECIALS, b"a"], [0.0, 0.0, 0.0, math.nan]),
            4,
            "the score of a token is NaN",
            ", token 3, byte 44",
            DAMAGED,
        ),
        (
            tokenizer_bin([*SPECIALS, b"abcdefg"], [0.0] * 4, longest=6),
            4,
            "a piece of 7 bytes; the header allows 1 to 6",
            ", token 3, byte 44",
            DAMAGED,
        ),
        (
            tokenizer_bin([*SPECIALS, b""], [0.0] * 4),
            4,
            "a piece of 0 bytes; the header allows 1 to 6",
            ", token 3, byte 44",
            DAMAGED,
        ),
    ],
)
def test_damaged_file(tmp_path, content, vocab_size, what, place, hint):
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_tokenizer(path, vocab_size)
    assert str(caught.value) == f"{what}\n  where: tokenizer {path}{place}\n  try:   {hint}"


def test_missing_file(tmp_path):
    with pytest.raises(InputError) as caught:
        read_tokenizer(tmp_path / "absent.bin", 512)
    assert str(caught.value) == (
        "cannot read the tokenizer: No such file or directory\n"
        f"  where: tokenizer {tmp_path / 'absent.bin'}\n"
        "  try:   give the path of the tokenizer.bin that belongs to the model"
    )


@given(st.binary(max_size=12), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_any_file_is_read_or_refused(tmp_path_factory, insert, start, stop):
    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    path.write_bytes(GOOD[:start] + insert + GOOD[stop:])
    try:
        tokenizer = read_tokenizer(path, 4)
    except InputError:
        return
    assert len(tokenizer.pieces) == len(tokenizer.ranks) == 4


# ---------------------------------------------------------------- C twin


class CTokenizer(ctypes.Structure):
    """mg_tokenizer_t."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("bytes", "offsets", "ranks", "order")] + [
        (name, ctypes.c_int32)
        for name in ("vocab_size", "first_byte", "dummy_prefix", "unk", "bos", "eos", "lowercase")
    ]


class CSpan(ctypes.Structure):
    """mg_span_t."""

    _fields_ = [("bytes", ctypes.c_void_p), ("length", ctypes.c_int32)]


class NativeTokenizer:
    """The C twin over the tables of a Tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.library = native.load([RUNTIME / "tokenizer.c"], [RUNTIME])
        self.library.mg_tokenizer_piece.restype = CSpan
        self.tables = tokenizer_tables(tokenizer)  # kept alive: the struct points into it
        fields = [getattr(self.tables, name) for name, _ in CTokenizer._fields_]
        self.struct = CTokenizer(*(f.ctypes.data if isinstance(f, np.ndarray) else f for f in fields))

    def encode(self, text: bytes, bos: bool = True, capacity: int | None = None) -> list[int] | None:
        room = len(text) + 2 if capacity is None else capacity
        tokens = np.full(room + 1, 0xABCD, np.uint16)
        count = self.library.mg_tokenizer_encode(
            ctypes.byref(self.struct), ctypes.c_void_p(tokens.ctypes.data), room, text, len(text), int(bos)
        )
        assert tokens[room] == 0xABCD, "wrote behind the buffer"
        return None if count < 0 else tokens[:count].tolist()

    def piece(self, previous: int | None, token: int) -> bytes:
        byte = ctypes.c_uint8()
        span = self.library.mg_tokenizer_piece(
            ctypes.byref(self.struct), ctypes.byref(byte), -1 if previous is None else previous, token
        )
        return ctypes.string_at(span.bytes, span.length)


@functools.cache
def real_native() -> NativeTokenizer:
    return NativeTokenizer(real_tokenizer())


def test_c_encodes_real_text_alike():
    for excerpt in real_excerpts()[:60]:
        assert real_native().encode(excerpt.encode()) == encode(real_tokenizer(), excerpt)


@given(st.binary(max_size=60), st.booleans())
@example(b"\xf0\x9f\x98\x80\x80 Once\xff\x00", True)
def test_c_encodes_any_bytes_alike(text, bos):
    assert real_native().encode(text, bos) == encode(real_tokenizer(), text, bos)


@given(vocabularies(), TEXTS, st.booleans(), st.booleans())
@example(TIES, b"aaababa", False, False)
@example(TIES, b"\x80" * 9, False, False)
def test_c_encodes_any_vocabulary_alike(tmp_path_factory, vocabulary, text, lowercase, bos):
    pieces, scores, _ = vocabulary
    tokenizer = make_tokenizer(tmp_path_factory.getbasetemp(), pieces, scores, lowercase)
    assert NativeTokenizer(tokenizer).encode(text, bos) == encode(tokenizer, text, bos)


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=3, max_size=30), st.binary(max_size=20), st.data())
def test_c_encodes_odd_pieces_alike(pieces, text, data):
    """Pieces that are no UTF-8, repeated pieces, sparse ranks."""
    ranks = data.draw(st.lists(st.sampled_from([0, 7, 100000, NO_MERGE]), min_size=len(pieces), max_size=len(pieces)))
    tokenizer = Tokenizer(tuple(pieces), np.array(ranks, np.int32), first_byte=None)
    assert NativeTokenizer(tokenizer).encode(text) == encode(tokenizer, text)


@given(st.text("ab é", max_size=10).map(str.encode), st.integers(0, 12))
def test_c_encode_refuses_what_does_not_fit(text, capacity):
    unmerged = 1 + (1 if text else 0) + len(text.decode())
    byte_tokens = text.count("é".encode()) if "é".encode() not in real_tokenizer().pieces else 0
    fits = unmerged + byte_tokens <= capacity
    result = real_native().encode(text, capacity=capacity)
    assert result == (encode(real_tokenizer(), text) if fits else None)


def test_c_prints_every_piece_alike():
    tokenizer, twin = real_tokenizer(), real_native()
    for previous in (None, 1, 2, 300):
        for token in range(len(tokenizer.pieces)):
            assert twin.piece(previous, token) == piece_text(tokenizer, previous, token)


def test_c_prints_without_byte_tokens_alike(tmp_path):
    pieces = [*SPECIALS, b" a", b"<0x00>"]
    tokenizer = make_tokenizer(tmp_path, pieces, [0.0] * len(pieces))
    twin = NativeTokenizer(tokenizer)
    assert [twin.piece(1, token) for token in range(5)] == [b"", b"", b"", b"a", b"<0x00>"]
    assert [piece_text(tokenizer, 1, token) for token in range(5)] == [b"", b"", b"", b"a", b"<0x00>"]


def test_c_compiles_without_a_warning():
    native.compile_clean([RUNTIME / "tokenizer.c"], [RUNTIME])
