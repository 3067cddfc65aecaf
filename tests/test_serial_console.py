"""A board at a serial port: which build it runs, its answers, rung 6. The board is emulated, behind a pseudoterminal."""

from __future__ import annotations

import errno
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ladder
import pytest
import zoo
from click.testing import CliRunner, Result
from pty_board import serial_port
from test_console import answer, banner, on_host

from mcugen import layout as layouts
from mcugen.checkpoints import write_checkpoint
from mcugen.cli import mcugen
from mcugen.console import sampler_line
from mcugen.errors import InputError, MismatchError, ToolError, UsageError
from mcugen.ir import Config, Firmware
from mcugen.ladder import Ladder, climb_board
from mcugen.layout import Layout
from mcugen.rendering import build_id
from mcugen.sampler import make_sampler
from mcugen.serial_console import Running, SerialConsole, open_console
from mcugen.tokenizer import write_tokenizer

SHAPE = Config(16, 12, 1, 2, 1, 24, 12, False)


def layout_on(board: str, seed: int = 0) -> Layout:
    return ladder.laid_out(SHAPE, 12, seed=seed, board=board)


def id_of(layout: Layout) -> str:
    return build_id(layouts.make_project(layout, ladder.COMMAND).files)


@contextmanager
def console_of(firmware: Firmware, folder: Path) -> Iterator[SerialConsole]:
    pytest.importorskip("serial")
    with serial_port(firmware, folder) as port, closing(open_console(port)) as console:
        yield console


# ---------------------------------------------------------------- an emulated board


@pytest.mark.parametrize("board", ["nucleo", "mps2-an386", "qemu-virt-rv32", "host"])
def test_a_board_behind_a_port_answers_as_the_simulator_and_passes_rung_6(board: str, tmp_path: Path) -> None:
    layout = layout_on(board)
    with console_of(ladder.board_firmware(layout, "gcc"), tmp_path) as console:
        assert console.running() == Running(f"random on {layout.board.name}", id_of(layout))
        assert list(console.ask(b"#tokens 9")) == []
        assert b"".join(console.ask(b"abc")) == answer(layout, b"abc", 9)
        found = climb_board(layout, console, 30, ladder.COMMAND)
        (report,) = found.reports
        assert found.passed and (report.rung, report.tokens) == (f"rung 6, {layout.board.name}", 54)
        assert report.machine == f"{layout.board.name} at {console.name}"


def test_a_board_that_runs_another_build_is_not_compared(tmp_path: Path) -> None:
    flashed, wanted = layout_on("host", seed=1), layout_on("host")
    with console_of(ladder.board_firmware(flashed, "gcc"), tmp_path) as console:
        with pytest.raises(InputError) as caught:
            climb_board(wanted, console, 5, ladder.COMMAND)
        assert str(caught.value) == (
            f"the board runs random on host, build {id_of(flashed)}; these options give build {id_of(wanted)}\n"
            f"  where: serial port {console.name}\n"
            "  try:   flash this one: mcugen verify random.bin, then mcugen flash; or name the options of that one"
        )


# ---------------------------------------------------------------- what a serial line does


class Script:
    """A link that says these parts, one a read; None: nothing for a while. Time goes by as it is read."""

    name = "PORT"

    def __init__(self, parts: Iterable[bytes | None]) -> None:
        self.parts = iter(parts)
        self.written: list[bytes] = []
        self.now = 0.0

    def read(self) -> bytes:
        self.now += 0.25
        return next(self.parts, None) or b""

    def write(self, content: bytes) -> None:
        self.written.append(content)

    def close(self) -> None:
        pass

    def console(self) -> SerialConsole:
        return SerialConsole(self, lambda: self.now)


BUILD = b"home on pico, build 0123456789abcdef\n\x04"
CLEARED = b"\x08" * 160 + b"#build\n"


@pytest.mark.parametrize(
    ("parts", "tries"),
    [
        ([BUILD], 1),
        ([BUILD[:9], None, None, BUILD[9:]], 1),
        ([b"noise\xff\x04home on pico\n\x04", BUILD], 1),
        ([b"the end of an answer\n\x04" + BUILD], 1),
        ([*[None] * 8, BUILD], 2),
        ([*[None] * 9, BUILD, BUILD], 2),
        ([*[b"."] * 60, b"\n\x04", *[None] * 8, BUILD], 2),
    ],
)
def test_the_build_is_found_whatever_the_board_was_doing(parts: list[bytes | None], tries: int) -> None:
    link = Script([*parts, None, b"an answer\n\x04"])
    console = link.console()
    assert console.running() == Running("home on pico", "0123456789abcdef")
    assert link.written == [CLEARED] * tries
    assert b"".join(console.ask(b"x")) == b"an answer\n"  # nothing of the answers before


@pytest.mark.parametrize(
    ("heard", "text"),
    [
        (
            b"",
            "nothing answers\n  where: serial port PORT\n"
            "  try:   press the board's reset button; look whether this is its port, and its speed",
        ),
        (
            b"? #tokens N, #sampler MULTIPLIER SHIFT TOP_K TOP_P SEED or #check N\n\x04",
            "no build id comes, but '? #tokens N, #sampler MULTIPLIER SHIFT TOP_K TOP_P SEED or #check N'\n"
            "  where: serial port PORT\n  try:   flash a firmware that this mcugen built",
        ),
    ],
)
def test_a_board_that_does_not_say_its_build(heard: bytes, text: str) -> None:
    link = Script(itertools.chain([heard], itertools.repeat(None)))
    with pytest.raises(ToolError) as caught:
        link.console().running()
    assert str(caught.value) == text
    assert link.written == [CLEARED] * 5


def test_an_answer_comes_as_it_comes_and_ends_with_its_byte() -> None:
    console = Script([b"one", None, b" two", b"\n\x04", b"next"]).console()
    assert list(console.ask(b"x")) == [b"one", b" two", b"\n"]


def test_a_board_that_falls_silent_is_told_from_a_slow_one() -> None:
    slow: list[bytes | None] = [b"a", *[None] * 230, b"b\x04"]
    assert list(Script(slow).console().ask(b"x")) == [b"a", b"b"]
    with pytest.raises(ToolError) as caught:
        list(Script([b"a"]).console().ask(b"hello"))
    assert str(caught.value) == (
        "the board falls silent for 60 s in its answer to 'hello'\n  where: serial port PORT\n"
        "  try:   press its reset button and try again; if it happens again, debug it there: faults end in a loop"
    )


@pytest.mark.parametrize("line", [3, 5])  # a hash, and the sampled text
def test_a_bit_that_the_board_gets_wrong_is_found(line: int) -> None:
    layout = layout_on("host")
    sampling = sampler_line(make_sampler(1.0, 40, 0.9, 1))
    lines = on_host(layout, f"#check 4\n{sampling}\n#tokens 24\nthe\n".encode()).splitlines(keepends=True)
    assert lines[0] == banner(layout, on_host) and len(lines) == 7 and lines[-1] == b"\x04"
    lines[0] = lines[0].replace(b"\n", f", build {id_of(layout)}\n".encode())

    def climbed() -> Ladder:
        first, rest = b"".join(lines).split(b"\x04", 1)
        answers = (part + b"\x04" for part in rest.split(b"\x04")[:-1])
        return climb_board(layout, Script([first + b"\x04", None] * 2 + [*answers]).console(), 4, ladder.COMMAND)

    assert climbed().passed
    lines[line] = lines[line][:-2] + bytes([lines[line][-2] ^ 1]) + b"\n"
    with pytest.raises(MismatchError) as caught:
        climbed()
    shown = lines[line].replace(b"\x04", b"").decode(errors="replace").rstrip("\n")
    assert str(caught.value).startswith(f"host at PORT prints {shown!r} in line {line + 1}, not ")
    assert str(caught.value).endswith(
        "\n  where: rung 6, host\n  try:   if mcugen verify without --port finds all equal, "
        "look at what no emulator has: clock, wait states, supply"
    )


# ---------------------------------------------------------------- ports


@dataclass
class Port:
    device: str
    description: str
    vid: int | None


def plug(monkeypatch: pytest.MonkeyPatch, *ports: Port) -> None:
    list_ports = pytest.importorskip("serial.tools.list_ports")
    monkeypatch.setattr(list_ports, "comports", lambda: ports)


ON_BOARD_COMPUTER = Port("/dev/ttyS0", "n/a", None)


def test_the_only_port_of_a_usb_device_is_the_boards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layout = layout_on("host")
    with serial_port(ladder.board_firmware(layout, "gcc"), tmp_path) as path:
        plug(monkeypatch, ON_BOARD_COMPUTER, Port(path, "ST-Link", 0x483))
        with closing(open_console(None)) as console:
            assert console.running().build == id_of(layout)


def test_no_port_or_too_many_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, ON_BOARD_COMPUTER)
    with pytest.raises(ToolError) as none:
        open_console(None)
    assert str(none.value) == (
        "no USB device here has a serial port\n  where: --port\n"
        "  try:   connect the board with a cable that carries data, or name its port with --port"
    )
    plug(monkeypatch, Port("/dev/ttyUSB0", "CP2102", 4), Port("/dev/ttyACM0", "STM32 STLink", 3))
    with pytest.raises(UsageError) as two:
        open_console(None)
    assert str(two.value) == (
        "2 serial ports may be the board's: /dev/ttyACM0 (STM32 STLink), /dev/ttyUSB0 (CP2102)\n"
        "  where: --port\n  try:   --port /dev/ttyACM0"
    )


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EACCES, "join the group that may open it, `sudo usermod -aG dialout $USER`, and log in again"),
        (errno.EBUSY, "close the other program that has it open"),
        (errno.ENOENT, "look whether the board is connected: without --port, mcugen finds it"),
    ],
)
def test_a_port_that_cannot_be_opened(number: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = pytest.importorskip("serial")

    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(number, "why")

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(ToolError) as caught:
        open_console("/dev/ttyACM7")
    assert str(caught.value) == (
        f"/dev/ttyACM7 cannot be opened: [Errno {number}] why\n  where: serial port /dev/ttyACM7\n  try:   {hint}"
    )


def test_a_board_that_is_unplugged(tmp_path: Path) -> None:
    with console_of(ladder.board_firmware(layout_on("host"), "gcc"), tmp_path) as console:
        console.running()
        console._link._port.close()  # type: ignore[attr-defined]
        with pytest.raises(ToolError, match=r"^the board is gone: ") as caught:
            list(console.ask(b"abc"))
        assert caught.value.where == f"serial port {console.name}"


def test_pyserial_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ToolError) as caught:
        open_console("PORT")
    assert str(caught.value) == (
        "pyserial is not installed\n  where: serial port\n  try:   pip install 'mcugen[flash]'"
    )


# ---------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model and its vocabulary, as arguments."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "random.bin").write_bytes(write_checkpoint(zoo.model_of(SHAPE)))
    (folder / "random.tok").write_bytes(write_tokenizer(zoo.random_tokenizer(SHAPE.vocab_size)))
    return [str(folder / "random.bin"), "--tokenizer", str(folder / "random.tok")]


@pytest.fixture
def port(files: list[str], tmp_path: Path) -> Iterator[str]:
    """The serial port of what `mcugen build` makes of these files for a NUCLEO-F446RE."""
    pytest.importorskip("serial")
    ladder.require("gcc", ladder.NUCLEO)
    out = tmp_path / "out"
    called("build", *files, "--out", str(out), "--toolchain", "gcc", "--verify-tokens", "0")
    elf = (out / "firmware.elf").read_bytes()
    with serial_port(Firmware(ladder.NUCLEO, elf, {}, 0, 0, 0, ""), tmp_path) as path:
        yield path


def called(*arguments: str, exit_code: int = 0, typed: str | None = None) -> Result:
    found = CliRunner().invoke(mcugen, arguments, input=typed)
    assert found.exit_code == exit_code, found.output
    return found


def test_monitor_says_the_build_and_streams_answers(port: str, files: list[str]) -> None:
    found = called("monitor", "--port", port, "--tokens", "5", typed="abc\n#tokens 2\nabc\n")
    assert re.fullmatch(rf"random on nucleo-f446re at {port}, build [0-9a-f]{{16}}\n", found.stderr)
    long, short = found.stdout.splitlines()
    assert long.startswith(short) and len(long) > len(short)
    arguments = ["--prompt", "abc", "--tokens", "5", "--seed", "3", "--temperature", "2", "--json"]
    ours = json.loads(called("monitor", "--port", port, *arguments).stdout)
    theirs = json.loads(called("run", *files, *arguments).stdout)
    assert ours["text"] == theirs["text"]
    assert ours["build"] in found.stderr and ours["running"] == "random on nucleo-f446re"
    refused = called("monitor", "--port", port, "--prompt", "x" * 161, exit_code=2)
    assert "  where: monitor\n" in refused.stderr


def test_verify_compares_the_board_at_a_port(port: str, files: list[str]) -> None:
    found = json.loads(called("verify", *files, "--port", port, "--tokens", "40", "--json").stdout)
    assert found["passed"] and [report["rung"] for report in found["reports"]] == ["rung 6, nucleo-f446re"]
    other = called("verify", *files, "--context", "5", "--port", port, exit_code=3)
    assert "the board runs random on nucleo-f446re, build " in other.stderr
    refused = called("verify", *files, "--port", port, "--target", "tflm", exit_code=2)
    assert refused.stderr == "Error: --port is for --target c\n  where: --port\n  try:   leave one of them out\n"
