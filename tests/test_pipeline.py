"""What composes the passes: sources, the cache of quantised models, layouts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import ladder
import numpy as np
import pytest
import zoo

from mcugen import families, integers, pipeline, sources
from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.cache import Cache, default_cache_dir
from mcugen.checkpoints import write_checkpoint
from mcugen.errors import DoesNotFitError, InternalError, UsageError
from mcugen.families import Family
from mcugen.ir import Config, MemoryRegion, Tokenizer
from mcugen.quantized_file import save_quantized
from mcugen.recipes import MIXED, W4, W4_NEAREST, W8, PruneBudget
from mcugen.resources import bundled_models, models_dir
from mcugen.sources import Source
from mcugen.tokenizer import write_tokenizer

SHAPE = Config(16, 12, 1, 2, 1, 24, 12, False)


def source(seed: int = 0, tokenizer: Tokenizer | None = None) -> Source:
    model = zoo.model_of(SHAPE, seed)
    return Source(model.name, model, None, tokenizer or zoo.random_tokenizer(SHAPE.vocab_size))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MCUGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---------------------------------------------------------------- sources


def test_the_default_source_is_the_model_that_ships() -> None:
    found = sources.open_source(None, None)
    facts = json.loads((models_dir() / "home" / "model.json").read_text())
    assert (found.name, found.tokenizer.lowercase, found.tokenizer.prompt_suffix) == (
        facts["name"], facts["lowercase"], facts["prompt_suffix"],
    )  # fmt: skip
    assert found.model is not None and found.quantized is None


@pytest.mark.parametrize("name", bundled_models())
def test_a_model_that_ships_is_known_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even beside a file or folder of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    found = sources.open_source(Path(name), None)
    assert found.name == name and found.model is not None
    assert len(found.tokenizer.pieces) == found.model.config.vocab_size


def test_a_quantised_file_brings_its_tokenizer_or_takes_another(tmp_path: Path) -> None:
    model, own = zoo.quantized(SHAPE), zoo.random_tokenizer(SHAPE.vocab_size)
    (tmp_path / "with.safetensors").write_bytes(save_quantized(model, own))
    (tmp_path / "without.safetensors").write_bytes(save_quantized(model))
    other = dataclasses.replace(own, pieces=(*own.pieces[:-1], b"zz"))
    (tmp_path / "t.bin").write_bytes(write_tokenizer(other))
    assert sources.open_source(tmp_path / "with.safetensors", None).tokenizer.pieces == own.pieces
    for name in ("with", "without"):
        found = sources.open_source(tmp_path / f"{name}.safetensors", tmp_path / "t.bin")
        assert found.tokenizer.pieces == other.pieces
        assert found.quantized is not None
    with pytest.raises(UsageError) as raised:
        sources.open_source(tmp_path / "without.safetensors", None)
    assert str(raised.value) == (
        "without.safetensors has no tokenizer\n  where: --tokenizer\n  try:   add --tokenizer FILE.bin"
    )


# ---------------------------------------------------------------- the cache of quantised models


def test_a_model_is_quantised_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[tuple[str, int, int]] = []
    first = integers.quantize_source(source(), None, lambda *seen: stages.append(seen))
    assert stages == [("calibrate", 0, 1), ("calibrate", 1, 1)]
    monkeypatch.setattr(integers, "quantize", lambda *_: pytest.fail("quantised again"))
    again = integers.quantize_source(dataclasses.replace(source(), name="renamed"), None)
    assert again.name == "renamed"
    assert save_quantized(dataclasses.replace(again, name=first.name)) == save_quantized(first)


def test_a_damaged_cache_is_as_good_as_none(own_cache: Path) -> None:
    first = integers.quantize_source(source(), None)
    (kept,) = (path for path in own_cache.rglob("*") if path.is_file())
    kept.write_bytes(kept.read_bytes()[:-1])
    assert save_quantized(integers.quantize_source(source(), None)) == save_quantized(first)


def test_the_cache_distinguishes_whatever_matters(tmp_path: Path) -> None:
    base = source()
    other_eos = dataclasses.replace(base.tokenizer, eos=1)  # where its own samples end
    lowercase = dataclasses.replace(base.tokenizer, lowercase=True)
    keys = [
        integers._quantized_key(base, None, W8, None),
        integers._quantized_key(base, None, W4, None),
        integers._quantized_key(source(seed=1), None, W8, None),
        integers._quantized_key(base, "a text", W8, None),
        integers._quantized_key(base, "a texu", W8, None),
        integers._quantized_key(base, "", W8, None),
        integers._quantized_key(base, None, dataclasses.replace(W8, prune=PruneBudget(hidden=0.5)), None),
        integers._quantized_key(base, None, dataclasses.replace(W8, steps=3), None),
        integers._quantized_key(base, None, dataclasses.replace(W8, steps=3), np.arange(9)),
        integers._quantized_key(dataclasses.replace(base, tokenizer=other_eos), None, W8, None),
        integers._quantized_key(dataclasses.replace(base, tokenizer=lowercase), "a text", W8, None),
    ]
    assert len(set(keys)) == len(keys)
    assert integers._quantized_key(dataclasses.replace(base, name="renamed"), None, W8, None) == keys[0]


def test_a_quantised_model_keeps_its_recipe(own_cache: Path) -> None:
    """None is w8; of a quantised model, its own."""
    tokenizer = zoo.random_tokenizer(SHAPE.vocab_size)
    for asked, bits in ((None, 8), (W8, 8), (W4, 4), (W4_NEAREST, 4)):
        made = integers.quantize_source(source(), None, recipe=asked)
        assert {getattr(made.layers[0], name).bits for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2")} == {bits}
        held = Source("held", None, made, tokenizer)
        for again in (None, asked):
            assert integers.quantize_source(held, None, recipe=again) is made
        with pytest.raises(UsageError) as raised:
            integers.quantize_source(held, None, recipe=MIXED)
        assert str(raised.value) == (
            f"held is quantised already: {(asked or W8).describe()}\n"
            "  where: --recipe\n"
            "  try:   name the float checkpoint it was made from, or leave --recipe out"
        )


def test_a_cache_can_be_anything_but_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("MCUGEN_CACHE", str(tmp_path / "file"))
    assert default_cache_dir() == tmp_path / "file"
    Cache(tmp_path / "file").store("ab", b"1")
    assert Cache(tmp_path / "file").load("ab") is None
    assert integers.quantize_source(source(), None).name


# ---------------------------------------------------------------- layouts


def test_the_context_is_the_largest_that_fits() -> None:
    model, tokenizer = zoo.quantized(SHAPE), zoo.random_tokenizer(SHAPE.vocab_size)
    needs = [layouts.lay_out(model, tokenizer, ladder.NUCLEO, n).demand.ram for n in range(1, 13)]
    assert needs == sorted(needs)
    for wanted in (1, 5, 12):
        small = dataclasses.replace(ladder.NUCLEO, ram=MemoryRegion(0x20000000, needs[wanted - 1]))
        found = layouts.lay_out(model, tokenizer, small)
        assert (
            found.graph.context
            == found.largest_context
            == max(n for n in range(1, 13) if needs[n - 1] <= small.ram.size)
        )
    none = dataclasses.replace(ladder.NUCLEO, ram=MemoryRegion(0x20000000, needs[0] - 1))
    with pytest.raises(DoesNotFitError, match=f"no context fits: --context 1 needs {needs[0]:,} B"):
        layouts.lay_out(model, tokenizer, none)


def test_a_layout_passes_the_gate_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = layouts.plan_memory

    def overlapping(*arguments: object) -> object:
        plan = planned(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(plan, offsets=dict.fromkeys(plan.offsets, 0))

    monkeypatch.setattr(layouts, "plan_memory", overlapping)
    with pytest.raises(InternalError):
        layouts.lay_out(zoo.quantized(SHAPE), zoo.random_tokenizer(SHAPE.vocab_size), ladder.NUCLEO, 5)


def test_the_host_has_the_same_model_and_its_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("fast", frozenset({"dsp"}), "words16", "key_quads", "value_pairs", score_rows=2, score_step=16)
    monkeypatch.setattr(families, "FAMILIES", (family, Family("portable")))
    layout = layouts.lay_out(zoo.quantized(SHAPE), zoo.random_tokenizer(SHAPE.vocab_size), ladder.NUCLEO, 5, 3)
    host = layouts.on_host(layout)
    assert (layout.graph.family, host.graph.family) == ("fast", "portable")
    assert (host.board, host.name, host.tokenizer) == (ladder.HOST, layout.name, layout.tokenizer)
    assert host.graph.model is layout.graph.model
    assert (host.graph.context, host.graph.batch) == (layout.graph.context, layout.graph.batch) == (5, 3)
    assert {buffer.layout for buffer in host.graph.buffers.values()} == {"plain"}
    assert host.plan.arena_bytes < layout.plan.arena_bytes


def test_several_tokens_at_once_take_ram_and_a_smaller_context() -> None:
    model, tokenizer = zoo.quantized(SHAPE), zoo.random_tokenizer(SHAPE.vocab_size)
    one, eight = (layouts.lay_out(model, tokenizer, ladder.NUCLEO, 8, batch) for batch in (1, 8))
    assert one.demand.ring == eight.demand.ring
    assert one.demand.activations < eight.demand.activations
    small = dataclasses.replace(ladder.NUCLEO, ram=MemoryRegion(0x20000000, eight.demand.ram))
    assert layouts.lay_out(model, tokenizer, small).graph.context == 12
    assert layouts.lay_out(model, tokenizer, small, batch=8).graph.context == 8


@pytest.mark.parametrize(
    "board",
    [
        "nucleo",
        *(
            pytest.param(board, marks=pytest.mark.slow)
            for board in ("mps2-an383", "mps2-an385", "mps2-an500", "mps3-an547", "rv32")
        ),
    ],
)
def test_the_estimates_of_code_and_statics_cover_what_is_linked(board: str) -> None:
    """RAM is exact; the estimate of code is above both compilers', with the largest kernels, and not by much."""
    for bits, batch in ((4, 8), (8, 1)):
        layout = ladder.laid_out(zoo.SHAPES["gqa"], 16, board=board, bits=bits, batch=batch)
        for name in ("gcc", "zig"):
            firmware = ladder.board_firmware(layout, name)
            ram = firmware.static_bytes + firmware.stack_bytes
            assert 0 <= layout.demand.ram - ram <= 96, name
            assert 0 <= layout.demand.flash - firmware.flash_bytes <= 8_192, name


def test_verification_feeds_the_greedy_continuation_of_bos() -> None:
    layout = ladder.laid_out(SHAPE, 7)
    tokens = rungs.verification_tokens(layout.graph, layout.tokenizer, 30)
    assert tokens[0] == layout.tokenizer.bos
    logits = rungs.Simulator(layout.graph).feed(tokens)
    assert tokens[1:] == np.argmax(logits, -1)[:-1].tolist()
    assert rungs.verification_tokens(layout.graph, layout.tokenizer, 1) == [layout.tokenizer.bos]


def test_quality_is_measured_with_the_vocabularys_own_bos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    evaluated = pipeline.evaluate

    def spy(*arguments: object, bos: int, **named: object) -> object:
        seen.append(bos)
        return evaluated(*arguments, bos=bos, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "evaluate", spy)
    (tmp_path / "text").write_text("the tin hat " * 20)
    base = source(tokenizer=dataclasses.replace(zoo.random_tokenizer(SHAPE.vocab_size), bos=7))
    pipeline.measure(base, ladder.laid_out(SHAPE, 12).graph, tmp_path / "text", 60)
    assert seen == [7]


def test_a_checkpoint_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "Odd Name.bin").write_bytes(write_checkpoint(zoo.model_of(SHAPE)))
    (tmp_path / "t.bin").write_bytes(write_tokenizer(zoo.random_tokenizer(SHAPE.vocab_size)))
    found = sources.open_source(tmp_path / "Odd Name.bin", tmp_path / "t.bin")
    layout = layouts.lay_out(integers.quantize_source(found, None), found.tokenizer, ladder.NUCLEO)
    assert (found.name, layout.name) == ("Odd Name", "odd_name")
