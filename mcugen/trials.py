"""Options of quantisation as trials: each is a model's integers on a board, their bytes and their quality.

A trial is plain data, and run_trial a function at the top of a module: mcugen.sweep can run them anywhere.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from mcugen.boards import load_board
from mcugen.cases import ExactMatch
from mcugen.errors import UsageError
from mcugen.evaluate import float_side
from mcugen.integers import quantize_source
from mcugen.ir import Model, QuantizedModel
from mcugen.layout import lay_out
from mcugen.pipeline import TextQuality, float_model, measure, measure_cases, text_tokens
from mcugen.recipes import chosen_recipe, recipe_named
from mcugen.reference import Floats
from mcugen.sources import Source, open_source
from mcugen.sweep import SweepResult, pareto_front

OWN_SAMPLES = "own"  # what --sweep calibrate=own says instead of a text
FLOATS_KEPT = 2**29  # bytes of one float side that a process keeps from trial to trial


@dataclass(frozen=True, slots=True)
class Options:
    """What a sweep varies. recipe, budget: as mcugen.recipes reads them; a budget alone is for the mixed recipe.
    calibrate: a text, or OWN_SAMPLES. context: None for the most that fit the board."""

    recipe: str | None = None
    budget: str | None = None
    calibrate: str = OWN_SAMPLES
    context: int | None = None
    fc: str = "custom"


@dataclass(frozen=True, slots=True)
class Trial:
    """Options, and the model, board and data they are tried on; text or cases may be missing."""

    options: Options
    model: Path | None
    tokenizer: Path | None
    board: str
    text: Path | None
    tokens: int
    cases: Path | None


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial. constant_bytes: of the flash, the weights; flash_bytes: with code and vocabulary."""

    recipe: str
    context: int
    constant_bytes: int
    flash_bytes: int
    ram_bytes: int
    text: TextQuality | None
    exact: ExactMatch | None

    @property
    def loss(self) -> float:
        """What a better trial has less of: the integers' perplexity, or where no text was read their share of wrong
        answers."""
        if self.text is not None:
            return self.text.evaluation.integer_perplexity
        assert self.exact is not None
        return 1 - self.exact.integer_right / len(self.exact.answered)


def parse_axes(words: Sequence[str], base: Options) -> tuple[tuple[str, ...], list[Options]]:
    """--sweep's words to the names of what varies, and all combinations, the last axis fastest.

    A word is "NAME=VALUE,VALUE..." with the name of one of Options, or values alone: recipes. Raises UsageError.
    """
    axes: dict[str, list[Any]] = {}
    for word in words:
        name, values = word.split("=", 1) if "=" in word else ("recipe", word)
        known = [field.name for field in fields(Options)]
        if name not in known or name in axes:
            raise UsageError(
                f"--sweep {word}: {name} is {'there twice' if name in axes else 'nothing to vary'}",
                where="--sweep",
                hint=f"--sweep NAME=VALUE,VALUE with each of {', '.join(known)} once at most",
            )
        axes[name] = [_value(name, value.strip(), word) for value in values.split(",")]
    found = [replace(base, **dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    return tuple(axes), found


def _value(name: str, value: str, word: str) -> str | int:
    if name == "context":
        if value.isdecimal():
            return int(value)
        hint = "give numbers of tokens: --sweep context=128,256"
    elif name == "fc":
        if value in ("custom", "builtin"):
            return value
        hint = "--sweep fc=custom,builtin"
    elif value:
        if name == "recipe":
            recipe_named(value)  # which one is wrong is said before any process starts
        return value
    else:
        hint = "write values with single commas between them"
    raise UsageError(f"--sweep {word}: {value!r} is no {name}", where="--sweep", hint=hint)


def integers(source: Source, options: Options) -> QuantizedModel:
    """The one place where options become integers."""
    recipe = chosen_recipe(options.recipe, options.budget)
    calibrate = None if options.calibrate == OWN_SAMPLES else Path(options.calibrate)
    return quantize_source(source, calibrate, recipe=recipe, fc=options.fc)


def run_trial(trial: Trial) -> Tried:
    """Quantise, lay out on the board, measure. Raises what these raise: DoesNotFitError, InputError..."""
    source = open_source(trial.model, trial.tokenizer)
    model = float_model(source)
    quantized = integers(source, trial.options)
    layout = lay_out(quantized, source.tokenizer, load_board(trial.board), trial.options.context)
    graph = layout.graph
    text = exact = None
    if trial.text is not None:
        floats = _float_side(
            model, text_tokens(source, trial.text, trial.tokens), graph.context, source.tokenizer.bos
        )
        text = measure(source, graph, trial.text, trial.tokens, floats=floats)
    if trial.cases is not None:
        exact = measure_cases(source, graph, trial.cases)
    return Tried(
        recipe=quantized.recipe,
        context=graph.context,
        constant_bytes=layout.demand.constants,
        flash_bytes=layout.demand.flash,
        ram_bytes=layout.demand.ram,
        text=text,
        exact=exact,
    )


_Key = tuple[str, bytes, int, int]
_kept: dict[_Key, tuple[Floats, ...]] = {}
_keeping = threading.Lock()


def _float_side(model: Model, ids: Sequence[int], context: int, bos: int) -> tuple[Floats, ...] | None:
    """The float side of a text, computed once in a process for all trials that share it; None where it is too large
    to be kept. Threads wait for the first to compute it."""
    if 8 * len(ids) * model.config.vocab_size > FLOATS_KEPT:
        return None
    key = (model.sha256, np.array(ids, np.int64).tobytes(), context, bos)
    with _keeping:
        if key not in _kept:
            _kept.clear()
            _kept[key] = float_side(model, ids, context=context, bos=bos)
        return _kept[key]


def front(results: Iterable[SweepResult[Trial, Tried]]) -> list[bool]:
    """Which trials no other one beats in bytes of weights, RAM and loss; never one that failed."""
    found = list(results)
    tried = [r.value for r in found if r.value is not None]
    marks = iter(pareto_front([(t.constant_bytes, t.ram_bytes, t.loss) for t in tried]))
    return [r.value is not None and next(marks) for r in found]
