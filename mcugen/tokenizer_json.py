"""tokenizer.json of Hugging Face's `tokenizers` -> ir.Tokenizer: BPE of code points, and of bytes.

Format: the library's serialisation, e.g. tokenizers/src/models/bpe/serialization.rs. Read by hand: the library is not
needed, and what the firmware cannot do exactly is refused by the field that asks for it.

Text is encoded as the library encodes it, with two exceptions. Special and added tokens are not looked for in a text:
what a user types cannot end a sequence. And a normalizer NFC (Qwen's) is left out: text that is NFC already, as text
from keyboards is, encodes alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mcugen.errors import InputError
from mcugen.ir import Tokenizer
from mcugen.split import SPLITS
from mcugen.tokenizer import SPACE_MARK, pairs_tokenizer, short, split_merge

MAX_BYTES = 2**27  # the largest in the open have 35 MB
MAX_TOKENS = 2**20

_OLD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {_OLD: "gpt2", _MODERN % "{1,3}": "llama3", _MODERN % "": "qwen2"}  # regular expressions -> SPLITS
_BOS = ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|endoftext|>")
_EOS = ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<|im_end|>")
_DAMAGED = "the file is damaged, or not a tokenizer.json: copy or download it again"
_SUPPORTED = "supported are BPE in the manner of Llama 2 (SentencePiece), and of GPT-2, Llama 3, Qwen2 and SmolLM"


@dataclass(frozen=True, slots=True)
class _Style:
    """How a text becomes words: fields of ir.Tokenizer."""

    byte_level: bool
    split: str
    prefix: str


def read_tokenizer_json(
    content: bytes, where: str, *, vocab_size: int | None = None, bos: int | None = None, eos: int | None = None
) -> Tokenizer:
    """Read a tokenizer.json.

    vocab_size: of the model, whose table may have rows behind the last token: specials that print nothing.
    bos, eos: ids that config.json names; else what the template of a text begins with, or a token that is called so.
    Where a model has no bos, eos takes its place, and the other way round. Raises InputError, naming the field.
    """
    return _Reader(_parse(content, where), where).read(vocab_size, bos, eos)


def _parse(content: bytes, where: str) -> dict[str, Any]:
    if len(content) > MAX_BYTES:
        raise InputError(f"a tokenizer of {len(content):,} bytes", where=where, hint=f"it may have {MAX_BYTES:,}")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError("the tokenizer is not JSON", where=where, hint=_DAMAGED) from error
    if not isinstance(found, dict):
        raise InputError("the tokenizer is not a mapping", where=where, hint=_DAMAGED)
    return found


class _Reader:
    """Takes a checked tokenizer out of one file; `where` of every error ends with the field."""

    def __init__(self, found: Mapping[str, Any], where: str) -> None:
        self._where = where
        self._found = found

    def read(self, vocab_size: int | None, bos: int | None, eos: int | None) -> Tokenizer:
        model = self._mapping("model", self._found.get("model"))
        self._check_model(model)
        texts, plain, specials = self._tokens(model, vocab_size)
        style = self._style()
        ids = {text: token for token, text in texts.items()}
        unk = self._text("model.unk_token", model["unk_token"]) if model.get("unk_token") is not None else None
        if unk is not None and unk not in ids:
            self._fail("model.unk_token", f"the unknown token {short(unk)} is no piece", _DAMAGED)
        ends = {
            "bos": self._template_bos(ids) if bos is None else bos,
            "eos": next((ids[name] for name in _EOS if name in ids), None) if eos is None else eos,
            "unk": None if unk is None or style.byte_level else ids[unk],
        }
        if ends["bos"] is None:
            ends["bos"] = next((ids[name] for name in _BOS if name in ids), None)
        whole_words = self._flag("model.ignore_merges", model.get("ignore_merges", False))
        if whole_words and not style.byte_level:
            self._fail("model.ignore_merges", "ignore_merges is supported with ByteLevel only", _SUPPORTED)
        return pairs_tokenizer(
            [texts[token] for token in range(len(texts))],
            self._merges(model.get("merges")),
            plain,
            specials,
            ends,
            where=self._where,
            byte_level=style.byte_level,
            split=style.split,
            prefix=style.prefix,
            whole_words=whole_words,
            fuse_unk=self._flag("model.fuse_unk", model.get("fuse_unk", False)),
            byte_fallback=self._flag("model.byte_fallback", model.get("byte_fallback", False)),
        )

    # ------------------------------------------------------------ checks

    def _fail(self, field: str, what: str, hint: str) -> NoReturn:
        raise InputError(what, where=f"{self._where}, {field}", hint=hint)

    def _mapping(self, field: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(field, f"it is {short(value)}, not a mapping", _DAMAGED)
        return value

    def _list(self, field: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            self._fail(field, f"it is {short(value)}, not a list", _DAMAGED)
        return value

    def _text(self, field: str, value: object) -> str:
        if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
            self._fail(field, f"it is {short(value)}, not a text", _DAMAGED)
        return value

    def _flag(self, field: str, value: object) -> bool:
        if type(value) is not bool:
            self._fail(field, f"it is {short(value)}, not true or false", _DAMAGED)
        return value

    def _id(self, field: str, value: object) -> int:
        if type(value) is not int or not 0 <= value < MAX_TOKENS:
            self._fail(field, f"it is {short(value)}, not a token id below {MAX_TOKENS:,}", _DAMAGED)
        return value

    # ------------------------------------------------------------ model

    def _check_model(self, model: Mapping[str, Any]) -> None:
        kind = model.get("type", "BPE" if "merges" in model else None)
        if kind != "BPE":
            self._fail("model.type", f"a model of type {short(kind)} is not supported", _SUPPORTED)
        for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(name):
                self._fail(f"model.{name}", f"{name} {short(model[name])} is not supported", _SUPPORTED)

    def _tokens(self, model: Mapping[str, Any], vocab_size: int | None) -> tuple[dict[int, str], set[int], set[int]]:
        """Every token's text by id, the ids of the plain ones, and of the special ones."""
        texts: dict[int, str] = {}
        for text, value in self._mapping("model.vocab", model.get("vocab")).items():
            field = f"model.vocab[{short(text)}]"
            token = self._id(field, value)
            if token in texts:
                self._fail(field, f"token {token} is {short(texts[token])} already", _DAMAGED)
            texts[token] = self._text(field, text)
        plain = set(texts)
        names = set(texts.values())
        specials = set()
        for index, entry in enumerate(self._list("added_tokens", self._found.get("added_tokens", []))):
            field = f"added_tokens[{index}]"
            added = self._mapping(field, entry)
            token = self._id(f"{field}.id", added.get("id"))
            text = self._text(f"{field}.content", added.get("content"))
            if texts.get(token, text) != text or (token not in texts and text in names):
                self._fail(field, f"token {token} {short(text)} is another one in model.vocab", _DAMAGED)
            texts[token] = text
            names.add(text)
            if self._flag(f"{field}.special", added.get("special", False)):
                specials.add(token)
        if texts and max(texts) != len(texts) - 1:
            missing = next(token for token in range(len(texts)) if token not in texts)
            what = f"token {missing} is missing: {len(texts):,} tokens reach {max(texts):,}"
            self._fail("model.vocab", what, _DAMAGED)
        if vocab_size is not None:
            if len(texts) > vocab_size or vocab_size > MAX_TOKENS:
                self._fail(
                    "model.vocab",
                    f"the file holds {len(texts):,} tokens, the model's vocabulary {vocab_size:,}",
                    "use the tokenizer that the model was trained with",
                )
            for token in range(len(texts), vocab_size):
                texts[token] = f"<unused {token}>"
                specials.add(token)
        return texts, plain, specials

    def _merges(self, value: object) -> list[tuple[str, str]]:
        """Merges as "t h", or since version 0.20 as ["t", "h"]."""
        merges = []
        for rank, merge in enumerate(self._list("model.merges", value)):
            field = f"model.merges[{rank}]"
            if isinstance(merge, list) and len(merge) == 2:
                merges.append((self._text(field, merge[0]), self._text(field, merge[1])))
            else:
                merges.append(split_merge(self._text(field, merge), f"{self._where}, {field}"))
        return merges

    def _template_bos(self, ids: Mapping[str, int]) -> int | None:
        """The token that a template puts in front of a text, if any."""
        processor = self._found.get("post_processor")
        for part in self._parts("post_processor", processor, "processors"):
            single = part.get("single")
            first = single[0] if isinstance(single, list) and single else None
            special = first.get("SpecialToken") if isinstance(first, dict) else None
            name = special.get("id") if isinstance(special, dict) else None
            if isinstance(name, str) and name in ids:
                return ids[name]
        return None

    # ------------------------------------------------------------ style

    def _parts(self, field: str, value: object, inner: str) -> list[dict[str, Any]]:
        """A step, or the steps of a Sequence; [] for null."""
        if value is None:
            return []
        step = self._mapping(field, value)
        if step.get("type") != "Sequence":
            return [step]
        parts = self._list(f"{field}.{inner}", step.get(inner))
        return [self._mapping(f"{field}.{inner}[{i}]", part) for i, part in enumerate(parts)]

    def _style(self) -> _Style:
        cuts = self._parts("pre_tokenizer", self._found.get("pre_tokenizer"), "pretokenizers")
        changes = self._parts("normalizer", self._found.get("normalizer"), "normalizers")
        if any(part.get("type") == "ByteLevel" for part in cuts):
            return self._byte_level(cuts, changes)
        return self._sentencepiece(cuts, changes)

    def _byte_level(self, cuts: list[dict[str, Any]], changes: list[dict[str, Any]]) -> _Style:
        for change in changes:
            if change.get("type") != "NFC":
                what = f"{short(change)} is not supported before ByteLevel"
                self._fail("normalizer", what, "supported: NFC, or none")
        *before, last = cuts
        use_regex = self._flag("pre_tokenizer.use_regex", last.get("use_regex", True))
        prefix = self._flag("pre_tokenizer.add_prefix_space", last.get("add_prefix_space", True))
        names = " ".join([self._cut(part) for part in before] + (["gpt2"] if use_regex else []))
        split = {"digits gpt2": "gpt2-digits", "digit gpt2": "gpt2-digit"}.get(names, names)
        if last.get("type") != "ByteLevel" or split not in SPLITS:
            self._fail("pre_tokenizer", f"this order of steps is not supported: {short(cuts)}", _SUPPORTED)
        if prefix and before:
            what = "add_prefix_space behind another step is not supported"
            self._fail("pre_tokenizer.add_prefix_space", what, _SUPPORTED)
        return _Style(True, split, "missing" if prefix else "never")

    def _cut(self, part: dict[str, Any]) -> str:
        """The name of a step before ByteLevel."""
        if part.get("type") == "Digits":
            one_by_one = self._flag("pre_tokenizer.individual_digits", part.get("individual_digits", False))
            return "digit" if one_by_one else "digits"
        pattern = part.get("pattern")
        regex = str(pattern.get("Regex")) if isinstance(pattern, dict) else ""
        if part.get("type") != "Split" or regex not in PATTERNS:
            self._fail("pre_tokenizer", f"{short(part)} is not supported before ByteLevel", _SUPPORTED)
        if part.get("behavior") != "Isolated" or part.get("invert", False) is not False:
            self._fail("pre_tokenizer", "a Split is supported as Isolated and not inverted", _SUPPORTED)
        return PATTERNS[regex]

    def _sentencepiece(self, cuts: list[dict[str, Any]], changes: list[dict[str, Any]]) -> _Style:
        """Spaces become U+2581: by a normalizer, as Llama 2 and Gemma have it, or by Metaspace."""
        replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
        prepends = {"type": "Prepend", "prepend": SPACE_MARK}
        # Once spaces are replaced, a cut at spaces cuts nothing.
        idle = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        if changes and changes[-1] == replaces and changes[:-1] in ([], [prepends]) and cuts in ([], [idle]):
            return _Style(False, "", "always" if len(changes) > 1 else "never")
        if changes or len(cuts) != 1 or cuts[0].get("type") != "Metaspace":
            field = "normalizer" if changes and changes[-1] != replaces else "pre_tokenizer"
            self._fail(field, f"these steps are not supported: {short(changes)}, {short(cuts)}", _SUPPORTED)
        step = cuts[0]
        if step.get("replacement") != SPACE_MARK:
            what = f"{short(step.get('replacement'))} for a space"
            self._fail("pre_tokenizer.replacement", what, "supported: U+2581")
        scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        if scheme not in ("always", "first", "never"):
            self._fail("pre_tokenizer.prepend_scheme", f"it is {short(scheme)}", "supported: always, first, never")
        split = self._flag("pre_tokenizer.split", step.get("split", True))
        return _Style(False, "space" if split else "", "never" if scheme == "never" else "missing")
