"""`mcugen boards new`: the file that it writes is a board, says that nothing of it is checked, and refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from projects import probe_project, project, require
from test_ports import MAIN
from test_readme import BLOCKS
from tools import require_program

from mcugen.board_file import new_board
from mcugen.boards import list_boards, load_board
from mcugen.cli import mcugen
from mcugen.emulate.qemu import run_console
from mcugen.errors import InputError, ToolError, UsageError
from mcugen.ports import port_files
from mcugen.resources import data_dir
from mcugen.toolchain import build

HEADER = """\
# mine: a board file, begun as a copy of nucleo-f446re.
# Correct every value, and write where you read it instead of "to check, from ...": the data sheet and its
# section. Unknown and missing keys are errors. Then:
#     mcugen boards show path/to/mine.toml
#     mcugen build --board path/to/mine.toml --verify-tokens 0
# port: a folder of mcugen's firmware/ports, or "./NAME" for one of your own beside this file.
# headroom: the share of RAM that a plan is asked to leave free.

name = "mine"
aliases = []
title = "mine, begun as a copy of nucleo-f446re"
port = "stm32f4"
headroom = "20 %"

# name: what mcugen calls the core; features: which of its options the chip has (dsp, fpu, mve).
# count = 2 where there are two of them, and the port starts both.
[core]
name = "cortex-m4"
features = ["dsp", "fpu"]
source = "to check, from nucleo-f446re: DS10693 section 3.1: Cortex-M4 with DSP instructions and single-precision FPU"
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mcugen, ["boards", "new", *arguments])


@pytest.mark.parametrize("like", [board.name for board in list_boards()])
def test_a_new_board_is_the_other_one_under_its_name(like: str, tmp_path: Path) -> None:
    text = new_board("mine", like)
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    found, expected = load_board(str(file)), load_board(like)
    assert (found.name, found.title) == ("mine", f"mine, begun as a copy of {like}")
    assert set(found.facts) == set(expected.facts)
    kept = {field: getattr(expected, field) for field in ("name", "title", "sha256", "facts")}
    assert replace(found, **kept) == expected
    sources = re.findall(r'source = "(.*?)"', text)
    assert sources and all(source.startswith(f"to check, from {like}: ") for source in sources)
    for table in re.findall(r"^\[(\w+)", text, re.MULTILINE):
        assert re.search(rf"^# .*\n\[{table}", text, re.MULTILINE), table
    assert "\n\n\n" not in text and all(line == line.rstrip() for line in text.splitlines())


def test_the_file_begins_with_what_to_do() -> None:
    text = new_board("mine", "nucleo")
    assert text.startswith(HEADER)
    last = "# fast = true where the core reaches data in it with fewer waits than in [ram]."
    assert text.endswith(f"\n{last}\n")


def test_a_board_file_may_be_the_beginning_of_another(tmp_path: Path) -> None:
    first = tmp_path / "first.toml"
    first.write_text(new_board("first", "microbit"), encoding="utf-8")
    text = new_board("second", str(first))
    assert text.count("[core]") == 1
    assert text.count("to check, from first: ") == text.count("to check") - 1  # the header's
    assert len(text.splitlines()) == len(first.read_text(encoding="utf-8").splitlines())


def test_the_command_writes_the_file_and_says_what_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("mine")
    assert (done.exit_code, done.output) == (
        0,
        "mine.toml: values of nucleo-f446re, each of them to check\n"
        "try:  mcugen build --board mine.toml --verify-tokens 0\n",
    )
    assert Path("mine.toml").read_text(encoding="utf-8") == new_board("mine", "nucleo")
    done = run("other", "--like", "rv32", "--out", "boards/my.toml", "--json")
    assert json.loads(done.output) == {"file": "boards/my.toml", "name": "other", "like": "qemu-virt-rv32"}
    assert load_board("boards/my.toml").name == "other"


def test_what_is_there_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("precious", encoding="utf-8")
    done = run("mine")
    assert (done.exit_code, done.output) == (
        2,
        "Error: mine.toml is there already\n  where: --out\n  try:   choose another file, or remove that one\n",
    )
    assert Path("mine.toml").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("My Board", "'My Board' is no name for a board",
         "small letters, digits and single hyphens between them, as in my-board"),
        ("nucleo", "there is a board nucleo already",
         "choose another name; `mcugen boards show nucleo` shows that one"),
    ],
)  # fmt: skip
def test_a_name_must_be_one_and_be_free(name: str, what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        new_board(name, "nucleo")
    assert str(caught.value) == f"{what}\n  where: mcugen boards new\n  try:   {hint}"


# ---------------------------------------------------------------- a port of one's own


def own_board(folder: Path, port: str = "./my_chip") -> str:
    """A board file beside a folder with a port, which is a copy of the MPS2's."""
    text = new_board("mine", "mps2-an386").replace('port = "mps2"', f'port = "{port}"')
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    (folder / "my_chip").mkdir()
    source = (data_dir("firmware") / "ports" / "mps2" / "port.c").read_bytes()
    (folder / "my_chip" / "port.c").write_bytes(source)
    return str(folder / "mine.toml")


def test_a_port_of_one_s_own_is_compiled_from_beside_the_board_file(tmp_path: Path) -> None:
    board = load_board(own_board(tmp_path))
    port = port_files(board)
    assert board.port == "my_chip"
    assert port.sources == ("ports/cortex_m/startup.c", "ports/freestanding/mem.c", "ports/my_chip/port.c")
    assert port.files["ports/my_chip/port.c"] == (tmp_path / "my_chip" / "port.c").read_bytes()
    firmware = build(project(board, main=MAIN), require("auto", board), cache_dir=tmp_path / "cache")
    theirs = load_board("mps2-an386")
    assert firmware.sections == build(project(theirs, main=MAIN), require("auto", theirs)).sections


def test_the_tutorial_s_port_talks_in_qemu(tmp_path: Path) -> None:
    """The port in docs/own-board.md, in the machine whose UART it is for."""
    require_program("qemu-system-arm")
    path = own_board(tmp_path)
    block = next(block for block in BLOCKS if block.kind == "file" and block.document.name == "own-board.md")
    (tmp_path / "my_chip" / "port.c").write_text(block.content, encoding="utf-8")
    board = load_board(path)
    firmware = build(probe_project(board), require("auto", board))
    firmware = replace(firmware, board=load_board("mps2-an386"))  # for the machine of QEMU
    assert run_console(firmware, b"hello\nhi\n", timeout=60) == b"> 05\n> 02\n> "


def test_a_port_of_one_s_own_that_does_not_compile_is_named(tmp_path: Path) -> None:
    path = own_board(tmp_path)
    (tmp_path / "my_chip" / "port.c").write_text("nonsense\n", encoding="utf-8")
    board = load_board(path)
    with pytest.raises(ToolError, match=r"rejects ports/my_chip/port.c"):
        build(project(board, main=MAIN), require("auto", board), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("port", "what", "hint"),
    [
        ("./mps2", "is './mps2'", "name the folder in small letters and digits, and not as one of mcugen's"),
        ("./../x", "is './../x'", "name the folder in small letters and digits, and not as one of mcugen's"),
        ("./none", "is './none', where no .c file is", "firmware/README.md has the four functions of a port"),
        ("./strange", "is './strange', which cannot be read: Is a directory", "check the folder's files"),
    ],
)
def test_a_folder_that_is_no_port_is_refused(port: str, what: str, hint: str, tmp_path: Path) -> None:
    path = own_board(tmp_path, port)
    (tmp_path / "strange" / "port.c").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        load_board(path)
    assert str(caught.value) == f"port {what}\n  where: {path}\n  try:   {hint}"
