"""tokenizer.json and GGUF's arrays: what is read, and what is refused, by its field."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import byte_level, code_points, theirs, trained, with_bos

from mcugen.errors import InputError
from mcugen.ir import NO_MERGE, Tokenizer
from mcugen.tokenizer import byte_alphabet, decode, encode, piece_text, tokenizer_from_parts, tokenizer_tables
from mcugen.tokenizer_json import read_tokenizer_json

DAMAGED = "the file is damaged, or not a tokenizer.json: copy or download it again"
BROKEN = "the file is damaged: copy or download it again"
SUPPORTED = "supported are BPE in the manner of Llama 2 (SentencePiece), and of GPT-2, Llama 3, Qwen2 and SmolLM"
MISSING = object()


@functools.cache
def of_bytes() -> dict[str, Any]:
    return json.loads(trained(byte_level("gpt2"), 262, "the then they the then").to_str())


@functools.cache
def of_code_points() -> dict[str, Any]:
    return json.loads(trained(code_points("llama"), 280, "the then they the then").to_str())


def changed(found: dict[str, Any], path: str, value: object) -> bytes:
    """The file with one entry replaced, added, or left out."""
    found = copy.deepcopy(found)
    *way, last = path.split("/")
    at: Any = found
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is MISSING:
        del at[last]
    elif isinstance(at, list):
        at[int(last)] = value
    else:
        at[last] = value
    return json.dumps(found).encode()


def refusal(content: bytes, **options: Any) -> tuple[str, str, str]:
    with pytest.raises(InputError) as caught:
        read_tokenizer_json(content, "t.json", **options)
    assert caught.value.where.startswith("t.json")
    return caught.value.what, caught.value.where.removeprefix("t.json").removeprefix(", "), caught.value.hint


def test_specials_and_rows_behind_the_last_token_print_nothing() -> None:
    made = read_tokenizer_json(json.dumps(of_bytes()).encode(), "t.json", vocab_size=270)
    assert (made.bos, made.eos, made.unk) == (0, 0, -1)  # <|endoftext|> is both
    assert made.specials == (0, *range(262, 270))
    assert decode(made, [*encode(made, "the"), 265, 0]) == b"the"
    assert len(tokenizer_tables(made).offsets) == 271


def test_bos_and_eos() -> None:
    content = json.dumps(of_code_points()).encode()
    made = read_tokenizer_json(content, "t.json")
    assert (made.unk, made.bos, made.eos, made.first_byte) == (0, 1, 2, 3)
    assert read_tokenizer_json(content, "t.json", bos=5, eos=6).bos == 5
    templated = with_bos(trained(code_points("llama"), 280, "the then they"), "</s>")
    made = read_tokenizer_json(templated.to_str().encode(), "t.json")
    assert (made.bos, made.eos) == (2, 2)


def test_added_tokens_print_and_are_not_looked_for() -> None:
    library = trained(byte_level("qwen2"), 262, "the then they")
    library.add_tokens(["  ", "<tool>"])
    made = read_tokenizer_json(library.to_str().encode(), "t.json")
    assert [piece_text(made, None, token) for token in range(262, 264)] == [b"  ", b"<tool>"]
    assert 263 not in encode(made, "a<tool>b")
    assert 263 in library.encode("a<tool>b").ids


def test_a_special_token_is_never_the_result_of_a_merge() -> None:
    """What a user types cannot become one, even where the file has merges to it."""
    found = copy.deepcopy(of_bytes())
    token = found["model"]["vocab"]["the"]
    assert encode(read_tokenizer_json(json.dumps(found).encode(), "t.json"), "the", bos=False) == [token]
    found["added_tokens"].append({"id": token, "content": "the", "special": True})
    made = read_tokenizer_json(json.dumps(found).encode(), "t.json")
    assert token not in encode(made, "the") and token not in made.merges
    assert piece_text(made, None, token) == b""


def test_text_that_is_not_nfc_differs_from_the_library_and_is_lossless() -> None:
    made = read_tokenizer_json(theirs("qwen2").to_str().encode(), "t.json")
    assert decode(made, encode(made, "e\u0301", bos=False)) == "e\u0301".encode()
    assert encode(made, "é", bos=False) == theirs("qwen2").encode("e\u0301").ids != encode(made, "e\u0301", bos=False)


def test_merges_as_texts_and_as_pairs() -> None:
    """Libraries before 0.20 wrote "t h"."""
    found = copy.deepcopy(of_bytes())
    one = read_tokenizer_json(json.dumps(found).encode(), "t.json")
    found["model"]["merges"] = [" ".join(merge) for merge in found["model"]["merges"]]
    two = read_tokenizer_json(json.dumps(found).encode(), "t.json")
    np.testing.assert_array_equal(one.merges, two.merges)
    assert len(one.merges) == 5


REFUSED = [
    (of_bytes, "model", [], "it is [], not a mapping", "model", DAMAGED),
    (of_bytes, "model/type", "Unigram", "a model of type 'Unigram' is not supported", "model.type", SUPPORTED),
    (of_bytes, "model/type", "WordPiece", "a model of type 'WordPiece' is not supported", "model.type", SUPPORTED),
    (of_bytes, "model/end_of_word_suffix", "</w>", "end_of_word_suffix '</w>' is not supported", "model.end_of_word_suffix", SUPPORTED),
    (of_bytes, "model/dropout", 0.1, "dropout 0.1 is not supported", "model.dropout", SUPPORTED),
    (of_bytes, "model/vocab", None, "it is None, not a mapping", "model.vocab", DAMAGED),
    (of_bytes, "model/vocab/t", -1, "it is -1, not a token id below 1,048,576", "model.vocab['t']", DAMAGED),
    (of_bytes, "model/vocab/t", True, "it is True, not a token id below 1,048,576", "model.vocab['t']", DAMAGED),
    (of_bytes, "model/vocab/zzz", 10**40, "it is 1" + "0" * 40 + ", not a token id below 1,048,576", "model.vocab['zzz']", DAMAGED),
    (of_bytes, "model/vocab/zzz", 84, "token 84 is 't' already", "model.vocab['zzz']", DAMAGED),
    (of_bytes, "model/vocab/zzz", 999_999, "token 262 is missing: 263 tokens reach 999,999", "model.vocab", DAMAGED),
    (of_bytes, "model/vocab/\ud800", 262, "it is '\\ud800', not a text", "model.vocab['\\ud800']", DAMAGED),
    (of_bytes, "model/vocab/日", 262, "the piece '\\u65e5' has a character outside the alphabet of bytes", "token 262", BROKEN),
    (of_bytes, "model/vocab/" + "x" * 1025, 262, "a piece of 1,025 bytes; 1 to 1,024 make sense", "token 262", BROKEN),
    (of_bytes, "model/vocab/", 262, "a piece of 0 bytes; 1 to 1,024 make sense", "token 262", BROKEN),
    (of_bytes, "model/merges", {}, "it is {}, not a list", "model.merges", DAMAGED),
    (of_bytes, "model/merges/0", ["t"], "it is ['t'], not a text", "model.merges[0]", DAMAGED),
    (of_bytes, "model/merges/0", "t h e", "a merge is two pieces with a space between: 't h e'", "model.merges[0]", BROKEN),
    (of_bytes, "model/merges/1", ["t", "q"], "'t' and 'q' merge: they and what they become must be pieces, and no bytes", "merges[1]", BROKEN),
    (of_bytes, "model/merges/1", ["", "t"], "'' and 't' merge: they and what they become must be pieces, and no bytes", "merges[1]", BROKEN),
    (of_bytes, "model/ignore_merges", 1, "it is 1, not true or false", "model.ignore_merges", DAMAGED),
    (of_code_points, "model/ignore_merges", True, "ignore_merges is supported with ByteLevel only", "model.ignore_merges", SUPPORTED),
    (of_code_points, "model/unk_token", "<?>", "the unknown token '<?>' is no piece", "model.unk_token", DAMAGED),
    (of_bytes, "added_tokens/0", 7, "it is 7, not a mapping", "added_tokens[0]", DAMAGED),
    (of_bytes, "added_tokens/0/id", 300, "token 300 '<|endoftext|>' is another one in model.vocab", "added_tokens[0]", DAMAGED),
    (of_bytes, "added_tokens/0/content", "x", "token 0 'x' is another one in model.vocab", "added_tokens[0]", DAMAGED),
    (of_bytes, "normalizer", {"type": "Lowercase"}, "{'type': 'Lowercase'} is not supported before ByteLevel", "normalizer", "supported: NFC, or none"),
    (of_bytes, "pre_tokenizer", None, "these steps are not supported: [], []", "pre_tokenizer", SUPPORTED),
    (of_bytes, "pre_tokenizer/use_regex", False, "this order of steps is not supported: [{'type': 'ByteLevel', 'add_prefix_space': False, 'trim_o...", "pre_tokenizer", SUPPORTED),
    (of_code_points, "normalizer", {"type": "NFKC"}, "these steps are not supported: [{'type': 'NFKC'}], []", "normalizer", SUPPORTED),
    (of_code_points, "normalizer", {"type": "Sequence", "normalizers": 3}, "it is 3, not a list", "normalizer.normalizers", DAMAGED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "path", "value", "what", "field", "hint"), REFUSED, ids=[f"{r[1]}-{i}" for i, r in enumerate(REFUSED)]
)
def test_what_is_refused(base: Any, path: str, value: object, what: str, field: str, hint: str) -> None:
    assert refusal(changed(base(), path, value)) == (what, field, hint)


def test_steps_before_byte_level_that_are_refused() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
    steps = {"type": "Sequence", "pretokenizers": [split, level]}
    what, field, hint = refusal(changed(of_bytes(), "pre_tokenizer", steps))
    assert (what.split(" is not")[0][:26], field, hint) == ("{'type': 'Split', 'pattern", "pre_tokenizer", SUPPORTED)
    found = json.loads(trained(byte_level("llama3"), 262, "the then they the then").to_str())
    for path, value, text in (
        ("0/behavior", "Removed", "a Split is supported as Isolated and not inverted"),
        ("0/invert", True, "a Split is supported as Isolated and not inverted"),
        (
            "1/use_regex",
            True,
            "this order of steps is not supported: [{'type': 'Split', 'pattern': {'Regex': \"(?i:'s|'t|'re|'v...",
        ),
        ("1/add_prefix_space", True, "add_prefix_space behind another step is not supported"),
    ):
        assert refusal(changed(found, f"pre_tokenizer/pretokenizers/{path}", value))[0] == text


def test_metaspace_that_is_refused() -> None:
    step = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    plain = json.loads(changed(of_code_points(), "normalizer", None))
    assert refusal(changed(plain, "pre_tokenizer", step))[:2] == ("'_' for a space", "pre_tokenizer.replacement")
    step |= {"replacement": "▁", "prepend_scheme": "often"}
    assert refusal(changed(plain, "pre_tokenizer", step))[:2] == ("it is 'often'", "pre_tokenizer.prepend_scheme")


def test_a_vocabulary_that_is_incomplete_is_refused() -> None:
    few = trained(byte_level("gpt2"), 262, "the then they")
    found = json.loads(few.to_str())
    ids = sorted(found["model"]["vocab"], key=found["model"]["vocab"].get)
    ids[ids.index("Ā")] = "unused"  # the byte 0
    found["model"]["vocab"] = {text: token for token, text in enumerate(ids)}
    assert refusal(json.dumps(found).encode())[0] == "1 of the 256 bytes are no pieces, the first is 0x00"
    found = copy.deepcopy(of_code_points())
    found["model"]["vocab"]["<0x41>"], found["model"]["vocab"]["<0x42>"] = 69, 68
    assert (
        refusal(json.dumps(found).encode())[0]
        == "byte_fallback needs the 256 tokens <0x00> to <0xFF>, one after the other"
    )
    found = changed(of_bytes(), "added_tokens", [])
    found = found.replace(b"<|endoftext|>", b"nothing")
    assert refusal(found)[0] == "no token begins or ends a text"
    assert (
        refusal(json.dumps(of_bytes()).encode(), vocab_size=261)[0]
        == "the file holds 262 tokens, the model's vocabulary 261"
    )
    assert refusal(json.dumps(of_bytes()).encode(), bos=262)[0] == "bos is token 262 of 262"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 200_000, b'{"a":' * 100_000, b"\xff", b"1" * 5000, b"null", b"[]"]
)
def test_no_json_or_no_mapping(content: bytes) -> None:
    assert refusal(content)[2] == DAMAGED


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["BPE", "ByteLevel", "Sequence", "▁"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "content", "a"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PATHS = ["model", "model/type", "model/vocab", "model/vocab/t", "model/vocab/x y", "model/merges", "model/merges/0", "model/merges/2",
         "model/unk_token", "model/fuse_unk", "model/byte_fallback", "model/ignore_merges", "added_tokens", "added_tokens/0", "added_tokens/0/id",
         "added_tokens/0/content", "normalizer", "pre_tokenizer", "post_processor", "version"]  # fmt: skip


@settings(max_examples=300)
@given(st.sampled_from([of_bytes, of_code_points]), st.sampled_from(PATHS), VALUES)
def test_any_entry_is_read_or_refused(base: Any, path: str, value: object) -> None:
    try:
        made = read_tokenizer_json(changed(base(), path, value), "t.json")
    except InputError:
        return
    assert encode(made, "the then é\n") and tokenizer_tables(made).nbytes > 0


@settings(max_examples=150)
@given(st.integers(0, 6000), st.integers(0, 40), st.binary(max_size=8))
def test_any_bytes_are_read_or_refused(at: int, gone: int, insert: bytes) -> None:
    content = json.dumps(of_bytes()).encode()
    with contextlib.suppress(InputError):
        read_tokenizer_json(content[:at] + insert + content[at + gone :], "t.json")


# ---------------------------------------------------------------- GGUF


def gguf(style: str) -> dict[str, Any]:
    """The arrays of a byte-level vocabulary as GGUF has them."""
    model = json.loads(theirs(style).to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    kinds = [3 if token.startswith("<|") else 1 for token in tokens]
    merges = [" ".join(merge) for merge in model["merges"]]
    return {"model": "gpt2", "tokens": tokens, "scores": None, "merges": merges, "token_types": kinds}


def parts(found: dict[str, Any], **more: Any) -> Tokenizer:
    options = {"pre": "", "unk": None, "bos": None, "eos": 0, "add_space_prefix": False, "where": "g"} | more
    return tokenizer_from_parts(
        *(found[n] for n in ("model", "tokens", "scores", "merges", "token_types")), **options
    )


@pytest.mark.parametrize(
    ("style", "pre"), [("gpt2", "gpt-2"), ("llama3 words", "llama-bpe"), ("qwen2", "qwen2"), ("smollm", "smollm")]
)
def test_parts_of_bytes(style: str, pre: str) -> None:
    made = parts(gguf(style), pre=pre)
    text = "It's 12345 o'clock,  日本語 unreachable\n\n\tsaid I'LL\u00a0xyzzy."
    assert encode(made, text, bos=False) == theirs(style).encode(text).ids
    assert (made.bos, made.eos, made.specials) == (0, 0, (0,))


def scored() -> dict[str, Any]:
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "t",
        "h",
        "e",
        "th",
        "▁the",
        "the",
        "<extra>",
    ]
    scores = [0.0] * 263 + [-1.0, -2.0, -3.0, 0.0]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 7, 4]
    return {
        "model": "llama",
        "tokens": [p.encode() for p in pieces],
        "scores": scores,
        "merges": None,
        "token_types": kinds,
    }


def test_parts_of_sentencepiece() -> None:
    made = parts(scored(), unk=0, bos=1, eos=2, add_space_prefix=True)
    assert (made.first_byte, made.prefix, made.specials) == (3, "always", (0, 1, 2))
    assert encode(made, "the é") == [1, 264, 259, *(3 + byte for byte in "é".encode())]
    assert decode(made, encode(made, "the é"), None) == b"the \xc3\xa9"
    assert made.ranks[[263, 264, 265, 266]].tolist() == [0, 1, 2, NO_MERGE]
    bare = parts(scored(), unk=0, bos=1, eos=2)
    assert encode(bare, "the") == [1, 265]
    assert tokenizer_tables(bare).dummy_prefix == -1 and tokenizer_tables(made).dummy_prefix == 259


@pytest.mark.parametrize(
    ("change", "options", "what", "where"),
    [
        ({"model": "bert"}, {}, "tokenizer model 'bert' is not supported", "g, model"),
        ({"model": "gpt2"}, {"pre": "tekken"}, "the pattern 'tekken' is not supported", "g, pre"),
        ({"scores": [0.0]}, {}, "1 scores for 267 tokens", "g, scores"),
        ({"scores": [float("nan")] * 267}, {}, "the score of a token is NaN", "g, scores"),
        ({"token_types": [1]}, {}, "1 token types for 267 tokens", "g, token_type"),
        ({}, {"eos": 267}, "eos is token 267 of 267", "g"),
        ({}, {"eos": None}, "no token begins or ends a text", "g"),
        ({"tokens": [b"\xff"] * 267}, {}, "a piece is not UTF-8", "g, tokens[0]"),
        ({"tokens": ["x"] * 267}, {}, "there are no 256 byte tokens in order, and no token for what is unknown", "g"),
        ({"model": "gpt2", "tokens": ["x"] * 267}, {}, "1 of", None),
    ],
)
def test_parts_that_are_refused(
    change: dict[str, Any], options: dict[str, Any], what: str, where: str | None
) -> None:
    with pytest.raises(InputError) as caught:
        parts(scored() | change, **options)
    if where is not None:
        assert (caught.value.what, caught.value.where) == (what, where)


def test_the_alphabet_of_bytes_is_the_library_s() -> None:
    from tokenizers import pre_tokenizers

    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
