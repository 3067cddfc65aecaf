"""How a model becomes integers: what is pruned, the precision of each matrix, how it is rounded or trained, what it
may cost."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mcugen.errors import InputError, McugenError, UsageError


@dataclass(frozen=True, slots=True, order=True)
class Precision:
    """Of a matrix. bits: 8 or 4. group: of 4, columns that share a scale: 32 or 64; 0 for one scale per row."""

    bits: int
    group: int = 0

    def __str__(self) -> str:
        return f"int{self.bits}/{self.group}" if self.bits == 4 else f"int{self.bits}"

    def bytes(self, rows: int, cols: int) -> int:
        """Of a matrix in flash: codes, group scales and the rows' multipliers, without padding."""
        if self.bits == 8:
            return rows * (cols + 2)
        groups = -(-cols // self.group) if self.group else 0
        return rows * (-(-cols // 2) + groups + 2)


INT8, INT4, INT4_COARSE = Precision(8), Precision(4, 32), Precision(4, 64)
GROUPS = (0, 32, 64)
ROUNDINGS = ("nearest", "gptq")
BUDGETS = ("bits", "flash_bytes", "perplexity")
VALUES = {"int8": 8, "int4": 4}  # bits of cached values
DISTILL_STEPS = 1000  # a few minutes of one core for a model of 260,000 weights


@dataclass(frozen=True, slots=True)
class Budget:
    """What a mixed recipe may cost. kind: of BUDGETS. limit: bits per weight of the layers' matrices, scales
    included; bytes of all matrices, embedding and classifier included; or the share by which perplexity may grow on
    the model's own text (0.02 is 2 %)."""

    kind: str
    limit: float

    def __str__(self) -> str:
        if self.kind == "bits":
            return f"{self.limit:g} bits"
        return f"{self.limit:.0f} B" if self.kind == "flash_bytes" else f"{100 * self.limit:g} %"


@dataclass(frozen=True, slots=True)
class PruneBudget:
    """What pruning may leave, and what it may cost; 0 where nothing is asked.

    hidden: share of the hidden channels that stays, in (0, 1]. kv_heads: KV heads that stay, with their query heads.
    flash_bytes: what prune.weight_bytes may be at most, reached by hidden channels. perplexity: the share by which it
    may grow on the model's own text, 0.03 for 3 %: as few hidden channels as that allows.
    """

    hidden: float = 0.0
    kv_heads: int = 0
    flash_bytes: int = 0
    perplexity: float = 0.0

    def __post_init__(self) -> None:
        if sum(map(bool, (self.hidden, self.flash_bytes, self.perplexity))) > 1:
            raise _no_pruning("hidden, flash_bytes and perplexity exclude each other", "keep one of them")
        if not 0 <= self.hidden <= 1:
            raise _no_pruning(
                f"hidden = {self.hidden:g} is no share of the channels", "a number above 0, and at most 1"
            )
        if self.kv_heads < 0 or self.flash_bytes < 0:
            raise _no_pruning("kv_heads and flash_bytes are counts", "whole numbers above 0")
        if not 0 <= self.perplexity <= 1:
            raise _no_pruning(f"perplexity = {self.perplexity:g} is no growth", "a share such as 0.03, which is 3 %")

    def __str__(self) -> str:
        """As parse_pruning reads it: "hidden=0.8,kv_heads=3"."""
        words = [f"hidden={self.hidden:g}"] * bool(self.hidden) + [f"kv_heads={self.kv_heads}"] * bool(self.kv_heads)
        words += [f"{self.flash_bytes}B"] * bool(self.flash_bytes)
        return ",".join([*words, *[f"{100 * self.perplexity:g}%"] * bool(self.perplexity)])


def _no_pruning(what: str, hint: str) -> UsageError:
    return UsageError(what, where="--prune", hint=hint)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is pruned, and what becomes of the layers' matrices; embedding, classifier are int8, rounded to nearest.

    default: their precision. rounding: of ROUNDINGS (mcugen.rounding). overrides: (pattern of labels, precision), of
    those that match the last counts. budget: precisions that no override states are chosen within it (mcugen.mixed),
    and default does not count. value_bits: of cached values, 8 or 4. prune: before all else. steps: of training the
    codes (mcugen.distill).
    """

    name: str
    default: Precision
    rounding: str = "nearest"
    overrides: tuple[tuple[str, Precision], ...] = ()
    budget: Budget | None = None
    value_bits: int = 8
    prune: PruneBudget | None = None
    steps: int = 0

    def stated(self, label: str) -> Precision | None:
        """What the overrides state for the matrix with this label, "layers.0.wq"."""
        found = [precision for pattern, precision in self.overrides if fnmatchcase(label, pattern)]
        return found[-1] if found else None

    def precision(self, label: str) -> Precision:
        """Of the matrix with this label."""
        return self.stated(label) or self.default

    def check(self, labels: Iterable[str]) -> None:
        """Raises InputError where a pattern matches no label, or some experts of a layer only."""
        known = list(labels)
        for pattern, _ in self.overrides:
            if not any(fnmatchcase(label, pattern) for label in known):
                raise InputError(
                    f"the pattern {pattern!r} matches no matrix",
                    where=f"recipe {self.name}, weights.override",
                    hint=f"names are {', '.join(known[:7])} and so on: '*.wk' is wk of every layer",
                )
        for name, matrices in tied(known).items():
            if len({self.stated(label) for label in matrices}) > 1:
                raise InputError(
                    f"the matrices {name} are not all stated alike",
                    where=f"recipe {self.name}, weights.override",
                    hint=f"experts of a layer share a precision: state it for '{name}'",
                )

    def precisions(self) -> set[Precision]:
        """All that a matrix may have."""
        free = {INT8, INT4, INT4_COARSE} if self.budget else {self.default}
        return free | {precision for _, precision in self.overrides}

    def describe(self) -> str:
        """All of it but its name, for provenance: QuantizedModel.recipe begins with it."""
        cache = "kv8" if self.value_bits == 8 else f"k8v{self.value_bits}"
        words = [f"w{self.default.bits}a8{cache}"]
        if self.budget:
            words = [f"w4-8a8{cache} within {self.budget}"]
        elif self.default not in (INT8, INT4):
            words.append(str(self.default))
        words += [self.rounding] if self.rounding != "nearest" else []
        words += [f"{pattern}={precision}" for pattern, precision in self.overrides]
        words += [f"pruned to {self.prune}"] if self.prune else []
        return " ".join([*words, *([f"distilled in {self.steps} steps"] if self.steps else [])])


def tied(labels: Iterable[str]) -> dict[str, list[str]]:
    """Labels that share a precision, because one op reads them: "layers.0.experts.*.w1"."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.*.", label), []).append(label)
    return groups


W8 = Recipe("w8", INT8)
W4 = Recipe("w4", INT4, "gptq")
W4_NEAREST = Recipe("w4-nearest", INT4)
MIXED = Recipe("mixed", INT4, "gptq", budget=Budget("bits", 5.0))
RECIPES = {recipe.name: recipe for recipe in (W8, W4, W4_NEAREST, MIXED)}


def recipe_named(name: str) -> Recipe:
    """One of RECIPES, or the one in a user's .toml file. Raises UsageError, or InputError as read_recipe does."""
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    if name not in RECIPES:
        raise UsageError(
            f"there is no recipe {name!r}; mcugen knows {', '.join(RECIPES)}",
            where="--recipe",
            hint="one of those, or the path of your own .toml file",
        )
    return RECIPES[name]


_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(bits|B|KB|KiB|%)")
_BYTES = {"B": 1, "KB": 1000, "KiB": 1024}


def _amount(text: str) -> Budget | None:
    """ "5bits", "200KB" or "2%"; None for anything else."""
    if not (found := _AMOUNT.fullmatch(text)):
        return None
    amount, unit = float(found[1]), found[2]
    if unit == "bits":
        return Budget("bits", amount)
    return Budget("perplexity", amount / 100) if unit == "%" else Budget("flash_bytes", amount * _BYTES[unit])


def with_budget(recipe: Recipe, text: str) -> Recipe:
    """The same under another budget: "5bits", "200KB" or "2%". Raises UsageError."""
    if recipe.budget is None:
        raise UsageError(
            f"the recipe {recipe.name} states every precision; there is nothing to choose within a budget",
            where="--budget",
            hint="--recipe mixed, or leave --budget out",
        )
    if (budget := _amount(text)) is None:
        raise UsageError(
            f"a budget of {text!r} is no amount",
            where="--budget",
            hint="bits per weight, flash or perplexity: 5bits, 200KB or 2%",
        )
    return replace(recipe, budget=budget)


def chosen_recipe(name: str | None, budget: str | None) -> Recipe | None:
    """What a name and a budget say together; a budget alone is for the mixed recipe. Raises what either does."""
    recipe = None if name is None else recipe_named(name)
    return recipe if budget is None else with_budget(recipe or MIXED, budget)


def parse_pruning(text: str) -> PruneBudget:
    """ "hidden=0.8,kv_heads=3", "180KB" or "kv_heads=3,2%" -> PruneBudget. Raises UsageError."""
    kinds = {"hidden": float, "kv_heads": int}
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        amount = _amount(part)
        try:
            if amount is not None and amount.kind != "bits" and amount.kind not in found:
                found[amount.kind] = amount.limit if amount.kind == "perplexity" else int(amount.limit)
                continue
            if not equals or name in found:
                raise ValueError(part)
            found[name] = kinds[name](value)
        except (KeyError, ValueError) as error:
            raise _no_pruning(
                f"cannot read {part!r}", "hidden=0.8 of the channels, kv_heads=3, 180KB of flash or 2% perplexity"
            ) from error
    return PruneBudget(**found)  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def read_recipe(path: Path) -> Recipe:
    """A recipe file (TOML); it is named after the file. Raises InputError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"recipe file {path} cannot be read: {error.strerror}", where="--recipe", hint="check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, f"it is not TOML: {error}", "correct that line") from error
    _only(path, "", table, ("weights", "budget", "cache", "prune", "distill"))
    weights = _table(path, "weights", table.get("weights", {}))
    _only(path, "weights.", weights, ("default", "group", "rounding", "override"))
    group = _one_of(path, "weights.group", weights.get("group", 32), GROUPS)
    budget = _budget(path, _table(path, "budget", table["budget"])) if "budget" in table else None
    if ("default" in weights) == (budget is not None):
        raise _wrong(
            path,
            "weights.default and a budget exclude each other" if budget else "weights.default is missing",
            'state default = "int8" or "int4" under [weights], or one line under [budget]',
        )
    cache = _table(path, "cache", table.get("cache", {}))
    _only(path, "cache.", cache, ("values",))
    values = _one_of(path, "cache.values", cache.get("values", "int8"), tuple(VALUES))
    overrides = _table(path, "weights.override", weights.get("override", {}))
    return Recipe(
        path.stem,
        INT4 if budget else _precision(path, "weights.default", weights["default"], group),
        _one_of(path, "weights.rounding", weights.get("rounding", "gptq"), ROUNDINGS),
        tuple((name, _precision(path, f"weights.override.{name}", v, group)) for name, v in overrides.items()),
        budget,
        VALUES[values],
        _pruning(path, _table(path, "prune", table["prune"])) if "prune" in table else None,
        _steps(path, _table(path, "distill", table["distill"])) if "distill" in table else 0,
    )


def _wrong(path: Path, what: str, hint: str) -> McugenError:
    return InputError(f"recipe file {path.name}: {what}", where=path.name, hint=hint)


def _only(path: Path, prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise _wrong(
                path, f"the key {prefix}{key} is unknown", f"keys are {', '.join(prefix + k for k in known)}"
            )


def _table(path: Path, key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, f"{key} is {value!r}, not a table", f"write [{key}] and its keys beneath")
    return value


def _one_of(path: Path, key: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if isinstance(value, bool) or value not in allowed:
        raise _wrong(path, f"{key} is {value!r}", f"it must be one of {', '.join(map(repr, allowed))}")
    return value


def _precision(path: Path, key: str, value: Any, group: int) -> Precision:
    """ "int8", "int4" in the file's groups, or "int4/64" in others."""
    known = {"int8": INT8, "int4": Precision(4, group), **{f"int4/{g}": Precision(4, g) for g in GROUPS}}
    return known[_one_of(path, key, value, tuple(known))]


def _budget(path: Path, table: Mapping[str, Any]) -> Budget:
    _only(path, "budget.", table, BUDGETS)
    if len(table) != 1:
        raise _wrong(path, f"[budget] has {len(table)} lines", f"state one of {', '.join(BUDGETS)}")
    ((kind, limit),) = table.items()
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 2**32:
        raise _wrong(path, f"budget.{kind} is {limit!r}", "it must be a number above 0, as in bits = 5.0")
    return Budget(kind, float(limit))


def _pruning(path: Path, table: Mapping[str, Any]) -> PruneBudget:
    kinds = {"hidden": (int, float), "kv_heads": (int,), "flash_bytes": (int,), "perplexity": (int, float)}
    _only(path, "prune.", table, tuple(kinds))
    for name, value in table.items():
        if type(value) not in kinds[name] or not value > 0:
            raise _wrong(path, f"prune.{name} is {value!r}", "as in hidden = 0.8, kv_heads = 3 or perplexity = 0.02")
    try:
        return PruneBudget(**table)
    except UsageError as error:
        raise _wrong(path, f"[prune]: {error.what}", error.hint) from error


def _steps(path: Path, table: Mapping[str, Any]) -> int:
    _only(path, "distill.", table, ("steps",))
    steps = table.get("steps", DISTILL_STEPS)
    if type(steps) is not int or not 1 <= steps < 10**6:
        raise _wrong(path, f"distill.steps is {steps!r}", f"it must be a whole number above 0, as {DISTILL_STEPS}")
    return steps
