"""QuantizedModel <-> one file: safetensors whose metadata holds everything that is no tensor, as one JSON text.

The file is all that is needed from here on: integers, names and, if wanted, the tokenizer. The only two real numbers
are rope_theta and norm_eps of the config; they are stored as hexadecimal texts and nothing after loading computes
with them. Layout: https://github.com/huggingface/safetensors, section Format; all numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import safetensors
from numpy.typing import NDArray

from mcugen.errors import InputError, InternalError
from mcugen.ir import (
    CONFIG_LIMITS,
    FC_MATRICES,
    NO_MERGE,
    Config,
    Linear,
    Norm,
    QuantizedLayer,
    QuantizedModel,
    Tokenizer,
)
from mcugen.kernels import (
    FC_SHIFT_MAX,
    FC_SHIFT_MIN,
    GATE_FRAC_MAX,
    GATE_FRAC_MIN,
    SHIFT_MAX,
    SHIFT_MIN,
    accumulator_bound,
)
from mcugen.split import SPLITS
from mcugen.tokenizer import PREFIXES, check_tokenizer

FORMAT = "mcugen quantized model"
VERSION = 4
VERSIONS = (2, 3, 4)  # that are read; 3 added matrices for FULLY_CONNECTED, 4 tokenizers with merges
KEY = "mcugen"  # the one key of the metadata: a mapping of several has no fixed order in the file

_DTYPES = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "U8": "<u1", "U32": "<u4"}
_REALS = ("rope_theta", "norm_eps")
_CLASSIFIER = "classifier"
_INT8 = {"bits": 8, "group": 0}
_GROUPS = (0, 32, 64)  # columns that share a scale, in the kernels
_MAX_HEAD_DIM = 256  # kernels.h, mg_attention_t
_MAX_EPS = 2**48  # far above any; keeps the sum of squares exact everywhere
_MAX_TEXT = 255  # characters of a name, which the generated C quotes
_MAX_PIECE_BYTES = 1024

Array = NDArray[Any]
Tensors = dict[str, Array]
Integers = dict[str, int]

_deserialize = cast(Callable[[bytes], list[tuple[str, dict[str, Any]]]], safetensors.deserialize)


# ---------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What one tensor must be: low and high are inclusive, by kernels.h."""

    dtype: str
    shape: tuple[int, ...]
    low: int
    high: int


def _linear_layout(name: str, rows: int, cols: int, codes: bool = True) -> Iterator[tuple[str, _Tensor]]:
    if codes:
        yield f"{name}.codes", _Tensor("I8", (rows, cols), -127, 127)
    yield f"{name}.multiplier", _Tensor("I16", (rows,), 0, 2**15 - 1)


def _matrix_layout(name: str, rows: int, cols: int, integers: Mapping[str, int]) -> Iterator[tuple[str, _Tensor]]:
    """A matrix of a layer, which may have 4 bits and group scales."""
    yield from _linear_layout(name, rows, cols)
    if integers[f"{name}.bits"] == 4:
        yield f"{name}.codes", _Tensor("I8", (rows, cols), -8, 7)
    if group := integers[f"{name}.group"]:
        yield f"{name}.group_scale", _Tensor("I8", (rows, -(-cols // group)), -127, 127)


def _norm_layout(name: str, dim: int) -> tuple[str, _Tensor]:
    return f"{name}.gain", _Tensor("I16", (dim,), -(2**15), 2**15 - 1)


def _model_layout(config: Config, integers: Mapping[str, int]) -> dict[str, _Tensor]:
    """Every tensor of a model, by name, as docs of mcugen.ir describe it."""
    dim, hidden, kv_dim = config.dim, config.hidden_dim, config.kv_dim
    layout = dict(_linear_layout("embedding", config.vocab_size, dim))
    matrices = (
        ("wq", dim, dim), ("wk", kv_dim, dim), ("wv", kv_dim, dim), ("wo", dim, dim),
        ("w1", hidden, dim), ("w3", hidden, dim), ("w2", dim, hidden),
    )  # fmt: skip
    for i in range(config.n_layers):
        at = f"layers.{i}"
        layout |= dict(_norm_layout(f"{at}.{name}", dim) for name in ("att_norm", "ffn_norm"))
        for name, rows, cols in matrices:
            layout |= dict(_matrix_layout(f"{at}.{name}", rows, cols, integers))
        layout[f"{at}.key_zero"] = _Tensor("I32", (kv_dim,), -127 * 2**22, 127 * 2**22)
    layout |= dict([_norm_layout("final_norm", dim)])
    layout |= dict(_linear_layout("classifier", config.vocab_size, dim, codes=not config.shared_classifier))
    layout["rope_step"] = _Tensor("U32", (config.head_dim // 2,), 0, 2**32 - 1)
    return layout


def _integer_ranges(config: Config, fc: bool) -> dict[str, tuple[int, int]]:
    """Every scalar of a model, by name, with its inclusive range from kernels.h. fc: whether matrices have an fc."""
    linear, norm = (SHIFT_MIN, SHIFT_MAX), (-14, 15)
    ranges = {
        "embedding.shift": (1, 62),
        "classifier.shift": linear,
        **{f"{name}.{part}": (value, value) for name in ("embedding", "classifier") for part, value in _INT8.items()},
        "final_norm.gain_frac": norm,
        "eps": (1, _MAX_EPS),
        "max_position": (config.seq_len + 1, 2**30),  # re-basing must find room above the ring
    }
    for i in range(config.n_layers):
        at = f"layers.{i}"
        ranges |= {f"{at}.{name}.gain_frac": norm for name in ("att_norm", "ffn_norm")}
        for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2"):
            ranges |= {f"{at}.{name}.shift": linear, f"{at}.{name}.bits": (4, 8), f"{at}.{name}.group": (0, 64)}
        for name in FC_MATRICES if fc else ():
            ranges[f"{at}.{name}.bits"] = (8, 8)
            ranges[f"{at}.{name}.fc_multiplier"] = (2**30, 2**31 - 2**7)
            ranges[f"{at}.{name}.fc_shift"] = (FC_SHIFT_MIN, FC_SHIFT_MAX)
        ranges |= {f"{at}.key_shift": (0, 7), f"{at}.score_shift": (1, 30), f"{at}.swiglu_shift": (1, 30)}
        ranges[f"{at}.gate_frac"] = (GATE_FRAC_MIN, GATE_FRAC_MAX)
    return ranges


# ---------------------------------------------------------------- save


def save_quantized(model: QuantizedModel, tokenizer: Tokenizer | None = None) -> bytes:
    """Return the file's content; the same model and tokenizer give the same bytes on any machine.

    Raises InternalError where a shared classifier has codes of its own.
    """
    tensors, integers = _take_apart(model)
    header: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "name": model.name,
        "config": _config_to_json(model.config),
        "integers": integers,
        "sha256": model.sha256,
        "recipe": model.recipe,
        "tokenizer": None,
    }
    if tokenizer is not None:
        tensors |= _tokenizer_tensors(tokenizer)
        pairs = {name: getattr(tokenizer, name) for name in _PAIR_FLAGS}
        flags = {name: getattr(tokenizer, name) for name in _TOKENIZER_FLAGS}
        header["tokenizer"] = flags if pairs == _PAIR_FLAGS else {**flags, **pairs}
    stored = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in tensors.items()}
    header["digest"] = _digest(header, stored)
    return _safetensors({KEY: _to_json(header)}, stored)


def _take_apart(model: QuantizedModel) -> tuple[Tensors, Integers]:
    """Every tensor and every scalar under its path, e.g. "layers.0.wq.codes"."""
    tensors: Tensors = {}
    integers: Integers = {"eps": model.eps, "max_position": model.max_position}

    def put(name: str, value: object) -> None:
        if isinstance(value, Linear | Norm):
            for part in fields(value):
                put(f"{name}.{part.name}", getattr(value, part.name))
        elif isinstance(value, np.ndarray):
            tensors[name] = value
        elif isinstance(value, tuple):  # of Linear.fc
            integers[f"{name}_multiplier"], integers[f"{name}_shift"] = map(int, value)
        elif value is not None:
            integers[name] = int(cast(int, value))

    for name in ("embedding", "final_norm", "classifier", "rope_step"):
        put(name, getattr(model, name))
    for i, layer in enumerate(model.layers):
        for part in fields(layer):
            put(f"layers.{i}.{part.name}", getattr(layer, part.name))
    shared = model.config.shared_classifier
    if shared and not np.array_equal(tensors.pop("classifier.codes"), tensors["embedding.codes"]):
        raise InternalError("the shared classifier has other codes than the embedding", where="save_quantized")
    return tensors, integers


def _config_to_json(config: Config) -> dict[str, object]:
    plain: dict[str, object] = {name: getattr(config, name) for name in (*CONFIG_LIMITS, "shared_classifier")}
    return plain | {name: float(getattr(config, name)).hex() for name in _REALS}


def _to_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _digest(header: Mapping[str, object], stored: Tensors) -> str:
    """sha256 over the header without its digest and every tensor with its name, in the order of names."""
    digest = hashlib.sha256(_to_json({k: v for k, v in header.items() if k != "digest"}).encode())
    for name in sorted(stored):
        digest.update(f"\0{name}\0{stored[name].dtype.str}\0{stored[name].shape}\0".encode())
        digest.update(stored[name].tobytes())
    return digest.hexdigest()


def _safetensors(metadata: Mapping[str, str], stored: Tensors) -> bytes:
    """Lay out the file by hand, in the order of names by falling element size, so that no library version matters."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    order = sorted(stored, key=lambda name: (-stored[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name in order:
        array = stored[name]
        dtype = names["<" + array.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(stored[name].tobytes() for name in order)])


# ---------------------------------------------------------------- load


def load_quantized(source: Path | bytes) -> tuple[QuantizedModel, Tokenizer | None]:
    """Read what save_quantized wrote, from a path or from the content itself.

    Raises InputError for whatever is wrong with it: the version, a tensor too many or too few, a shape, a type, or a
    value outside the range that firmware/kernels/kernels.h asks for.
    """
    where = f"quantized model {source}" if isinstance(source, Path) else "quantized model"
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise InputError(
            f"cannot read the quantized model: {error.strerror}",
            where=where,
            hint="give the path of a file that mcugen quantize wrote",
        ) from error
    return _Reader(content, where).read()


class _Reader:
    """Takes a checked model out of one file; every error names the file, the entry and what is allowed."""

    def __init__(self, content: bytes, where: str) -> None:
        self._where = where
        self._tensors, self._header = self._open(content)

    def read(self) -> tuple[QuantizedModel, Tokenizer | None]:
        config = self._config()
        integers = self._integers(config)
        layout = _model_layout(config, integers)
        flags = self._header["tokenizer"]
        if flags is not None:
            layout |= self._tokenizer_layout(config) | (self._pairs_layout(config) if self._has_pairs(flags) else {})
        self._check_tensors(layout)
        self._check_products(integers)
        return self._model(config, integers), None if flags is None else self._tokenizer(config, flags)

    # ------------------------------------------------------------ the frame

    def _open(self, content: bytes) -> tuple[Tensors, dict[str, Any]]:
        try:
            raw = _deserialize(content)
        except safetensors.SafetensorError as error:
            raise InputError(
                f"the {len(content):,} bytes are not a whole safetensors file",
                where=self._where,
                hint="give a file that mcugen quantize wrote; if it is one, copy or quantize it again",
            ) from error
        (size,) = struct.unpack_from("<Q", content)
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
        header = self._parse(metadata.get(KEY))
        tensors = {}
        for name, entry in raw:
            if entry["dtype"] not in _DTYPES:
                self._fail(f"tensor {name} is of type {entry['dtype']}", f"the types are {', '.join(_DTYPES)}")
            tensors[name] = np.frombuffer(bytes(entry["data"]), _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if header["digest"] != _digest(header, tensors):
            self._fail("the content does not match its digest", "the file is damaged: copy or quantize it again")
        native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in tensors.items()}
        return native, header

    def _parse(self, text: str | None) -> dict[str, Any]:
        """The JSON of the metadata, its format, version and the names of its entries checked."""
        if text is None:
            self._fail(
                "the safetensors file has no mcugen entry in its metadata",
                "name the folder of a Hugging Face model, or a file that mcugen quantize wrote",
            )
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            self._fail("the mcugen entry of the metadata is not JSON", "quantize the model again")
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            self._fail(f'the metadata is not of the format "{FORMAT}"', "quantize the model again")
        if type(header.get("version")) is not int or header["version"] not in VERSIONS:
            self._fail(
                f"the file is of version {header.get('version')!r}; this mcugen reads version 2 to 4",
                "quantize the model again with this mcugen, or read it with the one that wrote it",
            )
        self._check_names("entry", header, _HEADER_NAMES)
        return header

    def _check_names(self, kind: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
        for name in sorted(set(expected) - set(found)):
            self._fail(
                f"{kind} {name} is missing",
                f"quantize the model again: version {VERSION} has {len(expected)} of that kind here",
            )
        for name in sorted(set(found) - set(expected)):
            self._fail(
                f"{kind} {name!r} is unknown",
                f"quantize the model again: version {VERSION} has {len(expected)} of that kind here",
            )

    def _fail(self, what: str, hint: str) -> NoReturn:
        raise InputError(what, where=self._where, hint=hint)

    # ------------------------------------------------------------ checks

    def _mapping(self, name: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(f"{name} is {_short(value)}", "it must be a mapping of names to values")
        return value

    def _integer(self, name: str, value: object, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            self._fail(f"{name} is {_short(value)}", f"it must be an integer in [{low:,}, {high:,}]")
        return value

    def _flag(self, name: str, value: object) -> bool:
        if type(value) is not bool:
            self._fail(f"{name} is {_short(value)}", "it must be true or false")
        return value

    def _text(self, name: str, value: object, allowed: Callable[[str], bool], rule: str) -> str:
        if not isinstance(value, str) or not allowed(value):
            self._fail(f"{name} is {_short(value)}", f"it must be {rule}")
        return value

    def _config(self) -> Config:
        found = self._mapping("config", self._header["config"])
        self._check_names("config", found, dict.fromkeys((*CONFIG_LIMITS, "shared_classifier", *_REALS)))
        values: dict[str, Any] = {
            name: self._integer(name, found[name], 1, limit) for name, limit in CONFIG_LIMITS.items()
        }
        values |= {name: self._real(name, found[name]) for name in _REALS}
        config = Config(**values, shared_classifier=self._flag("shared_classifier", found["shared_classifier"]))
        if config.dim % config.n_heads or config.n_heads % config.n_kv_heads:
            self._fail(
                f"dim {config.dim}, n_heads {config.n_heads} and n_kv_heads {config.n_kv_heads} do not go together",
                "each must be a multiple of the next",
            )
        if config.head_dim % 2 or config.head_dim > _MAX_HEAD_DIM:
            self._fail(f"head_dim is {config.head_dim}", f"it must be even and at most {_MAX_HEAD_DIM}")
        return config

    def _real(self, name: str, value: object) -> float:
        """A positive number as float.hex writes it."""
        try:
            number = float.fromhex(value) if isinstance(value, str) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not 0 < number < math.inf:
            self._fail(f"{name} is {_short(value)}", 'it must be a positive number in hexadecimal, as in "0x1.0p+0"')
        return number

    def _integers(self, config: Config) -> Integers:
        found = self._mapping("integers", self._header["integers"])
        fc = self._header["version"] > 2 and "layers.0.wq.fc_shift" in found
        ranges = _integer_ranges(config, fc)
        self._check_names("integer", found, ranges)
        integers = {name: self._integer(name, found[name], low, high) for name, (low, high) in ranges.items()}
        for name, value in integers.items():
            if name.endswith(".bits") and value not in (4, 8):
                self._fail(f"{name} is {value}", "it must be 4 or 8")
            if name.endswith(".group") and value not in (_GROUPS if integers[f"{name[:-6]}.bits"] == 4 else (0,)):
                self._fail(f"{name} is {value}", f"it must be one of {_GROUPS}, and 0 for 8 bits")
            if name.endswith(".fc_multiplier") and value % 2**7:
                self._fail(f"{name} is {value:,}", "it must be a multiple of 128, as a float32 scale is")
        return integers

    def _check_tensors(self, layout: Mapping[str, _Tensor]) -> None:
        self._check_names("tensor", self._tensors, layout)
        for name, expected in layout.items():
            found = self._tensors[name]
            if found.dtype != np.dtype(_DTYPES[expected.dtype]):
                self._fail(
                    f"tensor {name} is of type {found.dtype}", f"it must be {np.dtype(_DTYPES[expected.dtype])}"
                )
            if found.shape != expected.shape:
                self._fail(f"tensor {name} has the shape {found.shape}", f"its config asks for {expected.shape}")
            low, high = (int(found.min()), int(found.max())) if found.size else (expected.low, expected.high)
            if low < expected.low or high > expected.high:
                worst = low if low < expected.low else high
                self._fail(
                    f"tensor {name} holds {worst}", f"its values must be in [{expected.low:,}, {expected.high:,}]"
                )

    def _check_products(self, integers: Integers) -> None:
        """Bounds that tie two entries: int32 accumulators, and zero points in units of their shift."""
        for name, codes in self._tensors.items():
            if name.endswith(".codes") and name != "embedding.codes":
                self._check_accumulators(self._linear(name.removesuffix(".codes"), integers), name)
            if name.endswith(".key_zero"):
                limit = 127 << (15 + integers[name.removesuffix("zero") + "shift"])
                largest = int(np.abs(codes.astype(np.int64)).max())
                if largest > limit:
                    self._fail(f"tensor {name} holds a magnitude of {largest:,}", f"its shift allows {limit:,}")

        if f"{_CLASSIFIER}.codes" not in self._tensors:
            shared = self._linear(_CLASSIFIER, integers, self._tensors["embedding.codes"])
            self._check_accumulators(shared, "embedding.codes")

    def _check_accumulators(self, w: Linear, name: str) -> None:
        limit = 2 ** (w.shift - 1) if w.fc is None else 2**31
        if (largest := accumulator_bound(w)) >= limit:
            self._fail(
                f"an accumulator of {name} can reach {largest:,}",
                f"its {'shift' if w.fc is None else 'fc'} keeps it below {limit:,}",
            )

    # ------------------------------------------------------------ results

    def _linear(self, name: str, integers: Integers, codes: Array | None = None) -> Linear:
        fc = [integers[at] for part in ("multiplier", "shift") if (at := f"{name}.fc_{part}") in integers]
        codes = self._tensors[f"{name}.codes"] if codes is None else codes
        return Linear(
            codes,
            self._tensors[f"{name}.multiplier"],
            integers[f"{name}.shift"],
            integers[f"{name}.bits"],
            integers[f"{name}.group"],
            self._tensors.get(f"{name}.group_scale"),
            (fc[0], fc[1]) if fc else None,
        )

    def _layer(self, at: str, integers: Integers) -> QuantizedLayer:
        parts: dict[str, Any] = {}
        for part in fields(QuantizedLayer):
            name = f"{at}.{part.name}"
            if f"{name}.codes" in self._tensors:
                parts[part.name] = self._linear(name, integers)
            elif f"{name}.gain" in self._tensors:
                parts[part.name] = Norm(self._tensors[f"{name}.gain"], integers[f"{name}.gain_frac"])
            else:
                parts[part.name] = self._tensors[name] if name in self._tensors else integers[name]
        return QuantizedLayer(**parts)

    def _model(self, config: Config, integers: Integers) -> QuantizedModel:
        embedding = self._linear("embedding", integers)
        header = self._header
        return QuantizedModel(
            name=self._text("name", header["name"], _is_line, _LINE_RULE),
            config=config,
            embedding=embedding,
            layers=tuple(self._layer(f"layers.{i}", integers) for i in range(config.n_layers)),
            final_norm=Norm(self._tensors["final_norm.gain"], integers["final_norm.gain_frac"]),
            classifier=self._linear("classifier", integers, embedding.codes if config.shared_classifier else None),
            eps=integers["eps"],
            rope_step=self._tensors["rope_step"],
            max_position=integers["max_position"],
            sha256=self._text("sha256", header["sha256"], _is_sha256, "64 digits of hexadecimal"),
            recipe=self._text("recipe", header["recipe"], _is_line, _LINE_RULE),
        )

    # ------------------------------------------------------------ tokenizer

    def _tokenizer_layout(self, config: Config) -> dict[str, _Tensor]:
        """The pieces may take any number of bytes; everything else follows from the vocabulary."""
        pieces = self._tensors.get("tokenizer.pieces")
        size = pieces.size if pieces is not None else 0
        return {
            "tokenizer.pieces": _Tensor("U8", (size,), 0, 255),
            "tokenizer.offsets": _Tensor("I32", (config.vocab_size + 1,), 0, size),
            "tokenizer.ranks": _Tensor("I32", (config.vocab_size,), 0, NO_MERGE),
        }

    def _has_pairs(self, flags: object) -> bool:
        """Whether a tokenizer says what version 4 has more; where all of it is off, it says nothing."""
        return self._header["version"] > 3 and isinstance(flags, dict) and not _PAIR_FLAGS.keys().isdisjoint(flags)

    def _pairs_layout(self, config: Config) -> dict[str, _Tensor]:
        """Any number of merges, each of three tokens, and of symbols; both or neither."""
        merges, symbols = (self._tensors.get(f"tokenizer.{name}") for name in ("merges", "symbols"))
        if merges is None and symbols is None:
            return {}
        sizes = [0 if array is None else array.shape[0] if array.ndim else 0 for array in (merges, symbols)]
        return {
            "tokenizer.merges": _Tensor("I32", (sizes[0], 3), 0, config.vocab_size - 1),
            "tokenizer.symbols": _Tensor("I32", (sizes[1],), 0, config.vocab_size - 1),
        }

    def _tokenizer(self, config: Config, found: object) -> Tokenizer:
        flags = self._mapping("tokenizer", found)
        has_pairs = self._has_pairs(flags)
        names = (*_TOKENIZER_FLAGS, *(_PAIR_FLAGS if has_pairs else ()))
        self._check_names("tokenizer setting", flags, dict.fromkeys(names))
        lows = {"unk": -1 if has_pairs else 0, "bos": 0, "eos": 0}
        unk, bos, eos = (self._integer(n, flags[n], low, config.vocab_size - 1) for n, low in lows.items())
        pieces = self._pieces()
        first = flags["first_byte"]
        if first is not None:
            if config.vocab_size < 256:
                self._fail(
                    f"first_byte is {_short(first)}", f"{config.vocab_size} tokens cannot hold all bytes: null"
                )
            self._integer("first_byte", first, 0, config.vocab_size - 256)
            if pieces[first : first + 256] != tuple(b"<0x%02X>" % byte for byte in range(256)):
                self._fail(f"first_byte is {first}", "the 256 byte tokens <0x00> to <0xFF> must follow from there")
        tokenizer = Tokenizer(
            pieces=pieces,
            ranks=_read_only(self._tensors["tokenizer.ranks"]),
            unk=unk,
            bos=bos,
            eos=eos,
            first_byte=first,
            lowercase=self._flag("lowercase", flags["lowercase"]),
            prompt_suffix=self._text("prompt_suffix", flags["prompt_suffix"], _is_text, "a text"),
        )
        return self._with_pairs(tokenizer, config, flags) if has_pairs else tokenizer

    def _with_pairs(self, tokenizer: Tokenizer, config: Config, flags: Mapping[str, Any]) -> Tokenizer:
        """What version 4 has more; check_tokenizer then ties the entries."""
        specials = flags["specials"]
        if not isinstance(specials, list):
            self._fail(f"specials is {_short(specials)}", "it must be a list of tokens")
        for name, allowed in (("prefix", PREFIXES), ("split", ("", "space", *SPLITS))):
            if flags[name] not in allowed:
                self._fail(f"{name} is {_short(flags[name])}", f"it must be one of {allowed}")
        merges, symbols = (self._tensors.get(f"tokenizer.{name}") for name in ("merges", "symbols"))
        full = replace(
            tokenizer,
            prefix=flags["prefix"],
            specials=tuple(self._integer("a special token", token, 0, config.vocab_size - 1) for token in specials),
            merges=None if merges is None else _read_only(merges),
            symbols=None if symbols is None else _read_only(symbols),
            byte_level=self._flag("byte_level", flags["byte_level"]),
            split=flags["split"],
            whole_words=self._flag("whole_words", flags["whole_words"]),
            fuse_unk=self._flag("fuse_unk", flags["fuse_unk"]),
        )
        check_tokenizer(full, self._where)
        return full

    def _pieces(self) -> tuple[bytes, ...]:
        content = self._tensors["tokenizer.pieces"].tobytes()
        ends = self._tensors["tokenizer.offsets"].tolist()
        pieces = tuple(content[a:b] for a, b in pairwise(ends))
        lengths = [b - a for a, b in pairwise(ends)]
        if ends[0] != 0 or ends[-1] != len(content) or not all(1 <= n <= _MAX_PIECE_BYTES for n in lengths):
            self._fail(
                "tensor tokenizer.offsets does not cut the pieces",
                f"it must rise from 0 to {len(content):,} in steps of 1 to {_MAX_PIECE_BYTES:,}",
            )
        return pieces


_TOKENIZER_FLAGS = ("unk", "bos", "eos", "first_byte", "lowercase", "prompt_suffix")
# since version 4, and left out where all of them are off
_PAIR_FLAGS = {
    "prefix": "always", "specials": (), "byte_level": False, "split": "", "whole_words": False, "fuse_unk": False,
}  # fmt: skip
_HEADER_NAMES = dict.fromkeys(
    ("format", "version", "name", "config", "integers", "sha256", "recipe", "tokenizer", "digest")
)
_LINE_RULE = f"1 to {_MAX_TEXT} printable characters"


def _tokenizer_tensors(tokenizer: Tokenizer) -> Tensors:
    ends = np.cumsum([0, *(len(piece) for piece in tokenizer.pieces)])
    return {
        "tokenizer.pieces": np.frombuffer(b"".join(tokenizer.pieces), np.uint8),
        "tokenizer.offsets": ends.astype(np.int32),
        "tokenizer.ranks": tokenizer.ranks,
        **({} if tokenizer.merges is None else {"tokenizer.merges": tokenizer.merges}),
        **({} if tokenizer.symbols is None else {"tokenizer.symbols": tokenizer.symbols}),
    }


def _read_only(array: Array) -> Array:
    array.setflags(write=False)
    return array


def _short(value: object) -> str:
    """A value as an error shows it: whatever a file holds, in a few dozen characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_line(text: str) -> bool:
    return text.isprintable() and 1 <= len(text) <= _MAX_TEXT


def _is_text(text: str) -> bool:
    """No lone surrogate: it encodes."""
    return re.search("[\ud800-\udfff]", text) is None


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None
