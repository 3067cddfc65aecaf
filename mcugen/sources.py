"""What the user named -> integers and a vocabulary: files, the default model, and the cache of quantised models."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mcugen.cache import Cache, default_cache_dir
from mcugen.checkpoints import read_checkpoint
from mcugen.errors import InputError, UsageError
from mcugen.fc8 import PROFILE, is_fc8, to_fc8
from mcugen.ir import Model, QuantizedModel, Tokenizer
from mcugen.mixed import Choice, choice_from_json
from mcugen.quantize import chosen, quantize, rounded, self_calibration, text_calibration
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.recipes import W8, Recipe
from mcugen.resources import models_dir
from mcugen.tokenizer import encode, read_tokenizer

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


def open_source(path: Path | None, tokenizer_path: Path | None) -> Source:
    """Read a checkpoint (.bin) with its tokenizer, a quantised model (.safetensors), or the default model (None)."""
    if path is None:
        model, tokenizer = read_model_folder(models_dir() / DEFAULT_MODEL)
        return Source(model.name, model, None, tokenizer)
    if path.suffix == ".safetensors":
        quantized, vocabulary = load_quantized(path)
        if tokenizer_path is not None:
            vocabulary = read_tokenizer(tokenizer_path, quantized.config.vocab_size)
        if vocabulary is None:
            raise _no_tokenizer(path)
        return Source(quantized.name, None, quantized, vocabulary)
    model = read_checkpoint(path)
    if tokenizer_path is None:
        raise _no_tokenizer(path)
    return Source(model.name, model, None, read_tokenizer(tokenizer_path, model.config.vocab_size))


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


def default_cases(model: Path | None) -> Path:
    """Where the default model's own cases are. Raises UsageError for any other model, which has none."""
    if model is not None:
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
) -> QuantizedModel:
    """The integers of a source; calibrated on a text, or on the model's own samples.

    recipe: of the weights; None is W8, or whatever a quantised model has. fc: "custom" for our own kernels,
    "builtin" for TFLite Micro's FULLY_CONNECTED (mcugen.fc8). Raises UsageError where a quantised model has others,
    or int4 weights shall be builtin.
    """
    return quantize_by_choice(source, calibrate, progress, recipe, fc)[0]


def quantize_by_choice(
    source: Source,
    calibrate: Path | None,
    progress: Progress = silent,
    recipe: Recipe | None = None,
    fc: str = "custom",
) -> tuple[QuantizedModel, Choice | None]:
    """quantize_source, and what a recipe with a budget chose."""
    if fc == "builtin" and recipe is not None and any(precision.bits != 8 for precision in recipe.precisions()):
        raise UsageError(
            f"FULLY_CONNECTED multiplies int8 weights only; the recipe {recipe.name} has int4",
            where="--fc",
            hint="--fc custom, or --recipe w8",
        )
    model, choice = _own_integers(source, calibrate, progress, recipe)
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
    source: Source, calibrate: Path | None, progress: Progress, recipe: Recipe | None
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
        return source.quantized, None
    assert source.model is not None
    model, wanted = source.model, recipe or W8
    text = None if calibrate is None else read_text(calibrate)
    cache, key = Cache(default_cache_dir()), _quantized_key(source, text, wanted)
    if (kept := _kept(cache, key, wanted)) is not None:
        return replace(kept[0], name=source.name), kept[1]
    progress("calibrate", 0, 1)
    if text is None:
        seen = self_calibration(model, eos=source.tokenizer.eos)
    else:
        tokens = np.array(encode(source.tokenizer, text, bos=False))
        seen = text_calibration(model, tokens, bos=source.tokenizer.bos)
    progress("calibrate", 1, 1)
    choice = None
    if wanted.budget is not None:
        choice = chosen(model, seen, wanted, functools.partial(progress, "measure matrices"))
    stated = wanted if choice is None else choice.recipe
    grids = rounded(model, seen, stated, functools.partial(progress, "round matrices"))
    quantized = quantize(model, seen, wanted, grids)
    cache.store(key, save_quantized(quantized))
    if choice is not None:
        cache.store(_hash([key.encode(), b"choice"]), json.dumps(choice.to_json()).encode())
    return quantized, choice


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


def _quantized_key(source: Source, text: str | None, recipe: Recipe) -> str:
    """Hash of all that quantisation depends on: weights, text, tokenizer, recipe, numpy, and all of mcugen's code."""
    assert source.model is not None
    t = source.tokenizer
    encoding = (t.pieces, t.ranks.tolist(), t.unk, t.bos, t.first_byte, t.lowercase)
    calibration = repr(t.eos if text is None else (text, encoding)).encode()
    return _hash([source.model.sha256.encode(), *_code(), calibration, repr(replace(recipe, name="")).encode()])
