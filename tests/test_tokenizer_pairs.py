"""Vocabularies with merges: equal to Hugging Face's `tokenizers`, in Python and in C."""

from __future__ import annotations

import dataclasses
import functools
from itertools import pairwise

import ladder
import microtvm
import native
import numpy as np
import pytest
import tflm
import zoo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pairs import MULTILINGUAL, RUNTIME, SOURCES, STYLES, Native, corpus, theirs
from projects import require
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HuggingFace

from mcugen import ir
from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.emulate.machines import open_machine
from mcugen.generate import generate, prompt_tokens
from mcugen.ir import Tokenizer
from mcugen.layout import Layout
from mcugen.microtvm.layout import make_microtvm_project
from mcugen.rendering import runtime_sources
from mcugen.sampler import make_sampler
from mcugen.split import SPLITS, kind_of, words
from mcugen.tokenizer import check_tokenizer, code_points, decode, encode, piece_text, tokenizer_tables
from mcugen.tokenizer_json import read_tokenizer_json
from mcugen.toolchain import build

# Characters that patterns tell apart, more often than others.
ODD = st.text(
    st.sampled_from(
        "abcsStTdDmMrReEvVlL'ſ  \n\r\t\v\u00a0\u3000\u2028\u200b▁_.,-+1234567890²½Ⅷ٣é\u0301日😀\U00011de0"
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=30,
)
TEXTS = ODD | st.sampled_from(MULTILINGUAL.splitlines()) | st.text(max_size=20)
BYTES = st.binary(max_size=30) | TEXTS.map(str.encode)
# Numbers of Unicode 17 that Digits of `tokenizers` knows and its regular expressions do not.
NEWEST = {*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)}

CUT = ["gpt2", "digits", "smollm", "llama3", "qwen2"]  # into words by a pattern

styles = pytest.mark.parametrize("style", STYLES)


@functools.cache
def ours(style: str) -> Tokenizer:
    found = read_tokenizer_json(theirs(style).to_str().encode(), style)
    check_tokenizer(found, style)
    return found


@functools.cache
def in_c(style: str) -> Native:
    return Native(ours(style))


def expected(style: str, text: str) -> list[int]:
    return theirs(style).encode(text, add_special_tokens=False).ids


def plain(style: str, text: str) -> str:
    """A text without what `tokenizers` would see in it and the device does not."""
    for token in theirs(style).get_added_tokens_decoder().values():
        text = text.replace(token.content, "")
    if style == "qwen2":
        text = theirs(style).normalizer.normalize_str(text)
    return "".join(c for c in text if ord(c) not in NEWEST) if style in ("digits", "smollm") else text


# ---------------------------------------------------------------- the library


@styles
def test_the_corpus_is_encoded_as_the_library_does(style: str) -> None:
    text = plain(style, corpus())
    tokens = encode(ours(style), text, bos=False)
    assert tokens == expected(style, text)
    assert len(tokens) < 0.75 * len(text.encode())
    for line in [line for line in text.splitlines() if line][:150]:
        assert in_c(style).encode(line.encode(), bos=False) == expected(style, line)


@styles
@settings(max_examples=120)
@given(TEXTS)
@example("")
@example(" ")
@example("  a")
@example("▁a ▁ ")
@example("a \n \r\n b\n")
@example("1234 12  345'Ll'ſ")
def test_any_text_is_encoded_as_the_library_does(style: str, text: str) -> None:
    text = plain(style, text)
    wanted = expected(style, text)
    assert encode(ours(style), text, bos=False) == wanted
    assert in_c(style).encode(text.encode(), bos=False) == wanted


@styles
@settings(max_examples=60)
@given(TEXTS)
def test_tokens_print_as_the_library_does(style: str, text: str) -> None:
    text = plain(style, text)
    tokens = expected(style, text)
    wanted = theirs(style).decode(tokens, skip_special_tokens=True)
    # Its ByteLevel leaves the space in front, which ours takes away again after bos.
    previous = None if style == "gpt2 prefix" else ours(style).bos
    assert decode(ours(style), tokens, previous).decode() == wanted
    if "unk" not in style and style != "always":
        assert wanted.lstrip(" ") == text.replace("▁", " " if not ours(style).byte_level else "▁").lstrip(" ")


@pytest.mark.parametrize("style", CUT)
@settings(max_examples=150)
@given(TEXTS)
@example("a \n \r\n b\n\tc  1 ")
@example("it's 'sI'LL'ſ'ſe'x' 's")
@example("1234 12  345²a..\n\n.. \n")
def test_words_are_those_of_the_library(style: str, text: str) -> None:
    """Where words end, whatever tokens they have."""
    text = plain(style, text)
    wanted = [text[first:end] for _, (first, end) in theirs(style).pre_tokenizer.pre_tokenize_str(text)]
    units = code_points(text.encode())
    split = SPLITS[ours(style).split]
    assert [b"".join(units[first:end]).decode() for first, end in words(split, units)] == wanted
    content, ends = text.encode(), [0]
    while ends[-1] < len(content):
        ends.append(in_c(style).word_end(content, ends[-1]))
    assert [content[a:b].decode() for a, b in pairwise(ends)] == wanted


def test_a_vocabulary_of_llama2_c_as_pairs() -> None:
    """tok512.bin for the library: every way to split a piece into two is a merge, in the order of the pieces' ranks."""
    stories = zoo.stories_tokenizer()
    texts = [piece.decode(errors="replace").replace(" ", "▁") for piece in stories.pieces]
    texts[:3] = "<unk>", "<s>", "</s>"
    ids = {text: token for token, text in enumerate(texts)}
    ranked = sorted((rank, token) for token, rank in enumerate(stories.ranks.tolist()) if rank != zoo.NO_MERGE)
    merges = [(t[:i], t[i:]) for t in (texts[token] for _, token in ranked) for i in range(1, len(t))]
    model = models.BPE(
        ids, [pair for pair in merges if set(pair) <= ids.keys()], unk_token="<unk>", byte_fallback=True
    )
    library = HuggingFace(model)
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    text = (zoo.DATA / "tinystories.txt").read_text(encoding="utf-8")[:20_000]
    read = read_tokenizer_json(library.to_str().encode(), "tok512")
    assert encode(read, text) == encode(stories, text) == [1, *library.encode(text).ids]


@pytest.mark.parametrize(("regex", "kind"), [(r"\p{L}", 1), (r"\p{N}", 2), (r"\s", 3)])
def test_kinds_are_those_of_the_library_for_every_code_point(regex: str, kind: int) -> None:
    split = pre_tokenizers.Split(Regex(f"{regex}+"), "removed")
    codes = np.array([code for code in range(0x110000) if not 0xD800 <= code < 0xE000])
    theirs = np.ones(len(codes), bool)
    for start in range(0, len(codes), 1 << 16):
        text = "".join(map(chr, codes[start : start + (1 << 16)].tolist()))
        for _, (first, end) in split.pre_tokenize_str(text):
            theirs[start + first : start + end] = False
    mine = np.array([kind_of(code) == kind for code in codes.tolist()])
    assert [hex(code) for code in codes[theirs != mine]] == []


def test_digits_of_the_library_are_newer_than_its_patterns() -> None:
    """A known difference of the styles with Digits: 13 numbers of Unicode 17."""
    split = pre_tokenizers.Digits(individual_digits=False)
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    different = set()
    for start in range(0, len(codes), 1 << 16):
        part = codes[start : start + (1 << 16)]
        numbers = np.zeros(len(part), bool)
        for word, (first, end) in split.pre_tokenize_str("".join(map(chr, part))):
            numbers[first:end] = kind_of(ord(word[0])) == 2 or ord(word[0]) in NEWEST
        different |= {code for code, number in zip(part, numbers, strict=True) if number != (kind_of(code) == 2)}
    assert different == NEWEST


@pytest.mark.parametrize("style", ["llama3", "gpt2"])
def test_contractions_with_every_code_point(style: str) -> None:
    cut = theirs(style).pre_tokenizer
    made, twin = ours(style), in_c(style)
    for code in [*range(0x3000), 0xFF07, 0xFF33, 0x1F600]:
        text = f"'{chr(code)}e"
        wanted = [token for word, _ in cut.pre_tokenize_str(text) for token in expected_word(style, word)]
        assert encode(made, text, bos=False) == wanted, hex(code)
        if code % 16 == 0 or code < 0x200:
            assert twin.encode(text.encode(), bos=False) == wanted, hex(code)


def expected_word(style: str, word: str) -> list[int]:
    return [token.id for token in theirs(style).model.tokenize(word)]


# ---------------------------------------------------------------- C twin


@styles
@settings(max_examples=80)
@given(BYTES, st.booleans())
@example(b"\xe6\x97", True)
@example(b"\x80" * 9, False)
@example(b" \x80\xe2\x96\x81\x81 \xe2\x96", False)
@example(b"'\xff'\xc5\xbf's\xc0\xa0\xf8\x88\x80\x80 \xf4\xbf\xbf\xbf", False)
def test_c_encodes_any_bytes_alike(style: str, text: bytes, bos: bool) -> None:
    tokens = encode(ours(style), text, bos)
    assert in_c(style).encode(text, bos) == tokens
    if ours(style).byte_level:
        assert decode(ours(style), tokens[bos:]) in (text, b" " + text)


@styles
def test_c_prints_every_piece_alike(style: str) -> None:
    made, twin = ours(style), in_c(style)
    for previous in (None, made.bos, made.eos, 300):
        for token in range(len(made.pieces)):
            assert twin.piece(previous, token) == piece_text(made, previous, token)


@styles
@settings(max_examples=40)
@given(TEXTS.map(str.encode), st.integers(0, 30))
def test_c_never_writes_behind_its_buffer(style: str, text: bytes, capacity: int) -> None:
    assert in_c(style).encode(text, capacity=capacity) in (None, encode(ours(style), text))


@st.composite
def vocabularies(draw: st.DrawFn) -> Tokenizer:
    """Random merges over few pieces: many ways to the same piece, ranks in any order."""
    letters = [b"a", b"b", b" ", "é".encode()]
    pieces = [b"<unk>", b"<s>", b"</s>", *letters]
    merges = []
    for _ in range(draw(st.integers(0, 25))):
        left, right = draw(st.tuples(*[st.integers(3, len(pieces) - 1)] * 2))
        joined = pieces[left] + pieces[right]
        if (left, right) not in [merge[:2] for merge in merges] and len(joined) < 20:
            if joined not in pieces:
                pieces.append(joined)
            merges.append((left, right, pieces.index(joined)))
    merges = draw(st.permutations(merges))
    return Tokenizer(
        tuple(pieces), np.full(len(pieces), zoo.NO_MERGE, np.int32), first_byte=None,
        merges=np.array(merges, np.int32).reshape(-1, 3), symbols=np.arange(3, 7, dtype=np.int32),
        prefix=draw(st.sampled_from(["always", "missing", "never"])), split=draw(st.sampled_from(["", "space"])),
        fuse_unk=draw(st.booleans()),
    )  # fmt: skip


def encode_plainly(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """The definition: the lowest rank of all neighbours, leftmost, until there is none."""
    merges = {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(tokenizer.merges.tolist())}
    while True:
        found = [
            (*merges[pair], at) for at in range(len(tokens) - 1) if (pair := tuple(tokens[at : at + 2])) in merges
        ]
        if not found:
            return tokens
        _, merged, at = min(found, key=lambda f: (f[0], f[2]))
        tokens = [*tokens[:at], merged, *tokens[at + 2 :]]


TIES = Tokenizer(
    (b"<unk>", b"<s>", b"</s>", b"a", b"b", b"aa", b"ab", b"ba"), np.full(8, zoo.NO_MERGE, np.int32), first_byte=None,
    merges=np.array([(3, 3, 5), (3, 4, 6), (4, 3, 7)], np.int32), symbols=np.array([3, 4], np.int32), prefix="never",
)  # fmt: skip


@given(vocabularies(), st.text("ab é日", max_size=30))
@example(TIES, "aaababa")
@example(TIES, "aaaa")
def test_any_vocabulary_merges_as_defined(tokenizer: Tokenizer, text: str) -> None:
    check_tokenizer(tokenizer, "")
    tokens = encode(tokenizer, text)
    assert Native(tokenizer).encode(text.encode()) == tokens
    if tokenizer.split == "" and tokenizer.prefix == "never" and "日" not in text:
        single = [tokenizer.pieces.index(character.encode()) for character in text]
        assert tokens[1:] == encode_plainly(tokenizer, single)


def test_ranks_above_16_bits() -> None:
    """More merges than a uint16 can rank: here of 300 symbols, in an order of which only the upper bits matter."""
    symbols = np.arange(3, 303, dtype=np.int32)
    texts = [chr(0x4E00 + i) for i in range(300)]
    order = [(a, b) for a in range(300) for b in range(300)]
    pieces = [b"<unk>", b"<s>", b"</s>", *(t.encode() for t in texts), b"x"]
    merges = np.array([(3 + a, 3 + b, 303) for a, b in order], np.int32)
    tokenizer = Tokenizer(
        tuple(pieces),
        np.full(304, zoo.NO_MERGE, np.int32),
        first_byte=None,
        merges=merges,
        symbols=symbols,
        prefix="never",
    )
    tables = tokenizer_tables(tokenizer).pairs
    assert tables is not None and tables.ranks_high is not None and tables.results is not None
    for text in (
        texts[250] + texts[1] + texts[2],
        texts[2] + texts[250] + texts[299] + texts[0],
        texts[218] + texts[137] + texts[219],
    ):
        assert Native(tokenizer).encode(text.encode()) == encode(tokenizer, text)


def test_c_compiles_without_a_warning() -> None:
    native.compile_clean(SOURCES, [RUNTIME])


# ---------------------------------------------------------------- generated projects

WORDS = ir.Config(16, 12, 1, 2, 1, 300, 8, True)


def typed_at(project: ir.Project) -> bytes:
    """What a project's console says to a prompt, in the board's emulator."""
    ladder.require_unicorn()
    machine = open_machine(build(project, require("auto", project.board)), watch_accesses=False)
    return b"".join(machine.console(b"#tokens 12\n" + PROMPT + b"\n"))


PROMPT = "The 12345 tin-hats: it's  sooo ½ odd".encode()


def answer(layout: Layout) -> bytes:
    tokens = list(generate(layout.graph, layout.tokenizer, PROMPT, make_sampler(0, 0, 1, 1), 12))
    return decode(layout.tokenizer, tokens, prompt_tokens(layout.tokenizer, PROMPT)[-1])


def test_the_ladder_is_climbed_with_words() -> None:
    layout = ladder.laid_out(WORDS, 8, tokenizer=zoo.byte_level_tokenizer(300))
    found = rungs.climb(layout, ladder.board_firmware(layout), 20, ladder.COMMAND)
    found.raise_for_difference()
    assert any("console" in report.machine for report in found.reports)
    project = layouts.make_project(layout, ladder.COMMAND)
    assert answer(layout).replace(b"\x04", b"") in typed_at(project)
    assert {"runtime/tokenizer_pairs.c", "runtime/split.c"} < set(project.sources)
    assert "runtime/tokenizer.c" not in project.files


def test_projects_of_other_targets_read_words() -> None:
    vocabulary, model = zoo.byte_level_tokenizer(300, "gpt2"), zoo.quantized(WORDS)
    lite = tflm.lay_out(model, 8, tokenizer=vocabulary)
    assert answer(lite.layout).replace(b"\x04", b"") in typed_at(tflm.standin_project(lite))
    microtvm.require_tvm()
    layout = microtvm.lay_out(model, 8, tokenizer=vocabulary)
    assert answer(layout).replace(b"\x04", b"") in typed_at(make_microtvm_project(layout, microtvm.COMMAND))


def test_only_what_a_vocabulary_needs_is_linked() -> None:
    spaced = dataclasses.replace(zoo.byte_level_tokenizer(300), byte_level=False, split="space", whole_words=False)
    assert runtime_sources(spaced) == ("runtime/generate.c", "runtime/sampler.c", "runtime/tokenizer_pairs.c")
    assert runtime_sources(zoo.random_tokenizer(300))[2:] == ("runtime/tokenizer.c",)
    assert tokenizer_tables(spaced).nbytes < tokenizer_tables(zoo.byte_level_tokenizer(300)).nbytes - 4000
