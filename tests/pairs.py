"""Vocabularies with merges: made by Hugging Face's `tokenizers`, the oracle, and run by the C twin."""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import native
import numpy as np
import pytest
from zoo import DATA

from mcugen.ir import Tokenizer
from mcugen.tokenizer import tokenizer_tables
from mcugen.tokenizer_json import PATTERNS

oracle = pytest.importorskip("tokenizers")
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

RUNTIME = Path(__file__).resolve().parent.parent / "firmware" / "runtime"
SOURCES = [RUNTIME / "tokenizer_pairs.c", RUNTIME / "split.c"]
REGEX = {name: pattern for pattern, name in PATTERNS.items()}

MULTILINGUAL = """Héllo wörld, ñandú! naïve façade; Ελληνικά, русский язык, हिन्दी भाषा.
日本語のテキスト、中文字符。 한국어 문장입니다. مرحبا بالعالم ١٢٣ שלום עולם
😀👩‍👩‍👧 🏳️‍🌈 e\u0301a\u0308o\u0302 \u00a0x\u00a0 \u2003y\u3000z\t\ttabs\r\n\r\n  two\n\n\n three  \r four \v\f
½ ² ٣٤ 12345 1 22 333 4444 Ⅷ ⑦ don't I'LL you'Ve x's 'S 'ſ ſ' can't've we'd o'clock
▁▁ under_score... --- #$% (a  b   c    d) [x]{y} <s> </s> <|endoftext|> \u200b\ufeff
"""


def corpus() -> str:
    path = DATA / "tinystories.txt"
    return MULTILINGUAL * 4 + (path.read_text(encoding="utf-8")[:30_000] if path.exists() else MULTILINGUAL * 20)


def byte_level(cut: str, *, prefix: bool = False, whole: bool = False, nfc: bool = False) -> oracle.Tokenizer:
    """An untrained byte-level BPE. cut: a name of SPLITS."""
    made = oracle.Tokenizer(models.BPE(ignore_merges=whole))
    level = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=prefix)
    if cut == "gpt2":
        made.pre_tokenizer = level()
    elif cut.startswith("gpt2-"):
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=cut == "gpt2-digit"), level()]
        )
    else:
        split = pre_tokenizers.Split(Regex(REGEX[cut]), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([split, level(use_regex=False)])
    if nfc:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    return made


def code_points(style: str, *, fallback: bool = True, fuse: bool = True) -> oracle.Tokenizer:
    """An untrained BPE of code points. style: llama, gemma, or Metaspace's prepend_scheme and split."""
    made = oracle.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=fuse))
    replace = normalizers.Replace(" ", "▁")
    strip: Iterable[decoders.Decoder] = [decoders.Strip(" ", 1, 0)]
    if style == "llama":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif style == "gemma":
        made.normalizer, strip = replace, []
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        scheme, _, split = style.partition(" ")
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split == "split")
        strip = [] if scheme == "never" else strip
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    made.decoder = decoders.Sequence(steps)
    return made


def trained(made: oracle.Tokenizer, size: int = 700, text: str | None = None) -> oracle.Tokenizer:
    specials = ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if made.model.unk_token is not None:
        specials, alphabet = ["<unk>", "<s>", "</s>"], []
        specials += [f"<0x{byte:02X}>" for byte in range(256) if made.model.byte_fallback]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, limit_alphabet=300, show_progress=False
    )
    made.train_from_iterator((corpus() if text is None else text).splitlines(keepends=True), trainer)
    found = json.loads(made.to_str())  # byte tokens are no special ones
    found["added_tokens"] = [token for token in found["added_tokens"] if not token["content"].startswith("<0x")]
    return oracle.Tokenizer.from_str(json.dumps(found))


STYLES = {
    "gpt2": lambda: byte_level("gpt2"),
    "gpt2 prefix": lambda: byte_level("gpt2", prefix=True),
    "digits": lambda: byte_level("gpt2-digits"),
    "smollm": lambda: byte_level("gpt2-digit"),
    "llama3": lambda: byte_level("llama3"),
    "llama3 words": lambda: byte_level("llama3", whole=True),
    "qwen2": lambda: byte_level("qwen2", nfc=True),
    "llama": lambda: code_points("llama"),
    "llama unk": lambda: code_points("llama", fallback=False),
    "llama unks": lambda: code_points("llama", fallback=False, fuse=False),
    "gemma": lambda: code_points("gemma"),
    "first": lambda: code_points("first split"),
    "always": lambda: code_points("always", fallback=False),
    "never": lambda: code_points("never split"),
}


@functools.cache
def theirs(style: str) -> oracle.Tokenizer:
    made = trained(STYLES[style]())
    if "words" in style:  # words that merges alone would not reach
        made = with_words(made, [" unreachable", "日本語", "xyzzy"])
    return made


def with_words(made: oracle.Tokenizer, words: list[str]) -> oracle.Tokenizer:
    """The same with pieces that no merge makes."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = json.loads(made.to_str())
    for word in words:
        found["model"]["vocab"][level.pre_tokenize_str(word)[0][0]] = len(found["model"]["vocab"])
    return oracle.Tokenizer.from_str(json.dumps(found))


def with_bos(made: oracle.Tokenizer, name: str) -> oracle.Tokenizer:
    made.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, made.token_to_id(name))]
    )
    return made


# ---------------------------------------------------------------- C twin


class _Base(ctypes.Structure):
    """mg_tokenizer_t."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("bytes", "offsets", "ranks", "order")] + [
        (name, ctypes.c_int32)
        for name in ("vocab_size", "first_byte", "dummy_prefix", "unk", "bos", "eos", "lowercase")
    ]


class _Split(ctypes.Structure):
    """mg_split_t."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("starts", "kinds", "planes")] + [
        (name, ctypes.c_int32) for name in ("plane_count", "modern", "digits", "number_space", "numbers_apart")
    ]


class _Pairs(ctypes.Structure):
    """mg_pairs_t."""

    _fields_ = [
        ("base", _Base),
        *[(name, ctypes.c_void_p) for name in ("pairs", "ranks", "ranks_high", "results")],
        *[
            (name, ctypes.c_int32)
            for name in (
                "merges",
                "first_result",
                "symbols",
                "byte_level",
                "prefix",
                "whole_words",
                "fuse_unk",
                "spaces",
            )
        ],
        ("word_end", ctypes.c_void_p),
        ("split", ctypes.POINTER(_Split)),
    ]


class _Span(ctypes.Structure):
    """mg_span_t."""

    _fields_ = [("bytes", ctypes.c_void_p), ("length", ctypes.c_int32)]


def _address(value: object) -> object:
    return value.ctypes.data if isinstance(value, np.ndarray) else value


class Native:
    """The C twin over the tables of a Tokenizer with merges."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.library = native.load(SOURCES, [RUNTIME])
        self.library.mg_tokenizer_piece.restype = _Span
        self.tables = tokenizer_tables(tokenizer)  # kept alive: the structs point into it
        base, more = self.tables, self.tables.pairs
        assert more is not None
        names = (
            "pairs",
            "ranks",
            "ranks_high",
            "results",
            "first_result",
            "byte_level",
            "prefix",
            "whole_words",
            "fuse_unk",
            "spaces",
        )
        fields = {name: _address(getattr(more, name)) for name in names}
        if more.split is not None:
            s = more.split
            kinds = (_address(getattr(more.kinds, name)) for name in ("starts", "kinds", "planes"))
            self.split = _Split(
                *kinds, len(more.kinds.planes) - 1, s.modern, s.digits, s.number_space, s.numbers_apart
            )
            fields |= {"split": ctypes.pointer(self.split)}
            fields["word_end"] = ctypes.cast(self.library.mg_word_end, ctypes.c_void_p)
        self.struct = _Pairs(
            _Base(*(_address(getattr(base, name)) for name, _ in _Base._fields_)),
            merges=len(more.pairs), symbols=len(base.order), **fields,
        )  # fmt: skip

    def encode(self, text: bytes, bos: bool = True, capacity: int | None = None) -> list[int] | None:
        room = len(text) + 2 if capacity is None else capacity
        tokens = np.full(room + 1, 0xABCD, np.uint16)
        count = self.library.mg_tokenizer_encode(
            ctypes.byref(self.struct), ctypes.c_void_p(tokens.ctypes.data), room, text, len(text), int(bos)
        )
        assert tokens[room] == 0xABCD, "wrote behind the buffer"
        return None if count < 0 else tokens[:count].tolist()

    def word_end(self, text: bytes, at: int) -> int:
        return int(self.library.mg_word_end(ctypes.byref(self.split), text, len(text), at))

    def piece(self, previous: int | None, token: int) -> bytes:
        byte = ctypes.c_uint8()
        span = self.library.mg_tokenizer_piece(
            ctypes.byref(self.struct), ctypes.byref(byte), -1 if previous is None else previous, token
        )
        return ctypes.string_at(span.bytes, span.length)
