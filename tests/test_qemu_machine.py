"""The machine in QEMU: what it does for its callers, that it counts as unicorn does, what it refuses, what it leaves."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import ladder
import pytest
import zoo
from projects import probe_project, project, require
from tools import require_program

from mcugen import ladder as rungs
from mcugen.boards import load_board
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.machine import FirmwareFault, Region
from mcugen.emulate.machines import open_machine
from mcugen.emulate.qemu import QemuMachine
from mcugen.emulate.qemu_core import QemuCore
from mcugen.emulate.qemu_machine import QemuCortexM
from mcugen.errors import InternalError, ToolError
from mcugen.ir import Firmware, MemoryRegion
from mcugen.toolchain import build
from mcugen.verify import verify

M55 = load_board("mps3-an547")

# What only this core has: a low-overhead loop (Armv8.1-M manual, DLS and LE) and vectors, some lanes of them skipped.
VECTORS = b"""#include <stdint.h>

#include "port.h"

uint32_t vectors(uint32_t n);
int main(void);

/* vectors(n), n > 0: 5 + 6 n + 2 instructions; returns n * (3 + 3 + 7 + 7). */
__asm__(".syntax unified\\n"
        ".thumb\\n"
        ".section .text.vectors,\\"ax\\",%progbits\\n"
        ".global vectors\\n"
        ".type vectors, %function\\n"
        ".thumb_func\\n"
        "vectors:\\n"
        "    mov       r12, lr\\n"
        "    vmov.i32  q0, #0\\n"
        "    vmov.i32  q1, #3\\n"
        "    movs      r1, #2\\n"
        "    dls       lr, r0\\n"
        "1:  vctp.32   r1\\n"
        "    vpste\\n"
        "    vaddt.i32 q0, q0, q1\\n"
        "    vsube.i32 q0, q0, q1\\n"
        "    nop\\n"
        "    le        lr, 1b\\n"
        "    vaddv.s32 r0, q0\\n"
        "    bx        r12\\n"
        ".size vectors, . - vectors\\n"
        ".text\\n");

int main(void)
{
    mg_port_init();
    return (int)vectors(1u);
}
"""


def firmware(board: str, toolchain: str = "zig") -> Firmware:
    require_program("qemu-system-arm")
    made = probe_project(load_board(board))
    return build(made, require(toolchain, made.board))


def booted(board: str, toolchain: str = "zig", timeout: float = 20.0) -> QemuCortexM:
    machine = QemuCortexM(firmware(board, toolchain), timeout)
    machine.boot()
    return machine


@pytest.fixture(scope="module", params=["mps3-an547", "mps2-an386", "mps2-an505"])
def machine(request: pytest.FixtureRequest) -> Iterator[QemuCortexM]:
    found = booted(request.param)
    yield found
    found.close()


@pytest.fixture
def m55() -> Iterator[QemuCortexM]:
    found = booted("mps3-an547", timeout=1.0)
    yield found
    found.close()


# ---------------------------------------------------------------- what every machine does


def test_a_function_gets_its_arguments_and_returns_its_result(machine: QemuCortexM) -> None:
    assert machine.call("sum", 40, 2) == 42
    assert machine.call("sum", -40, -2) == 2**32 - 42
    assert machine.call("add_six", 1, 2, 3, 4, 5, 6) == 654321  # two of them on the stack


def test_boot_initialises_data_and_forgets_what_was_written(machine: QemuCortexM) -> None:
    machine.boot()
    accumulator, position = machine.address("accumulator"), machine.address("position")
    board = machine._board
    assert machine.read(accumulator, 4) == (7).to_bytes(4, "little")
    assert machine.read(position, 4) == bytes(4)
    last = board.ram.origin + board.ram.size - 4
    assert machine.read(last, 4) == bytes.fromhex("a5a5a5a5")
    machine.write(accumulator, (1000).to_bytes(4, "little"))
    machine.write(last, bytes(4))
    assert machine.call("load_at", accumulator) == 1000
    machine.boot()
    assert machine.call("load_at", accumulator) == 7
    assert machine.read(last, 4) == bytes.fromhex("a5a5a5a5")


def test_large_memory_is_read_and_written_whole(machine: QemuCortexM) -> None:
    start = machine._board.ram.origin + 0x10001  # no address or size is a multiple of a packet's
    content = bytes(i * 7 % 251 for i in range(200_003))
    machine.write(start, content)
    assert machine.read(start, len(content)) == content
    assert machine.read(start - 1, 1) + machine.read(start + len(content), 1) == bytes.fromhex("a5a5")


def test_on_op_sees_each_op_with_the_memory_of_that_moment(machine: QemuCortexM) -> None:
    machine.boot()
    accumulator = machine.address("accumulator")
    seen: list[tuple[int, int]] = []

    def look(op: int) -> None:
        seen.append((op, int.from_bytes(machine.read(accumulator, 4), "little")))

    machine.call("forward", 1)  # before anybody looks
    machine.on_op(look)
    machine.call("forward", 5)
    machine.on_op(None)
    machine.call("forward", 9)
    assert seen == [(0, 8), (1, 13), (2, 13)]


def test_an_error_of_the_observer_reaches_the_caller(machine: QemuCortexM) -> None:
    def refuse(op: int) -> None:
        raise KeyError(op)

    machine.on_op(refuse)
    with pytest.raises(KeyError, match="0"):
        machine.call("forward", 1)
    machine.on_op(None)
    assert machine.call("sum", 1, 2) == 3


def test_trace_reads_buffers_and_ring_slots_after_their_op(machine: QemuCortexM) -> None:
    machine.boot()
    regions = {
        0: [Region(machine.address("ring"), 2, stride=2, modulo=4)],
        1: [Region(machine.address("accumulator"), 4)],
        2: [Region(machine.address("position"), 1), Region(machine.address("ring"), 1)],
    }
    found = machine.trace("forward", [100, 1, 2], regions)
    found += machine.trace("forward", [3, 4], regions, start=3)
    sums, first = [107, 108, 110, 113, 117], [100, 100, 100, 100, 4]
    assert found == [
        bytes([token, token + 1]) + total.to_bytes(4, "little") + bytes([position + 1, slot])
        for position, (token, total, slot) in enumerate(zip([100, 1, 2, 3, 4], sums, first, strict=True))
    ]


def test_the_machine_must_be_booted() -> None:
    with pytest.raises(InternalError, match="call of sum before boot, or after a fault"):
        QemuCortexM(firmware("mps3-an547")).call("sum", 1, 2)


def test_it_is_the_machine_of_a_cortex_m55_and_of_no_other() -> None:
    ladder.require_unicorn()
    assert isinstance(open_machine(firmware("mps3-an547")), QemuCortexM)
    assert isinstance(open_machine(firmware("mps2-an386")), CortexM)


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_counts_equal_those_made_by_hand(machine: QemuCortexM, n: int) -> None:
    for _ in range(2):  # the second time, every block is translated already
        machine.reset_profile()
        assert machine.call("counted", n) == 0x1235
        profile = machine.profile()
        assert profile.instructions == {"counted": 3 + 9 * n + 4}
        assert profile.total == 3 + 9 * n + 4
        assert (profile.loads, profile.stores, profile.stack_bytes) == (None, None, None)


def test_a_block_entered_in_its_middle_counts_right(machine: QemuCortexM) -> None:
    for skip, expected in ((1, 6), (0, 5), (1, 6), (0, 5)):
        machine.reset_profile()
        machine.call("middle", skip)
        assert machine.profile().instructions == {"middle": expected}


def test_counts_are_the_same_while_ops_are_observed(machine: QemuCortexM) -> None:
    machine.reset_profile()
    machine.call("forward", 1)
    alone = machine.profile()
    assert alone.instructions["mg_op_done"] == 3  # bx lr, three times
    machine.on_op(lambda op: None)
    machine.reset_profile()
    machine.call("forward", 1)
    machine.on_op(None)
    assert machine.profile() == alone


@pytest.mark.parametrize("n", [1, 2, 50])
def test_loop_ends_and_skipped_vector_instructions_count(n: int) -> None:
    require_program("qemu-system-arm")
    machine = QemuCortexM(build(project(M55, main=VECTORS), require("zig", M55)))
    machine.boot()
    machine.reset_profile()
    # per round two lanes gain 3 and two lose 3
    assert machine.call("vectors", n) == 0
    assert machine.profile().instructions == {"vectors": 5 + 6 * n + 2}
    machine.close()


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
@pytest.mark.parametrize("board", ["mps2-an385", "mps2-an386", "nucleo"])
def test_every_function_counts_as_in_unicorn(board: str, toolchain: str) -> None:
    """The same ELF of a whole model, from reset: unicorn counts by blocks, QEMU by instructions."""
    ladder.require_unicorn()
    require_program("qemu-system-arm")
    layout = ladder.laid_out(zoo.SHAPES["gqa"], 13, board=board)
    made = ladder.board_firmware(layout, toolchain)
    profiles = []
    for machine in (CortexM(made, watch_accesses=False), QemuCortexM(made)):
        machine.boot()
        boot = machine.profile()
        machine.call("random_init")
        machine.reset_profile()
        for token in zoo.random_tokens(layout.graph.model.config, 40, seed=3).tolist():
            machine.call("random_step", token)
        profiles.append((boot, machine.profile()))
        machine.close()
    (ours_boot, ours), (theirs_boot, theirs) = profiles
    waits = board == "nucleo"  # for flags that QEMU's machine does not have, before main
    assert waits or dict(ours_boot.instructions) == dict(theirs_boot.instructions)
    assert dict(ours.instructions) == dict(theirs.instructions)
    assert len(ours.instructions) > 10
    assert ours.total == theirs.total > 1_000_000


# ---------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("shape", "toolchain"), [*((shape, "zig") for shape in sorted(zoo.SHAPES)), ("gqa", "gcc"), ("mha", "gcc")]
)
def test_every_op_and_every_byte_of_the_ring_are_equal(shape: str, toolchain: str) -> None:
    config = zoo.SHAPES[shape]
    layout = ladder.laid_out(config, max(1, config.seq_len - 3), board="mps3-an547")
    machine = QemuCortexM(ladder.board_firmware(layout, toolchain))
    tokens = zoo.random_tokens(config, max(60, 3 * config.seq_len), seed=3).tolist()
    try:
        report = verify(machine, layout.graph, layout.plan, tokens, rung="rung", title="machine")
    finally:
        machine.close()
    assert report.difference is None
    assert report.tokens == len(tokens)


@pytest.mark.parametrize("toolchain", ["zig", "gcc"])
def test_the_whole_ladder_is_climbed(toolchain: str) -> None:
    """Ops, prompts, profile and console."""
    layout = ladder.laid_out(zoo.SHAPES["gqa"], 16, board="mps3-an547")
    ladder.require("gcc", ladder.HOST)
    found = rungs.climb(layout, ladder.board_firmware(layout, toolchain), 20, ladder.COMMAND)
    assert found.passed
    assert not found.skipped
    titles = [report.machine for report in found.reports]
    assert titles[-1] == "console of mps3-an547 in QEMU"
    assert titles.count(titles[-1]) == 1  # the machine's console is QEMU's
    assert found.profile is not None and found.profile.total > 0


# ---------------------------------------------------------------- faults


def fault_of(machine: QemuCortexM, symbol: str, *args: int) -> FirmwareFault:
    with pytest.raises(FirmwareFault) as caught:
        machine.call(symbol, *args)
    assert caught.value.exit_code == 6
    with pytest.raises(InternalError, match="before boot, or after a fault"):
        machine.call("sum", 1, 2)
    machine.boot()
    assert machine.call("sum", 1, 2) == 3
    return caught.value


@pytest.mark.parametrize(
    ("symbol", "what"),
    [
        ("undefined_instruction", r"undefined_instruction\+0x0 has an undefined instruction"),
        ("supervisor_call", r"supervisor_call\+0x\w raises an exception: svc"),
        ("breakpoint", r"breakpoint\+0x\w raises an exception: bkpt"),
    ],
)
def test_what_no_handler_serves_is_a_fault(m55: QemuCortexM, symbol: str, what: str) -> None:
    fault = fault_of(m55, symbol)
    assert fault.kind == "exception"
    assert re.fullmatch(
        what + r"\n"
        r"  where: mps3-an547 in QEMU, pc 0x1000\w{4}\n"
        r"  try:   disassemble the function at that offset: the core cannot go on there",
        str(fault),
    )


@pytest.mark.parametrize("address", [0x2FFFFFFC, 0x10080000, 0x30080000, 0xF0000000])
def test_an_access_outside_the_memories_is_a_fault(m55: QemuCortexM, address: int) -> None:
    fault = fault_of(m55, "load_at", address)
    assert (fault.kind, fault.address) == ("unmapped", address)
    assert re.fullmatch(
        rf"load_at\+0x0 accesses {address:#010x}, where nothing answers\n"
        r"  where: mps3-an547 in QEMU, pc 0x1000\w{4}\n"
        r"  try:   nothing answers at that address: look for a wild pointer or an index that left its array",
        str(fault),
    )


def test_a_deep_recursion_overflows_the_stack(m55: QemuCortexM) -> None:
    assert m55.call("recurse", 2) == 2 + 1 + (1 + 1 + 1)
    fault = fault_of(m55, "recurse", 100_000)
    assert fault.kind == "stack-overflow"
    assert fault.address is not None and fault.address < M55.ram.origin
    assert re.fullmatch(
        r"(recurse|descend)\+0x\w+ overflows its stack of 1,024 B\n"
        r"  where: mps3-an547 in QEMU, pc 0x1000\w{4}\n"
        r"  try:   raise the board's stack_bytes, or look for a recursion or a large local array",
        str(fault),
    )


def test_a_jump_out_of_the_code_is_a_fault(m55: QemuCortexM) -> None:
    fault = fault_of(m55, "call_at", 0xF0000001)
    assert (fault.kind, fault.address) == ("execute-data", 0xF0000000)
    assert re.fullmatch(
        r"call_at\+0x4 jumps to 0xf0000000, which is not code\n"
        r"  where: mps3-an547 in QEMU, pc 0x1000\w{4}\n"
        r"  try:   look for a function pointer or a return address that was overwritten",
        str(fault),
    )


@pytest.mark.parametrize("symbol", ["spin", "doze"])
def test_what_does_not_end_is_a_fault(m55: QemuCortexM, symbol: str) -> None:
    fault = fault_of(m55, symbol)
    assert fault.kind == "endless-loop"
    assert re.fullmatch(
        rf"{symbol}\+0x\w is still running after 1 s\n"
        r"  where: mps3-an547 in QEMU, pc 0x1000\w{4}\n"
        r"  try:   look for a wait without a bound; if the work is really that long, raise the limit",
        str(fault),
    )


def test_the_vector_unit_is_on_when_main_begins(m55: QemuCortexM) -> None:
    assert m55.read(0xE000ED88, 4) == (0xF << 20).to_bytes(4, "little")  # CPACR: coprocessors 10 and 11


# ---------------------------------------------------------------- processes


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_qemu_ends_with_close_and_with_the_machine() -> None:
    for end in (QemuCortexM.close, lambda _: None):
        machine = booted("mps3-an547")
        assert machine._core is not None
        process = machine._core._process.pid
        assert is_alive(process)
        end(machine)
        del machine
        gc.collect()
        assert not is_alive(process)  # and it was waited for: a zombie would still be there


def test_the_death_of_qemu_is_a_fault(m55: QemuCortexM) -> None:
    assert m55._core is not None
    m55._core._process.send_signal(signal.SIGKILL)
    fault = fault_of(m55, "sum", 1, 2)
    assert fault.kind == "crash"
    assert str(fault).startswith("the firmware ends QEMU: ")


def test_qemu_does_not_outlive_python() -> None:
    require_program("qemu-system-arm")
    script = (
        "import sys, time, test_qemu_machine as t\n"
        "machine = t.booted('mps3-an547')\n"
        "print(machine._core._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE
    ) as python:
        assert python.stdout is not None
        process = int(python.stdout.readline())
        assert is_alive(process)
        python.kill()
    for _ in range(100):
        if not _runs_qemu(process):
            return
        time.sleep(0.1)
    raise AssertionError("QEMU is still there")


def _runs_qemu(process: int) -> bool:
    """Does the process run, and is it no zombie that waits for its foster parent?"""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_machine_that_qemu_does_not_have_is_an_error() -> None:
    require_program("qemu-system-arm")
    with pytest.raises(ToolError) as caught:
        QemuCore(QemuMachine("mps9-an999"), b"", MemoryRegion(0, 4), where="a test")
    assert str(caught.value) == (
        "qemu-system-arm does not start:\n"
        "    qemu-system-arm: unsupported machine type\n"
        "    Use -machine help to list supported machines\n"
        "  where: a test\n"
        "  try:   mcugen needs QEMU 7 or 8, built with TCG plugins (--enable-plugins), as Debian's is"
    )
