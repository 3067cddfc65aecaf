"""Precisions within a budget: what is chosen, what is told, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from zoo import ARCHITECTURES, SHAPES, model_of, random_tokenizer, random_tokens

from mcugen import integers
from mcugen.errors import InputError, UsageError
from mcugen.ir import Model
from mcugen.lower import lower
from mcugen.mixed import Choice, choice_from_json
from mcugen.quantize import Calibration, calibrate, chosen, folded, quantize, rounded
from mcugen.quantized_file import save_quantized
from mcugen.recipes import INT4, INT4_COARSE, INT8, MIXED, W4_NEAREST, Budget, Recipe
from mcugen.simulate import simulate
from mcugen.sources import Source

CONFIG = SHAPES["gqa"]
MODEL = model_of(CONFIG)


def seen_by(model: Model) -> Calibration:
    return calibrate(model, random_tokens(model.config, 320, 5).reshape(20, 16), "random tokens")


SEEN = seen_by(MODEL)


def chosen_for(kind: str, limit: float, **more: object) -> Choice:
    return chosen(MODEL, SEEN, dataclasses.replace(MIXED, budget=Budget(kind, limit), **more))


def stored(choice: Choice) -> int:
    """Bytes of the layers' matrices, counted from the integers."""
    q = quantize(MODEL, SEEN, choice.recipe)
    total = 0
    for layer in q.layers:
        for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2"):
            w = getattr(layer, name)
            scales = 0 if w.group_scale is None else w.group_scale.size
            total += len(w.codes) * math.ceil(w.codes.shape[1] * w.bits / 8) + scales + 2 * len(w.multiplier)
    return total


@pytest.mark.parametrize("bits", [4.5, 5.0, 6.5, 9.0])
def test_bits_stay_within_the_budget_and_use_it(bits: float) -> None:
    choice = chosen_for("bits", bits)
    weights = sum(part.w.size for part in folded(MODEL, SEEN).values())
    assert choice.bits == 8 * stored(choice) / weights <= bits
    largest = 48 * 172 * 8 / weights  # what no step is larger than
    assert choice.bits > min(bits, 8.1) - 0.5 * largest
    outside = 2 * 300 * (48 + 2)
    assert choice.bytes == stored(choice) + outside
    assert choice.bits_of_all == pytest.approx(8 * choice.bytes / (weights + 2 * 300 * 48))
    assert choice.kl == pytest.approx(sum(matrix.kl for matrix in choice.matrices))
    if bits == 9.0:
        assert {matrix.precision for matrix in choice.matrices} == {INT8}


def test_more_bits_cost_less() -> None:
    costs = [chosen_for("bits", bits).kl for bits in (4.5, 4.7, 5.5, 6.5, 8.5)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.05 * costs[0]


def test_flash_and_perplexity() -> None:
    flash = chosen_for("flash_bytes", 70_000)
    assert 65_000 < flash.bytes <= 70_000
    loose, strict = chosen_for("perplexity", 0.2), chosen_for("perplexity", 0.02)
    assert math.expm1(strict.kl) <= 0.02 < math.expm1(chosen_for("bits", 4.5).kl)
    assert loose.bits < strict.bits < 8


def test_what_costs_the_most_gets_its_bits_first() -> None:
    """wo of layer 0 writes 30 times as much to the residual as it did."""
    weights = {**MODEL.weights, "wo": MODEL.weights["wo"].copy()}
    weights["wo"][0] *= 30
    loud = dataclasses.replace(MODEL, weights=weights)
    choice = chosen(loud, seen_by(loud), dataclasses.replace(MIXED, budget=Budget("bits", 4.8)))
    found = {matrix.label: matrix for matrix in choice.matrices}
    assert found["layers.0.wo"].precision == INT8
    by_cost = sorted(choice.matrices, key=lambda matrix: matrix.kl4)
    assert {matrix.label for matrix in by_cost[-2:]} == {"layers.0.wv", "layers.0.wo"}
    assert found["layers.0.wo"].kl < found["layers.0.wo"].kl4


def test_overrides_are_kept() -> None:
    choice = chosen_for("bits", 5.0, overrides=(("*.w1", INT4), ("*.wk", INT8)))
    found = {matrix.label: matrix.precision for matrix in choice.matrices}
    assert {found[f"layers.{i}.w1"] for i in range(2)} == {INT4}
    assert {found[f"layers.{i}.wk"] for i in range(2)} == {INT8}
    assert set(found.values()) <= {INT4, INT8, INT4_COARSE}


@pytest.mark.parametrize(
    ("kind", "limit", "what"),
    [
        ("bits", 4.0, r"no choice of precisions stays within 4 bits; the nearest is 4\.\d\dbits"),
        ("flash_bytes", 10.0, r"no choice of precisions stays within 10 B; the nearest is \d+B"),
        ("perplexity", 1e-7, r"no choice of precisions stays within 1e-05 %; the nearest is \d\.\d+%"),
    ],
)
def test_a_budget_that_cannot_be_kept(kind: str, limit: float, what: str) -> None:
    with pytest.raises(UsageError, match=what) as raised:
        chosen_for(kind, limit)
    assert (raised.value.where, raised.value.hint) == ("budget", "allow as much, or state fewer overrides")


def test_the_report() -> None:
    choice = chosen_for("bits", 5.0)
    again = choice_from_json(json.loads(json.dumps(choice.to_json())), MIXED)
    assert again == choice
    sheet = choice.sheet()
    assert sheet.columns == ("matrix", "shape", "precision", "bytes", "KL with int4/32", "KL as chosen")
    assert sorted(row[0] for row in sheet.rows) == sorted(folded(MODEL, SEEN))
    assert sheet.note.startswith(
        f"{choice.bits:.2f} bits per weight of these matrices, {choice.bits_of_all:.2f} with "
    )


def test_a_recipe_with_a_budget_is_as_good_as_what_it_chose() -> None:
    recipe = dataclasses.replace(MIXED, budget=Budget("bits", 5.0))
    direct = rounded(MODEL, SEEN, recipe)
    stated = rounded(MODEL, SEEN, chosen(MODEL, SEEN, recipe).recipe)
    for label, grid in direct.items():
        np.testing.assert_array_equal(grid.values(), stated[label].values())
    assert quantize(MODEL, SEEN, recipe).recipe == "w4-8a8kv8 within 5 bits gptq, calibrated on random tokens"


def test_a_choice_is_kept_with_its_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCUGEN_CACHE", str(tmp_path))
    source = Source("random0", model_of(SHAPES["mqa"]), None, random_tokenizer(11))
    told: list[str] = []
    first = integers.quantize_by_choice(source, None, lambda stage, *_: told.append(stage), MIXED)
    assert list(dict.fromkeys(told)) == ["calibrate", "measure matrices", "round matrices"]
    again = integers.quantize_by_choice(source, None, lambda stage, *_: told.append("again"), MIXED)
    assert "again" not in told
    assert (save_quantized(again[0]), again[1]) == (save_quantized(first[0]), first[1])
    assert first[1] is not None
    other = integers.quantize_by_choice(source, None, recipe=dataclasses.replace(MIXED, budget=Budget("bits", 8)))
    assert other[1] is not None and other[1].bits > first[1].bits
    plain = integers.quantize_by_choice(source, None, recipe=Recipe("w8", INT8))
    assert plain[1] is None


def test_int4_is_refused_for_fully_connected_before_anything_is_calibrated() -> None:
    source = Source("tiny", model_of(SHAPES["mqa"]), None, random_tokenizer(11))
    for recipe in (MIXED, Recipe("mine", INT8, "gptq", (("*.wk", INT4),))):
        with pytest.raises(UsageError) as raised:
            integers.quantize_source(source, None, pytest.fail, recipe, "builtin")
        assert str(raised.value) == (
            f"FULLY_CONNECTED multiplies int8 weights only; the recipe {recipe.name} has int4\n"
            "  where: --fc\n  try:   --fc custom, or --recipe w8"
        )


def test_experts_of_a_layer_share_a_precision() -> None:
    """One op reads whichever is chosen; the integers lower and compute."""
    model = model_of(ARCHITECTURES["moe2"])
    seen = seen_by(model)
    limits = (5.0, 6.0, 7.0)
    for limit in limits:
        choice = chosen(model, seen, dataclasses.replace(MIXED, budget=Budget("bits", limit)))
        by_kind: dict[str, set[object]] = {}
        for matrix in choice.matrices:
            by_kind.setdefault(re.sub(r"experts\.\d+", "experts", matrix.label), set()).add(matrix.precision)
        assert all(len(precisions) == 1 for precisions in by_kind.values())
        assert len(by_kind) == 2 * 7
        graph = lower(quantize(model, seen, choice.recipe), 8)
        assert simulate(graph, [1, 2, 3]).outputs[-1][0].shape == (3, model.config.vocab_size)


def test_experts_are_not_stated_one_by_one() -> None:
    model = model_of(ARCHITECTURES["moe2"])
    recipe = dataclasses.replace(W4_NEAREST, overrides=(("*.experts.1.w2", INT8),))
    with pytest.raises(InputError) as raised:
        rounded(model, seen_by(model), recipe)
    assert str(raised.value) == (
        "the matrices layers.0.experts.*.w2 are not all stated alike\n"
        "  where: recipe w4-nearest, weights.override\n"
        "  try:   experts of a layer share a precision: state it for 'layers.0.experts.*.w2'"
    )
