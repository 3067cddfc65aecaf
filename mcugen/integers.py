"""A source -> its integers, by a recipe: calibrated, pruned, rounded, trained, and kept in the cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcugen.cache import Cache, default_cache_dir
from mcugen.errors import InputError, ToolError, UsageError
from mcugen.evaluate import clean_text
from mcugen.fc8 import PROFILE, is_fc8, to_fc8
from mcugen.ir import Model, QuantizedModel, Tokenizer
from mcugen.mixed import Choice, choice_from_json
from mcugen.prune import prune
from mcugen.quantize import Calibration, chosen, quantize, rounded, self_calibration, text_calibration
from mcugen.quantize import calibrate as calibrated
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.recipes import W8, PruneBudget, Recipe
from mcugen.rounding import Grid
from mcugen.sources import Progress, Source, read_text, silent
from mcugen.tokenizer import encode


def quantize_source(
    source: Source,
    calibrate: Path | None,
    progress: Progress = silent,
    recipe: Recipe | None = None,
    fc: str = "custom",
    lesson: Path | None = None,
) -> QuantizedModel:
    """The integers of a source; calibrated on a text, or on the model's own samples.

    recipe: None is W8, or whatever a quantised model has. fc: "custom" for our own kernels, "builtin" for TFLite
    Micro's FULLY_CONNECTED (mcugen.fc8). lesson: a text that training reads beside the model's own samples. Raises
    UsageError where a quantised model has another recipe, or int4 weights shall be builtin, ToolError for training
    without PyTorch.
    """
    return quantize_by_choice(source, calibrate, progress, recipe, fc, lesson)[0]


def quantize_by_choice(
    source: Source,
    calibrate: Path | None,
    progress: Progress = silent,
    recipe: Recipe | None = None,
    fc: str = "custom",
    lesson: Path | None = None,
) -> tuple[QuantizedModel, Choice | None]:
    """quantize_source, and what a recipe with a budget chose."""
    if fc == "builtin" and recipe is not None and any(precision.bits != 8 for precision in recipe.precisions()):
        raise UsageError(
            f"FULLY_CONNECTED multiplies int8 weights only; the recipe {recipe.name} has int4",
            where="--fc",
            hint="--fc custom, or --recipe w8",
        )
    if source.quantized is None:
        model, choice = _made_or_kept(source, calibrate, progress, recipe or W8, lesson)
    else:
        model, choice = source.quantized, None
        _check_recipe(source.name, model, recipe)
    if fc == "builtin":
        return model if is_fc8(model) else _for_fully_connected(model, source.tokenizer, progress), choice
    if is_fc8(model):
        raise UsageError(
            f"{source.name} is quantised for TFLite Micro's FULLY_CONNECTED",
            where="--fc",
            hint="--fc builtin, or name the checkpoint it was made from",
        )
    return model, choice


def _check_recipe(name: str, model: QuantizedModel, recipe: Recipe | None) -> None:
    """Refuse what a quantised model was not made by."""
    made_by = model.recipe.partition(", calibrated on ")[0]
    if recipe is None or made_by.replace(PROFILE, "w8a8kv8", 1) == recipe.describe():
        return
    option = "--prune" if recipe.prune else "--distill" if recipe.steps else "--recipe"
    raise UsageError(
        f"{name} is quantised already: {made_by}",
        where=option,
        hint=f"name the float checkpoint it was made from, or leave {option} out",
    )


def _made_or_kept(
    source: Source, calibrate: Path | None, progress: Progress, recipe: Recipe, lesson: Path | None
) -> tuple[QuantizedModel, Choice | None]:
    """A checkpoint in integers for our own kernels, and what a budget chose; as an earlier run has left them."""
    text = None if calibrate is None else read_text(calibrate)
    taught = None if lesson is None else _tokens(lesson, source.tokenizer)
    cache, key = Cache(default_cache_dir()), _quantized_key(source, text, recipe, taught)
    if (kept := _kept(cache, key, recipe)) is not None:
        return replace(kept[0], name=source.name), kept[1]
    quantized, choice = _made(source, text, progress, recipe, taught)
    cache.store(key, save_quantized(quantized))
    if choice is not None:
        cache.store(_hash([key.encode(), b"choice"]), json.dumps(choice.to_json()).encode())
    return quantized, choice


def _made(
    source: Source, text: str | None, progress: Progress, recipe: Recipe, taught: NDArray[np.int64] | None
) -> tuple[QuantizedModel, Choice | None]:
    model, tokenizer = source.model, source.tokenizer
    assert model is not None
    progress("calibrate", 0, 1)
    if text is None:
        seen = self_calibration(model, eos=tokenizer.eos, bos=tokenizer.bos)
    else:
        seen = text_calibration(model, np.array(encode(tokenizer, text, bos=False)), bos=tokenizer.bos)
    progress("calibrate", 1, 1)
    if recipe.prune is not None:
        model, seen = _pruned(model, seen, recipe.prune, tokenizer)
    choice = None
    if recipe.budget is not None:
        choice = chosen(model, seen, recipe, functools.partial(progress, "measure matrices"))
    stated = recipe if choice is None else choice.recipe
    grids: Mapping[str, Grid] = rounded(model, seen, stated, functools.partial(progress, "round matrices"))
    if recipe.steps:
        model, grids = _trained(source, model, seen, grids, recipe.steps, taught, progress)
    return quantize(model, seen, recipe, grids), choice


def _pruned(model: Model, seen: Calibration, budget: PruneBudget, tokenizer: Tokenizer) -> tuple[Model, Calibration]:
    """The pruned model, and what it saw of the same sequences."""
    smaller = prune(model, seen, budget, bos=tokenizer.bos, eos=tokenizer.eos)
    return smaller, calibrated(smaller, seen.sequences, seen.description)


def _tokens(lesson: Path, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The tokens of the text that training reads."""
    return np.array(encode(tokenizer, clean_text(read_text(lesson)), bos=False), np.int64)


def _trained(
    source: Source,
    model: Model,
    seen: Calibration,
    grids: Mapping[str, Grid],
    steps: int,
    taught: NDArray[np.int64] | None,
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

    result = distill(model, seen, grids, teacher=source.model, steps=steps, text=taught, progress=show, **ends)
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


def _quantized_key(source: Source, text: str | None, recipe: Recipe, taught: NDArray[np.int64] | None) -> str:
    """Hash of all that quantisation depends on: weights, texts, tokenizer, recipe, numpy, all of mcugen's code."""
    assert source.model is not None
    t = source.tokenizer
    merges, symbols = ((() if a is None else a.tolist()) for a in (t.merges, t.symbols))
    pairs = (merges, symbols, t.byte_level, t.split, t.prefix, t.whole_words, t.fuse_unk)
    encoding = (t.pieces, t.ranks.tolist(), t.unk, t.bos, t.first_byte, t.lowercase, pairs)
    calibration = repr((t.bos, t.eos) if text is None else (text, encoding)).encode()
    choices = repr(replace(recipe, name="")).encode()
    lesson = b"" if taught is None else taught.tobytes()
    return _hash([source.model.sha256.encode(), *_code(), calibration, choices, lesson])
