"""The vocabulary trimmer: the domain's encoding stays, every other text survives, the kept rows are the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from mcugen import sources
from mcugen.errors import InputError
from mcugen.ir import Tokenizer
from mcugen.lower import lower
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.reference import FloatDecoder
from mcugen.simulate import simulate
from mcugen.sources import Source
from mcugen.tokenizer import check_tokenizer, decode, encode, tokenizer_tables
from mcugen.vocabulary import Trimmed, trim_model, trim_quantized, trim_vocabulary

DOMAIN = (
    "turn on the lights in the hall\nturn off the radio, the tin hat\n\tis it hot? it's 21 degrees — très chaud\n"
)


def check(tokenizer: Tokenizer, found: Trimmed, text: str) -> None:
    """The smaller vocabulary encodes a domain, and each of its lines, as the larger one does."""
    check_tokenizer(found.tokenizer, "")
    assert len(found.tokenizer.pieces) == len(found.kept)
    for part in (text, *text.splitlines()):
        before = encode(tokenizer, part)
        assert set(before) <= set(found.kept.tolist())
        assert found.kept[encode(found.tokenizer, part)].tolist() == before


def vocabulary(which: str) -> Tokenizer:
    if which == "scores":
        return zoo.random_tokenizer(700)
    if which == "characters":
        return zoo.random_tokenizer(200)
    if which.startswith("bytes"):
        return zoo.byte_level_tokenizer(700, which.split()[1])
    pairs = pytest.importorskip("pairs")
    return sources_of(pairs, which)


def sources_of(pairs: object, style: str) -> Tokenizer:
    from mcugen.tokenizer_json import read_tokenizer_json

    return read_tokenizer_json(pairs.theirs(style).to_str().encode(), style)  # type: ignore[attr-defined]


KINDS = pytest.mark.parametrize(
    "which",
    ["scores", "characters", "bytes llama3", "bytes gpt2", "llama", "llama unk", "gemma", "first", "llama3 words", "qwen2", "smollm"],
)  # fmt: skip


@KINDS
@settings(max_examples=25)
@given(st.text(max_size=40) | st.just(DOMAIN) | st.just(DOMAIN * 3), st.text(max_size=30))
def test_the_domain_is_encoded_alike_and_other_text_survives(which: str, domain: str, other: str) -> None:
    tokenizer = vocabulary(which)
    if not domain.strip():
        return
    found = trim_vocabulary(tokenizer, domain)
    check(tokenizer, found, domain)
    small = found.tokenizer
    assert decode(small, encode(small, other)) == decode(tokenizer, encode(tokenizer, other))
    assert decode(small, encode(small, DOMAIN)) == decode(tokenizer, encode(tokenizer, DOMAIN))


def test_what_is_kept() -> None:
    tokenizer = zoo.byte_level_tokenizer(700, "gpt2")
    found = trim_vocabulary(tokenizer, "the hats")  # t he " " hat s
    assert set(range(256)) | {699} < set(found.kept.tolist())
    assert (found.tokenizer.bos, found.before, found.length) == (
        len(found.kept) - 1,
        700,
        len(encode(tokenizer, "the hats", bos=False)),
    )
    assert found.used <= found.length
    assert [tokenizer.pieces[i] for i in found.kept.tolist()[256:-1]] == [b"he", b"at", b"hat"]
    again = trim_vocabulary(found.tokenizer, "the hats")
    assert again.kept.tolist() == list(range(len(found.kept)))


def test_an_intermediate_piece_is_kept() -> None:
    """abc is reached through ab, which the text never has in the end."""
    pieces = (b"<unk>", b"<s>", b"</s>", b"a", b"b", b"c", b"ab", b"abc", b"bc")
    merges = np.array([(3, 4, 6), (6, 5, 7), (4, 5, 8)], np.int32)
    ranks = np.full(9, zoo.NO_MERGE, np.int32)
    tokenizer = Tokenizer(
        pieces, ranks, first_byte=None, merges=merges, symbols=np.arange(3, 6, dtype=np.int32), prefix="never"
    )
    found = trim_vocabulary(tokenizer, "abc")
    assert found.kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert encode(found.tokenizer, "abcbc", bos=False) == [7, 4, 5]


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        trim_vocabulary(zoo.random_tokenizer(300), " \n")
    assert str(caught.value) == (
        "the text is empty\n  where: --vocab-from\n  try:   give a text of what the model will read and say"
    )


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("shared", [True, False])
def test_kept_logits_are_the_same(shared: bool) -> None:
    config = dataclasses.replace(zoo.SHAPES["gqa"], shared_classifier=shared)
    kept = np.array([0, 1, 2, 5, 77, 200, 299], np.int32)
    tokens = [1, 4, 6, 3, 5, 0]
    model, small = zoo.model_of(config), trim_model(zoo.model_of(config), kept)
    assert (small.weights["wcls"] is small.weights["token_embedding_table"]) == shared
    assert small.config.vocab_size == 7 and small.sha256 != model.sha256
    whole = FloatDecoder(model).forward(kept[[tokens]])
    np.testing.assert_allclose(FloatDecoder(small).forward(np.array([tokens])), whole[..., kept], rtol=1e-9)

    integers, few = zoo.quantized(config), trim_quantized(zoo.quantized(config), kept)
    whole = simulate(lower(integers, 8), kept[tokens].tolist()).outputs[-1][0]
    np.testing.assert_array_equal(simulate(lower(few, 8), tokens).outputs[-1][0], whole[:, kept])
    loaded = load_quantized(save_quantized(few))[0]
    np.testing.assert_array_equal(loaded.classifier.codes, few.classifier.codes)


def test_a_source_is_trimmed_and_says_what_that_saves(tmp_path: object) -> None:
    text = tmp_path / "domain.txt"  # type: ignore[operator]
    text.write_text("the hat", encoding="utf-8")
    tokenizer = zoo.byte_level_tokenizer(400, "gpt2")
    model = zoo.model_of(dataclasses.replace(zoo.SHAPES["mqa"], vocab_size=400))
    source, line = sources.trim_source(Source("m", model, None, tokenizer), text)
    assert source.model is not None and source.model.config.vocab_size == len(source.tokenizer.pieces) == 260
    tables = [tokenizer_tables(t).nbytes for t in (tokenizer, source.tokenizer)]
    saved = 140 * (32 + 2 + 2) + tables[0] - tables[1]  # codes, and multipliers of embedding and classifier
    length = len(encode(tokenizer, "the hat", bos=False))
    used = len(set(encode(tokenizer, "the hat", bos=False)))
    assert line == (
        f"vocabulary: 260 of 400 tokens kept; the text has {length} tokens, {used} different ones "
        f"({100 * used / 400:.1f} %); about {saved:,} B of flash saved"
    )
    whole, _ = sources.trim_source(Source("m", None, zoo.quantized(model.config), tokenizer), text)
    assert whole.quantized is not None and whole.quantized.config.vocab_size == 260


def test_stories_are_trimmed() -> None:
    tokenizer = zoo.stories_tokenizer()
    text = (zoo.DATA / "tinystories.txt").read_text(encoding="utf-8")[:6000]
    found = trim_vocabulary(tokenizer, text)
    check(tokenizer, found, text)
    assert 259 < len(found.kept) < 480
