"""The MPS2 boards, one for each Cortex-M: port, counts and faults in unicorn, a model op by op, the console in QEMU."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import ladder
import pytest
import zoo
from projects import probe_project, project, require
from tools import require_program

from mcugen import ladder as rungs
from mcugen.boards import load_board
from mcugen.console import END_OF_TRANSMISSION
from mcugen.emulate import cortex_m, unicorn_machine
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.machines import open_machine
from mcugen.emulate.mps2 import Mps2
from mcugen.emulate.qemu import MACHINES, run_console
from mcugen.errors import ToolError
from mcugen.ir import Board, Config, Firmware
from mcugen.toolchain import build
from mcugen.verify import verify

BOARDS = ("mps2-an383", "mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505")
UART_CTRL, UART_STATE, UART_BAUDDIV = 0x08, 0x04, 0x10
INSTRUCTIONS = 2_000_000  # enough for all that is called here but spin()
CPACR, CYCCNT = 0xE000ED88, 0xE0001004

every_board = pytest.mark.parametrize("name", BOARDS)


@functools.cache
def probe(name: str) -> Firmware:
    board = load_board(name)
    return build(probe_project(board), require("auto", board))


def booted(name: str, *, watch_accesses: bool = True) -> CortexM:
    ladder.require_unicorn()
    machine = CortexM(probe(name), instructions=INSTRUCTIONS, watch_accesses=watch_accesses)
    machine.boot()
    return machine


def fault_of(machine: CortexM, symbol: str, *args: int) -> FirmwareFault:
    with pytest.raises(FirmwareFault) as caught:
        machine.call(symbol, *args)
    return caught.value


def uart(board: Board) -> int:
    return dict(board.port_defines)["MG_UART_BASE"]


# ---------------------------------------------------------------- the core


@every_board
@pytest.mark.parametrize("n", [1, 1000])
def test_counts_equal_those_made_by_hand(name: str, n: int) -> None:
    machine = booted(name)
    for _ in range(2):
        machine.reset_profile()
        assert machine.call("counted", n) == 0x1235
        profile = machine.profile()
        assert profile.instructions == {"counted": 3 + 9 * n + 4}
        assert (profile.total, profile.loads, profile.stores) == (3 + 9 * n + 4, n + 2, 3)
        assert profile.stack_bytes == 8
    fast = booted(name, watch_accesses=False)
    fast.reset_profile()
    fast.call("counted", n)
    assert fast.profile().instructions == profile.instructions
    assert (fast.profile().loads, fast.profile().stack_bytes) == (None, None)


@every_board
def test_calls_boot_and_ops_are_those_of_any_machine(name: str) -> None:
    machine = booted(name)
    assert set(machine.profile().instructions) - {"mg_fill_memories"} == {"Reset_Handler"}  # which may be inlined
    assert machine.call("add_six", 1, 2, 3, 4, 5, 6) == 654321
    assert machine.call("sum", -40, -2) == 2**32 - 42
    seen: list[int] = []
    machine.on_op(seen.append)
    machine.call("forward", 5)
    assert seen == [0, 1, 2]
    assert machine.read(machine.address("accumulator"), 4) == (12).to_bytes(4, "little")
    machine.boot()
    assert machine.read(machine.address("accumulator"), 4) == (7).to_bytes(4, "little")


@every_board
def test_the_core_is_the_board_s(name: str) -> None:
    """The cycle counter is there from Armv7-M on; start-up opens the FPU where there is one."""
    machine = booted(name)
    board = load_board(name)
    if "v7m" in board.features:
        before = machine.call("load_at", CYCCNT)
        machine.call("counted", 100)
        assert machine.call("load_at", CYCCNT) - before == (3 + 9 * 100 + 4) + 2
    else:
        assert fault_of(machine, "load_at", CYCCNT).kind == "register"
        machine.boot()
    if "fpu" in board.features:
        assert machine.call("load_at", CPACR) == 15 << 20
    else:
        assert fault_of(machine, "load_at", CPACR).kind == "register"


# ---------------------------------------------------------------- faults


@every_board
def test_what_a_board_would_not_survive_is_a_fault(name: str) -> None:
    machine = booted(name)
    board = load_board(name)
    accumulator, constants = machine.address("accumulator"), machine.address("constants")
    faults = [
        ("flash-write", "store_at", (constants + 4, 1), constants + 4),
        ("misaligned", "load_at", (accumulator + 1,), accumulator + 1),
        ("unmapped", "load_at", (board.ram.origin + board.ram.size,), board.ram.origin + board.ram.size),
        ("unmapped", "load_at", (board.flash.origin + board.flash.size,), board.flash.origin + board.flash.size),
        ("execute-data", "call_at", (accumulator | 1,), accumulator),
        ("register", "load_at", (uart(board) + 0x0C,), uart(board) + 0x0C),  # INTSTATUS: not used
        ("register", "store_at", (uart(board) + 0x1000, 0), uart(board) + 0x1000),  # another UART
    ]
    for kind, symbol, arguments, address in faults:
        fault = fault_of(machine, symbol, *arguments)
        assert (fault.kind, fault.address) == (kind, address)
        assert fault.function.startswith(symbol)
        assert f"where: {name} in unicorn, pc " in str(fault)
        machine.boot()
    for symbol in ("undefined_instruction", "supervisor_call", "breakpoint", "doze"):
        assert fault_of(machine, symbol).kind == "exception"
        machine.boot()
    assert fault_of(machine, "spin").kind == "endless-loop"


@every_board
def test_a_deep_recursion_leaves_ram(name: str) -> None:
    fault = fault_of(booted(name), "recurse", 100_000)
    assert fault.kind == "stack-overflow"
    assert fault.address is not None and fault.address < load_board(name).ram.origin


@every_board
def test_a_null_pointer_is_no_function(name: str) -> None:
    """Even where flash begins at 0, and a call's own return address is near."""
    fault = fault_of(booted(name), "call_at", 0)
    assert (fault.kind, fault.address) == ("execute-data", 0)
    assert re.fullmatch(r"call_at\+0x\w+ jumps to 0x00000000( \(mg_vectors\+0x0\))?, which is not code", fault.what)


# ---------------------------------------------------------------- the console


@every_board
def test_the_console_in_unicorn_and_in_qemu(name: str) -> None:
    ladder.require_unicorn()
    require_program("qemu-system-arm")
    for typed, output in ((b"hello\nhi\n", b"> 05\n> 02\n> "), (b"abc\n\nnever read\n", b"> 03\n> 00\n\x04")):
        assert b"".join(CortexM(probe(name), instructions=INSTRUCTIONS).console(typed)) == output
        assert run_console(probe(name), typed, timeout=30) == output.removesuffix(b"\x04")


@every_board
def test_the_uart_is_set_up_for_115200_baud(name: str) -> None:
    board = load_board(name)
    machine = booted(name)
    assert list(machine.console(b""))
    registers = machine._registers
    assert registers.read(uart(board) + UART_BAUDDIV, 4) == round(board.clock_hz / 115_200)
    assert registers.read(uart(board) + UART_CTRL, 4) == 3  # transmit and receive, no interrupts
    assert machine.call("mg_port_clock_hz") == board.clock_hz


def test_a_uart_that_is_not_set_up_does_not_transmit() -> None:
    machine = booted("mps2-an385")
    board = load_board("mps2-an385")
    faults = [fault_of(machine, "store_at", uart(board), ord("x"))]
    machine.boot()
    machine.call("store_at", uart(board) + UART_CTRL, 3)
    machine.call("store_at", uart(board) + UART_BAUDDIV, 15)
    faults.append(fault_of(machine, "store_at", uart(board), ord("x")))
    for fault in faults:
        assert fault.what == (
            "store_at+0x0 writes 4 bytes at 0x40004000: the UART does not transmit: it is not enabled, or its BAUDDIV "
            "is below 16"
        )


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
def test_a_console_that_takes_nothing_does_not_hang_the_board(
    toolchain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Mps2):
        def read(self, address: int, size: int) -> int:
            value = super().read(address, size)
            return value | 1 if address == self._base + UART_STATE else value  # the transmit buffer stays full

    board = load_board("mps2-an383")
    main = b'#include "port.h"\nint main(void);\nint main(void)\n{\n    mg_port_init();\n    mg_port_write("7", 1u);\n    return 0;\n}\n'
    firmware = build(project(board, main=main), require(toolchain, board), cache_dir=tmp_path)
    ladder.require_unicorn()
    monkeypatch.setitem(cortex_m.REGISTERS, "mps2", Deaf)
    monkeypatch.setattr(unicorn_machine, "_UNANSWERED_POLLS", 10**9)  # polling for room is no waiting for input
    assert b"".join(CortexM(firmware, instructions=INSTRUCTIONS).console(b"")) == b"7"


def test_a_baud_rate_that_the_uart_cannot_make_does_not_compile(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "boards" / "mps2-an385.toml").read_text(encoding="utf-8")
    (tmp_path / "fast.toml").write_text(text.replace("115200 baud", "2000000 baud"), encoding="utf-8")
    board = load_board(str(tmp_path / "fast.toml"))
    with pytest.raises(ToolError, match="mg_baud_rate_is_one_that_the_uart_can_make"):
        build(project(board, main=b""), require("auto", board), cache_dir=tmp_path)


# ---------------------------------------------------------------- a model

SMALL = Config(16, 12, 2, 4, 2, 300, 8, False)  # 300 pieces: prompts of any bytes
CONTEXT = 6
TOOLCHAINS = [pytest.param("zig"), pytest.param("gcc", marks=pytest.mark.slow)]


@every_board
@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_a_model_is_equal_op_by_op_and_at_its_console(name: str, toolchain: str) -> None:
    layout = ladder.laid_out(SMALL, CONTEXT, board=name)
    machine = ladder.board_machine(layout, toolchain)
    tokens = zoo.random_tokens(SMALL, 40, seed=3).tolist()
    report = verify(machine, layout.graph, layout.plan, tokens, rung="rung", title=machine.title)
    machine.close()
    assert (report.machine, report.difference, report.tokens) == (f"{name} in unicorn", None, 40)

    lines = (b"#check 12\n", b"#tokens 9\n", b"a b\n")
    greedy = rungs.verification_tokens(layout.graph, layout.tokenizer, 12)
    checked = f"random on {name}\n".encode() + END_OF_TRANSMISSION + rungs.check_lines(layout.graph, greedy)
    firmware = ladder.board_firmware(layout, toolchain)
    output = b"".join(open_machine(firmware).console(b"".join(lines)))
    assert output.startswith(checked + END_OF_TRANSMISSION)
    assert output.count(END_OF_TRANSMISSION) == 1 + len(lines)
    require_program("qemu-system-arm")
    assert run_console(firmware, b"".join(lines), timeout=60, prompt=END_OF_TRANSMISSION) == output


@zoo.shapes()
@every_board
@pytest.mark.slow
def test_every_shape_is_equal_on_every_core(name: str, config: Config) -> None:
    layout = ladder.laid_out(config, max(1, config.seq_len - 3), board=name)
    machine = ladder.board_machine(layout)
    tokens = zoo.random_tokens(config, 4 * config.seq_len + 3, seed=3).tolist()
    assert verify(machine, layout.graph, layout.plan, tokens, rung="rung", title="").difference is None
    machine.close()


def test_every_board_has_a_machine_in_qemu_with_its_core() -> None:
    for name in BOARDS:
        board = load_board(name)
        assert MACHINES[board.port, board.core].name == ("mps2-an385" if name == "mps2-an383" else name)
