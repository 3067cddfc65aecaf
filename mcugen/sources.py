"""What the user named -> integers and a vocabulary: files, the default model, and the cache of quantised models."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mcugen.cache import Cache, default_cache_dir
from mcugen.checkpoints import read_checkpoint
from mcugen.errors import InputError, UsageError
from mcugen.fc8 import is_fc8, to_fc8
from mcugen.gguf_file import MAGIC as GGUF_MAGIC
from mcugen.gguf_file import gguf_tokenizer, read_gguf
from mcugen.huggingface import read_huggingface, special_ids, tokenizer_file
from mcugen.ir import Model, QuantizedModel, Tokenizer
from mcugen.quantize import quantize, self_calibration, text_calibration
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.resources import models_dir
from mcugen.tokenizer import MAX_VOCAB, encode, read_tokenizer, tokenizer_tables
from mcugen.tokenizer_json import read_tokenizer_json
from mcugen.vocabulary import trim_model, trim_quantized, trim_vocabulary

DEFAULT_MODEL = "home"

Progress = Callable[[str, int, int], None]  # stage, done, total


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What the user named: a float checkpoint or a quantised model, with its vocabulary."""

    name: str
    model: Model | None
    quantized: QuantizedModel | None
    tokenizer: Tokenizer


def open_source(path: Path | None, tokenizer_path: Path | None, max_vocab: int = MAX_VOCAB) -> Source:
    """Read a model with its vocabulary, or the default model (None). Its content says what it is.

    max_vocab: tokens at most, of a folder or a GGUF file; trim_source takes more than the firmware holds.

    A Hugging Face folder, a GGUF file and a quantised model have a vocabulary of their own, which tokenizer_path
    replaces; a llama2.c checkpoint has none. Raises InputError and UsageError.
    """
    if path is None:
        model, tokenizer = read_model_folder(models_dir() / DEFAULT_MODEL)
        return Source(model.name, model, None, tokenizer)
    if path.is_dir():
        model = read_huggingface(path, max_vocab)
        ends = special_ids(path, model.config.vocab_size)
        file = tokenizer_path or tokenizer_file(path)
        return Source(model.name, model, None, _tokenizer(file, model.config.vocab_size, *ends))
    start = _start(path)
    if path.suffix == ".safetensors" or _is_safetensors(start):
        quantized, own = load_quantized(path)
        vocabulary = own if tokenizer_path is None else _tokenizer(tokenizer_path, quantized.config.vocab_size)
        if vocabulary is None:
            raise _no_tokenizer(path)
        return Source(quantized.name, None, quantized, vocabulary)
    _refuse_pickle(path, start)
    in_gguf = start.startswith(GGUF_MAGIC)
    model = read_gguf(path, max_vocab) if in_gguf else read_checkpoint(path)
    if tokenizer_path is not None:
        return Source(model.name, model, None, _tokenizer(tokenizer_path, model.config.vocab_size))
    if not in_gguf:
        raise _no_tokenizer(path)
    return Source(model.name, model, None, gguf_tokenizer(path))


def _refuse_pickle(path: Path, start: bytes) -> None:
    if start.startswith(_PICKLES):
        raise InputError(
            "the file is a pickle, which is never read: it could run any code",
            where=f"checkpoint {path}",
            hint="save the model as safetensors, where you trust it, and name its folder",
        )


_PICKLES = (b"PK\x03\x04", b"\x80\x02\x8a")  # what torch.save writes since 1.6, and what it wrote before


def _start(path: Path) -> bytes:
    """The first bytes of a file; none where it cannot be read, which its reader then says."""
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError:
        return b""


def _is_safetensors(start: bytes) -> bool:
    """A header's length, and the header's first byte; a llama2.c checkpoint would have a hidden_dim of 0 there."""
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_SAFETENSORS_HEADER


_MAX_SAFETENSORS_HEADER = 100_000_000  # the library's own limit


def _tokenizer(path: Path, vocab_size: int, bos: int | None = None, eos: int | None = None) -> Tokenizer:
    """A tokenizer.json, with bos and eos as a config.json has them, or llama2.c's tokenizer.bin."""
    if path.suffix != ".json":
        return read_tokenizer(path, vocab_size)
    where = f"tokenizer {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the tokenizer: {error.strerror}",
            where=where,
            hint="give the path of the tokenizer that belongs to the model",
        ) from error
    return read_tokenizer_json(content, where, vocab_size=vocab_size, bos=bos, eos=eos)


def trim_source(source: Source, text: Path) -> tuple[Source, str]:
    """The source with the tokens that a text needs, and a line that says what that saves. Raises InputError."""
    found = trim_vocabulary(source.tokenizer, read_text(text))
    model = None if source.model is None else trim_model(source.model, found.kept)
    quantized = None if source.quantized is None else trim_quantized(source.quantized, found.kept)
    kept, dropped = len(found.kept), found.before - len(found.kept)
    whole = source.model or source.quantized
    assert whole is not None
    row = whole.config.dim + 2  # codes and multiplier
    saved = dropped * (row + 2 if whole.config.shared_classifier else 2 * row)
    if found.before <= MAX_VOCAB:
        saved += tokenizer_tables(source.tokenizer).nbytes - tokenizer_tables(found.tokenizer).nbytes
    line = (
        f"vocabulary: {kept:,} of {found.before:,} tokens kept; the text has {found.length:,} tokens, "
        f"{found.used:,} different ones ({100 * found.used / found.before:.1f} %); about {saved:,} B of flash saved"
    )
    return Source(source.name, model, quantized, found.tokenizer), line


def _no_tokenizer(path: Path) -> UsageError:
    return UsageError(f"{path.name} has no tokenizer", where="--tokenizer", hint="add --tokenizer FILE.bin")


def read_model_folder(folder: Path) -> tuple[Model, Tokenizer]:
    """Read a model as it ships with mcugen: model.bin, tokenizer.bin, and what they do not say in model.json."""
    facts = json.loads((folder / "model.json").read_text())
    model = replace(read_checkpoint(folder / "model.bin"), name=facts["name"])
    tokenizer = read_tokenizer(
        folder / "tokenizer.bin",
        model.config.vocab_size,
        lowercase=facts["lowercase"],
        prompt_suffix=facts["prompt_suffix"],
    )
    return model, tokenizer


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read: {why}", where="text file", hint="check the path") from error


def quantize_source(
    source: Source,
    calibrate: Path | None,
    progress: Progress = silent,
    bits: int | None = None,
    fc: str = "custom",
) -> QuantizedModel:
    """The integers of a source; calibrated on a text, or on the model's own samples.

    bits: of the layers' weights; None is 8, or whatever a quantised model has. fc: "custom" for our own kernels,
    "builtin" for TFLite Micro's FULLY_CONNECTED (mcugen.fc8). Raises UsageError where a quantised model has others,
    or int4 weights shall be builtin.
    """
    model = _own_integers(source, calibrate, progress, bits)
    if fc == "builtin":
        return model if is_fc8(model) else _for_fully_connected(model, source.tokenizer, progress)
    if is_fc8(model):
        raise UsageError(
            f"{source.name} is quantised for TFLite Micro's FULLY_CONNECTED",
            where="--fc",
            hint="--fc builtin, or name the checkpoint it was made from",
        )
    return model


def _own_integers(source: Source, calibrate: Path | None, progress: Progress, bits: int | None) -> QuantizedModel:
    """A quantised model as it is; a checkpoint in integers for our own kernels."""
    if source.quantized is not None:
        if bits not in (None, source.quantized.layers[0].wq.bits):
            raise UsageError(
                f"{source.name} is quantised already, with int{source.quantized.layers[0].wq.bits} weights",
                where="--weights",
                hint="name the float checkpoint it was made from, or leave --weights out",
            )
        return source.quantized
    assert source.model is not None
    text = None if calibrate is None else read_text(calibrate)
    cache, key = Cache(default_cache_dir()), _quantized_key(source, text, bits or 8)
    if (kept := cache.load(key)) is not None:
        with contextlib.suppress(InputError):  # a damaged file is as good as none
            return replace(load_quantized(kept)[0], name=source.name)
    progress("calibrate", 0, 2)
    if text is None:
        seen = self_calibration(source.model, eos=source.tokenizer.eos, bos=source.tokenizer.bos)
    else:
        tokens = np.array(encode(source.tokenizer, text, bos=False))
        seen = text_calibration(source.model, tokens, bos=source.tokenizer.bos)
    progress("calibrate", 1, 2)
    quantized = quantize(source.model, seen, bits or 8)
    cache.store(key, save_quantized(quantized))
    progress("calibrate", 2, 2)
    return quantized


def _for_fully_connected(model: QuantizedModel, tokenizer: Tokenizer, progress: Progress) -> QuantizedModel:
    """The twin of a model for --fc builtin, from the cache or calibrated."""
    cache = Cache(default_cache_dir())
    key = _hash([save_quantized(model), *_code(), repr((tokenizer.bos, tokenizer.eos)).encode()])
    if (kept := cache.load(key)) is not None:
        with contextlib.suppress(InputError):
            return load_quantized(kept)[0]
    made = to_fc8(
        model,
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        progress=lambda done, total: progress("calibrate FULLY_CONNECTED", done, total),
    )
    cache.store(key, save_quantized(made))
    return made


def _code() -> list[bytes]:
    """All of mcugen's code, and numpy's version."""
    return [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))] + [np.__version__.encode()]


def _hash(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _quantized_key(source: Source, text: str | None, bits: int) -> str:
    """Hash of all that quantisation depends on: weights, text, tokenizer, bits, numpy, and all of mcugen's code."""
    assert source.model is not None
    t = source.tokenizer
    merges, symbols = ((() if a is None else a.tolist()) for a in (t.merges, t.symbols))
    pairs = (merges, symbols, t.byte_level, t.split, t.prefix, t.whole_words, t.fuse_unk)
    encoding = (t.pieces, t.ranks.tolist(), t.unk, t.bos, t.first_byte, t.lowercase, pairs)
    calibration = repr((t.bos, t.eos) if text is None else (text, encoding)).encode()
    return _hash([source.model.sha256.encode(), *_code(), calibration, bytes([bits])])
