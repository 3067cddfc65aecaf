"""The port nrf5 in the emulator: clock, console, fallback, a model op by op, and planted faults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import ladder
import pytest
import zoo
from projects import project, require
from test_ports import MAIN, OVERFLOW
from tools import require_program

from mcugen import ladder as rungs
from mcugen.boards import load_board
from mcugen.console import END_OF_TRANSMISSION
from mcugen.emulate import cortex_m, unicorn_machine
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.machines import open_machine
from mcugen.emulate.qemu import MACHINES, run_console
from mcugen.emulate.registers import Registers
from mcugen.emulate.unicorn_machine import UnicornMachine
from mcugen.errors import ToolError
from mcugen.ir import Config, Firmware
from mcugen.toolchain import build
from mcugen.verify import verify

BOARDS = ("microbit", "microbit-v2", "nrf52840-dk")
PORTS = {name: f"ports/{load_board(name).port}/port.c" for name in BOARDS}
TOOLCHAINS = [pytest.param("zig"), pytest.param("gcc", marks=pytest.mark.slow)]
SMALL = Config(16, 12, 2, 4, 2, 300, 8, False)  # 300 pieces: prompts of any bytes
CONTEXT = 6

every_board = pytest.mark.parametrize("name", BOARDS)
every_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS)


def firmware(name: str, main: bytes, toolchain: str = "zig", plant: tuple[bytes, bytes] | None = None) -> Firmware:
    """plant: what is replaced in the port, and by what."""
    board = load_board(name)
    made = project(board, main=main)
    if plant is not None:
        path, (before, after) = PORTS[name], plant
        assert made.files[path].count(before) == 1, before
        made = dataclasses.replace(made, files={**made.files, path: made.files[path].replace(before, after)})
    return build(made, require(toolchain, board))


def machine(image: Firmware) -> UnicornMachine:
    ladder.require_unicorn()
    opened = open_machine(image)
    assert isinstance(opened, UnicornMachine)
    return opened


def stuck(
    monkeypatch: pytest.MonkeyPatch, name: str, alter: Callable[[int, int], int], module: object = cortex_m
) -> None:
    """Let the registers of a board's port show alter(address, value) instead of the value."""
    made = module.REGISTERS[load_board(name).port]  # type: ignore[attr-defined]

    def changed(*arguments: object) -> Registers:
        registers: Registers = made(*arguments)
        read = registers.read
        registers.read = lambda address, size: alter(address, read(address, size))  # type: ignore[method-assign]
        return registers

    monkeypatch.setitem(module.REGISTERS, load_board(name).port, changed)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- every board


@every_board
@every_toolchain
def test_the_board_talks_at_its_clock(name: str, toolchain: str) -> None:
    board = load_board(name)
    assert b"".join(machine(firmware(name, MAIN, toolchain)).console(b"hi\xff.")) == b"%dhi\xff" % board.clock_hz


@every_board
def test_a_stack_overflow_leaves_ram_and_faults(name: str) -> None:
    with pytest.raises(FirmwareFault) as caught:
        list(machine(firmware(name, OVERFLOW)).console(b""))
    assert caught.value.kind == "stack-overflow"
    assert caught.value.address is not None and caught.value.address < load_board(name).ram.origin


@every_board
@every_toolchain
def test_a_model_is_equal_op_by_op_and_at_its_console(name: str, toolchain: str) -> None:
    layout = ladder.laid_out(SMALL, CONTEXT, board=name)
    image = ladder.board_firmware(layout, toolchain)
    emulator = machine(image)
    tokens = zoo.random_tokens(SMALL, 40, seed=3).tolist()
    report = verify(emulator, layout.graph, layout.plan, tokens, rung="rung", title=emulator.title)
    assert (report.machine, report.difference, report.tokens) == (f"{name} in unicorn", None, 40)

    lines = b"#check 12\n#tokens 9\na b\n"
    greedy = rungs.verification_tokens(layout.graph, layout.tokenizer, 12)
    output = b"".join(machine(image).console(lines))
    banner = f"random on {name}\n".encode() + END_OF_TRANSMISSION
    assert output.startswith(banner + rungs.check_lines(layout.graph, greedy) + END_OF_TRANSMISSION)
    assert output.count(END_OF_TRANSMISSION) == 4
    if (layout.board.port, layout.board.core) in MACHINES:
        require_program("qemu-system-arm")
        assert run_console(image, lines, timeout=60, prompt=END_OF_TRANSMISSION) == output


# What a bug in a port would be -> what the model of its registers says of it.
PLANTED = [
    ("microbit", b"UART_TXD = 0x4000251C", b"UART_TXD = 0x40002520", "no register that the port uses"),
    ("microbit", b"*reg(UART_ENABLE) = UART_ENABLED;", b"", "the UART does not transmit: it is not enabled, or not started"),
    ("microbit", b"GPIO_DIRSET = 0x50000518", b"GPIO_DIRSET = 0x50000508", "the UART does not drive the board's pin 24"),
    ("microbit-v2", b"GPIO_PORT = 0x300 ", b"GPIO_PORT = 0x100 ", "no register that the port uses"),
    ("microbit-v2", b"16 + 0x800", b"32 + 0x800", "the UART runs at 57602 baud, not 115200"),
    ("nrf52840-dk", b"*reg(UART_PSELTXD) =", b"*reg(UART_PSELRXD) =", "the UART does not drive the board's pin 6"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "why"), PLANTED)
def test_a_fault_in_the_port_is_reported(name: str, before: bytes, after: bytes, why: str) -> None:
    with pytest.raises(FirmwareFault) as caught:
        list(machine(firmware(name, MAIN, plant=(before, after))).console(b"."))
    assert caught.value.kind == "register"
    assert caught.value.what.endswith(f": {why}")


# ---------------------------------------------------------------- nrf5

HFCLKSTARTED, TXDRDY, BAUDRATE, ICACHECNF = 0x40000100, 0x4000211C, 0x40002524, 0x4001E540


@pytest.mark.parametrize("name", ["microbit", "nrf52840-dk"])
def test_an_nrf5_without_a_crystal_talks_all_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck(monkeypatch, name, lambda address, value: 0 if address == HFCLKSTARTED else value)
    board = machine(firmware(name, MAIN))
    assert b"".join(board.console(b"still here.")) == b"%dstill here" % load_board(name).clock_hz


@pytest.mark.parametrize(("name", "event"), [("microbit-v2", TXDRDY)])
def test_a_console_that_takes_nothing_does_not_hang_the_board(
    name: str, event: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck(monkeypatch, name, lambda address, value: 0 if address == event else value)
    monkeypatch.setattr(unicorn_machine, "_UNANSWERED_POLLS", 10**9)  # polling for room is no waiting for input
    silent = MAIN.replace(b"write_number(mg_port_clock_hz());", b"write_number(7u);")
    assert b"".join(machine(firmware(name, silent)).console(b".")) == b"7"


def test_the_registers_of_an_nrf5_are_set_as_its_manual_says() -> None:
    for name, cache in (("microbit", None), ("microbit-v2", 1), ("nrf52840-dk", 1)):
        board = machine(firmware(name, MAIN))
        assert list(board.console(b"."))
        # PS, chapter UART, register BAUDRATE: 0x01D7E000 is 115200 baud
        assert board._registers.read(BAUDRATE, 4) == 0x01D7E000
        assert cache is None or board._registers.read(ICACHECNF, 4) == cache


def test_the_first_microbit_is_the_one_that_qemu_has() -> None:
    assert MACHINES["nrf5", "cortex-m0"].name == "microbit"
    assert load_board("microbit").features == {"v6m"}


def test_a_baud_rate_that_the_uart_cannot_make_does_not_compile(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "boards" / "microbit.toml").read_text(encoding="utf-8")
    (tmp_path / "fast.toml").write_text(text.replace("115200 baud", "480000 baud"), encoding="utf-8")
    board = load_board(str(tmp_path / "fast.toml"))
    with pytest.raises(ToolError, match="mg_baud_rate_is_one_that_the_uart_can_make"):
        build(project(board, main=b""), require("auto", board), cache_dir=tmp_path)
