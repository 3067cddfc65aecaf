"""Trials: the grid of a sweep, and a float side that is computed once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zoo

from mcugen import trials
from mcugen.checkpoints import write_checkpoint
from mcugen.errors import UsageError
from mcugen.evaluate import float_side
from mcugen.ir import Config
from mcugen.recipes import MIXED, with_budget
from mcugen.sources import open_source
from mcugen.sweep import SweepResult, sweep
from mcugen.tokenizer import write_tokenizer
from mcugen.trials import Options, Trial, Tried, front, integers, parse_axes, run_trial

SHAPE = Config(16, 12, 1, 2, 1, 300, 12, False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    folder = tmp_path_factory.mktemp("trials")
    (folder / "tiny.bin").write_bytes(write_checkpoint(zoo.model_of(SHAPE, seed=4)))
    (folder / "tok.bin").write_bytes(write_tokenizer(zoo.random_tokenizer(300)))
    (folder / "text").write_text("the tin hat. " * 40, encoding="utf-8")
    return Trial(Options(), folder / "tiny.bin", folder / "tok.bin", "host", folder / "text", 60, None)


def points(base: Trial, *words: str) -> list[Trial]:
    import dataclasses

    return [dataclasses.replace(base, options=options) for options in parse_axes(words, base.options)[1]]


def test_the_grid() -> None:
    axes, found = parse_axes(["w4,w8", "context=8, 4"], Options(calibrate="text"))
    assert axes == ("recipe", "context")
    assert found == [Options(r, None, "text", c) for r in ("w4", "w8") for c in (8, 4)]
    assert parse_axes(["budget=5bits,2%"], Options())[1] == [Options(None, "5bits"), Options(None, "2%")]
    assert parse_axes(["fc=builtin"], Options())[1] == [Options(fc="builtin")]


def test_what_is_tried_is_what_is_built(base: Trial) -> None:
    int8, int4 = (run_trial(trial) for trial in points(base, "w8,w4"))
    assert int8.recipe.startswith("w8a8kv8, ") and int4.recipe.startswith("w4a8kv8 gptq, ")
    assert int4.constant_bytes < int8.constant_bytes and int4.ram_bytes == int8.ram_bytes
    assert int8.text is not None and int8.loss == int8.text.evaluation.integer_perplexity
    assert int8.text.evaluation.kl < int4.text.evaluation.kl  # type: ignore[union-attr]


def test_a_recipe_that_is_not_there_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="there is no recipe 'w3'; mcugen knows w8, "):
        parse_axes(["w8,w3"], Options())


def test_a_budget_alone_is_for_the_mixed_recipe(base: Trial) -> None:
    source = open_source(base.model, base.tokenizer)
    found = integers(source, Options(budget="6bits"))
    assert found.recipe.startswith(with_budget(MIXED, "6bits").describe())
    assert integers(source, Options()).recipe.startswith("w8a8kv8, ")


def test_float_logits_are_computed_once(base: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all threads of a process together; a text of another length, and a cap on memory, compute anew."""
    calls: list[int] = []

    def counted(model, tokens, **options):  # type: ignore[no-untyped-def]
        calls.append(len(tokens))
        return float_side(model, tokens, **options)

    monkeypatch.setattr(trials, "float_side", counted)
    monkeypatch.setattr(trials, "_kept", {})
    with ThreadPoolExecutor(4) as pool:
        alike = sweep(points(base, "w8,w4"), run_trial, pool)
        assert calls == [60]
        monkeypatch.setattr(trials, "FLOATS_KEPT", 8 * 60 * 300 - 1)
        monkeypatch.setattr(trials, "_kept", {})
        assert [r.value.loss for r in sweep(points(base, "w8,w4"), run_trial, pool) if r.value] == [
            r.value.loss for r in alike if r.value
        ]
    assert calls == [60]


def test_threads_and_processes_find_the_same(base: Trial) -> None:
    grid = points(base, "w8,w4", "context=12,5")
    with ThreadPoolExecutor(2) as pool:
        threads = sweep(grid, run_trial, pool)
    assert threads == sweep(grid, run_trial, jobs=2)
    assert [r.error for r in threads] == [None] * 4


def test_the_front_leaves_out_what_failed() -> None:
    trial = Trial(Options(), None, None, "host", None, 0, None)

    def result(constants: int, ram: int, right: int) -> SweepResult[Trial, Tried]:
        from mcugen.cases import Answered, Case, ExactMatch

        answered = [Answered(Case("", "a", 1), "a", "a" if i < right else "b") for i in range(10)]
        return SweepResult(trial, Tried("", 1, constants, 0, ram, None, ExactMatch(tuple(answered))), None)

    results = [result(8, 3, 9), SweepResult(trial, None, "no"), result(4, 3, 9), result(9, 2, 1), result(2, 3, 5)]
    assert front(results) == [False, False, True, True, True]
    assert [r.value.loss for r in results if r.value] == pytest.approx([0.1, 0.1, 0.9, 0.5])


def test_a_trial_on_a_board_too_small_is_reported(base: Trial, tmp_path: Path) -> None:
    [found] = sweep(points(base, "w8", "context=99"), run_trial, jobs=1)
    assert found.error is not None and found.error.startswith("a context of 99 tokens is outside 1 to 12")
