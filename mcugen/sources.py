"""What the user named -> a model and its vocabulary: files and folders, bundled models, texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mcugen.checkpoints import read_checkpoint
from mcugen.errors import InputError, UsageError
from mcugen.gguf_file import MAGIC as GGUF_MAGIC
from mcugen.gguf_file import gguf_tokenizer, read_gguf
from mcugen.huggingface import read_huggingface, special_ids, tokenizer_file
from mcugen.ir import Model, QuantizedModel, Tokenizer
from mcugen.lora import merge_lora
from mcugen.quantized_file import load_quantized
from mcugen.resources import bundled_models, models_dir
from mcugen.tokenizer import MAX_VOCAB, read_tokenizer, tokenizer_tables
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
    """Read a model with its vocabulary: a bundled one by name (None: the default), which goes before a file of that
    name, or a file or folder, whose content says what it is.

    max_vocab: tokens at most, of a folder or a GGUF file; trim_source takes more than the firmware holds.

    A Hugging Face folder, a GGUF file and a quantised model have a vocabulary of their own, which tokenizer_path
    replaces; a llama2.c checkpoint has none. Raises InputError and UsageError.
    """
    name = DEFAULT_MODEL if path is None else str(path)
    if name in bundled_models():
        model, tokenizer = read_model_folder(models_dir() / name)
        return Source(model.name, model, None, tokenizer)
    assert path is not None
    if path.name == name and not path.suffix and not path.exists():
        raise UsageError(
            f"there is no model '{name}'; mcugen knows {', '.join(bundled_models())}",
            where="MODEL",
            hint="one of those, or the path of a model",
        )
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
    return replace(source, model=model, quantized=quantized, tokenizer=found.tokenizer), line


def _no_tokenizer(path: Path) -> UsageError:
    return UsageError(f"{path.name} has no tokenizer", where="--tokenizer", hint="add --tokenizer FILE.bin")


def adapted(source: Source, lora: Path) -> Source:
    """A source with a LoRA adapter (a folder) merged. Raises UsageError where it holds integers."""
    if source.model is None:
        raise UsageError(
            f"{source.name} holds integers only, which cannot be changed any more",
            where="--lora",
            hint="name the float checkpoint it was made from",
        )
    return replace(source, model=merge_lora(source.model, lora))


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


def default_cases(model: Path | None) -> Path:
    """Where the default model's own cases are. Raises UsageError for any other model, which has none."""
    if model is not None and str(model) != DEFAULT_MODEL:
        raise UsageError(
            f"there is nothing to measure {model.name} on",
            where="eval",
            hint="add --text FILE for perplexity, or --cases FILE for exact answers",
        )
    return models_dir() / DEFAULT_MODEL / "cases.tsv"


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{path} cannot be read: {why}", where="text file", hint="check the path") from error
