"""Read a GGUF file: its header with a bounded reader of our own, its values with the gguf package.

Format: github.com/ggml-org/ggml, docs/gguf.md; block types: its ggml-common.h. What settings mean and how tensors are
stored is llama.cpp's convert_hf_to_gguf.py: the rows of llama's wq and wk are in neighbouring pairs already, those
of qwen2, qwen3, gemma and gemma3 lie half a head apart, and Gemma's gains have their 1 added.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError, ToolError
from mcugen.ir import CONFIG_LIMITS, Config, Model, Tokenizer
from mcugen.tokenizer import tokenizer_from_parts
from mcugen.weights import MAX_EXPERTS, Fields, Naming, Stored, assemble, check_config, shown

MAGIC = b"GGUF"
_DAMAGED = "the file is damaged: copy or download it again"
_MAX_KEY_BYTES = 65_535
_MAX_DIMS = 4
_MAX_ALIGNMENT = 2**16
_MAX_SIZE = 2**31 - 1
_FACTOR = (1e-6, 1e9)
_THETA = (1.0, 1e12)

# Scalars by their number in the file: struct's letter. 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Types of tensors that are read, by their number: name, values of a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}


# ---------------------------------------------------------------- architectures


@dataclass(frozen=True, slots=True)
class _Kind:
    """What sets an architecture apart. halves: its RoPE turns values half a head apart."""

    halves: bool = True
    activation: str = "silu"
    qk_norm: bool = False
    post_norms: bool = False
    scaled_embedding: bool = False


KINDS = {
    "llama": _Kind(halves=False),
    "granite": _Kind(halves=False),
    "qwen2": _Kind(),
    "qwen3": _Kind(qk_norm=True),
    "gemma": _Kind(activation="gelu_tanh", scaled_embedding=True),
    "gemma3": _Kind(activation="gelu_tanh", scaled_embedding=True, qk_norm=True, post_norms=True),
}

_LAYER = "blk.{layer}."
_NAMES = {
    "token_embedding_table": "token_embd.weight",
    "rms_final_weight": "output_norm.weight",
    "wcls": "output.weight",
    "rms_att_weight": _LAYER + "attn_norm.weight",
    "rms_ffn_weight": _LAYER + "ffn_norm.weight",
    "post_att_weight": _LAYER + "post_attention_norm.weight",
    "post_ffn_weight": _LAYER + "post_ffw_norm.weight",
    "q_norm": _LAYER + "attn_q_norm.weight",
    "k_norm": _LAYER + "attn_k_norm.weight",
    "router": _LAYER + "ffn_gate_inp.weight",
}
_MATRICES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "1": "ffn_gate", "2": "ffn_down"}
_MATRICES |= {"3": "ffn_up"}
_NAMES |= {f"w{one}": f"{_LAYER}{name}.weight" for one, name in _MATRICES.items()}
_NAMES |= {f"b{one}": f"{_LAYER}{name}.bias" for one, name in _MATRICES.items()}


# ---------------------------------------------------------------- read


def read_gguf(path: Path, max_vocab: int = CONFIG_LIMITS["vocab_size"]) -> Model:
    """Read a GGUF file of version 2 or 3, of the types and architectures that TYPES and KINDS list.

    Quantised tensors become float32 exactly as the gguf package has it. max_vocab: tokens at most; more than the
    firmware holds is for who takes some of them out. Raises InputError, and ToolError without the package.
    """
    where = f"GGUF file {path}"
    content = _content(path, where)
    header = _Header(content, where)
    stored = header.stored()
    config, naming = _parse_settings(header, stored, where, max_vocab)
    tensors = {name: tensor for name, tensor in stored.items() if name != _ROPE_FACTORS}
    with np.errstate(all="ignore"):  # assemble names what is not finite
        weights = assemble(config, naming, tensors, where)
    return Model(path.stem, config, weights, hashlib.sha256(content).hexdigest(), naming.factors)


def gguf_tokenizer(path: Path) -> Tokenizer:
    """The vocabulary of a GGUF file. Raises InputError, also where it is not as long as the embedding table."""
    where = f"GGUF file {path}"
    header = _Header(_content(path, where), where)
    fields = Fields(header.settings, f"{where}, header", _DAMAGED)
    at = "tokenizer.ggml."
    tokens = header.strings(f"{at}tokens")
    if tokens is None:
        fields.fail(f"{at}tokens", "the list of the vocabulary's tokens")
    table = header.places.get("token_embd.weight")
    if table is not None and len(tokens) != table.shape[0]:
        raise InputError(
            f"the vocabulary has {len(tokens):,} tokens, the embedding table {table.shape[0]:,} rows",
            where=where,
            hint="convert the model again",
        )
    merges = header.strings(f"{at}merges")
    last = len(tokens) - 1

    def token(name: str) -> int | None:
        key = f"{at}{name}_token_id"
        return fields.integer(key, 0, last) if key in fields else None

    model = fields.choice(f"{at}model", ("llama", "gpt2"))
    return tokenizer_from_parts(
        model,
        tokens,
        header.numbers(f"{at}scores", "f", len(tokens)),
        None if merges is None else [merge.decode(errors="replace") for merge in merges],
        header.numbers(f"{at}token_type", "i", len(tokens)),
        pre=str(fields.get(f"{at}pre", "")),
        unk=token("unknown"),
        bos=token("bos"),
        eos=token("eos"),
        add_space_prefix=fields.flag(f"{at}add_space_prefix", model == "llama"),
        where=where,
    )


def _content(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the GGUF file: {error.strerror}", where=where, hint="give the path of a .gguf file"
        ) from error


# ---------------------------------------------------------------- header


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor in the file. kind: of TYPES. shape: rows first. offset: behind the header. size: in bytes."""

    kind: int
    shape: tuple[int, ...]
    offset: int
    size: int


class _Header:
    """Settings and places of tensors. Nothing is allocated that the file does not have the bytes for."""

    def __init__(self, content: bytes, where: str) -> None:
        self._content = content
        self._where = f"{where}, header"
        self._at = 0
        self.settings: dict[str, Any] = {}
        if self._take(4, "the magic") != MAGIC:
            self._fail(f"the file starts with {shown(content[:4])}, not with {MAGIC!r}", "give a .gguf file")
        version = self._number("I", "the version")
        if version not in (2, 3):
            big = " (a big-endian file)" if int.from_bytes(version.to_bytes(4, "little")) in (2, 3) else ""
            self._fail(f"GGUF version {version:,} is not read{big}", "convert the model again: 2 and 3 are read")
        n_tensors, n_settings = (self._number("Q", "the counts") for _ in range(2))
        self._check_count(n_settings, 13, "settings")  # 8 + 0 bytes of a name, 4 of a type, 1 of a value
        self._check_count(n_tensors, 24, "tensors")
        for _ in range(n_settings):
            self._setting()
        self.places: dict[str, _Place] = {}
        for _ in range(n_tensors):
            self._tensor()
        alignment = Fields(self.settings, self._where).integer("general.alignment", 1, _MAX_ALIGNMENT, 32)
        if alignment & (alignment - 1):
            self._fail(f"general.alignment is {alignment}", "it must be a power of two")
        self._data = -(-self._at // alignment) * alignment
        self._check_places(alignment)

    def stored(self) -> dict[str, Stored]:
        """The tensors, to be decoded one by one. Raises ToolError where the gguf package is missing."""
        try:
            from gguf.constants import GGMLQuantizationType
            from gguf.quants import dequantize
        except ImportError as error:
            raise ToolError(
                "reading GGUF files needs the Python package gguf",
                where=self._where,
                hint="pip install 'mcugen[formats]'",
            ) from error

        def reader(place: _Place) -> Stored:
            def values() -> NDArray[np.float32]:
                start = self._data + place.offset
                rows = np.frombuffer(self._content, np.uint8, place.size, start).reshape(*place.shape[:-1], -1)
                found = dequantize(rows, GGMLQuantizationType(place.kind))
                return np.asarray(found, np.float32).reshape(place.shape)

            return Stored(place.shape, values)

        return {name: reader(place) for name, place in self.places.items()}

    def strings(self, name: str) -> list[bytes] | None:
        """An array of strings, as bytes; None where it is missing."""
        value = self.settings.get(name)
        if value is not None and not isinstance(value, list):
            self._fail(f"{name} is {shown(value)}", "it must be an array of strings")
        return value

    def numbers(self, name: str, kind: str, count: int) -> list[Any] | None:
        """An array of `count` numbers of a kind, struct's letter; None where it is missing."""
        value = self.settings.get(name)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.dtype != np.dtype(f"<{kind}4") or len(value) != count:
            self._fail(f"{name} is {shown(value)}", f"it must be an array of {count:,} numbers, one for each token")
        return value.tolist()

    # ------------------------------------------------------------ parts

    def _fail(self, what: str, hint: str = _DAMAGED) -> NoReturn:
        raise InputError(what, where=self._where, hint=hint)

    def _take(self, size: int, what: str) -> bytes:
        left = len(self._content) - self._at
        if size > left:
            self._fail(f"{what} takes {size:,} bytes, {left:,} are left at byte {self._at:,}")
        self._at += size
        return self._content[self._at - size : self._at]

    def _number(self, letter: str, what: str) -> Any:
        (value,) = struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}"), what))
        return value

    def _string(self, what: str) -> bytes:
        return self._take(self._number("Q", f"the length of {what}"), what)

    def _name(self, what: str) -> str:
        """A short UTF-8 text that is not there yet."""
        content = self._string(f"the name of a {what}")
        try:
            name = content.decode()
        except UnicodeDecodeError:
            self._fail(f"the name of a {what}, {shown(content)}, is not UTF-8")
        if len(content) > _MAX_KEY_BYTES:
            self._fail(f"the name of a {what} has {len(content):,} bytes")
        return name

    def _check_count(self, count: int, size: int, what: str) -> None:
        """Refuse a count that the rest of the file has no room for."""
        left = len(self._content) - self._at
        if count > left // size:
            self._fail(f"{count:,} {what} in the {left:,} bytes that are left at byte {self._at:,}")

    def _setting(self) -> None:
        name = self._name("setting")
        if name in self.settings:
            self._fail(f"the setting {shown(name)} stands there twice")
        self.settings[name] = self._value(self._number("I", f"the type of {shown(name)}"), shown(name))

    def _value(self, kind: int, name: str) -> object:
        """A setting's value. Arrays of numbers stay numpy arrays, those of strings become lists of bytes."""
        if kind in _SCALARS:
            value = self._number(_SCALARS[kind], name)
            return float(str(np.float32(value))) if _SCALARS[kind] == "f" else value  # 1e-5 as it was written
        if kind == _STRING:
            return self._string(name).decode(errors="replace")
        if kind != _ARRAY:
            self._fail(f"the setting {name} is of type {kind:,}, which is unknown")
        element, count = self._number("I", name), self._number("Q", name)
        if element in _SCALARS:
            dtype = np.dtype(f"<{_SCALARS[element]}" if _SCALARS[element] != "?" else "?")
            self._check_count(count, dtype.itemsize, f"elements of {name}")
            return np.frombuffer(self._take(count * dtype.itemsize, name), dtype)
        if element != _STRING:
            self._fail(f"the setting {name} is an array of type {element:,}: only plain numbers and strings are read")
        self._check_count(count, 8, f"elements of {name}")
        return [self._string(f"an element of {name}") for _ in range(count)]

    def _tensor(self) -> None:
        name = self._name("tensor")
        if name in self.places:
            self._fail(f"the tensor {shown(name)} stands there twice")
        n_dims = self._number("I", f"the number of dimensions of {name}")
        if not 1 <= n_dims <= _MAX_DIMS:
            self._fail(f"the tensor {shown(name)} has {n_dims:,} dimensions; 1 to {_MAX_DIMS} are supported")
        shape = tuple(self._number("Q", f"a dimension of {name}") for _ in range(n_dims))[::-1]
        kind, offset = self._number("I", f"the type of {name}"), self._number("Q", f"the offset of {name}")
        if kind not in TYPES:
            self._fail(
                f"the tensor {shown(name)} is of type {kind:,}",
                f"convert the model with one of {', '.join(title for title, _, _ in TYPES.values())}",
            )
        title, block, size = TYPES[kind]
        if min(shape) < 1 or shape[-1] % block:
            self._fail(f"the tensor {shown(name)} has the shape {shown(list(shape))}; {title} has blocks of {block}")
        self.places[name] = _Place(kind, shape, offset, math.prod(shape) // block * size)

    def _check_places(self, alignment: int) -> None:
        """Every tensor lies in the file, where it may begin, and behind the one before it."""
        room = len(self._content) - self._data
        spans = sorted((place.offset, place.offset + place.size, name) for name, place in self.places.items())
        for start, end, name in spans:
            if start % alignment:
                self._fail(f"the tensor {shown(name)} begins at {start:,}, no multiple of {alignment}")
            if end > room:
                self._fail(f"the tensor {shown(name)} ends at byte {end:,} of the {max(room, 0):,} behind the header")
        for (_, end, before), (start, _, name) in pairwise(spans):
            if start < end:
                self._fail(f"the tensors {shown(before)} and {shown(name)} overlap")


# ---------------------------------------------------------------- settings

_ROPE_FACTORS = "rope_freqs.weight"

# Settings beside those of _parse_settings that do not change what is computed, and ...
_NOTES = (
    "vocab_size",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "expert_feed_forward_length",
)
# ... those that do, with the values at which they do not.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.causal": (True,),
    "expert_shared_count": (0,),
    "expert_weights_norm": (True,),
    "expert_gating_func": (0, 1),  # softmax
    "leading_dense_block_count": (0,),
}


def _parse_settings(
    header: _Header, stored: Mapping[str, Stored], where: str, max_vocab: int
) -> tuple[Config, Naming]:
    """What the header says, and under which names the weights are."""
    spot = f"{where}, header"
    fields = Fields(header.settings, spot)
    arch = fields.choice("general.architecture", KINDS)
    kind = KINDS[arch]
    if fields.integer("split.count", 0, _MAX_SIZE, 0) > 1:
        fields.fail("split.count", "1: merge the parts with llama-gguf-split --merge")
    for name, values in _NEUTRAL.items():
        fields.only(f"{arch}.{name}", *values)
    table = stored.get("token_embd.weight")
    n_heads = fields.integer(f"{arch}.attention.head_count", 1, CONFIG_LIMITS["n_heads"])
    dim = fields.integer(f"{arch}.embedding_length", 1, CONFIG_LIMITS["dim"])
    head = fields.integer(f"{arch}.attention.key_length", 1, CONFIG_LIMITS["dim"], dim // n_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        fields.only(f"{arch}.{name}", head)
    config = Config(
        dim=dim,
        hidden_dim=fields.integer(f"{arch}.feed_forward_length", 1, CONFIG_LIMITS["hidden_dim"]),
        n_layers=fields.integer(f"{arch}.block_count", 1, CONFIG_LIMITS["n_layers"]),
        n_heads=n_heads,
        n_kv_heads=fields.integer(f"{arch}.attention.head_count_kv", 1, CONFIG_LIMITS["n_kv_heads"], n_heads),
        vocab_size=table.shape[0] if table else 1,
        seq_len=fields.integer(f"{arch}.context_length", 1, CONFIG_LIMITS["seq_len"]),
        shared_classifier="output.weight" not in stored,
        norm_eps=fields.number(f"{arch}.attention.layer_norm_rms_epsilon", 0, 1),
        head_size=0 if head * n_heads == dim else head,
        activation=kind.activation,
        attention_bias="blk.0.attn_q.bias" in stored,
        mlp_bias="blk.0.ffn_gate.bias" in stored,
        qk_norm=kind.qk_norm,
        post_norms=kind.post_norms,
        n_experts=(experts := fields.integer(f"{arch}.expert_count", 0, MAX_EXPERTS, 0)),
        experts_per_token=fields.integer(f"{arch}.expert_used_count", 0, MAX_EXPERTS, 0) if experts else 0,
    )
    config = _with_windows(check_config(config, spot, max_vocab), arch, fields)
    config = _with_rope(config, arch, fields, stored, where)
    config, factors = _scaled(config, arch, kind, fields)
    for name in _NOTES:
        fields.get(f"{arch}.{name}")
    if unknown := fields.unasked(f"{arch}."):
        fields.fail(unknown[0], "left out: what it changes is not supported")
    names = dict(_NAMES)
    if config.n_experts:
        names |= {name: names[name].replace(".weight", "_exps.weight") for name in ("w1", "w2", "w3")}
    zeros = ("bo",) if "blk.0.attn_output.bias" not in stored else ()
    return config, Naming(names=names, halves=kind.halves, zeros=zeros, factors=factors)


def _with_windows(config: Config, arch: str, fields: Fields) -> Config:
    """Gemma 3's windows: in all layers but each sixth."""
    if arch != "gemma3":
        return config
    size = fields.integer("gemma3.attention.sliding_window", 0, _MAX_SIZE, 0)
    every = fields.integer("gemma3.attention.sliding_window_pattern", 1, _MAX_SIZE, 6)
    size = min(size, config.seq_len)
    windows = tuple(size if (layer + 1) % every else 0 for layer in range(config.n_layers))
    return replace(config, layer_windows=windows if any(windows) else ())


def _with_rope(config: Config, arch: str, fields: Fields, stored: Mapping[str, Stored], where: str) -> Config:
    config = replace(config, rope_theta=fields.number(f"{arch}.rope.freq_base", *_THETA, 1e4))
    local = fields.number(f"{arch}.rope.freq_base_swa", *_THETA, 1e4)
    if config.layer_windows:
        config = replace(config, local_rope_theta=local)
    pairs = config.head_dim // 2
    scaling = fields.choice(f"{arch}.rope.scaling.type", ("none", "linear"), "none")
    factor = fields.number(f"{arch}.rope.scaling.factor", *_FACTOR, 1.0)
    factors = np.full(pairs, factor if scaling == "linear" else 1.0)
    if _ROPE_FACTORS in stored:
        found = stored[_ROPE_FACTORS]
        if found.shape != (pairs,) or not ((values := found.read()) > 1e-6).all() or not (values < 1e9).all():
            raise InputError(
                f"the tensor {_ROPE_FACTORS} has the shape {list(found.shape)}, or a factor that is none",
                where=where,
                hint=f"it must have {pairs} positive factors, one for each pair of a head",
            )
        factors = factors * values
    return config if (factors == 1).all() else replace(config, rope_factors=tuple(factors.tolist()))


def _scaled(config: Config, arch: str, kind: _Kind, fields: Fields) -> tuple[Config, dict[str, float]]:
    """Factors of embeddings and logits, and those that are folded into weights, by name."""
    if kind.scaled_embedding:
        config = replace(config, embedding_scale=float(np.float32(math.sqrt(config.dim))))
        if arch == "gemma3" and config.n_layers == 62:  # llama.cpp knows the 27B model by its layers
            fields.fail("gemma3.block_count", "another: scores of the 27B model are scaled in a way of its own")
    if arch != "granite":
        return config, {}
    config = replace(
        config,
        embedding_scale=fields.number("granite.embedding_scale", *_FACTOR, 1.0),
        logit_scale=1 / fields.number("granite.logit_scale", *_FACTOR, 1.0),
    )
    scores = fields.number("granite.attention.scale", *_FACTOR, config.head_dim**-0.5) * math.sqrt(config.head_dim)
    residual = fields.number("granite.residual_scale", *_FACTOR, 1.0)
    return config, dict.fromkeys(("wq", "bq"), scores) | dict.fromkeys(("wo", "bo", "w2", "b2"), residual)
