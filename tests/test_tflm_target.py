"""The TFLite Micro target as a whole: the project on emulated boards with the stand-in interpreter, the build, the
command line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import ladder
import numpy as np
import pytest
import test_cli
import test_render
import tflm
import zoo
from test_cli import cli, done, failed

from mcugen import families
from mcugen import layout as layouts
from mcugen.costs import firmware_cost
from mcugen.emulate.machines import open_machine
from mcugen.errors import ToolError
from mcugen.fc8 import PROFILE
from mcugen.integers import quantize_source
from mcugen.ir import Config, Difference, Firmware, VerificationReport
from mcugen.packing import pack
from mcugen.resources import data_dir
from mcugen.simulate import Simulator
from mcugen.sources import open_source
from mcugen.tflm import report, rungs
from mcugen.tflm.layout import TflmLayout, for_standin, lay_out_tflm, make_op_library, make_tflm_project
from mcugen.tflm.render import STANDIN
from mcugen.toolchain import build
from mcugen.verify import mismatch, read_prompt, verify

files, tiny_files = test_cli.files, test_cli.tiny_files  # its fixtures

SMALL = Config(16, 12, 2, 4, 2, 20, 8, False)  # max_position is 16
CORES = ("nucleo", "mps3-an547", "qemu-virt-rv32")


def climb(layout: TflmLayout, toolchain: str = "auto", tokens: int = 40) -> VerificationReport:
    """The project with the stand-in interpreter on the layout's board, op by op."""
    ladder.require_unicorn()
    try:
        machine = open_machine(tflm.firmware(layout, toolchain), watch_accesses=False)
    except ToolError as error:
        tflm.missing(str(error))
    known = for_standin(layout)
    fed = zoo.random_tokens(known.graph.model.config, tokens).tolist()
    try:
        return verify(machine, known.graph, known.plan, fed, rung="rung", title="machine")
    finally:
        machine.close()


# ---------------------------------------------------------------- the ops on emulated boards


@pytest.mark.parametrize("kind", ["int8", "int4", "fc8"])
@pytest.mark.parametrize("board", CORES)
def test_the_ops_compute_what_the_simulator_computes(board: str, kind: str) -> None:
    """M4, M55 and RV32: every output, every slot, re-basings included, five wraps of the ring."""
    found = climb(tflm.laid_out(SMALL, 6, board=board, kind=kind))
    assert found.difference is None, mismatch(found)
    assert (found.tokens, found.ops) == (40, len(tflm.laid_out(SMALL, 6, board=board, kind=kind).layout.graph.ops))


@pytest.mark.parametrize("board", ["mps2-an383", "mps2-an385", "mps2-an500", "mps2-an505"])
def test_the_ops_of_other_cores_do_too(board: str) -> None:
    found = climb(tflm.laid_out(SMALL, 6, board=board))
    assert found.difference is None, mismatch(found)


@pytest.mark.parametrize("board", CORES)
def test_gcc_compiles_the_ops_too(board: str) -> None:
    found = climb(tflm.laid_out(zoo.SHAPES["gqa"], 10, board=board), "gcc", 25)
    assert found.difference is None, mismatch(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int4", "fc8"])
@pytest.mark.parametrize("board", CORES)
@zoo.shapes()
def test_every_shape_on_every_core(config: Config, board: str, kind: str) -> None:
    layout = tflm.laid_out(config, max(1, config.seq_len - 3), board=board, kind=kind)
    found = climb(layout, tokens=2 * layout.layout.graph.model.max_position + 3)
    assert found.difference is None, mismatch(found)


@pytest.mark.parametrize("board", ["nucleo", "mps2-an385"])
def test_a_matrix_in_shorter_chunks(board: str) -> None:
    """A thousand columns of the largest codes, which the packing cuts up: the op hands that on."""
    model = zoo.quantized(Config(16, 1040, 1, 2, 1, 20, 8, False))
    w2 = dataclasses.replace(model.layers[0].w2, codes=np.full((16, 1040), 127, np.int8))
    layer = dataclasses.replace(model.layers[0], w2=w2)
    layout = tflm.lay_out(dataclasses.replace(model, layers=(layer,)), 6, board)
    assert pack(w2, layout.layout.graph.packing).chunk < 1040
    found = climb(layout, tokens=10)
    assert found.difference is None, mismatch(found)


def test_a_broken_op_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """mcugen_ops.h with another shift for swiglu."""
    layout = tflm.laid_out(SMALL, 6)
    project = tflm.standin_project(layout)
    header = project.files["mcugen_ops.h"]
    changed = header.replace(b"o.gate_frac, o.shift);", b"o.gate_frac, o.shift + 1);")
    assert changed != header
    broken = dataclasses.replace(project, files={**project.files, "mcugen_ops.h": changed})
    monkeypatch.setattr(tflm, "standin_project", lambda _: broken)
    found = climb(layout)
    assert found.difference is not None
    assert (found.difference.label, found.difference.token_index) == ("layers.0.swiglu", 0)


def test_the_op_image_is_smaller_than_the_family_states() -> None:
    """Ops, kernels and tables: within the family's bound, which has runtime and application in it, and 24 KB."""
    for board in CORES:
        for compiler in ("zig", "gcc"):
            layout = tflm.laid_out(zoo.SHAPES["gqa"], 5, board=board)
            board_ = layout.layout.board
            image = build(make_op_library(layout, tflm.COMMAND), tflm.require(compiler, board_))
            assert 4_000 < image.flash_bytes <= families.choose_family(board_.features).code_bytes
            assert image.flash_bytes <= 24 * 1024
            assert image.static_bytes == 0


# ---------------------------------------------------------------- the generated project


def test_the_project_names_its_sources_and_holds_no_stand_in() -> None:
    made = make_tflm_project(tflm.laid_out(SMALL, 6), tflm.COMMAND)
    names = set(made.project.files)
    assert {"random.tflite", "random.cc", "random.h", "random_ops.h", "random_tflite.cc", "random_vocabulary.c",
            "mcugen_ops.h", "main.c", "README.md", "INTEGRATION.md"} <= names  # fmt: skip
    assert set(made.project.sources) <= names
    assert not any(name.startswith(("standin", "tensorflow", "tflm")) for name in names)
    assert STANDIN == "tflm/standin"
    notes = made.project.files["INTEGRATION.md"].decode()
    for source in made.project.sources:
        if not source.startswith(("ports/", "app/", "main.c")):
            assert f"`{source}`" in notes


GOLDEN = Path(__file__).resolve().parent / "golden_tflm"


def test_the_golden_project_is_what_is_rendered(update_golden: bool) -> None:
    """The golden model of test_render.py. Of the .tflite, the hash: the same on every machine."""
    tiny = test_render.tiny()
    layout = lay_out_tflm(tiny.graph.model, tiny.tokenizer, tiny.board, 4)
    made = make_tflm_project(layout, "mcugen build tiny.bin --target tflm")
    firmware = data_dir("firmware")
    own = (path for path in made.project.files if not path.startswith("tiny") or path.endswith((".h", "y.c", "y.cc")))
    files = {path: made.project.files[path].decode() for path in own if not (firmware / path).exists()}
    del files["mcugen_ops.h"], files["linker.ld"], files["build_id.h"]
    files["tiny.tflite.sha256"] = hashlib.sha256(made.tflite).hexdigest() + "\n"
    if update_golden:
        GOLDEN.mkdir(exist_ok=True)
        for path, content in files.items():
            (GOLDEN / path).write_text(content, encoding="utf-8", newline="\n")
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(files)
    for path, content in files.items():
        assert content.splitlines() == (GOLDEN / path).read_text(encoding="utf-8").splitlines(), (
            f"{path} has changed: if it was meant to, pytest tests/test_tflm_target.py --update-golden"
        )


def test_a_project_is_the_same_every_time_and_names_its_command() -> None:
    one, two = (make_tflm_project(tflm.laid_out(SMALL, 6), tflm.COMMAND) for _ in range(2))
    assert one.project.files == two.project.files
    assert b"mcugen build random.bin --target tflm" in one.project.files["random_ops.h"]


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_the_project_compiles_without_a_warning_for_another_name(compiler: str) -> None:
    """The prefix meets C++: keywords and names of the ops."""
    for name in ("class", "linear", "15M"):
        model = dataclasses.replace(zoo.quantized(SMALL), name=name)
        layout = lay_out_tflm(model, zoo.random_tokenizer(20), tflm.load_board("nucleo"), 6)
        tflm.firmware(layout, compiler)


def test_the_interface_of_a_generated_project() -> None:
    """On this computer, under sanitizers: a token too many is refused, the rest goes on; the likeliest token is next."""
    layout = tflm.laid_out(SMALL, 6, board="host")
    machine = ladder.host_machine(layout.layout, tflm.standin_project(layout))
    try:
        machine.boot()
        assert machine.call("random_init") == 0
        simulator = Simulator(layout.layout.graph)
        for token in zoo.random_tokens(SMALL, 40).tolist():
            assert machine.call("random_step", token) != 0
            assert machine.call("random_next_token") == int(simulator.feed([token])[-1].argmax())
        assert machine.call("random_step", SMALL.vocab_size) == 0
        machine.call("random_reset")
        simulator.reset()
        prompt = zoo.random_tokens(SMALL, 9, seed=1)
        read_prompt(machine, "random", prompt)
        assert machine.call("random_next_token") == int(simulator.feed(prompt)[-1].argmax())
        assert machine.call("random_init") == 0  # again: a fresh sequence
        machine.call("random_step", 3)
        simulator.reset()
        assert machine.call("random_next_token") == int(simulator.feed([3])[-1].argmax())
    finally:
        machine.close()


# ---------------------------------------------------------------- the command line


def test_build_writes_a_folder_and_prints_the_comparison(files: test_cli.Files) -> None:
    tflm.require_interpreter()
    ladder.require_unicorn()
    text = done("build", *files.named, "--target", "tflm", "--verify-tokens", 40, "--out", "out")
    assert "beside the standalone target" in text
    out = Path("out")
    facts = json.loads((out / "tflm.json").read_text())
    assert facts["tflm"]["ram"] > facts["standalone"]["ram"] > 0
    assert facts["tflm"]["ops"] == facts["standalone"]["ops"] + 2
    assert facts["tflm"]["instructions"] > facts["standalone"]["instructions"] > 0
    assert facts["fc_cost"] is None
    verification = json.loads((out / "verification.json").read_text())
    assert verification["passed"]
    assert [r["rung"] for r in verification["reports"]][:2] == ["rung 3, TFLite Micro"] * 2
    assert "stand-in interpreter" in verification["toolchain"]
    memory = json.loads((out / "memory.json").read_text())
    assert memory["tflm"]["arena_bytes"] == facts["tflm"]["arena"]
    assert memory["tflm"]["tflite_bytes"] == len((out / "tiny.tflite").read_bytes()) == facts["tflm"]["model"]
    assert f"ARENA_BYTES = {facts['tflm']['arena']}," in (out / "tiny.h").read_text()
    info = json.loads((out / "build-info.json").read_text())
    assert info["target"] == "tflm"
    assert info["command"].endswith("--board nucleo-f446re --target tflm")
    assert "RAM" in (out / "tflm.txt").read_text()


def test_build_with_builtin_says_what_it_costs(files: test_cli.Files) -> None:
    tflm.require_interpreter()
    ladder.require_unicorn()
    text = done("build", *files.named, "--target", "tflm", "--fc", "builtin", "--verify-tokens", 20, "--json")
    found = json.loads(text)
    assert found["verification"]["passed"]
    cost = found["comparison"]["fc_cost"]
    assert cost["tokens"] > 1000
    assert cost["kl"] > 0
    out = Path(found["out"])
    assert "--fc builtin costs" in (out / "tflm.txt").read_text()
    assert PROFILE in json.loads((out / "build-info.json").read_text())["recipe"]
    assert "--target tflm --fc builtin" in json.loads((out / "build-info.json").read_text())["command"]
    # the quantised file alone is known for FULLY_CONNECTED only: nothing to compare with
    again = done("build", out / "model.safetensors", "--target", "tflm", "--fc", "builtin", "--context", 12,
                 "--verify-tokens", 0, "--json", "--out", "again")  # fmt: skip
    comparison = json.loads(again)["comparison"]
    assert (comparison["standalone"], comparison["fc_cost"]) == (None, None)
    assert (out / "tiny.tflite").read_bytes() == Path("again/tiny.tflite").read_bytes()


def test_verify_climbs_the_ladder_of_the_target(files: test_cli.Files) -> None:
    tflm.require_interpreter()
    ladder.require_unicorn()
    found = json.loads(done("verify", *files.named, "--target", "tflm", "--tokens", 30, "--json"))
    assert found["passed"]
    assert {r["rung"] for r in found["reports"]} == {"rung 3, TFLite Micro", "rung 4, nucleo-f446re"}


def test_on_the_host_there_is_the_interpreter_alone(files: test_cli.Files) -> None:
    tflm.require_interpreter()
    text = done("build", *files.named, "--target", "tflm", "--board", "host", "--verify-tokens", 20, "--out", "out")
    assert "beside the standalone target" not in text
    assert not Path("out/tflm.json").exists()
    memory = json.loads(Path("out/memory.json").read_text())["tflm"]
    assert memory["arena_bytes"] > memory["arena"]["persistent"] > 16 * memory["tensors"]  # pointers of 8 bytes
    assert json.loads(Path("out/verification.json").read_text())["passed"]


def test_options_that_do_not_go_together(files: test_cli.Files) -> None:
    failed(
        2,
        "Error: --fc builtin is for TensorFlow Lite Micro, which brings FULLY_CONNECTED\n  where: --fc\n"
        "  try:   add --target tflm, or leave --fc out\n",
        "build", *files.named, "--fc", "builtin",
    )  # fmt: skip
    failed(
        2,
        "Error: the TensorFlow Lite Micro target reads one token at a time\n  where: --prefill\n"
        "  try:   leave --prefill out, or --target c\n",
        "verify", *files.named, "--target", "tflm", "--prefill", 4,
    )  # fmt: skip
    failed(
        2,
        "Error: the TensorFlow Lite Micro target keeps the latest tokens only\n  where: --sinks\n"
        "  try:   leave --sinks out, or --target c\n",
        "build", *files.named, "--target", "tflm", "--sinks", 1,
    )  # fmt: skip
    result = cli("build", *files.named, "--target", "tflm", "--fc", "builtin", "--recipe", "w4-nearest")
    assert (result.exit_code, "where: --fc" in result.stderr) == (2, True)
    assert not Path("build").exists()


def test_without_the_package_the_project_is_written_and_says_so(
    files: test_cli.Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MCUGEN_REQUIRE_TOOLS", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tflite_micro" else find(name, *rest)
    )
    text = done("build", *files.named, "--target", "tflm", "--verify-tokens", 10, "--out", "out")
    assert "skipped" in text
    assert Path("out/tiny.tflite").exists()
    verification = json.loads(Path("out/verification.json").read_text())
    (skipped,) = [s for s in verification["skipped"] if s["rung"] == "rung 3, TFLite Micro"]
    assert skipped["why"] == (
        "the Python package tflite-micro is not installed; `pip install 'mcugen[tflm]'`, on Linux with x86-64 and "
        "Python 3.11 to 3.13"
    )
    monkeypatch.setenv("MCUGEN_REQUIRE_TOOLS", "1")
    result = cli("build", *files.named, "--target", "tflm", "--verify-tokens", 10, "--out", "required")
    assert (result.exit_code, "tflite-micro is not installed" in result.stderr) == (5, True)
    assert not Path("required").exists()


def differs(here: TflmLayout, library: Firmware, tokens: list[int], title: str) -> VerificationReport:
    """A report of the interpreter's rung with a difference."""
    found = Difference(3, 5, "layers.0.wk", "linear_s16", "layers.0.wk", 7, 1, 2)
    return VerificationReport(rungs.RUNG, title, len(tokens), 1, 1, found)


@pytest.mark.parametrize("half", ["op_by_op", "as_planned"])
def test_nothing_is_written_where_the_interpreter_differs(
    files: test_cli.Files, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    tflm.require_interpreter()
    monkeypatch.setattr(rungs, half, differs)
    result = cli("build", *files.named, "--target", "tflm", "--verify-tokens", 10, "--out", "out")
    assert result.exit_code == 6
    assert 'differs from the simulator at token 3, op 5 (linear_s16 "layers.0.wk")' in result.stderr
    assert not Path("out").exists()


# ---------------------------------------------------------------- the goals, on the real checkpoint


@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_stories260k_meets_the_goals_on_the_nucleo(compiler: str) -> None:
    """At most 24 KB of ops, kernels and tables, and at most 1.6 times the standalone RAM."""
    zoo.stories()
    source = open_source(zoo.DATA / "stories260K.bin", zoo.DATA / "tok512.bin")
    model, nucleo = quantize_source(source, None), tflm.load_board("nucleo")
    toolchain = tflm.require(compiler, nucleo)
    layout = lay_out_tflm(model, source.tokenizer, nucleo, 128)
    ops = build(make_op_library(layout, tflm.COMMAND), toolchain)
    cost = report.tflm_cost(layout, tflm.firmware(layout, compiler), ops, None)
    standalone = layouts.lay_out(model, source.tokenizer, nucleo, 128)
    theirs = firmware_cost(standalone, layouts.make_firmware(standalone, compiler, "mcugen build"), None)
    assert cost.ops_code <= 24 * 1024
    assert theirs.ram < cost.ram <= 1.6 * theirs.ram
    assert abs(cost.code - theirs.code) < 2_000  # ops instead of calls; neither TFLM nor the stand-in is in it
