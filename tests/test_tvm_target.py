"""The microTVM target as a whole: the firmware on emulated boards, the tar, the build, the command line."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import subprocess
import tarfile
from pathlib import Path

import ladder
import microtvm
import pytest
import test_cli
import zoo
from projects import require
from test_cli import cli, done, failed
from tools import require_program

from mcugen.costs import firmware_cost
from mcugen.emulate.elf import parse_elf
from mcugen.emulate.machines import open_machine
from mcugen.errors import ToolError
from mcugen.integers import quantize_source
from mcugen.ir import Config, VerificationReport
from mcugen.ladder import profile_tokens
from mcugen.layout import Layout, lay_out, make_firmware
from mcugen.microtvm.layout import make_microtvm_project, on_this_computer
from mcugen.microtvm.target import model_library
from mcugen.sources import open_source
from mcugen.toolchain import build
from mcugen.verify import mismatch, verify

files, tiny_files = test_cli.files, test_cli.tiny_files  # its fixtures

SMALL = Config(16, 12, 2, 4, 2, 20, 8, False)  # max_position is 16
CORES = ("nucleo", "mps3-an547", "qemu-virt-rv32", "mps2-an385", "mps2-an383")


def climb(layout: Layout, toolchain: str = "auto", tokens: int = 40) -> VerificationReport:
    """The firmware on the layout's board, op by op."""
    microtvm.require_tvm()
    ladder.require_unicorn()
    compiler = require(toolchain, layout.board)
    try:
        machine = open_machine(build(make_microtvm_project(layout, microtvm.COMMAND), compiler), watch_accesses=False)
    except ToolError as error:
        ladder.missing(str(error))
    fed = zoo.random_tokens(layout.graph.model.config, tokens).tolist()
    try:
        return verify(machine, layout.graph, layout.plan, fed, rung="rung", title="machine")
    finally:
        machine.close()


# ---------------------------------------------------------------- the firmware


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("board", CORES)
def test_the_firmware_computes_what_the_simulator_computes(board: str, bits: int) -> None:
    """Every core that has layouts of its own: every output, every slot, re-basings, five wraps of the ring."""
    found = climb(microtvm.laid_out(SMALL, 6, board=board, bits=bits))
    assert found.difference is None, mismatch(found)
    assert found.tokens == 40


@pytest.mark.parametrize("board", ["nucleo", "mps3-an547", "qemu-virt-rv32"])
def test_gcc_compiles_it_too(board: str) -> None:
    found = climb(microtvm.laid_out(zoo.SHAPES["gqa"], 10, board=board), "gcc", 25)
    assert found.difference is None, mismatch(found)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("board", CORES)
@zoo.shapes()
def test_every_shape_on_every_core(config: Config, board: str, bits: int) -> None:
    layout = microtvm.laid_out(config, max(1, config.seq_len - 3), board=board, bits=bits)
    found = climb(layout, tokens=2 * layout.graph.model.max_position + 3)
    assert found.difference is None, mismatch(found)


def host_report(layout: Layout, tokens: list[int]) -> VerificationReport:
    """The C on this computer, under sanitizers."""
    microtvm.require_tvm()
    here = on_this_computer(layout)
    machine = ladder.host_machine(here, make_microtvm_project(here, microtvm.COMMAND, observed=True))
    try:
        return verify(machine, here.graph, here.plan, tokens, rung="rung", title="machine")
    finally:
        machine.close()


@pytest.mark.parametrize("bits", [8, 4])
@zoo.shapes()
def test_the_same_c_on_this_computer(config: Config, bits: int) -> None:
    """Three wraps and more, and past two re-basings."""
    layout = microtvm.laid_out(config, max(1, config.seq_len - 3), bits=bits)
    tokens = zoo.random_tokens(config, 2 * layout.graph.model.max_position + 3).tolist()
    found = host_report(layout, tokens)
    assert found.difference is None, mismatch(found)


def test_the_default_model_past_its_context() -> None:
    source = open_source(None, None)
    model = quantize_source(source, None)
    layout = microtvm.lay_out(model, 48, tokenizer=source.tokenizer)
    found = host_report(layout, zoo.random_tokens(model.config, 2 * model.config.seq_len + 60).tolist())
    assert found.difference is None, mismatch(found)


def undefined(image: bytes) -> list[str]:
    """Symbols that an ELF or object needs and has not."""
    program = require_program("arm-none-eabi-nm")
    found = subprocess.run([program, "-u", "/dev/stdin"], input=image, capture_output=True, check=True)
    return found.stdout.decode().split()


def test_the_firmware_needs_nothing_else(tmp_path: Path) -> None:
    microtvm.require_tvm()
    layout = microtvm.laid_out(SMALL, 6)
    image = build(make_microtvm_project(layout, microtvm.COMMAND), require("gcc", layout.board)).image
    (tmp_path / "firmware.elf").write_bytes(image)
    nm = subprocess.run(
        [require_program("arm-none-eabi-nm"), "-u", tmp_path / "firmware.elf"], capture_output=True, check=True
    )
    assert nm.stdout == b""
    assert any(s.name.startswith("tvmgen_default_linear_s16") for s in parse_elf(image).symbols)


# ---------------------------------------------------------------- the tar


def test_the_tar_unpacks_and_compiles_by_itself(tmp_path: Path) -> None:
    """With codegen/host/include as the only include path, and without a warning."""
    microtvm.require_tvm()
    compiler = require_program("cc")
    layout = on_this_computer(microtvm.laid_out(SMALL, 6))
    project = make_microtvm_project(layout, microtvm.COMMAND)
    first, second = (model_library(layout, make_microtvm_project(layout, microtvm.COMMAND)) for _ in range(2))
    assert first == second == model_library(layout, project)
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        tar.extractall(tmp_path, filter="data")
    sources = sorted((tmp_path / "codegen/host/src").glob("*.c"))
    assert [path.name for path in sources] == ["default_lib0.c", "default_lib1.c", "op_done.c", "tables.c"]
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing", "-Icodegen/host/include", "-c"]
    done = subprocess.run([compiler, *flags, *sources], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    metadata = json.loads((tmp_path / "metadata.json").read_text())["modules"]["default"]
    (main,) = metadata["memory"]["functions"]["main"]
    assert main["workspace_size_bytes"] == layout.plan.arena_bytes + 12
    assert main["inputs"] == {"token": {"dtype": "int32", "size": 4}}
    assert main["outputs"] == {"logits": {"dtype": "int32", "size": 4 * SMALL.vocab_size}}
    names = [f["function_name"] for f in metadata["memory"]["functions"]["operator_functions"]]
    source = (tmp_path / "codegen/host/src/default_lib1.c").read_text()
    assert all(f"void {name}(" in source for name in names)
    assert len(names) == source.count("\nvoid tvmgen_default_")


def test_what_belongs_to_the_library_of_a_board_with_intrinsics() -> None:
    microtvm.require_tvm()
    layout = microtvm.laid_out(SMALL, 6)
    with tarfile.open(
        fileobj=io.BytesIO(model_library(layout, make_microtvm_project(layout, microtvm.COMMAND)))
    ) as t:
        names = t.getnames()
    sources = {name.removeprefix("./codegen/host/src/") for name in names if name.startswith("./codegen/host/src/")}
    assert sources == {"default_lib0.c", "default_lib1.c", "op_done.c", "tables.c", "gemv_s8_dsp.S", "finish_dsp.S"}


# ---------------------------------------------------------------- the command line


def test_build_writes_firmware_tar_and_comparison(files: test_cli.Files) -> None:
    microtvm.require_tvm()
    ladder.require_unicorn()
    text = done("build", *files.named, "--target", "microtvm", "--verify-tokens", 40, "--out", "out")
    assert "beside the standalone target" in text
    out = Path("out")
    costs = json.loads((out / "microtvm.json").read_text())
    assert costs["microtvm"]["instructions"] > costs["standalone"]["instructions"] > 0
    verification = json.loads((out / "verification.json").read_text())
    assert verification["passed"]
    rungs = [(r["rung"], r["machine"]) for r in verification["reports"]]
    assert any("LLVM" in machine for _, machine in rungs)
    assert {rung for rung, _ in rungs} == {"rung 3, host", "rung 3, TVM", "rung 4, nucleo-f446re"}
    assert (out / "firmware.elf").exists()
    assert (out / "tiny.tar").exists()
    assert "instructions per token" in (out / "microtvm.txt").read_text()
    info = json.loads((out / "build-info.json").read_text())
    assert info["command"].endswith("--board nucleo-f446re --target microtvm")


def test_the_makefile_gives_the_same_bytes(files: test_cli.Files) -> None:
    microtvm.require_tvm()
    require_program("make")
    require_program("arm-none-eabi-gcc")
    done("build", *files.named, "--target", "microtvm", "--toolchain", "gcc", "--verify-tokens", 0, "--out", "out")
    subprocess.run(["make"], cwd="out", capture_output=True, check=True)
    assert Path("out/build/tiny.elf").read_bytes() == Path("out/firmware.elf").read_bytes()


def test_verify_climbs_the_ladder_of_the_target(files: test_cli.Files) -> None:
    microtvm.require_tvm()
    ladder.require_unicorn()
    found = json.loads(done("verify", *files.named, "--target", "microtvm", "--tokens", 30, "--json"))
    assert found["passed"]


def test_without_tvm_nothing_is_built(files: test_cli.Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """No silent fallback: exit code 5 and the line to run, before anything else is done."""

    def absent(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    for command in ("build", "verify"):
        failed(
            5,
            "Error: the Python package apache-tvm is not installed\n  where: Apache TVM\n"
            "  try:   `pip install 'mcugen[microtvm]'`, which is apache-tvm==0.27.0.post1 "
            "apache-tvm-ffi==0.1.14.post1, with Python 3.11 to 3.13\n",
            command, *files.named, "--target", "microtvm",
        )  # fmt: skip
    assert not Path("build").exists()


def test_options_that_do_not_go_together(files: test_cli.Files) -> None:
    microtvm.require_tvm()
    for options, where in (
        (("--prefill", 4), "--prefill"),
        (("--fc", "builtin"), "--fc"),
        (("--sinks", 1), "--sinks"),
    ):
        result = cli("build", *files.named, "--target", "microtvm", *options)
        assert (result.exit_code, f"where: {where}" in result.stderr) == (2, True)


# ---------------------------------------------------------------- the goal, on the real checkpoint


def test_stories260k_costs_at_most_1_3_times_the_instructions_on_the_nucleo() -> None:
    microtvm.require_tvm()
    ladder.require_unicorn()
    zoo.stories()
    source = open_source(zoo.DATA / "stories260K.bin", zoo.DATA / "tok512.bin")
    model, nucleo = quantize_source(source, None), ladder.NUCLEO
    fed = [1, *zoo.stories_tokens()[:31].tolist()]
    ours = dataclasses.replace(microtvm.lay_out(model, 128, tokenizer=source.tokenizer))
    firmware = build(make_microtvm_project(ours, microtvm.COMMAND), require("zig", nucleo))
    standalone = lay_out(model, source.tokenizer, nucleo, 128)
    theirs = profile_tokens(standalone, make_firmware(standalone, "zig", "mcugen build"), fed).total
    count = profile_tokens(ours, firmware, fed).total
    assert theirs < count <= 1.3 * theirs
    assert firmware_cost(ours, firmware, None).ram < 1.1 * firmware_cost(standalone, firmware, None).ram
