"""The command line: every command, every --json, every error with its text and its exit code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import ladder
import numpy as np
import pytest
import test_lora
import zoo
from click.testing import CliRunner, Result
from tools import missing

from mcugen import __version__, integers, pipeline, sources, toolchain
from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.boards import board_names
from mcugen.checkpoints import write_checkpoint
from mcugen.cli import main, mcugen
from mcugen.emulate import unicorn_machine
from mcugen.errors import ToolError
from mcugen.generate import generate, prompt_tokens
from mcugen.ir import Config, Project
from mcugen.project import MARKER
from mcugen.quantized_file import load_quantized
from mcugen.resources import data_dir
from mcugen.sampler import make_sampler
from mcugen.tokenizer import decode, read_tokenizer, write_tokenizer

SHAPE = Config(16, 12, 1, 2, 1, 300, 12, False)
LADDER_KEYS = [
    "board", "context", "instructions_per_token", "model", "passed", "profile", "reports", "skipped", "tokens",
    "toolchain",
]  # fmt: skip
REPORT_KEYS = ["difference", "machine", "ops", "rung", "tokens", "values"]
PLAN_KEYS = [
    "arena_bytes", "board", "buffers", "context", "copied", "flash", "kernels", "largest_context", "live_bytes",
    "lower_bound", "memories", "model", "peak", "placement", "prefill", "ram", "rings", "sinks",
]  # fmt: skip


@dataclass(frozen=True)
class Files:
    """A folder with a tiny checkpoint and its vocabulary."""

    folder: Path
    model: str
    named: tuple[str, ...]  # the arguments that name them


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.bin").write_bytes(write_checkpoint(zoo.model_of(SHAPE, seed=4)))
    (folder / "tiny-tokenizer.bin").write_bytes(write_tokenizer(zoo.random_tokenizer(300)))
    (folder / "text.txt").write_text("the tin hat. " * 40, encoding="utf-8")
    model, vocabulary = str(folder / "tiny.bin"), str(folder / "tiny-tokenizer.bin")
    return Files(folder, model, (model, "--tokenizer", vocabulary))


@pytest.fixture
def files(tiny_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The same, with an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tiny_files


def cli(*arguments: object, input: bytes | None = None) -> Result:
    return CliRunner().invoke(mcugen, [str(argument) for argument in arguments], input=input, catch_exceptions=False)


def done(*arguments: object, input: bytes | None = None) -> str:
    """What a command prints that must succeed, with nothing on standard error."""
    result = cli(*arguments, input=input)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def failed(code: int, text: str, *arguments: object) -> None:
    """A command must end with this exit code and exactly this text on standard error."""
    result = cli(*arguments)
    assert result.stderr == text
    assert (result.exit_code, result.stdout) == (code, "")


def answer(
    files: Files, prompt: str, tokens: int, temperature: float = 0.0, seed: int = 1, bits: int | None = None
) -> str:
    return answer_bytes(files, prompt, tokens, temperature, seed, bits).decode(errors="replace")


def answer_bytes(
    files: Files, prompt: str, tokens: int, temperature: float = 0.0, seed: int = 1, bits: int | None = None
) -> bytes:
    """What the simulator answers."""
    tokenizer = read_tokenizer(files.folder / "tiny-tokenizer.bin", 300)
    source = sources.open_source(Path(files.model), files.folder / "tiny-tokenizer.bin")
    recipe = None if bits is None else zoo.NEAREST[bits]
    layout = layouts.lay_out(integers.quantize_source(source, None, recipe=recipe), tokenizer, ladder.HOST)
    found = list(generate(layout.graph, tokenizer, prompt, make_sampler(temperature, 0, 1.0, seed), tokens))
    return decode(tokenizer, found, prompt_tokens(tokenizer, prompt)[-1]) + b"\n"


# ---------------------------------------------------------------- help


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "", mcugen
    for name, command in mcugen.commands.items():
        yield name, command
        for below in getattr(command, "commands", {}):
            yield f"{name} {below}", command.commands[below]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name or "mcugen" for name, _ in commands()])
def test_help_says_what_a_command_does_and_what_each_option_means(name: str, command: click.Command) -> None:
    text = done(*name.split(), "--help")
    assert done(*name.split(), "-h") == text
    assert text.startswith(f"Usage: mcugen {name}".rstrip() + " [OPTIONS]")
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.replace("[ARGS]...", "")  # nothing is cut off
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.help.endswith((".", "]")), parameter.name


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    text = done("--help")
    assert sorted(mcugen.commands) == [
        "bench", "boards", "build", "eval", "export", "flash", "matrix", "monitor", "plan", "quantize", "run", "verify",
    ]  # fmt: skip
    assert "Exit codes: 2 usage, 3 input, 4 does not fit, 5 tool missing, 6 mismatch" in " ".join(text.split())


def test_version() -> None:
    assert done("--version") == f"mcugen, version {__version__}\n"


# ---------------------------------------------------------------- build


def test_build_writes_the_whole_folder(files: Files) -> None:
    ladder.require_unicorn()
    text = done("build", *files.named, "--context", 8, "--verify-tokens", 30)
    out = Path("build/tiny-nucleo-f446re")
    assert "tiny on nucleo-f446re" in text
    assert "8 tokens (at most 12 fit)" in text
    assert str(out) in text
    assert "instructions per token, positions 0 to 29: " in text
    assert sorted(path.name for path in out.iterdir()) == [
        "Makefile", "README.md", "app", MARKER, "build_id.h", "firmware.bin", "firmware.elf", "firmware.hex", "kernels",
        "linker.ld", "main.c", "memory.json", "memory.txt", "model.safetensors", "ports", "runtime", "tiny.c", "tiny.h",
        "tiny_vocabulary.c", "tiny_weights.c", "tiny_weights.h", "verification.json", "verification.txt",
    ]  # fmt: skip
    facts = json.loads((out / MARKER).read_text())
    assert sorted(facts) == [
        "board", "board_sha256", "build_id", "checkpoint_sha256", "command", "context", "files", "flags", "flash_bytes",
        "mcugen", "model", "packages", "recipe", "sections", "stack_bytes", "static_bytes", "toolchain",
    ]  # fmt: skip
    for path, digest in facts["files"].items():
        assert hashlib.sha256((out / path).read_bytes()).hexdigest() == digest
    assert set(facts["files"]) == {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {MARKER}
    assert facts["checkpoint_sha256"] == hashlib.sha256(Path(files.model).read_bytes()).hexdigest()
    assert facts["command"] == (
        "mcugen build tiny.bin --tokenizer tiny-tokenizer.bin --board nucleo-f446re --context 8"
    )
    assert facts["flash_bytes"] == len((out / "firmware.bin").read_bytes())
    assert json.loads((out / "verification.json").read_text())["passed"] is True
    assert "rung 3, host: host build (" in (out / "verification.txt").read_text()
    assert not any(path.name.startswith(".") for path in Path("build").iterdir())


def test_build_as_json(files: Files) -> None:
    ladder.require_unicorn()
    found = json.loads(done("build", *files.named, "--json", "--verify-tokens", 5, "--out", "o"))
    assert sorted(found) == ["flash_bytes", "out", "plan", "ram_bytes", "toolchain", "verification"]
    assert found["out"] == "o"
    assert sorted(found["plan"]) == PLAN_KEYS
    assert sorted(found["verification"]) == LADDER_KEYS
    assert all(sorted(report) == REPORT_KEYS for report in found["verification"]["reports"])
    assert found["ram_bytes"] <= ladder.NUCLEO.ram.size


def test_a_build_is_made_of_its_inputs_alone(files: Files, tmp_path: Path) -> None:
    """Two builds by other words and in other folders are equal to the byte; the second replaces an earlier result."""
    named = ["--verify-tokens", 0, "--toolchain", "zig"]
    ladder.require("zig", ladder.NUCLEO)
    done("build", *files.named, *named, "--board", "nucleo", "--out", "one")
    first = {path.relative_to("one"): path.read_bytes() for path in Path("one").rglob("*") if path.is_file()}
    (Path("two")).mkdir()
    (Path("two") / MARKER).write_text("{}")
    (Path("two") / "stale.txt").write_text("of an earlier version")
    vocabulary = files.folder / "tiny-tokenizer.bin"
    done(
        "build", f"--tokenizer={vocabulary}", *named, "--board=nucleo-f446re", "--out", tmp_path / "two", files.model
    )
    assert {p.relative_to("two"): p.read_bytes() for p in Path("two").rglob("*") if p.is_file()} == first
    assert "verification.json" not in os.listdir("one")
    assert not any(b"/models" in content or os.fsencode(tmp_path) in content for content in first.values())


def test_build_for_this_computer(files: Files) -> None:
    ladder.require("gcc", ladder.HOST)
    text = done("build", *files.named, "--board", "host", "--verify-tokens", 20, "--out", "host")
    assert "flash" not in text
    assert "instructions" not in text
    done_by = subprocess.run([Path("host/application").resolve()], input=b"#tokens 5\nabc\n", capture_output=True)
    assert done_by.stdout == b"tiny on host\n\x04\x04" + answer_bytes(files, "abc", 5) + b"\x04"
    facts = json.loads(Path("host/verification.json").read_text())
    assert [report["rung"] for report in facts["reports"]] == ["rung 3, host"] * 2  # op by op, and a prompt


def test_build_leaves_alone_what_is_not_its_own(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    Path("file").write_text("x")
    monkeypatch.setattr(toolchain, "_run", lambda *_: pytest.fail("compiled before looking where to write"))
    for name in ("mine", "file"):
        failed(
            2,
            f"Error: {name} exists and is not a folder that mcugen wrote\n"
            "  where: --out\n"
            "  try:   choose another folder, or remove it: mcugen replaces only folders that hold build-info.json\n",
            "build", *files.named, "--out", name,
        )  # fmt: skip
    assert Path("mine/letter.txt").read_text() == "dear"
    assert Path("file").read_text() == "x"


def test_build_cannot_write_below_a_file(files: Files) -> None:
    Path("file").write_text("x")
    result = cli("build", *files.named, "--out", "file/sub", "--verify-tokens", 0)
    assert result.exit_code == 3
    assert result.stderr in (
        f"Error: file/sub cannot be written: {why}\n  where: --out\n  try:   choose a folder that you may write to\n"
        for why in ("Not a directory", "File exists")
    )


def plant(monkeypatch: pytest.MonkeyPatch, old: str, new: str, path: str = "kernels/swiglu.c") -> None:
    """From here on this file, the portable swiglu kernel, is another in every project that has it."""
    made = layouts.render_c

    def planted(*args: object, **kwargs: object) -> Project:
        project = made(*args, **kwargs)  # type: ignore[arg-type]
        if path not in project.files:
            return project
        content = project.files[path]
        assert old.encode() in content
        files = {**project.files, path: content.replace(old.encode(), new.encode())}
        return Project(project.name, project.board, files, *_rest(project))

    monkeypatch.setattr(layouts, "render_c", planted)


def _rest(project: Project) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    return project.sources, project.include_dirs, project.linker_script


FAULT = ("silu * up[i], shift", "silu * up[i] + 1000, shift")


def test_build_writes_nothing_where_the_firmware_differs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder.require("gcc", ladder.HOST)
    plant(monkeypatch, *FAULT)
    result = cli("build", *files.named, "--out", "out", "--verify-tokens", 5)
    assert result.exit_code == 6
    assert result.stdout == ""
    assert result.stderr.startswith("Error: host build (cc ")
    assert ' differs from the simulator at token 0, op 15 (swiglu_s16 "layers.0.swiglu"), layers.0.swiglu[' in (
        result.stderr
    )
    assert result.stderr.endswith(
        "\n  where: rung 3, host\n"
        "  try:   compare swiglu_s16 with its numpy twin: pytest tests/test_kernels.py -k swiglu_s16\n"
    )
    assert os.listdir() == []


def test_export_writes_a_verified_library_and_says_how_it_was_made(files: Files) -> None:
    ladder.require("gcc", ladder.HOST)
    arguments = ("export", "--as", "zephyr", *files.named, "--board", "host", "--context", 6, "--verify-tokens", 5)
    facts = json.loads(done(*arguments, "--json"))
    folder = Path("build/tiny-host-zephyr")
    assert facts["out"] == str(folder) and facts["verification"]["passed"]
    info = json.loads((folder / MARKER).read_text())
    assert info["command"] == (
        "mcugen export --as zephyr tiny.bin --tokenizer tiny-tokenizer.bin --board host --context 6"
    )
    assert (info["ecosystem"], info["board"], info["context"]) == ("zephyr", "host", 6)
    written = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert info["files"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(written.items())
        if name != MARKER
    }
    assert {"zephyr/module.yml", "src/tiny.c", "memory.txt", "verification.txt", "README.md", "LICENSE"} <= set(
        written
    )
    assert "what was proved of this very C" in written["README.md"].read_text()
    printed = done("export", "--as", "cmake", *files.named, "--board", "host", "--verify-tokens", 0, "--out", folder)
    assert printed == (f"tiny for host as a static library for CMake: {folder}\nnot verified (--verify-tokens 0)\n")
    assert (folder / "CMakeLists.txt").exists() and not (folder / "zephyr").exists()
    assert not (folder / "verification.txt").exists()
    assert "verification.txt" not in (folder / "README.md").read_text()


def test_export_writes_nothing_where_the_firmware_differs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder.require("gcc", ladder.HOST)
    plant(monkeypatch, *FAULT)
    result = cli("export", "--as", "cmake", *files.named, "--out", "out", "--verify-tokens", 5)
    assert (result.exit_code, result.stdout, os.listdir()) == (6, "", [])


def test_export_leaves_a_second_core_to_the_application(files: Files) -> None:
    done("export", "--as", "pico-sdk", *files.named, "--board", "pico", "--verify-tokens", 0, "--out", "out")
    assert "second_core" not in Path("out/src/tiny.c").read_text()


def test_export_refuses_a_core_before_anything_is_compiled(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_run", lambda *_: pytest.fail("compiled for a core that is refused"))
    result = cli("export", "--as", "esp-idf", *files.named)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        2, "Error: esp-idf does not compile for nucleo-f446re, a cortex-m4",
    )  # fmt: skip


def test_build_keeps_an_earlier_result_where_it_fails(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    Path("out", MARKER).write_text("{}")
    plant(monkeypatch, *FAULT)
    assert cli("build", *files.named, "--out", "out", "--verify-tokens", 5).exit_code == 6
    assert os.listdir() == ["out"]
    assert Path("out", MARKER).read_text() == "{}"


# ---------------------------------------------------------------- verify


def test_verify_shows_every_rung(files: Files) -> None:
    ladder.require_unicorn()
    text = done("verify", *files.named, "--tokens", 40)
    assert text.count("equal") in (5, 6)  # two rungs, each op by op and a prompt, and the console; perhaps QEMU
    assert "instructions per token, positions 0 to 39: " in text


def test_verify_as_json(files: Files) -> None:
    ladder.require_unicorn()
    found = json.loads(done("verify", *files.named, "--tokens", 10, "--json"))
    assert sorted(found) == LADDER_KEYS
    assert all(sorted(report) == REPORT_KEYS for report in found["reports"])
    assert (found["passed"], found["tokens"], found["board"], found["context"]) == (True, 10, "nucleo-f446re", 12)
    assert sorted(found["profile"]) == ["instructions", "loads", "stack_bytes", "stores", "total"]
    assert sum(found["profile"]["instructions"].values()) == found["profile"]["total"]


@pytest.mark.parametrize("name", ["gcc", "zig"])
def test_verify_on_this_computer_by_either_compiler(files: Files, name: str) -> None:
    found = ladder.require(name, ladder.HOST)
    facts = json.loads(done("verify", *files.named, "--board", "host", "--toolchain", name, "--tokens", 6, "--json"))
    assert [report["rung"] for report in facts["reports"]] == ["rung 3, host"] * 2  # op by op, and a prompt
    assert facts["toolchain"] == found.title
    assert facts["profile"] is None


@pytest.mark.parametrize("as_json", [True, False])
def test_verify_ends_with_6_where_the_firmware_differs(
    files: Files, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    ladder.require("gcc", ladder.HOST)
    plant(monkeypatch, *FAULT)
    result = cli("verify", *files.named, "--tokens", 5, *(["--json"] if as_json else []))
    assert result.exit_code == 6
    assert 'op 15 (swiglu_s16 "layers.0.swiglu")' in result.stderr
    if as_json:
        found = json.loads(result.stdout)
        assert found["passed"] is False
        assert found["reports"][-1]["difference"]["label"] == "layers.0.swiglu"
    else:
        assert "different" in result.stdout


def test_verify_ends_with_6_where_the_board_would_not_survive(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to flash: nothing on this computer notices, for there weights may be written."""
    ladder.require_unicorn()
    line = "    const uint16_t id = (uint16_t)token;\n"
    plant(monkeypatch, line, f"    *(volatile uint32_t *)0x08000000u = (uint32_t)token;\n{line}", "tiny.c")
    monkeypatch.setattr(rungs.Rungs, "host", lambda *_: None)
    result = cli("verify", *files.named, "--tokens", 5)
    assert result.exit_code == 6
    assert result.stderr.startswith("Error: tiny_step+0x")
    assert " writes 4 bytes at 0x08000000" in result.stderr
    assert ", in flash\n  where: " in result.stderr


def test_what_cannot_run_is_skipped_and_said(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MCUGEN_REQUIRE_TOOLS", raising=False)
    monkeypatch.setattr(unicorn_machine, "unicorn", None)
    why = "unicorn is not installed; pip install 'mcugen[emulate]'"
    facts = json.loads(done("verify", *files.named, "--tokens", 5, "--json"))
    assert {"rung": "rung 4, nucleo-f446re, op by op", "why": why} in facts["skipped"]
    assert facts["passed"] is True
    assert facts["profile"] is None
    assert facts["instructions_per_token"]["mean"] is None
    assert "skipped" in done("verify", *files.named, "--tokens", 5)

    monkeypatch.setenv("MCUGEN_REQUIRE_TOOLS", "1")
    failed(
        5,
        "Error: unicorn is not installed\n  where: emulating nucleo-f446re\n  try:   pip install 'mcugen[emulate]'\n",
        "verify", *files.named, "--tokens", 5,
    )  # fmt: skip


@pytest.mark.parametrize("recipe", ["w8", "w4-nearest", "w4"])
def test_verify_with_prompts_at_once(files: Files, recipe: str) -> None:
    ladder.require_unicorn()
    named = [*files.named, "--recipe", recipe, "--prefill", 5, "--context", 7, "--tokens", 20]
    found = json.loads(done("verify", *named, "--json"))
    assert found["passed"] is True
    machines = [report["machine"] for report in found["reports"][:4]]
    assert [machine.endswith(", prompts 5 tokens at once") for machine in machines] == [False, True] * 2
    assert [report["tokens"] for report in found["reports"][:4]] == [20, 7, 20, 7]


# ---------------------------------------------------------------- run


@pytest.mark.parametrize("board", ["host", "nucleo"])
def test_run_with_small_weights_and_prompts_at_once(files: Files, board: str) -> None:
    """Prompts shorter and longer than the context of 12."""
    if board == "nucleo":
        ladder.require_unicorn()
    named = ["run", *files.named, "--board", board, "--quiet", "--tokens", 8]
    for prompt in ("", "x", "the tin hat is on the table in the hat"):
        expected = answer(files, prompt, 8, bits=4)
        for prefill in (1, 8):
            found = done(*named, "--recipe", "w4-nearest", "--prefill", prefill, "--prompt", prompt)
            assert found == expected
    assert expected != answer(files, prompt, 8)
    assert done(*named, "--prefill", 3, "--prompt", prompt) == answer(files, prompt, 8)


@pytest.mark.parametrize("board", ["host", "nucleo"])
def test_run_quiet_prints_the_text_and_nothing_else(files: Files, board: str) -> None:
    if board == "nucleo":
        ladder.require_unicorn()
    arguments = ["run", *files.named, "--board", board, "--quiet", "--prompt", "the tin", "--tokens", 12]
    assert done(*arguments) == answer(files, "the tin", 12)
    sampled = done(*arguments, "--temperature", 1.3, "--seed", 5)
    assert sampled == answer(files, "the tin", 12, 1.3, 5)


def test_run_says_where_it_runs(files: Files) -> None:
    result = cli("run", *files.named, "--board", "host", "--prompt", "x", "--tokens", 3)
    assert result.stderr == "tiny on this computer, context 12\n"
    assert result.stdout == answer(files, "x", 3)


def test_run_reads_every_line_of_standard_input(files: Files) -> None:
    """Each prompt starts afresh, as if it were the only one."""
    arguments = ["run", *files.named, "--board", "host", "--quiet", "--tokens", 4, "--temperature", 1]
    expected = "".join(answer(files, prompt, 4, 1) for prompt in ("one", "", "one", "last"))
    assert done(*arguments, input=b"one\r\n\none\nlast") == expected
    assert done(*arguments, input=b"") == ""


def test_run_as_json_prints_one_line_for_each_answer(files: Files) -> None:
    named = ["run", *files.named, "--board", "host", "--json", "--tokens", 4]
    lines = [json.loads(line) for line in done(*named, input=b"one\ntwo\xff\n").splitlines()]
    assert [sorted(line) for line in lines] == [["board", "model", "prompt", "text"]] * 2
    assert [line["prompt"] for line in lines] == ["one", "two\N{REPLACEMENT CHARACTER}"]
    assert lines[0]["text"] + "\n" == answer(files, "one", 4)
    assert (lines[0]["board"], lines[0]["model"]) == ("host", "tiny")


def test_run_builds_what_build_built(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very image: nothing is compiled for another prompt, nor after a build."""
    ladder.require_unicorn()
    done("build", *files.named, "--verify-tokens", 0)
    monkeypatch.setattr(toolchain, "_compile_and_link", lambda *_: pytest.fail("compiled again"))
    for prompt in ("a", "b/c"):
        done("run", *files.named, "--quiet", "--prompt", prompt, "--tokens", 1)


@pytest.mark.parametrize(
    ("prompt", "what", "hint"),
    [
        ("x" * 163, "has 163 bytes; the console's line holds 160", "leave out 3 bytes"),
        ("a\nb", "has more than one line", "type one line at a time: standard input takes many prompts"),
        ("#tokens 3", "begins with #, as the console's commands do", "put a space in front of it"),
        ("a\x08b", "holds a backspace, which the console would obey", "leave it out"),
    ],
)
def test_run_refuses_what_the_console_would_read_otherwise(files: Files, prompt: str, what: str, hint: str) -> None:
    failed(
        2,
        f"Error: the prompt {what}\n  where: run\n  try:   {hint}\n",
        "run", *files.named, "--board", "host", "--quiet", "--prompt", prompt,
    )  # fmt: skip


# ---------------------------------------------------------------- plan, quantize, eval, boards


def test_plan(files: Files) -> None:
    text = done("plan", *files.named)
    assert text.startswith("Memory plan of tiny on nucleo-f446re, context 12\n")
    found = json.loads(done("plan", *files.named, "--json", "--context", 6))
    assert sorted(found) == PLAN_KEYS
    assert (found["context"], found["largest_context"]) == (6, 12)
    assert found["ram"]["ring"] == 2 * 6 * SHAPE.kv_dim


def test_plan_of_prompts_at_once_and_small_weights(files: Files) -> None:
    plain, int4, eight = (
        json.loads(done("plan", *files.named, "--board", "host", "--json", *more))
        for more in ((), ("--recipe", "w4-nearest"), ("--prefill", "8"))
    )
    assert [found["prefill"] for found in (plain, int4, eight)] == [1, 1, 8]
    assert {found["kernels"] for found in (plain, int4, eight)} == {"portable"}
    assert int4["flash"]["constants"] < plain["flash"]["constants"] == eight["flash"]["constants"]
    assert int4["ram"] == plain["ram"]
    assert all(many >= one for many, one in zip(eight["live_bytes"], plain["live_bytes"], strict=True))
    assert eight["live_bytes"][3] == plain["live_bytes"][3] + 7 * (2 * 16 + 16 + 8 + 2 * 16)  # of each token at wq
    assert ", prompts 8 tokens at once\n" in done("plan", *files.named, "--prefill", 8)


def test_a_build_remembers_its_weights_and_its_prefill(files: Files) -> None:
    """In the command that the files are made by, where they are not the default ones."""
    for more in ([], ["--recipe", "w4-nearest"], ["--prefill", "2"], ["--recipe", "w8", "--prefill", "4"]):
        done("build", *files.named, "--board", "host", "--verify-tokens", 0, "--out", "out", *more)
        command = json.loads(Path("out", MARKER).read_text())["command"]
        words = ["--recipe", "--board", "--prefill"]
        expected = "mcugen build tiny.bin --tokenizer tiny-tokenizer.bin"
        given = {**dict(zip(more[::2], more[1::2], strict=True)), "--board": "host"}
        assert command == " ".join([expected, *(f"{word} {given[word]}" for word in words if word in given)])
        assert f" *   {command}\n" in Path("out/tiny.c").read_text()
        bits = 4 if "w4-nearest" in more else 8
        assert json.loads(Path("out", MARKER).read_text())["recipe"].startswith(f"w{bits}a8kv8")
        assert ("mg_linear4_s16" in Path("out/tiny.c").read_text()) == (bits == 4)


def test_sinks_are_planned_built_and_remembered(files: Files) -> None:
    """As the generated command has them; a tiny vocabulary's prompt is longer than the ring."""
    named = [*files.named, "--context", 6, "--sinks", 2]
    found = json.loads(done("plan", *named, "--json"))
    assert (found["sinks"], found["rings"]) == (2, [{"slots": 6, "sinks": 2}])
    assert found["ram"]["ring"] == (2 * 6 + 2 * 2) * SHAPE.kv_dim
    done("build", *named, "--board", "host", "--verify-tokens", 40, "--out", "out")
    command = json.loads(Path("out", MARKER).read_text())["command"]
    assert command.endswith("--board host --context 6 --sinks 2")
    assert "    TINY_SINKS = 2, /*" in Path("out/tiny.h").read_text()
    tokenizer = read_tokenizer(files.folder / "tiny-tokenizer.bin", 300)
    source = sources.open_source(Path(files.model), files.folder / "tiny-tokenizer.bin")
    layout = layouts.lay_out(integers.quantize_source(source, None), tokenizer, ladder.HOST, 6, sinks=2)
    ours = list(generate(layout.graph, tokenizer, "the tin", make_sampler(0.0, 0, 1.0, 1), 20))
    expected = decode(tokenizer, ours, prompt_tokens(tokenizer, "the tin")[-1]).decode(errors="replace") + "\n"
    assert done("run", *named, "--board", "host", "--prompt", "the tin", "--tokens", 20, "--quiet") == expected


def test_eval_of_streams(files: Files) -> None:
    named = ["eval", *files.named, "--text", files.folder / "text.txt", "--context", 6]
    found = json.loads(done(*named, "--stream", 100, "--sinks", "auto", "--json"))
    assert [tried["sinks"] for tried in found["tried"]] == [0, 1, 4]
    assert (found["length"], found["context"], found["trained"]) == (100, 6, 12)
    assert found["beyond"]["tokens"] == found["streams"] * 88
    count = json.loads(done(*named, "--json"))["tokens"]
    shown = done(*named, "--stream", 100, "--sinks", 3)
    assert "context 6, sinks 3, " in " ".join(shown.split())
    for options, text in (
        (["--stream", 5000], "the text has {} tokens, fewer than a stream of 5,000\n  where: evaluation\n"
         "  try:   --stream {}, more --tokens, or a longer text\n"),
        (["--stream", 50, "--sinks", "few"], "'few' is no number of sinks\n  where: --sinks\n"
         "  try:   --sinks 4, or --sinks auto\n"),
        (["--sinks", 1], "--sinks is for streams longer than the context\n  where: --sinks\n"
         "  try:   add --stream 2304, or leave it out\n"),
        (["--stream", 50, "--sinks", 6], "6 sinks are outside 0 to 5, for a context of 6 tokens\n  where: --sinks\n"
         "  try:   --sinks 5\n"),
    ):  # fmt: skip
        result = cli(*named, *options)
        assert result.stderr == "Error: " + text.format(count, count)
        assert result.exit_code in (2, 3)
    failed(
        2,
        "Error: a stream is measured on a text alone\n  where: --stream\n"
        "  try:   add --text FILE, without --cases and --sweep\n",
        "eval", *files.named, "--stream", 50,
    )  # fmt: skip


def test_a_vocabulary_is_trimmed_to_a_text(files: Files) -> None:
    """The same model for every command; what is kept goes to standard error, the option into the files."""
    trimmed = (*files.named, "--vocab-from", files.folder / "text.txt")
    quantized = cli("quantize", *trimmed, "--out", "few.safetensors")
    assert quantized.stderr.startswith("vocabulary: 26")
    kept = int(quantized.stderr.split()[1])
    built = cli("build", *trimmed, "--board", "host", "--out", "out", "--verify-tokens", 8)
    assert (built.exit_code, built.stderr) == (0, quantized.stderr)
    assert "--tokenizer tiny-tokenizer.bin --vocab-from text.txt --board host" in Path("out/tiny.c").read_text()
    assert f".vocab_size = {kept}," in Path("out/tiny_vocabulary.c").read_text()
    again = done("run", "few.safetensors", "--board", "host", "--prompt", "the tin", "--quiet")
    assert cli("run", *trimmed, "--board", "host", "--prompt", "the tin", "--quiet").stdout == again
    whole = cli("quantize", *files.named, "--out", "all.safetensors")
    assert (whole.exit_code, whole.stderr) == (0, "")
    cli("quantize", "all.safetensors", "--vocab-from", files.folder / "text.txt", "--out", "late.safetensors")
    assert load_quantized(Path("late.safetensors"))[0].config == load_quantized(Path("few.safetensors"))[0].config
    text = ("--text", files.folder / "text.txt", "--tokens", 40, "--json")
    found = json.loads(cli("eval", *trimmed, *text).stdout)
    assert found["tokens"] == json.loads(cli("eval", *files.named, *text).stdout)["tokens"] == 40


def test_quantize_with_small_weights(files: Files) -> None:
    done("quantize", *files.named, "--out", "int8.safetensors")
    found = json.loads(
        done("quantize", *files.named, "--recipe", "w4-nearest", "--out", "int4.safetensors", "--json")
    )
    assert found["recipe"] == "w4a8kv8, calibrated on own samples, seed 0"
    expected = answer(files, "abc", 5, bits=4)
    named = ["run", "int4.safetensors", "--board", "host", "--quiet", "--prompt", "abc", "--tokens", 5]
    for more in ([], ["--recipe", "w4-nearest"]):
        assert done(*named, *more) == expected
    for name, bits, other in (("int4", 4, "w8"), ("int8", 8, "w4-nearest"), ("int4", 4, "w4")):
        failed(
            2,
            f"Error: tiny is quantised already: w{bits}a8kv8\n"
            "  where: --recipe\n"
            "  try:   name the float checkpoint it was made from, or leave --recipe out\n",
            "plan", f"{name}.safetensors", "--recipe", other,
        )  # fmt: skip


def test_quantize_within_a_budget(files: Files) -> None:
    """A table of what each matrix got, the same as JSON, and integers that keep to it."""
    named = ["quantize", *files.named, "--budget", "6bits"]
    found = json.loads(done(*named, "--json"))
    assert found["recipe"] == "w4-8a8kv8 within 6 bits gptq, calibrated on own samples, seed 0"
    precisions = found["precisions"]
    assert 5 < precisions["bits"] <= 6
    sheet = done(*named)
    assert sheet.splitlines()[0].strip() == "precision of each matrix"
    assert f"{precisions['bits']:.2f} bits per weight of these matrices" in " ".join(sheet.split())
    integers = load_quantized(Path("tiny.safetensors"))[0]
    for matrix in precisions["matrices"]:
        _, layer, name = matrix["label"].split(".")
        linear = getattr(integers.layers[int(layer)], name)
        assert (linear.bits, linear.group) == (matrix["precision"]["bits"], matrix["precision"]["group"])
        assert matrix["label"] in sheet
    assert done("quantize", *files.named, "--recipe", "mixed", "--budget", "6 bits") == sheet
    failed(
        2,
        "Error: the recipe w8 states every precision; there is nothing to choose within a budget\n"
        "  where: --budget\n"
        "  try:   --recipe mixed, or leave --budget out\n",
        *named, "--recipe", "w8",
    )  # fmt: skip


def test_a_recipe_file(files: Files) -> None:
    """In any command; the generated files name it without its folder."""
    recipe = files.folder / "mine.toml"
    recipe.write_text('[weights]\ndefault = "int4"\n[weights.override]\n"*.wk" = "int8"\n')
    done("build", *files.named, "--recipe", recipe, "--board", "host", "--verify-tokens", 12, "--out", "out")
    assert " --recipe mine.toml --board host\n" in Path("out/tiny.c").read_text()
    assert json.loads(Path("out", MARKER).read_text())["recipe"].startswith("w4a8kv8 gptq *.wk=int8, calibrated on ")
    recipe.write_text('[weights]\ndefault = "int4"\n[weights.override]\n"*.k" = "int8"\n')
    result = cli("build", *files.named, "--recipe", recipe, "--board", "host")
    assert (result.exit_code, "the pattern '*.k' matches no matrix" in result.stderr) == (3, True)


def test_fully_connected(files: Files) -> None:
    """A file, figures of their own, and no way around what it is for."""
    text = ["--text", files.folder / "text.txt", "--tokens", 30, "--json"]
    done("quantize", *files.named, "--out", "int8.safetensors")
    found = json.loads(done("quantize", *files.named, "--fc", "builtin", "--out", "fc8.safetensors", "--json"))
    assert found["recipe"].startswith("w8a8kv8-fc8, ")
    for name in ("int8", "fc8"):  # of our own kernels' integers; of itself
        done("quantize", f"{name}.safetensors", "--fc", "builtin", "--out", "again.safetensors")
        assert Path("again.safetensors").read_bytes() == Path("fc8.safetensors").read_bytes()
    ours, theirs = (json.loads(done("eval", *files.named, *text, "--fc", fc)) for fc in ("custom", "builtin"))
    assert theirs["float_perplexity"] == ours["float_perplexity"]
    assert theirs["kl"] > ours["kl"]
    failed(
        2,
        "Error: tiny is quantised for TFLite Micro's FULLY_CONNECTED\n"
        "  where: --fc\n"
        "  try:   --fc builtin, or name the checkpoint it was made from\n",
        "plan", "fc8.safetensors",
    )  # fmt: skip
    failed(
        2,
        "Error: FULLY_CONNECTED multiplies int8 weights only; the recipe w4-nearest has int4\n"
        "  where: --fc\n"
        "  try:   --fc custom, or --recipe w8\n",
        "eval", *files.named, *text, "--recipe", "w4-nearest", "--fc", "builtin",
    )  # fmt: skip


def test_quantize_writes_a_file_that_every_command_takes(files: Files) -> None:
    text = done("quantize", *files.named)
    size = Path("tiny.safetensors").stat().st_size
    assert text.startswith(f"tiny.safetensors: {size:,} B, ")
    found = json.loads(done("quantize", *files.named, "--out", "sub/q.safetensors", "--json"))
    assert sorted(found) == ["bytes", "out", "recipe"]
    assert found["out"] == "sub/q.safetensors"
    assert Path("sub/q.safetensors").read_bytes() == Path("tiny.safetensors").read_bytes()
    assert sorted(os.listdir("sub")) == ["q.safetensors"]
    assert Path("tiny.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()
    expected = answer(files, "abc", 5)
    assert done("run", "tiny.safetensors", "--board", "host", "--quiet", "--prompt", "abc", "--tokens", 5) == expected


def test_a_lora_adapter_is_merged_before_quantising(files: Files) -> None:
    test_lora.write(Path("tuned"), *test_lora.adapter(zoo.model_of(SHAPE), ("mlp.up_proj", "self_attn.q_proj")))
    done("quantize", *files.named, "--out", "plain.safetensors")
    done("quantize", *files.named, "--lora", "tuned", "--out", "tuned.safetensors")
    plain, tuned = (load_quantized(Path(f"{name}.safetensors"))[0] for name in ("plain", "tuned"))
    assert plain.sha256 != tuned.sha256
    assert not np.array_equal(plain.layers[0].w3.codes, tuned.layers[0].w3.codes)
    done("build", *files.named, "--lora", "tuned", "--board", "host", "--verify-tokens", 4, "--out", "one")
    assert json.loads(Path("one", MARKER).read_text())["command"].endswith(" --lora tuned --board host")
    failed(
        2,
        "Error: tiny holds integers only, which cannot be changed any more\n  where: --lora\n"
        "  try:   name the float checkpoint it was made from\n",
        "plan", "plain.safetensors", "--lora", "tuned",
    )  # fmt: skip


def test_a_pruned_model_is_measured_against_the_whole_one(files: Files) -> None:
    text = files.folder / "text.txt"
    whole = json.loads(done("eval", *files.named, "--text", text, "--json"))
    pruned = json.loads(done("eval", *files.named, "--prune", "hidden=0.5", "--text", text, "--json"))
    assert pruned["float_perplexity"] == whole["float_perplexity"]
    assert pruned["kl"] > 2 * whole["kl"]
    printed = done("quantize", *files.named, "--prune", "hidden=0.5")
    assert printed.endswith("B, w8a8kv8 pruned to hidden=0.5, calibrated on own samples, seed 0\n")
    assert load_quantized(Path("tiny.safetensors"))[0].config.hidden_dim == 6
    done("build", *files.named, "--prune", "hidden=0.5", "--board", "host", "--verify-tokens", 4, "--out", "one")
    assert json.loads(Path("one", MARKER).read_text())["command"].endswith(" --prune hidden=0.5 --board host")
    failed(
        2,
        "Error: tiny is quantised already: w8a8kv8 pruned to hidden=0.5\n  where: --prune\n"
        "  try:   name the float checkpoint it was made from, or leave --prune out\n",
        "plan", "tiny.safetensors", "--prune", "hidden=0.6",
    )  # fmt: skip


def test_distilling(files: Files) -> None:
    text, w4 = files.folder / "text.txt", ["--recipe", "w4"]
    if importlib.util.find_spec("torch") is None:
        missing("torch is not installed")
    done("quantize", *files.named, *w4, "--out", "plain.safetensors")
    printed = done("quantize", *files.named, *w4, "--distill", 4, "--out", "own.safetensors")
    assert printed.endswith("B, w4a8kv8 gptq distilled in 4 steps, calibrated on own samples, seed 0\n")
    done("quantize", *files.named, *w4, "--distill", 4, "--distill-text", text, "--out", "text.safetensors")
    plain, own, taught = (load_quantized(Path(f"{name}.safetensors"))[0] for name in ("plain", "own", "text"))
    assert plain.sha256 == own.sha256
    table = [model.embedding.codes for model in (plain, own, taught)]
    assert not np.array_equal(table[0], table[1]) and not np.array_equal(table[1], table[2])
    assert own.layers[0].w1.bits == 4
    done("verify", "own.safetensors", "--board", "host", "--tokens", 4)
    again = done("quantize", *files.named, *w4, "--distill", 4, "--out", "again.safetensors")  # from the cache
    assert again.startswith("again.safetensors: ")
    assert Path("again.safetensors").read_bytes() == Path("own.safetensors").read_bytes()
    failed(
        2,
        "Error: tiny is quantised already: w4a8kv8 gptq distilled in 4 steps\n  where: --distill\n"
        "  try:   name the float checkpoint it was made from, or leave --distill out\n",
        "quantize", "own.safetensors", "--recipe", "w4", "--distill",
    )  # fmt: skip
    Path("short.txt").write_text("the")
    assert (
        "tokens; at least 12 are needed"
        in cli("quantize", *files.named, "--distill", 4, "--distill-text", "short.txt").stderr
    )


def test_distilling_needs_what_it_needs(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(
        2,
        "Error: a text to train on, and no training\n  where: --distill-text\n"
        "  try:   add --distill, or leave it out\n",
        "quantize", *files.named, "--distill-text", files.folder / "text.txt",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mcugen.distill", raising=False)
    failed(
        5,
        "Error: PyTorch, which trains codes, is not installed\n  where: --distill\n"
        "  try:   pip install 'mcugen[train]'\n",
        "quantize", *files.named, "--distill", 7,
    )  # fmt: skip


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_calibrating_on_a_text_is_another_recipe(files: Files) -> None:
    one = json.loads(done("quantize", *files.named, "--json"))
    other = json.loads(done("quantize", *files.named, "--json", "--calibrate", files.folder / "text.txt"))
    assert one["recipe"] != other["recipe"]


EVAL_KEYS = [
    "context", "float_perplexity", "greedy", "integer_perplexity", "intervals", "kl", "layers", "length",
    "perplexity_change", "sequences", "standard_error", "tokens", "top1", "worst",
]  # fmt: skip
CASES_KEYS = [
    "both_right", "both_wrong", "differing", "float", "integer", "mcnemar_p", "only_float_right",
    "only_integer_right", "same", "total", "wrong",
]  # fmt: skip


def test_eval(files: Files) -> None:
    arguments = ["eval", *files.named, "--text", files.folder / "text.txt", "--tokens", 30]
    text = done(*arguments)
    assert "tiny, 30 tokens" in text
    for row in (
        "perplexity, float",
        "perplexity, integers",
        "change",
        "KL divergence",
        "top-1 agreement",
        "greedy runs",
        "where it is lost, in % of each op's values",
        "the tokens that differ most",
    ):
        assert row in text
    found = json.loads(done(*arguments, "--json"))
    assert sorted(found) == EVAL_KEYS
    assert found["tokens"] == 30
    assert found["intervals"] is None  # of a single sequence
    assert sorted(found["greedy"]) == ["equal", "prefix", "tokens"]
    assert [sorted(layer) for layer in found["layers"]] == [
        ["error", "kernel", "layer", "op", "snr_db", "tokens"]
    ] * 21
    assert sorted(found["worst"][0]) == [
        "before", "float_loss", "float_text", "float_token", "index", "integer_loss", "integer_text", "integer_token",
        "kl", "text", "text_before", "token",
    ]  # fmt: skip
    int4 = json.loads(done(*arguments, "--json", "--recipe", "w4-nearest"))
    assert int4["float_perplexity"] == found["float_perplexity"]
    assert int4["kl"] > 3 * found["kl"]


def test_eval_of_several_sequences_has_intervals(files: Files) -> None:
    arguments = ["eval", *files.named, "--text", files.folder / "text.txt", "--tokens", 300]
    found = json.loads(done(*arguments, "--json"))
    assert sorted(found["intervals"]) == ["float_perplexity", "integer_perplexity", "kl", "perplexity_change", "top1"]
    for name, (low, high) in found["intervals"].items():
        assert low < found[name] < high, name
    assert "in brackets: 95 % confidence, from 2 sequences of at most 256 tokens" in done(*arguments)


def test_eval_with_the_context_of_a_board(files: Files) -> None:
    arguments = ["eval", *files.named, "--text", files.folder / "text.txt", "--tokens", 30, "--json"]
    assert json.loads(done(*arguments))["context"] == 12
    assert json.loads(done(*arguments, "--board", "nucleo", "--context", 5))["context"] == 5


def test_eval_of_cases(files: Files) -> None:
    """One case asks for what both sides answer, one for something else; with a text, both are measured."""
    Path("ask.jsonl").write_text('{"prompt": "the tin", "answer": "' + "x" * 30 + '"}')
    [said] = json.loads(done("eval", *files.named, "--cases", "ask.jsonl", "--json"))["cases"]["wrong"]
    right = answer(files, "the tin", 31).strip()
    assert said == {"prompt": "the tin", "answer": "x" * 30, "line": 1, "integer": right, "float": said["float"]}
    Path("cases.tsv").write_text("a\tb\nhat\tc\n")
    arguments = ["eval", *files.named, "--cases", "cases.tsv"]
    found = json.loads(done(*arguments, "--json"))
    assert list(found) == ["cases"] and sorted(found["cases"]) == CASES_KEYS
    assert found["cases"]["total"] == found["cases"]["both_wrong"] == len(found["cases"]["wrong"]) == 2
    assert found["cases"]["integer"] == {
        "count": 0,
        "share": 0.0,
        "interval": [0.0, pytest.approx(0.65762, abs=1e-5)],
    }
    text = done(*arguments)
    assert "tiny, 2 cases" in text and "right, integers" in text and "0, 0.0 % (0.0 to 65.8)" in text
    both = json.loads(done(*arguments, "--text", files.folder / "text.txt", "--tokens", 30, "--json"))
    assert sorted(both) == sorted(["cases", *EVAL_KEYS]) and both["cases"] == found["cases"]


def test_eval_of_the_bundled_model(files: Files) -> None:
    """It has cases of its own, of which these are the first; `mcugen eval` alone takes them all (README.md)."""
    lines = sources.default_cases(None).read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 167
    Path("first.tsv").write_text("".join(lines[:12]))
    found = json.loads(done("eval", "--cases", "first.tsv", "--json"))["cases"]
    assert found["total"] == 12 and found["float"]["count"] >= 11 and found["integer"]["count"] >= 11


POINT_KEYS = [
    "constant_bytes", "context", "error", "flash_bytes", "loss", "measured", "options", "pareto", "ram_bytes", "recipe",
]  # fmt: skip


def test_eval_sweep(files: Files) -> None:
    """Every point is what `mcugen eval` measures with its options; int4 takes fewer bytes, int8 less perplexity."""
    measured = ["--text", files.folder / "text.txt", "--tokens", 30]
    arguments = ["eval", *files.named, *measured, "--sweep", "w8,w4", "--sweep", "context=6,99", "--jobs", 2]
    found = json.loads(done(*arguments, "--json"))
    assert sorted(found) == ["loss", "points"] and found["loss"] == "integer perplexity"
    points = found["points"]
    assert [sorted(point) for point in points] == [POINT_KEYS] * 4
    options = [(p["options"]["recipe"], p["options"]["context"]) for p in points]
    assert options == [("w8", 6), ("w8", 99), ("w4", 6), ("w4", 99)]
    refused = "a context of 99 tokens is outside 1 to 12, the trained context of tiny"
    for point, recipe in zip(points, ("w8", None, "w4", None), strict=True):
        if recipe is None:
            assert point["error"].splitlines()[0] == refused
            assert point["measured"] is None and point["loss"] is None and point["pareto"] is False
            continue
        alone = json.loads(done("eval", *files.named, *measured, "--recipe", recipe, "--context", 6, "--json"))
        assert alone["layers"] != [] == point["measured"]["layers"]
        assert {**alone, "layers": []} == point["measured"]
        assert point["loss"] == alone["integer_perplexity"]
    assert points[2]["constant_bytes"] < points[0]["constant_bytes"] < points[0]["flash_bytes"]
    text = done(*arguments)
    assert f"w8, context 99: {refused}" in " ".join(text.split()) and "best" in text


def test_eval_sweep_of_cases(files: Files) -> None:
    Path("cases.tsv").write_text("a\tb\nhat\tc\n")
    found = json.loads(done("eval", *files.named, "--cases", "cases.tsv", "--sweep", "w4", "--json"))
    assert found["loss"] == "wrong answers" and found["points"][0]["loss"] == 1.0
    assert sorted(found["points"][0]["measured"]) == ["cases"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sweep", "w8,,w4"], "--sweep w8,,w4: '' is no recipe\n  where: --sweep\n"
         "  try:   write values with single commas between them\n"),
        (["--sweep", "size=3"], "--sweep size=3: size is nothing to vary\n  where: --sweep\n"
         "  try:   --sweep NAME=VALUE,VALUE with each of recipe, budget, calibrate, context, fc once at most\n"),
        (["--sweep", "w8", "--sweep", "recipe=w4"], "--sweep recipe=w4: recipe is there twice\n  where: --sweep\n"
         "  try:   --sweep NAME=VALUE,VALUE with each of recipe, budget, calibrate, context, fc once at most\n"),
        (["--sweep", "context=6,x"], "--sweep context=6,x: 'x' is no context\n  where: --sweep\n"
         "  try:   give numbers of tokens: --sweep context=128,256\n"),
        (["--sweep", "fc=both"], "--sweep fc=both: 'both' is no fc\n  where: --sweep\n"
         "  try:   --sweep fc=custom,builtin\n"),
        (["--sweep", "w8", "--prune", "2%"], "a sweep takes no --prune\n  where: --prune\n"
         "  try:   state it in a recipe file, and name that in --sweep\n"),
        (["--sweep", "w8", "--lora", "tuned"], "a sweep takes no --lora\n  where: --lora\n  try:   leave it out\n"),
        (["--jobs", "2"], "--jobs is for a sweep\n  where: --jobs\n  try:   add --sweep w8,w4, or leave it out\n"),
        (["--plot", "a.png"], "--plot is for a sweep\n  where: --plot\n  try:   add --sweep w8,w4, or leave it out\n"),
        (["--sweep", "w8", "--plot", "a.pdf"], "a plot is a file that ends with .png or .svg, not a.pdf\n"
         "  where: --plot\n  try:   --plot a.png\n"),
    ],
)  # fmt: skip
def test_sweeps_that_make_no_sense(files: Files, arguments: list[str], text: str) -> None:
    failed(2, f"Error: {text}", "eval", *files.named, "--text", files.folder / "text.txt", *arguments)


def test_a_plot_needs_matplotlib(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed(
        5,
        "Error: matplotlib is missing\n  where: --plot\n  try:   pip install 'mcugen[plot]'\n",
        "eval", *files.named, "--text", files.folder / "text.txt", "--sweep", "w8", "--plot", "a.svg",
    )  # fmt: skip


def test_a_plot_is_drawn(files: Files) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["eval", *files.named, "--text", files.folder / "text.txt", "--tokens", 30, "--sweep", "w8,w4"]
    for name, opening in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        done(*arguments, "--plot", name)
        assert Path(name).read_bytes().startswith(opening)
    first = Path("a.svg").read_bytes()
    done(*arguments, "--plot", "a.svg")
    assert Path("a.svg").read_bytes() == first


def test_boards(files: Files) -> None:
    text = done("boards")
    assert "nucleo-f446re" in text
    assert "512 KiB" in text
    found = json.loads(done("boards", "--json"))
    assert sorted(found) == BOARDS
    assert found["nucleo-f446re"] == json.loads(done("boards", "show", "nucleo", "--json"))
    assert found["nucleo-f446re"]["ram_bytes"] == 128 * 1024
    assert found["nucleo-f446re"]["flash_origin"] == "0x08000000"
    assert "RM0390 section 2.3" in done("boards", "show", "nucleo")


# ---------------------------------------------------------------- errors

BOARDS = sorted(path.stem for path in data_dir("boards").iterdir())
KNOWN = ", ".join(board_names())
USAGE = "Usage: mcugen {0} [OPTIONS] [MODEL]\nTry 'mcugen {0} --help' for help.\n\nError: {1}\n"


@pytest.mark.parametrize(
    ("code", "arguments", "text"),
    [
        (2, ["biuld"], "Usage: mcugen [OPTIONS] COMMAND [ARGS]...\nTry 'mcugen --help' for help.\n\n"
         "Error: No such command 'biuld'. Did you mean 'build'?\n"),
        (2, ["build", "--bord", "x"], USAGE.format("build", "No such option '--bord'. (Did you mean one of: '--board', '--lora'?)")),
        (2, ["verify", "--tokens", "0"], USAGE.format(
            "verify", "Invalid value for '--tokens': 0 is not in the range x>=1.")),
        (2, ["run", "--tokens", "-1"], USAGE.format("run", "Invalid value for '--tokens': -1 is not in the range x>=0.")),
        (2, ["build", "--verify-tokens", "-1"], USAGE.format(
            "build", "Invalid value for '--verify-tokens': -1 is not in the range x>=0.")),
        (2, ["plan", "--recipe", "w5"], "Error: there is no recipe 'w5'; mcugen knows w8, w4, w4-nearest, mixed\n"
            "  where: --recipe\n  try:   one of those, or the path of your own .toml file\n"),
        (2, ["run", "--prefill", "all"], USAGE.format(
            "run", "Invalid value for '--prefill': 'all' is not a valid integer.")),
        (2, ["eval", "--prefill", "2"], USAGE.format("eval", "No such option '--prefill'. Did you mean '--prune'?")),
        (2, ["eval", "gone.bin"], "Error: there is nothing to measure gone.bin on\n  where: eval\n"
         "  try:   add --text FILE for perplexity, or --cases FILE for exact answers\n"),
        (2, ["boards", "nucleo"], "Usage: mcugen boards [OPTIONS] [COMMAND] [ARGS]...\n"
         "Try 'mcugen boards --help' for help.\n\n"
         "Error: No such command 'nucleo'. One board: mcugen boards show nucleo\n"),
        (2, ["boards", "show", "nukleo"], f"Error: there is no board 'nukleo'; mcugen knows {KNOWN}\n"
         "  where: --board\n  try:   nucleo, or the path of your own .toml file\n"),
        (2, ["plan", "--board", "uno"], f"Error: there is no board 'uno'; mcugen knows {KNOWN}\n"
         "  where: --board\n  try:   one of those, or the path of your own .toml file\n"),
        (3, ["plan", "--board", "mine.toml"], "Error: board file mine.toml cannot be read: No such file or directory\n"
         "  where: --board\n"
         "  try:   check the path; without .toml at the end, --board takes the name of a board that ships with mcugen\n"),
        (2, ["plan", "tails"], "Error: there is no model 'tails'; mcugen knows home, tales\n"
         "  where: MODEL\n  try:   one of those, or the path of a model\n"),
        (3, ["plan", "gone.bin"], "Error: cannot read the checkpoint: No such file or directory\n"
         "  where: checkpoint gone.bin\n  try:   give the path of a llama2.c checkpoint (.bin)\n"),
        (3, ["plan", "gone.safetensors"], "Error: cannot read the quantized model: No such file or directory\n"
         "  where: quantized model gone.safetensors\n  try:   give the path of a file that mcugen quantize wrote\n"),
    ],
)  # fmt: skip
def test_what_is_typed_wrongly(files: Files, code: int, arguments: list[str], text: str) -> None:
    failed(code, text, *arguments)


@pytest.mark.parametrize(
    ("code", "arguments", "text"),
    [
        (2, ["--context", "13"], "a context of 13 tokens is outside 1 to 12, the trained context of tiny\n"
         "  where: --context\n  try:   --context 12; generation goes on past it\n"),
        (2, ["--context", "0"], "a context of 0 tokens is outside 1 to 12, the trained context of tiny\n"
         "  where: --context\n  try:   --context 1; generation goes on past it\n"),
        (2, ["--prefill", "9"], "9 tokens at once are outside 1 to 8\n  where: --prefill\n  try:   --prefill 8\n"),
        (2, ["--prefill", "0"], "0 tokens at once are outside 1 to 8\n  where: --prefill\n  try:   --prefill 1\n"),
        (3, ["--calibrate", "gone.txt"], "gone.txt cannot be read: No such file or directory\n"
         "  where: text file\n  try:   check the path\n"),
        (3, ["--calibrate", "latin1.txt"], "latin1.txt cannot be read: it is not UTF-8\n"
         "  where: text file\n  try:   check the path\n"),
    ],
)  # fmt: skip
def test_what_does_not_suit_the_model(files: Files, code: int, arguments: list[str], text: str) -> None:
    Path("latin1.txt").write_bytes("größer".encode("latin-1"))
    failed(code, f"Error: {text}", "plan", *files.named, *arguments)


def test_a_checkpoint_needs_a_tokenizer(files: Files) -> None:
    failed(
        2,
        "Error: tiny.bin has no tokenizer\n  where: --tokenizer\n  try:   add --tokenizer FILE.bin\n",
        "plan", files.model,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["build", "verify", "run"])
def test_there_is_no_such_toolchain(files: Files, command: str) -> None:
    extra = ["--prompt", "x", "--quiet"] if command == "run" else []
    failed(
        2,
        "Error: there is no toolchain 'clang'\n  where: --toolchain\n  try:   choose one of auto, zig, gcc\n",
        command, *files.named, "--toolchain", "clang", *extra,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--temperature", "-1"], "a temperature of -1 is out of range\n  where: sampler settings\n"
         "  try:   use 0 (always the likeliest token) or 0.05 to 100\n"),
        (["--top-p", "0"], "top-p 0 is out of range\n  where: sampler settings\n"
         "  try:   use a share above 0, up to 1 to keep every token\n"),
        (["--top-k", "-1"], "top-k -1 is out of range\n  where: sampler settings\n"
         "  try:   use 0 to keep every token, or 1 and more\n"),
        (["--seed", "4294967296"], "seed 4294967296 is out of range\n  where: sampler settings\n"
         "  try:   use 0 to 4294967295\n"),
    ],
)  # fmt: skip
def test_run_refuses_odd_samplers(files: Files, arguments: list[str], text: str) -> None:
    failed(2, f"Error: {text}", "run", *files.named, *arguments)


def test_a_quantised_model_has_no_float_to_measure_against(files: Files) -> None:
    done("quantize", *files.named)
    failed(
        2,
        "Error: tiny holds integers only, and quality is measured against float\n"
        "  where: MODEL\n"
        "  try:   name the float checkpoint it was made from\n",
        "eval", "tiny.safetensors", "--text", files.folder / "text.txt",
    )  # fmt: skip


def test_eval_needs_some_text(files: Files) -> None:
    failed(
        3,
        "Error: the text has 4 tokens; at least 16 are needed\n"
        "  where: evaluation\n"
        "  try:   give a longer text; some 10,000 tokens measure a change of 0.1 %\n",
        "eval", *files.named, "--text", files.folder / "text.txt", "--tokens", 4,
    )  # fmt: skip


def test_what_does_not_fit_says_which_context_does(files: Files) -> None:
    board = Path(pipeline.__file__).parent.parent / "boards" / "nucleo-f446re.toml"
    largest = 7
    needed = json.loads(done("plan", *files.named, "--context", largest, "--json"))["ram"]["used"]
    text = board.read_text(encoding="utf-8").replace('size = "128 KiB"', f'size = "{needed + 3} B"')
    Path("small.toml").write_text(text.replace('"nucleo-f446re"', '"small"').replace('["nucleo"]', "[]"))
    assert json.loads(done("plan", *files.named, "--board", "small.toml", "--json"))["largest_context"] == largest
    wanted = json.loads(done("plan", *files.named, "--context", 12, "--json"))["ram"]
    peak = json.loads(done("plan", *files.named, "--context", 12, "--json"))["peak"]["name"]
    for command in ("plan", "build", "verify", "run"):
        failed(
            4,
            f"Error: KV ring ({wanted['ring']:,} B), activations ({wanted['activations']:,} B), stack "
            f"({wanted['stack']:,} B) and runtime ({wanted['statics']:,} B) need {wanted['used']:,} B of RAM; "
            f"small has {needed + 3:,} B\n"
            f"  where: memory plan, peak at {peak}\n"
            f"  try:   --context {largest} (now 12) needs {needed:,} B; or --board microbit\n",
            command, *files.named, "--board", "small.toml", "--context", 12,
        )  # fmt: skip
    assert os.listdir() == ["small.toml"]


def test_a_missing_compiler(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.shutil, "which", lambda _: None)
    for command in ("build", "verify", "run"):
        failed(
            5,
            "Error: no C compiler for cortex-m4: found no arm-none-eabi-gcc\n"
            "  where: toolchain gcc, board nucleo-f446re\n"
            "  try:   `apt-get install gcc-arm-none-eabi`\n",
            command, *files.named, "--toolchain", "gcc", *(["--prompt", "x", "--quiet"] if command == "run" else []),
        )  # fmt: skip
    assert os.listdir() == []


def test_a_failing_compiler(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    ladder.require("gcc", ladder.HOST)
    plant(monkeypatch, "const int32_t silu", "const int32_t silu = 0, unused")
    result = cli("build", *files.named, "--board", "host", "--toolchain", "gcc")
    assert result.exit_code == 5
    assert " rejects kernels/swiglu.c:\n    kernels/swiglu.c:" in result.stderr
    assert os.listdir() == []


def test_whatever_else_goes_wrong_is_a_defect_of_mcugen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("mcugen.cli.boards.load_board", fail)
    monkeypatch.setattr(sys, "argv", ["mcugen", "boards", "show", "host"])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 70
    assert capsys.readouterr().err == (
        "Internal error: RuntimeError: planted\n"
        "  this is a defect of mcugen: please report it with the command line\n"
    )


def test_the_error_of_a_tool_is_5(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ToolError("it broke", where="here", hint="mend it")

    monkeypatch.setattr("mcugen.cli.boards.list_boards", fail)
    failed(5, "Error: it broke\n  where: here\n  try:   mend it\n", "boards")


# ---------------------------------------------------------------- real processes


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mcugen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_a_process_ends_with_the_exit_code(files: Files) -> None:
    assert process("--version").stdout.decode() == f"mcugen, version {__version__}\n"
    found = process("plan", "gone.bin")
    assert (found.returncode, found.stdout) == (3, b"")
    assert found.stderr.startswith(b"Error: cannot read the checkpoint: No such file or directory\n")


def test_a_process_reads_prompts_of_any_bytes(files: Files) -> None:
    named = ["run", *files.named, "--board", "host", "--quiet", "--tokens", 6]
    typed = process(*named, input=b"gr\xf6\xdfer\n")
    given = process(*named, "--prompt", os.fsdecode(b"gr\xf6\xdfer"))
    assert typed.returncode == given.returncode == 0
    assert typed.stdout == given.stdout != b"\n"
    assert typed.stderr == given.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(files: Files, tmp_path: Path, terminal: bool) -> None:
    above, below = pty.openpty()
    environment = {**os.environ, "MCUGEN_CACHE": str(tmp_path / "empty"), "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "mcugen", "quantize", *files.named]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=below if terminal else subprocess.PIPE
    )
    os.close(below)
    shown = b""
    while terminal:
        try:
            part = os.read(above, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(above)
    assert done.returncode == 0
    assert done.stdout.startswith(b"tiny.safetensors: ")
    assert (b"calibrate" in shown) == terminal
    assert terminal or done.stderr == b""
