"""Recipes: names, files, budgets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcugen.errors import InputError, McugenError, UsageError
from mcugen.recipes import (
    DISTILL_STEPS,
    INT4,
    INT8,
    MIXED,
    RECIPES,
    W4,
    W4_NEAREST,
    W8,
    Budget,
    Precision,
    PruneBudget,
    Recipe,
    parse_pruning,
    read_recipe,
    recipe_named,
    with_budget,
)

LABELS = [f"layers.{i}.{name}" for i in range(2) for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2")]
INT8_WEIGHTS = '[weights]\ndefault = "int8"\n'
WHOLE = """
[weights]
default = "int4"
group = 64
rounding = "nearest"

[weights.override]
"*.wk" = "int8"
"layers.1.*" = "int4/32"
"layers.1.w2" = "int4"

[prune]
hidden = 0.8
kv_heads = 3

[distill]
steps = 40
"""


def read(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "mine.toml").write_text(text)
    return read_recipe(tmp_path / "mine.toml")


def test_names() -> None:
    assert [recipe_named(name) for name in ("w8", "w4", "w4-nearest", "mixed")] == [W8, W4, W4_NEAREST, MIXED]
    assert [recipe.describe() for recipe in RECIPES.values()] == [
        "w8a8kv8", "w4a8kv8 gptq", "w4a8kv8", "w4-8a8kv8 within 5 bits gptq",
    ]  # fmt: skip


def test_a_file(tmp_path: Path) -> None:
    """Its name, groups, and of several patterns the last."""
    recipe = read(tmp_path, WHOLE)
    assert (recipe.name, recipe.rounding, recipe.budget) == ("mine", "nearest", None)
    expected = {
        "layers.0.wq": Precision(4, 64), "layers.0.wk": INT8, "layers.1.wk": INT4, "layers.1.w2": Precision(4, 64),
    }  # fmt: skip
    assert {label: recipe.precision(label) for label in expected} == expected
    recipe.check(LABELS)
    assert recipe.precisions() == {INT4, INT8, Precision(4, 64)}
    assert (recipe.prune, recipe.steps) == (PruneBudget(hidden=0.8, kv_heads=3), 40)
    assert recipe.describe() == (
        "w4a8kv8 int4/64 *.wk=int8 layers.1.*=int4/32 layers.1.w2=int4/64 pruned to hidden=0.8,kv_heads=3 "
        "distilled in 40 steps"
    )
    assert recipe_named(str(tmp_path / "mine.toml")) == recipe


def test_what_a_file_may_leave_out(tmp_path: Path) -> None:
    assert read(tmp_path, '[weights]\ndefault = "int4"') == Recipe("mine", INT4, "gptq")
    assert read(tmp_path, "[budget]\nbits = 5") == Recipe("mine", INT4, "gptq", budget=Budget("bits", 5.0))
    assert read(tmp_path, '[weights]\ndefault = "int4"\ngroup = 0').default == Precision(4)
    assert read(tmp_path, f"{INT8_WEIGHTS}[distill]").steps == DISTILL_STEPS
    assert read(tmp_path, f"{INT8_WEIGHTS}[prune]\nperplexity = 0.02").prune == PruneBudget(perplexity=0.02)


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("weights = 1", "weights is 1, not a table", "write [weights] and its keys beneath"),
        ("[weight]", "the key weight is unknown", "keys are weights, budget, cache, prune, distill"),
        ("[weights]", "weights.default is missing", 'state default = "int8" or "int4" under [weights], or one line under [budget]'),
        ('[weights]\ndefault = "int4"\n[budget]\nbits = 5', "weights.default and a budget exclude each other",
         'state default = "int8" or "int4" under [weights], or one line under [budget]'),
        ('[weights]\nbits = 4', "the key weights.bits is unknown",
         "keys are weights.default, weights.group, weights.rounding, weights.override"),
        ('[weights]\ndefault = "int5"', "weights.default is 'int5'",
         "it must be one of 'int8', 'int4', 'int4/0', 'int4/32', 'int4/64'"),
        ('[weights]\ndefault = "int4"\ngroup = 16', "weights.group is 16", "it must be one of 0, 32, 64"),
        ('[weights]\ndefault = "int4"\ngroup = false', "weights.group is False", "it must be one of 0, 32, 64"),
        ('[weights]\ndefault = "int4"\nrounding = "awq"', "weights.rounding is 'awq'",
         "it must be one of 'nearest', 'gptq'"),
        ('[weights]\ndefault = ["int4"]', "weights.default is ['int4']",
         "it must be one of 'int8', 'int4', 'int4/0', 'int4/32', 'int4/64'"),
        ('[weights]\ndefault = "int4"\noverride = 3', "weights.override is 3, not a table",
         "write [weights.override] and its keys beneath"),
        ('[weights]\ndefault = "int4"\n[weights.override]\n"*.wk" = 8', "weights.override.*.wk is 8",
         "it must be one of 'int8', 'int4', 'int4/0', 'int4/32', 'int4/64'"),
        ("[budget]", "[budget] has 0 lines", "state one of bits, flash_bytes, perplexity"),
        ("[budget]\nbits = 5\nperplexity = 0.1", "[budget] has 2 lines", "state one of bits, flash_bytes, perplexity"),
        ("[budget]\nram = 5", "the key budget.ram is unknown",
         "keys are budget.bits, budget.flash_bytes, budget.perplexity"),
        ("[budget]\nbits = -1", "budget.bits is -1", "it must be a number above 0, as in bits = 5.0"),
        ("[budget]\nbits = nan", "budget.bits is nan", "it must be a number above 0, as in bits = 5.0"),
        ("[budget]\nbits = true", "budget.bits is True", "it must be a number above 0, as in bits = 5.0"),
        (f"{INT8_WEIGHTS}[prune]\nheads = 3", "the key prune.heads is unknown",
         "keys are prune.hidden, prune.kv_heads, prune.flash_bytes, prune.perplexity"),
        (f"{INT8_WEIGHTS}[prune]\nkv_heads = 1.5", "prune.kv_heads is 1.5",
         "as in hidden = 0.8, kv_heads = 3 or perplexity = 0.02"),
        (f"{INT8_WEIGHTS}[prune]\nhidden = true", "prune.hidden is True",
         "as in hidden = 0.8, kv_heads = 3 or perplexity = 0.02"),
        (f"{INT8_WEIGHTS}[prune]\nhidden = nan", "prune.hidden is nan",
         "as in hidden = 0.8, kv_heads = 3 or perplexity = 0.02"),
        (f"{INT8_WEIGHTS}[prune]\nhidden = 1.5", "[prune]: hidden = 1.5 is no share of the channels",
         "a number above 0, and at most 1"),
        (f"{INT8_WEIGHTS}[distill]\nepochs = 3", "the key distill.epochs is unknown", "keys are distill.steps"),
        (f"{INT8_WEIGHTS}[distill]\nsteps = 0", "distill.steps is 0",
         f"it must be a whole number above 0, as {DISTILL_STEPS}"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(tmp_path: Path, text: str, what: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path, text)
    assert str(raised.value) == f"recipe file mine.toml: {what}\n  where: mine.toml\n  try:   {hint}"


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recipe file mine\.toml: it is not TOML: ") as raised:
        read(tmp_path, "[weights")
    assert raised.value.hint == "correct that line"
    with pytest.raises(InputError) as raised:
        read_recipe(tmp_path / "none.toml")
    assert str(raised.value) == (
        f"recipe file {tmp_path / 'none.toml'} cannot be read: No such file or directory\n"
        "  where: --recipe\n  try:   check the path"
    )


def test_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(InputError) as raised:
        Recipe("mine", INT4, "gptq", (("*.wk", INT8), ("*.wx", INT8))).check(LABELS)
    assert str(raised.value) == (
        "the pattern '*.wx' matches no matrix\n  where: recipe mine, weights.override\n"
        "  try:   names are layers.0.wq, layers.0.wk, layers.0.wv, layers.0.wo, layers.0.w1, layers.0.w3, layers.0.w2 "
        "and so on: '*.wk' is wk of every layer"
    )


@pytest.mark.parametrize(
    ("text", "budget", "shown"),
    [
        ("5bits", Budget("bits", 5), "5 bits"),
        ("4.75 bits", Budget("bits", 4.75), "4.75 bits"),
        ("200KB", Budget("flash_bytes", 200_000), "200000 B"),
        ("0.5KiB", Budget("flash_bytes", 512), "512 B"),
        ("9B", Budget("flash_bytes", 9), "9 B"),
        ("2%", Budget("perplexity", 0.02), "2 %"),
    ],
)
def test_budgets(text: str, budget: Budget, shown: str) -> None:
    recipe = with_budget(MIXED, text)
    assert recipe.budget == budget
    assert str(recipe.budget) == shown


@pytest.mark.parametrize(
    ("recipe", "text", "message"),
    [
        (MIXED, "5", "a budget of '5' is no amount\n  where: --budget\n"
         "  try:   bits per weight, flash or perplexity: 5bits, 200KB or 2%"),
        (MIXED, "-1%", "a budget of '-1%' is no amount\n  where: --budget\n"
         "  try:   bits per weight, flash or perplexity: 5bits, 200KB or 2%"),
        (W4, "5bits", "the recipe w4 states every precision; there is nothing to choose within a budget\n"
         "  where: --budget\n  try:   --recipe mixed, or leave --budget out"),
    ],
)  # fmt: skip
def test_budgets_that_are_none(recipe: Recipe, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        with_budget(recipe, text)
    assert str(raised.value) == message


def test_a_name_that_is_none() -> None:
    with pytest.raises(McugenError) as raised:
        recipe_named("w5")
    assert str(raised.value) == (
        "there is no recipe 'w5'; mcugen knows w8, w4, w4-nearest, mixed\n  where: --recipe\n"
        "  try:   one of those, or the path of your own .toml file"
    )
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("precision", "size"),
    [(INT8, 5 * 72), (Precision(4), 5 * 37), (INT4, 5 * (35 + 3 + 2)), (Precision(4, 64), 5 * (35 + 2 + 2))],
)
def test_bytes_of_a_matrix(precision: Precision, size: int) -> None:
    """5 x 70: codes, group scales with those of a short last group, two bytes of multiplier per row."""
    assert precision.bytes(5, 70) == size


@pytest.mark.parametrize(
    ("text", "budget", "shown"),
    [
        ("hidden=0.8", PruneBudget(hidden=0.8), "hidden=0.8"),
        ("hidden=0.8,kv_heads=3", PruneBudget(hidden=0.8, kv_heads=3), "hidden=0.8,kv_heads=3"),
        ("kv_heads=1,90KB", PruneBudget(kv_heads=1, flash_bytes=90_000), "kv_heads=1,90000B"),
        ("3%", PruneBudget(perplexity=0.03), "3%"),
    ],
)
def test_prunings(text: str, budget: PruneBudget, shown: str) -> None:
    assert parse_pruning(text) == budget
    assert str(budget) == shown and parse_pruning(shown) == budget


WORDS = "hidden=0.8 of the channels, kv_heads=3, 180KB of flash or 2% perplexity"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("", "cannot read ''", WORDS),
        ("hidden", "cannot read 'hidden'", WORDS),
        ("heads=3", "cannot read 'heads=3'", WORDS),
        ("5bits", "cannot read '5bits'", WORDS),
        ("kv_heads=1.5", "cannot read 'kv_heads=1.5'", WORDS),
        ("hidden=0.8,hidden=0.7", "cannot read 'hidden=0.7'", WORDS),
        ("3%,2%", "cannot read '2%'", WORDS),
        ("hidden=1.2", "hidden = 1.2 is no share of the channels", "a number above 0, and at most 1"),
        ("hidden=nan", "hidden = nan is no share of the channels", "a number above 0, and at most 1"),
        ("kv_heads=-1", "kv_heads and flash_bytes are counts", "whole numbers above 0"),
        ("103%", "perplexity = 1.03 is no growth", "a share such as 0.03, which is 3 %"),
        ("hidden=0.8,3%", "hidden, flash_bytes and perplexity exclude each other", "keep one of them"),
    ],
)
def test_prunings_that_make_no_sense(text: str, what: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_pruning(text)
    assert str(raised.value) == f"{what}\n  where: --prune\n  try:   {hint}"
