"""The RISC-V machine: what it counts, what it refuses, that it agrees with QEMU, and whole models on it."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ladder
import pytest
import zoo
from projects import PROBE, linker_script, project, read_files, require
from test_ports import MAIN, OVERFLOW
from tools import missing, require_program

from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.boards import load_board
from mcugen.emulate.elf import AddressBook, parse_elf
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.machines import open_machine
from mcugen.emulate.qemu import run_console
from mcugen.emulate.riscv import RiscV
from mcugen.errors import ToolError
from mcugen.images import to_bin
from mcugen.ir import Firmware, Project
from mcugen.ports import port_files
from mcugen.resources import data_dir
from mcugen.toolchain import build, find_toolchain
from mcugen.verify import verify

VIRT = load_board("qemu-virt-rv32")
TOOLCHAINS = pytest.mark.parametrize("toolchain", ["zig", "gcc"])
# main uses none of these: without EXTERN the linker drops them.
PROBED = (
    "add_ten breakpoint call_at constants doze environment_call forward illegal_instruction load_at load_byte_at "
    "recurse spin store_at store_byte_at sum"
)
STEPS = 3


def machine_of(firmware: Firmware, *, watch_accesses: bool = True, limit: int = 10_000_000) -> RiscV:
    try:
        return RiscV(firmware, instructions=limit, watch_accesses=watch_accesses)
    except ToolError as error:
        missing(str(error))


@pytest.fixture(scope="module", params=["zig", "gcc"])
def probe(request: pytest.FixtureRequest) -> Firmware:
    port = port_files(VIRT)
    files = {
        **port.files,
        **read_files(data_dir("firmware") / "runtime", "op_done.h", "op_done.c"),
        **read_files(PROBE, "probe.h", "probe.c", "probe_riscv.c"),
        "linker.ld": f"EXTERN({PROBED})\n".encode() + linker_script(VIRT),
    }
    sources = (*port.sources, "op_done.c", "probe.c", "probe_riscv.c")
    whole = Project("probe", VIRT, files, sources, (".", *port.include_dirs), "linker.ld")
    return build(whole, require(request.param, VIRT))


@pytest.fixture(params=["watched", "fast"])
def core(request: pytest.FixtureRequest, probe: Firmware) -> RiscV:
    machine = machine_of(probe, watch_accesses=request.param == "watched")
    machine.boot()
    return machine


@pytest.fixture
def watched(probe: Firmware) -> RiscV:
    machine = machine_of(probe)
    machine.boot()
    return machine


# ---------------------------------------------------------------- calls and counts


def test_the_emulator_of_the_board_is_chosen_by_its_core(probe: Firmware) -> None:
    assert isinstance(open_machine(probe), RiscV)


def test_a_function_gets_its_arguments_and_returns_its_result(core: RiscV) -> None:
    assert core.call("sum", -40, -2) == 2**32 - 42
    assert core.call("add_ten", 1, 1, 1, 1, 1, 1, 1, 1, 5, 7) == 7_005_008  # two of them on the stack


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_counts_equal_those_made_by_hand(watched: RiscV, n: int) -> None:
    for _ in range(2):  # the second time, every block is translated already
        watched.call("recurse", 3)  # deeper in the stack
        watched.reset_profile()
        assert watched.call("counted", n) == 0x12345
        profile = watched.profile()
        assert profile.instructions == {"counted": 4 + 7 * n + 5}
        assert (profile.total, profile.loads, profile.stores) == (4 + 7 * n + 5, n + 1, 3)
        assert profile.stack_bytes == 16


def test_a_block_entered_in_its_middle_counts_right(core: RiscV) -> None:
    for skip, expected in ((1, 5), (0, 4), (1, 5), (0, 4)):
        core.reset_profile()
        core.call("middle", skip)
        assert core.profile().instructions == {"middle": expected}


def code_hook_counts(firmware: Firmware, calls: Sequence[tuple[str, Sequence[int]]]) -> Counter[str]:
    """Instructions per function of calls after boot, counted one by one in an engine of the test's own."""
    unicorn = pytest.importorskip("unicorn")
    from unicorn import riscv_const as riscv

    elf = parse_elf(firmware.image)
    names = AddressBook(elf)
    engine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
    engine.mem_map(VIRT.flash.origin, VIRT.flash.size)
    engine.mem_map(VIRT.ram.origin, VIRT.ram.size)
    for segment in elf.segments:
        engine.mem_write(segment.address, segment.data)
    executed: Counter[int] = Counter()
    engine.hook_add(unicorn.UC_HOOK_CODE, lambda _uc, address, _size, _user: executed.update((address,)))
    engine.emu_start(VIRT.flash.origin, elf.symbol("main").address)
    end = elf.symbol("mg_halt").address
    executed.clear()
    for symbol, arguments in calls:
        for index, argument in enumerate(arguments):
            engine.reg_write(riscv.UC_RISCV_REG_A0 + index, argument)
        engine.reg_write(riscv.UC_RISCV_REG_RA, end)
        engine.reg_write(riscv.UC_RISCV_REG_SP, elf.symbol("_estack").address)
        engine.emu_start(elf.symbol(symbol).address, end)
    counts: Counter[str] = Counter()
    for address, times in executed.items():
        owner = names.owner(address)
        counts[owner.name if owner else hex(address)] += times
    return counts


def test_counts_equal_those_of_a_code_hook(probe: Firmware) -> None:
    calls = [("recurse", (5,)), ("counted", (7,)), ("middle", (1,)), ("middle", (0,)), ("forward", (3,))]
    machine = machine_of(probe)
    machine.boot()
    machine.reset_profile()
    for symbol, arguments in calls:
        machine.call(symbol, *arguments)
    assert machine.profile().instructions == code_hook_counts(probe, calls)


def test_boot_begins_at_the_start_of_flash_and_covers_data(probe: Firmware) -> None:
    machine = machine_of(probe)
    machine.boot()
    assert set(machine.profile().instructions) - {"mg_fill_memories"} == {"Reset_Handler", "mg_start"}
    assert machine.address("Reset_Handler") == VIRT.flash.origin
    assert machine.read(machine.address("accumulator"), 4) == (7).to_bytes(4, "little")
    assert machine.read(machine.address("position"), 4) == bytes(4)


# ---------------------------------------------------------------- faults


def fault_of(core: RiscV, symbol: str, *args: int) -> FirmwareFault:
    with pytest.raises(FirmwareFault) as caught:
        core.call(symbol, *args)
    return caught.value


def test_a_write_to_flash_is_a_fault(core: RiscV) -> None:
    constants = core.address("constants")
    fault = fault_of(core, "store_at", constants + 4, 1)
    assert (fault.kind, fault.address) == ("flash-write", constants + 4)
    assert re.fullmatch(
        r"store_at\+0x0 writes 4 bytes at 0x8000\w{4} \(constants\+0x4\), in flash\n"
        r"  where: qemu-virt-rv32 in unicorn, pc 0x8000\w{4}\n"
        r"  try:   flash is read-only here: look for a const that was cast away or an index that left its array",
        str(fault),
    )


@pytest.mark.parametrize(
    ("kind", "address"),
    [("unmapped", 0), ("unmapped", 0x80800000), ("register", 0x10000001), ("register", 0x0C000000)],
)
def test_an_access_outside_the_memories_is_a_fault(core: RiscV, kind: str, address: int) -> None:
    fault = fault_of(core, "load_byte_at", address)
    assert (fault.kind, fault.address) == (kind, address)


def test_a_register_has_one_size_and_one_direction(core: RiscV) -> None:
    for symbol, arguments, why in (
        ("load_at", (0x10000000,), "reads 4 bytes at 0x10000000: 4 bytes of a 1-byte register"),
        ("store_byte_at", (0x10000005, 1), "writes 1 bytes at 0x10000005: no register that the port uses"),
        ("load_byte_at", (0x10000002,), "reads 1 bytes at 0x10000002: no register that the port uses"),
        (
            "store_byte_at",
            (0x10000000, 65),
            "writes 1 bytes at 0x10000000: the UART is not set to 8 data bits, no parity, 1 stop bit",
        ),
    ):
        fault = fault_of(core, symbol, *arguments)
        assert fault.kind == "register"
        assert re.fullmatch(rf"{symbol}\+0x\w {re.escape(why)}", fault.what)
        core.boot()


def test_a_misaligned_access_is_a_fault(watched: RiscV) -> None:
    accumulator = watched.address("accumulator")
    fault = fault_of(watched, "load_at", accumulator + 1)
    assert (fault.kind, fault.address, fault.function) == ("misaligned", accumulator + 1, "load_at+0x0")


def test_a_deep_recursion_overflows_the_stack_into_flash(core: RiscV) -> None:
    """RAM begins where flash ends: the write is one to flash, and still named what it is."""
    assert core.call("recurse", 2) == 2 + 1 + (1 + 1 + 1)
    fault = fault_of(core, "recurse", 100_000)
    assert fault.kind == "stack-overflow"
    assert fault.address is not None and fault.address < VIRT.ram.origin


def test_execution_of_data_is_a_fault(core: RiscV) -> None:
    accumulator = core.address("accumulator")
    fault = fault_of(core, "call_at", accumulator)
    assert (fault.kind, fault.address, fault.function) == ("execute-data", accumulator, "call_at+0x0")


def test_an_endless_loop_is_a_fault(core: RiscV) -> None:
    assert fault_of(core, "spin").kind == "endless-loop"


@pytest.mark.parametrize(
    ("symbol", "what"),
    [
        ("illegal_instruction", "illegal_instruction+0x0 raises an exception: illegal instruction"),
        ("environment_call", "environment_call+0x0 raises an exception: ecall"),
        ("breakpoint", "breakpoint+0x0 has an ebreak"),
        ("doze", "doze+0x4 sleeps (wfi), and nothing wakes it"),
    ],
)
def test_what_no_handler_serves_is_a_fault(core: RiscV, symbol: str, what: str) -> None:
    fault = fault_of(core, symbol)
    assert (fault.kind, fault.what) == ("exception", what)


def test_another_port_is_refused(probe: Firmware) -> None:
    with pytest.raises(ToolError) as caught:
        RiscV(replace(probe, board=load_board("nucleo")))
    assert str(caught.value) == (
        "there is no model of port stm32f4 on cortex-m4\n"
        "  where: emulating nucleo-f446re\n"
        "  try:   choose a board with port esp32c3 or virt, or the host"
    )


# ---------------------------------------------------------------- console, start-up, QEMU


def test_the_console_answers_lines_like_qemu(probe: Firmware) -> None:
    for typed, answer in ((b"hello\nhi\n", b"> 05\n> 02\n> "), (b"abc\n\nnever read\n", b"> 03\n> 00\n\x04")):
        assert b"".join(machine_of(probe).console(typed)) == answer
        require_program("qemu-system-riscv32")
        assert run_console(probe, typed, timeout=30) == answer.removesuffix(b"\x04")


def test_qemu_counts_like_unicorn(probe: Firmware, tmp_path: Path) -> None:
    """-singlestep makes a block of each instruction, and -d exec logs each block that runs."""
    require_program("qemu-system-riscv32")
    machine = machine_of(probe)
    assert list(machine.console(b"a line\n\n"))
    expected = machine.profile().instructions
    elf = parse_elf(probe.image)
    functions = [elf.symbol(name) for name in ("counted", "middle")]
    ranges = ",".join(f"{f.address:#x}+{f.size:#x}" for f in functions)
    log = tmp_path / "log"
    options = ("-singlestep", "-d", "exec,nochain", "-dfilter", ranges, "-D", str(log))
    run_console(probe, b"a line\n\n", timeout=30, options=options)
    executed = Counter(int(pc, 16) for pc in re.findall(r"\[\w+/(\w+)/", log.read_text()))
    for function in functions:
        pcs = range(function.address, function.address + function.size)
        assert sum(executed[pc] for pc in pcs) == expected[function.name], function.name


def test_qemu_for_riscv_is_optional(probe: Firmware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError) as caught:
        run_console(probe, b"", timeout=1)
    assert str(caught.value) == (
        "qemu-system-riscv32 is not installed\n"
        "  where: running qemu-virt-rv32 in QEMU\n"
        "  try:   apt-get install qemu-system-misc"
    )


def test_gcc_for_riscv_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError) as caught:
        find_toolchain("gcc", VIRT)
    assert str(caught.value) == (
        "no C compiler for rv32imc: found no riscv64-unknown-elf-gcc\n"
        "  where: toolchain gcc, board qemu-virt-rv32\n"
        "  try:   `apt-get install gcc-riscv64-unknown-elf`"
    )


@TOOLCHAINS
def test_the_port_talks_and_a_stack_overflow_faults(toolchain: str) -> None:
    talking = machine_of(build(project(VIRT, main=MAIN), require(toolchain, VIRT)))
    assert b"".join(talking.console(b"hi\xff.")) == b"10000000hi\xff"
    with pytest.raises(FirmwareFault) as caught:
        list(machine_of(build(project(VIRT, main=OVERFLOW), require(toolchain, VIRT))).console(b""))
    assert (caught.value.kind, caught.value.address) == ("stack-overflow", VIRT.ram.origin - 1)


def test_objcopy_makes_a_binary_as_long_as_mcugen_s(tmp_path: Path) -> None:
    """As the Makefile calls it. Without .data: told to fill gaps, objcopy would fill up to an empty one in RAM."""
    objcopy = require_program("riscv64-unknown-elf-objcopy")
    layout = ladder.laid_out(zoo.SHAPES["mqa"], 8, board="qemu-virt-rv32")
    made = layouts.make_project(layout, ladder.COMMAND)
    call = re.search(rb"\$\(OBJCOPY\) (.*) \$< \$@", made.files["Makefile"])
    assert call is not None
    firmware = build(made, require("gcc", VIRT))
    assert ".data" not in firmware.sections
    elf, binary = tmp_path / "firmware.elf", tmp_path / "firmware.bin"
    elf.write_bytes(firmware.image)
    subprocess.run([objcopy, *call[1].decode().split(), elf, binary], check=True)
    assert binary.read_bytes() == to_bin(firmware.image)


# ---------------------------------------------------------------- whole models


@pytest.fixture(params=["zig", "gcc"])
def toolchain(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("shape", sorted(zoo.SHAPES))
def test_every_op_of_a_model_equals_the_simulator(shape: str, toolchain: str) -> None:
    config = zoo.SHAPES[shape]
    layout = ladder.laid_out(config, config.seq_len // 2, board="qemu-virt-rv32")
    firmware = build(layouts.make_project(layout, ladder.COMMAND), require(toolchain, VIRT))
    machine = machine_of(firmware, watch_accesses=shape == "gqa")
    tokens = [int(t) for t in zoo.random_tokens(config, 2 * config.seq_len + 3)]
    report = verify(machine, layout.graph, layout.plan, tokens, rung="rung 4", title="virt")
    assert report.difference is None
    assert report.tokens == len(tokens)


def test_a_step_counts_like_a_code_hook(toolchain: str) -> None:
    layout = ladder.laid_out(zoo.SHAPES["mqa"], 8, board="qemu-virt-rv32")
    firmware = build(layouts.make_project(layout, ladder.COMMAND), require(toolchain, VIRT))
    machine = machine_of(firmware)
    machine.boot()
    machine.reset_profile()
    calls = [("random_init", ()), *[("random_step", (token,)) for token in range(STEPS)]]
    for symbol, arguments in calls:
        machine.call(symbol, *arguments)
    assert machine.profile().instructions == code_hook_counts(firmware, calls)


def test_the_ladder_climbs_to_the_console_in_qemu(toolchain: str) -> None:
    require_program("qemu-system-riscv32")
    layout = ladder.laid_out(zoo.SHAPES["mqa"], 8, board="qemu-virt-rv32")
    firmware = build(layouts.make_project(layout, ladder.COMMAND), require(toolchain, VIRT))
    found = rungs.climb(layout, firmware, 12, ladder.COMMAND)
    assert found.passed and not found.skipped
    assert [report.machine for report in found.reports][-2:] == [
        "console of qemu-virt-rv32 in unicorn",
        "console of qemu-virt-rv32 in QEMU",
    ]
