"""What the user named -> integers and a vocabulary: files, bundled models, and the cache of quantised models."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcugen.cache import Cache, default_cache_dir
from mcugen.checkpoints import read_checkpoint
from mcugen.errors import InputError, ToolError, UsageError
from mcugen.evaluate import clean_text
from mcugen.fc8 import PROFILE, is_fc8, to_fc8
from mcugen.gguf_file import MAGIC as GGUF_MAGIC
from mcugen.gguf_file import gguf_tokenizer, read_gguf
from mcugen.huggingface import read_huggingface, special_ids, tokenizer_file
from mcugen.ir import Model, QuantizedModel, Tokenizer
from mcugen.lora import merge_lora
from mcugen.mixed import Choice, choice_from_json
from mcugen.prune import PruneBudget, prune
from mcugen.quantize import (
    Calibration,
    chosen,
    quantize,
    rounded,
    self_calibration,
    text_calibration,
)
from mcugen.quantize import (
    calibrate as calibrated,
)
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.recipes import W8, Recipe
from mcugen.resources import bundled_models, models_dir
from mcugen.rounding import Grid
from mcugen.tokenizer import MAX_VOCAB, encode, read_tokenizer, tokenizer_tables
from mcugen.tokenizer_json import read_tokenizer_json
from mcugen.vocabulary import trim_model, trim_quantized, trim_vocabulary

DEFAULT_MODEL = "home"
DISTILL_STEPS = 800  # a few minutes of one core for a model of 260,000 weights

Progress = Callable[[str, int, int], None]  # stage, done, total


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What the user named: a float checkpoint or a quantised model, with its vocabulary.

    prune: what becomes of the float model before it is quantised; quality is measured against the whole model.
    """

    name: str
    model: Model | None
    quantized: QuantizedModel | None
    tokenizer: Tokenizer
    prune: PruneBudget | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """Of codes (mcugen.distill). text: a file that is read beside the model's own samples."""

    steps: int
    text: Path | None = None


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


def adapted(source: Source, lora: Path | None, prune: PruneBudget | None) -> Source:
    """A source with a LoRA adapter (a folder) merged, to be pruned. Raises UsageError where it holds integers."""
    if lora is None and prune is None:
        return source
    if source.model is None:
        raise UsageError(
            f"{source.name} holds integers only, which cannot be changed any more",
            where="--prune" if lora is None else "--lora",
            hint="name the float checkpoint it was made from",
        )
    merged = source.model if lora is None else merge_lora(source.model, lora)
    return replace(source, model=merged, prune=prune)


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


def quantize_source(
    source: Source,
    calibrate: Path | None,
    progress: Progress = silent,
    recipe: Recipe | None = None,
    fc: str = "custom",
    training: Training | None = None,
) -> QuantizedModel:
    """The integers of a source; calibrated on a text, or on the model's own samples.

    recipe: of the weights; None is W8, or whatever a quantised model has. fc: "custom" for our own kernels,
    "builtin" for TFLite Micro's FULLY_CONNECTED (mcugen.fc8). training: of the codes, or None. Raises UsageError
    where a quantised model has others, or int4 weights shall be builtin, ToolError for training without PyTorch.
    """
    return quantize_by_choice(source, calibrate, progress, recipe, fc, training)[0]


def quantize_by_choice(
    source: Source,
    calibrate: Path | None,
    progress: Progress = silent,
    recipe: Recipe | None = None,
    fc: str = "custom",
    training: Training | None = None,
) -> tuple[QuantizedModel, Choice | None]:
    """quantize_source, and what a recipe with a budget chose."""
    if fc == "builtin" and recipe is not None and any(precision.bits != 8 for precision in recipe.precisions()):
        raise UsageError(
            f"FULLY_CONNECTED multiplies int8 weights only; the recipe {recipe.name} has int4",
            where="--fc",
            hint="--fc custom, or --recipe w8",
        )
    model, choice = _own_integers(source, calibrate, progress, recipe, training)
    if fc == "builtin":
        return model if is_fc8(model) else _for_fully_connected(model, source.tokenizer, progress), choice
    if is_fc8(model):
        raise UsageError(
            f"{source.name} is quantised for TFLite Micro's FULLY_CONNECTED",
            where="--fc",
            hint="--fc builtin, or name the checkpoint it was made from",
        )
    return model, choice


def _own_integers(
    source: Source, calibrate: Path | None, progress: Progress, recipe: Recipe | None, training: Training | None
) -> tuple[QuantizedModel, Choice | None]:
    """A quantised model as it is; a checkpoint in integers for our own kernels."""
    if source.quantized is not None:
        made_by = source.quantized.recipe.partition(", calibrated on ")[0]
        if recipe is not None and made_by.replace(PROFILE, "w8a8kv8", 1) != recipe.describe():
            raise UsageError(
                f"{source.name} is quantised already: {made_by}",
                where="--recipe",
                hint="name the float checkpoint it was made from, or leave --recipe out",
            )
        if training is not None:
            raise UsageError(
                f"{source.name} holds integers only, which are not trained",
                where="--distill",
                hint="name the float checkpoint it was made from",
            )
        return source.quantized, None
    assert source.model is not None
    model, wanted = source.model, recipe or W8
    text = None if calibrate is None else read_text(calibrate)
    lesson = None if training is None else _lesson(training, source.tokenizer)
    cache, key = Cache(default_cache_dir()), _quantized_key(source, text, wanted, training, lesson)
    if (kept := _kept(cache, key, wanted)) is not None:
        return replace(kept[0], name=source.name), kept[1]
    progress("calibrate", 0, 1)
    if text is None:
        seen = self_calibration(model, eos=source.tokenizer.eos, bos=source.tokenizer.bos)
    else:
        tokens = np.array(encode(source.tokenizer, text, bos=False))
        seen = text_calibration(model, tokens, bos=source.tokenizer.bos)
    progress("calibrate", 1, 1)
    if source.prune is not None:
        model, seen = _pruned(model, seen, source.prune, source.tokenizer)
    choice = None
    if wanted.budget is not None:
        choice = chosen(model, seen, wanted, functools.partial(progress, "measure matrices"))
    stated = wanted if choice is None else choice.recipe
    grids: Mapping[str, Grid] = rounded(model, seen, stated, functools.partial(progress, "round matrices"))
    if training is not None:
        model, grids = _trained(source, model, seen, grids, training.steps, lesson, progress)
    quantized = quantize(model, seen, wanted, grids)
    if source.prune is not None:
        quantized = replace(quantized, recipe=f"{quantized.recipe}, pruned to {source.prune.describe()}")
    if training is not None:
        quantized = replace(quantized, recipe=f"{quantized.recipe}, distilled in {training.steps} steps")
    cache.store(key, save_quantized(quantized))
    if choice is not None:
        cache.store(_hash([key.encode(), b"choice"]), json.dumps(choice.to_json()).encode())
    return quantized, choice


def _pruned(model: Model, seen: Calibration, budget: PruneBudget, tokenizer: Tokenizer) -> tuple[Model, Calibration]:
    """The pruned model, and what it saw of the same sequences."""
    smaller = prune(model, seen, budget, bos=tokenizer.bos, eos=tokenizer.eos)
    return smaller, calibrated(smaller, seen.sequences, seen.description)


def _lesson(training: Training, tokenizer: Tokenizer) -> NDArray[np.int64] | None:
    """The tokens of the text that training reads."""
    if training.text is None:
        return None
    return np.array(encode(tokenizer, clean_text(read_text(training.text)), bos=False), np.int64)


def _trained(
    source: Source,
    model: Model,
    seen: Calibration,
    grids: Mapping[str, Grid],
    steps: int,
    lesson: NDArray[np.int64] | None,
    progress: Progress,
) -> tuple[Model, Mapping[str, Grid]]:
    """What distillation makes of a model and its grids; the source's whole model is the teacher."""
    try:
        from mcugen.distill import distill  # PyTorch takes its time, and an extra of the package
    except ImportError as error:
        raise ToolError(
            "PyTorch, which trains codes, is not installed", where="--distill", hint="pip install 'mcugen[train]'"
        ) from error
    ends = {"bos": source.tokenizer.bos, "eos": source.tokenizer.eos}

    def show(done: int, total: int, loss: float) -> None:
        progress(f"distill: {loss:.4f} nats from float", done, total)

    result = distill(model, seen, grids, teacher=source.model, steps=steps, text=lesson, progress=show, **ends)
    return result.model, result.grids


def _kept(cache: Cache, key: str, recipe: Recipe) -> tuple[QuantizedModel, Choice | None] | None:
    """What an earlier run has left; a damaged file is as good as none."""
    with contextlib.suppress(InputError, ValueError, TypeError, KeyError):
        if (content := cache.load(key)) is None:
            return None
        model = load_quantized(content)[0]
        if recipe.budget is None:
            return model, None
        if (facts := cache.load(_hash([key.encode(), b"choice"]))) is not None:
            return model, choice_from_json(json.loads(facts), recipe)
    return None


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


def _quantized_key(
    source: Source,
    text: str | None,
    recipe: Recipe,
    training: Training | None = None,
    lesson: NDArray[np.int64] | None = None,
) -> str:
    """Hash of all that quantisation depends on: weights, texts, tokenizer, choices, numpy, all of mcugen's code."""
    assert source.model is not None
    t = source.tokenizer
    merges, symbols = ((() if a is None else a.tolist()) for a in (t.merges, t.symbols))
    pairs = (merges, symbols, t.byte_level, t.split, t.prefix, t.whole_words, t.fuse_unk)
    encoding = (t.pieces, t.ranks.tolist(), t.unk, t.bos, t.first_byte, t.lowercase, pairs)
    calibration = repr((t.bos, t.eos) if text is None else (text, encoding)).encode()
    steps = None if training is None else training.steps
    choices = repr((replace(recipe, name=""), source.prune, steps)).encode()
    taught = b"" if lesson is None else lesson.tobytes()
    return _hash([source.model.sha256.encode(), *_code(), calibration, choices, taught])
