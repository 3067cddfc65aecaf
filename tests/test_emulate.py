"""The machines: what they count, what they refuse, and that they agree with each other and with QEMU."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from projects import PROBE, probe_project, read_files
from tools import missing, require_program

from mcugen import toolchain
from mcugen.boards import load_board
from mcugen.emulate import unicorn_machine
from mcugen.emulate.cortex_m import REGISTERS, CortexM
from mcugen.emulate.elf import Elf, Symbol, parse_elf
from mcugen.emulate.host import HostMachine, find_libasan
from mcugen.emulate.machine import FirmwareFault, Machine, Region
from mcugen.emulate.qemu import run_console
from mcugen.errors import InputError, InternalError, ToolError
from mcugen.ir import Firmware, Project
from mcugen.resources import data_dir


def build(project: Project, extra_flags: tuple[str, ...] = (), opt: str = "-O2") -> Firmware:
    sanitizes = any(flag.startswith("-fsanitize") for flag in extra_flags)
    try:
        chosen = toolchain.find_toolchain("gcc" if sanitizes else "auto", project.board)
    except ToolError as error:
        missing(str(error))
    on_host = project.linker_script is None
    return toolchain.build(project, chosen, opt=opt, extra_flags=extra_flags, shared=on_host)


@pytest.fixture(scope="session")
def firmware() -> Firmware:
    return build(probe_project(load_board("nucleo-f446re")))


def host_library(extra_flags: tuple[str, ...] = (), op_done: str = "op_done_host.c") -> Firmware:
    files = {
        **read_files(data_dir("firmware") / "runtime", "op_done.h", op_done),
        **read_files(PROBE, "probe.h", "probe.c"),
    }
    project = Project("probe", load_board("host"), files, (op_done, "probe.c"), (".",), None)
    return build(project, extra_flags, opt="-O1")


@pytest.fixture(scope="session")
def library() -> Firmware:
    return host_library()


def booted(firmware: Firmware, watch_accesses: bool) -> CortexM:
    machine = CortexM(firmware, instructions=10_000_000, watch_accesses=watch_accesses)
    machine.boot()
    return machine


@pytest.fixture
def watched(firmware: Firmware) -> CortexM:
    return booted(firmware, watch_accesses=True)


@pytest.fixture(params=["watched", "fast"])
def board(request: pytest.FixtureRequest, firmware: Firmware) -> CortexM:
    return booted(firmware, watch_accesses=request.param == "watched")


@pytest.fixture
def host(library: Firmware) -> Iterator[HostMachine]:
    machine = HostMachine(library, timeout=20)
    machine.boot()
    yield machine
    machine.close()


@pytest.fixture(params=["watched", "fast", "host"])
def machine(request: pytest.FixtureRequest) -> Machine:
    if request.param == "host":
        host: HostMachine = request.getfixturevalue("host")
        return host
    return booted(request.getfixturevalue("firmware"), watch_accesses=request.param == "watched")


# ---------------------------------------------------------------- what every machine does


def test_a_function_gets_its_arguments_and_returns_its_result(machine: Machine) -> None:
    assert machine.call("sum", 40, 2) == 42
    assert machine.call("sum", -40, -2) == 2**32 - 42
    assert machine.call("add_six", 1, 2, 3, 4, 5, 6) == 654321  # two of them on the stack


def test_boot_initialises_data_and_forgets_what_was_written(machine: Machine) -> None:
    accumulator, position = machine.address("accumulator"), machine.address("position")
    assert machine.read(accumulator, 4) == (7).to_bytes(4, "little")
    assert machine.read(position, 4) == bytes(4)
    machine.write(accumulator, (1000).to_bytes(4, "little"))
    assert machine.call("load_at", accumulator) == 1000
    machine.boot()
    accumulator = machine.address("accumulator")  # a host library may lie elsewhere now
    assert machine.call("load_at", accumulator) == 7


def test_memory_that_nobody_initialises_is_not_zero(watched: CortexM) -> None:
    last = 0x20020000 - 4
    assert watched.read(last, 4) == bytes.fromhex("a5a5a5a5")
    watched.write(last, bytes(4))
    watched.boot()
    assert watched.read(last, 4) == bytes.fromhex("a5a5a5a5")


def test_on_op_sees_each_op_with_the_memory_of_that_moment(machine: Machine) -> None:
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


def test_an_error_of_the_observer_reaches_the_caller(machine: Machine) -> None:
    def refuse(op: int) -> None:
        raise KeyError(op)

    machine.on_op(refuse)
    with pytest.raises(KeyError, match="0"):
        machine.call("forward", 1)


def test_trace_reads_buffers_and_ring_slots_after_their_op(machine: Machine) -> None:
    regions = {
        0: [Region(machine.address("ring"), 2, stride=2, modulo=4)],
        1: [Region(machine.address("accumulator"), 4)],
        2: [Region(machine.address("position"), 1)],
    }
    tokens = [100, 1, 2, 3, 4]
    sums = [107, 108, 110, 113, 117]
    expected = [
        bytes([token, token + 1]) + total.to_bytes(4, "little") + bytes([position + 1])
        for position, (token, total) in enumerate(zip(tokens, sums, strict=True))
    ]
    assert machine.trace("forward", tokens, regions) == expected
    assert machine.read(machine.address("ring"), 8) == bytes([4, 5, 1, 2, 2, 3, 3, 4])  # slot 0 written twice


def test_trace_can_go_on_at_a_later_position(machine: Machine) -> None:
    regions = {0: [Region(machine.address("ring"), 2, stride=2, modulo=4)]}
    machine.trace("forward", [1, 2, 3], regions)
    assert machine.trace("forward", [50, 60], regions, start=3) == [bytes([50, 51]), bytes([60, 61])]
    assert machine.trace("forward", [7], regions, start=6) == [bytes([3, 4])]  # the wrong slot, as asked


def test_the_machine_must_be_booted(firmware: Firmware, library: Firmware) -> None:
    with pytest.raises(InternalError, match="call of sum before boot, or after a fault"):
        CortexM(firmware).call("sum", 1, 2)
    with pytest.raises(InternalError, match="sum before boot, or after a fault"):
        HostMachine(library).call("sum", 1, 2)


# ---------------------------------------------------------------- faults of the emulated board


def fault_of(board: CortexM, symbol: str, *args: int) -> FirmwareFault:
    with pytest.raises(FirmwareFault) as caught:
        board.call(symbol, *args)
    assert caught.value.exit_code == 6
    return caught.value


def test_a_write_to_flash_is_a_fault(board: CortexM) -> None:
    constants = board.address("constants")
    fault = fault_of(board, "store_at", constants + 4, 1)
    assert (fault.kind, fault.address) == ("flash-write", constants + 4)
    assert re.fullmatch(
        r"store_at\+0x0 writes 4 bytes at 0x0800\w{4} \(constants\+0x4\), in flash\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   flash is read-only here: look for a const that was cast away or an index that left its array",
        str(fault),
    )


@pytest.mark.parametrize("address", [0x00000000, 0x08080000, 0x20020000, 0x10000000])
def test_an_access_outside_the_memories_is_a_fault(board: CortexM, address: int) -> None:
    fault = fault_of(board, "load_at", address)
    assert (fault.kind, fault.address) == ("unmapped", address)
    assert re.fullmatch(
        rf"load_at\+0x0 reads 4 bytes at {address:#010x}, where no memory is\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   nothing answers at that address: look for a wild pointer or an index that left its array",
        str(fault),
    )


def test_a_misaligned_access_is_a_fault(watched: CortexM) -> None:
    accumulator = watched.address("accumulator")
    fault = fault_of(watched, "load_at", accumulator + 1)
    assert (fault.kind, fault.address) == ("misaligned", accumulator + 1)
    assert re.fullmatch(
        r"load_at\+0x0 accesses 4 bytes at the misaligned address 0x2000\w{4} \(accumulator\+0x1\)\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   align the object to the size of the access, or access it in smaller pieces",
        str(fault),
    )


def test_a_deep_recursion_overflows_the_stack(board: CortexM) -> None:
    assert board.call("recurse", 2) == 2 + 1 + (1 + 1 + 1)  # a depth and one per level, then constants[0]
    fault = fault_of(board, "recurse", 100_000)
    assert fault.kind == "stack-overflow"
    assert fault.address is not None and fault.address < 0x20000000
    assert re.fullmatch(
        r"(recurse|descend)\+0x\w+ overflows its stack of 1,024 B: writes 4 bytes at 0x1fff\w{4}, \d+ B below it\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   raise the board's stack_bytes, or look for a recursion or a large local array",
        str(fault),
    )


def test_execution_of_data_is_a_fault(board: CortexM) -> None:
    accumulator = board.address("accumulator")
    fault = fault_of(board, "call_at", accumulator | 1)
    assert (fault.kind, fault.address) == ("execute-data", accumulator)
    assert re.fullmatch(
        r"call_at\+0x0 jumps to 0x2000\w{4} \(accumulator\+0x0\), which is not code\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   look for a function pointer or a return address that was overwritten",
        str(fault),
    )


def test_an_endless_loop_is_a_fault(board: CortexM) -> None:
    fault = fault_of(board, "spin")
    assert fault.kind == "endless-loop"
    assert re.fullmatch(
        r"spin\+0x\w is still running after 10,000,000 instructions\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   look for a wait without a bound; if the work is really that long, raise the limit",
        str(fault),
    )


@pytest.mark.parametrize(
    ("symbol", "what"),
    [
        ("undefined_instruction", r"undefined_instruction\+0x0 has an undefined instruction"),
        ("supervisor_call", r"supervisor_call\+0x\w raises an exception: svc"),
        ("breakpoint", r"breakpoint\+0x\w raises an exception: bkpt"),
        ("doze", r"doze\+0x\w sleeps \(wfi or wfe\), and nothing wakes it"),
    ],
)
def test_what_no_handler_serves_is_a_fault(board: CortexM, symbol: str, what: str) -> None:
    fault = fault_of(board, symbol)
    assert fault.kind == "exception"
    assert re.fullmatch(
        what + r"\n"
        r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
        r"  try:   disassemble the function at that offset: the core cannot go on there",
        str(fault),
    )


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (0x40023834, "no register that the port uses"),  # RCC_AHB2ENR: on a page that is modelled
        (0x40011000, "no register that the port uses"),  # USART1: on one that is not
        (0xE000E010, "no register that the port uses"),  # SysTick
        (0x40020000, "the peripheral's clock is off in the RCC"),  # GPIOA_MODER before AHB1ENR
    ],
)
def test_an_unknown_register_is_a_fault(board: CortexM, address: int, why: str) -> None:
    for symbol, verb in (("load_at", "reads"), ("store_at", "writes")):
        fault = fault_of(board, symbol, address, 0)
        assert (fault.kind, fault.address) == ("register", address)
        assert re.fullmatch(
            rf"{symbol}\+0x0 {verb} 4 bytes at {address:#010x}: {why}\n"
            r"  where: nucleo-f446re in unicorn, pc 0x0800\w{4}\n"
            r"  try:   the model knows only the registers that the port needs: check the address in the manual, or "
            r"add the register to the model",
            str(fault),
        )
        board.boot()


def test_the_board_works_again_after_boot(board: CortexM) -> None:
    fault_of(board, "load_at", 0)
    with pytest.raises(InternalError, match="before boot, or after a fault"):
        board.call("sum", 1, 2)
    board.boot()
    assert board.call("sum", 1, 2) == 3


def test_a_missing_symbol_is_named(board: CortexM, host: HostMachine) -> None:
    with pytest.raises(ToolError) as caught:
        board.call("nothing")
    assert str(caught.value) == (
        "the firmware has no nothing\n"
        "  where: symbol table of the ELF\n"
        "  try:   check the name, and that --gc-sections keeps it"
    )
    with pytest.raises(ToolError) as caught:
        host.call("nothing")
    assert str(caught.value) == (
        "the library does not export nothing\n"
        "  where: host library\n"
        "  try:   check the name, and that the function is not static"
    )


def test_a_board_without_a_model_is_refused(firmware: Firmware) -> None:
    with pytest.raises(ToolError) as caught:
        CortexM(replace(firmware, board=load_board("host")))
    assert str(caught.value) == (
        "there is no model of port host on host\n"
        "  where: emulating host\n"
        f"  try:   choose a board with port {' or '.join(sorted(REGISTERS))}, or the host"
    )


def test_unicorn_is_optional(firmware: Firmware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_machine, "unicorn", None)
    with pytest.raises(ToolError) as caught:
        CortexM(firmware)
    assert str(caught.value) == (
        "unicorn is not installed\n  where: emulating nucleo-f446re\n  try:   pip install 'mcugen[emulate]'"
    )


def test_bytes_that_are_no_elf_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        parse_elf(b"MZ, not ELF")
    assert str(caught.value) == (
        "11 bytes are not an ELF file (Magic number does not match)\n"
        "  where: firmware\n"
        "  try:   pass the linked .elf file"
    )


def test_a_stripped_elf_is_refused(firmware: Firmware) -> None:
    with pytest.raises(InputError) as caught:
        parse_elf(firmware.image.replace(b".symtab\0", b".nothing"))
    assert str(caught.value) == (
        "the ELF has no symbol table\n  where: firmware\n  try:   link it without -s or --strip-all"
    )


def test_a_global_symbol_wins_and_two_static_ones_are_refused() -> None:
    static = Symbol("twin", 0x100, 4, is_function=False, is_global=False)
    shared = replace(static, address=0x200, is_global=True)
    assert Elf((), (static, shared)).symbol("twin") == shared
    with pytest.raises(ToolError) as caught:
        Elf((), (static, replace(static, address=0x300))).symbol("twin")
    assert str(caught.value) == (
        "the firmware has 2 symbols named twin\n"
        "  where: symbol table of the ELF\n"
        "  try:   give the static ones different names"
    )


def test_a_static_object_needs_an_exported_neighbour() -> None:
    source = b"__attribute__((used)) static int hidden = 1;\n"
    machine = HostMachine(build(Project("hidden", load_board("host"), {"h.c": source}, ("h.c",), (".",), None)))
    machine.boot()
    with pytest.raises(ToolError) as caught:
        machine.address("hidden")
    assert str(caught.value) == (
        "cannot place hidden\n  where: host library\n  try:   export at least one function or object"
    )
    machine.close()


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_counts_equal_those_made_by_hand(watched: CortexM, n: int) -> None:
    for _ in range(2):  # the second time, every block is translated already
        watched.call("recurse", 3)  # deeper in the stack
        watched.reset_profile()
        assert watched.call("counted", n) == 0x1235
        profile = watched.profile()
        assert profile.instructions == {"counted": 3 + 9 * n + 4}
        assert (profile.total, profile.loads, profile.stores) == (3 + 9 * n + 4, n + 2, 3)
        assert profile.stack_bytes == 8


def test_accesses_that_are_not_watched_are_not_counted(firmware: Firmware) -> None:
    machine = booted(firmware, watch_accesses=False)
    machine.reset_profile()
    machine.call("counted", 10)
    profile = machine.profile()
    assert profile.total == 3 + 9 * 10 + 4
    assert (profile.loads, profile.stores, profile.stack_bytes) == (None, None, None)
    machine.call("load_at", machine.address("accumulator") + 1)  # what is lost


def test_a_block_entered_in_its_middle_counts_right(board: CortexM) -> None:
    for skip, expected in ((1, 6), (0, 5), (1, 6), (0, 5)):
        board.reset_profile()
        board.call("middle", skip)
        assert board.profile().instructions == {"middle": expected}


def test_counts_are_the_same_while_ops_are_observed(board: CortexM) -> None:
    board.reset_profile()
    board.call("forward", 1)
    alone = board.profile()
    assert alone.instructions["mg_op_done"] == 3  # bx lr, three times
    board.on_op(lambda op: None)
    board.reset_profile()
    board.call("forward", 1)
    assert board.profile() == alone


def test_the_cycle_counter_shows_instructions(watched: CortexM) -> None:
    before = watched.call("load_at", 0xE0001004)  # DWT_CYCCNT
    watched.call("counted", 100)
    between = watched.call("load_at", 0xE0001004) - before
    assert between == (3 + 9 * 100 + 4) + 2  # and one load_at: ldr, bx


def test_the_profile_covers_boot(firmware: Firmware) -> None:
    machine = CortexM(firmware)
    machine.boot()
    assert set(machine.profile().instructions) <= {"Reset_Handler", "mg_fill_memories"}


# ---------------------------------------------------------------- console


def test_the_console_answers_lines_and_ends_when_it_waits_for_more(firmware: Firmware) -> None:
    assert b"".join(CortexM(firmware).console(b"hello\nhi\n")) == b"> 05\n> 02\n> "
    assert b"".join(CortexM(firmware).console(b"")) == b"> "


def test_the_console_ends_when_main_returns(firmware: Firmware) -> None:
    assert b"".join(CortexM(firmware).console(b"abc\n\nnever read\n")) == b"> 03\n> 00\n\x04"


def test_the_console_streams(firmware: Firmware) -> None:
    machine = CortexM(firmware)
    output = machine.console(b"hello\n")
    assert [next(output) for _ in range(3)] == [b">", b" ", b"0"]
    before = machine.profile().total
    assert next(output) == b"5"
    assert 0 < machine.profile().total - before < 100  # nothing has run ahead


def test_streaming_does_not_change_the_counts(firmware: Firmware) -> None:
    machine = CortexM(firmware)
    assert b"".join(machine.console(b"hello\n\n")) == b"> 05\n> 00\n\x04"
    counts = machine.profile().instructions
    assert counts["counted"] == 2 * (3 + 9 * 3 + 4)
    assert counts["middle"] == 6 + 5
    machine.reset_profile()
    for length in (2, 3, 2, 3, 1):  # the same writes, in one go each
        machine.call("mg_port_write", machine.address("constants"), length)
    assert machine.profile().instructions == {"mg_port_write": counts["mg_port_write"]}


def test_the_clock_tree_comes_up(firmware: Firmware) -> None:
    machine = CortexM(firmware)
    assert list(machine.console(b""))
    assert machine.call("mg_port_clock_hz") == 180_000_000


# ---------------------------------------------------------------- QEMU


def test_qemu_answers_like_unicorn(firmware: Firmware) -> None:
    require_program("qemu-system-arm")
    assert run_console(firmware, b"hello\nhi\n", timeout=30) == b"> 05\n> 02\n> "
    assert run_console(firmware, b"abc\n\nnever sent\n", timeout=30) == b"> 03\n> 00\n"


def test_qemu_counts_like_unicorn(firmware: Firmware, tmp_path: Path) -> None:
    """-singlestep makes a block of each instruction, and -d exec logs each block that runs."""
    require_program("qemu-system-arm")
    machine = CortexM(firmware)
    assert list(machine.console(b"a line\n\n"))
    expected = machine.profile().instructions
    elf = parse_elf(firmware.image)
    functions = [elf.symbol(name) for name in ("counted", "middle")]
    ranges = ",".join(f"{f.address:#x}+{f.size:#x}" for f in functions)
    log = tmp_path / "log"
    options = ("-singlestep", "-d", "exec,nochain", "-dfilter", ranges, "-D", str(log))
    run_console(firmware, b"a line\n\n", timeout=30, options=options)
    executed = Counter(int(pc, 16) for pc in re.findall(r"\[\w+/(\w+)/", log.read_text()))
    for function in functions:
        pcs = range(function.address, function.address + function.size)
        assert sum(executed[pc] for pc in pcs) == expected[function.name], function.name


def test_qemu_says_when_time_is_up(firmware: Firmware) -> None:
    require_program("qemu-system-arm")
    with pytest.raises(FirmwareFault) as caught:
        run_console(firmware, b"", timeout=0.5, prompt=b"never printed")
    assert str(caught.value) == (
        "the application is still running after 0.5 s; its output ends with '> '\n"
        "  where: netduinoplus2 in QEMU\n"
        "  try:   look for a wait without a bound; if the work is really that long, raise the limit"
    )


def test_qemu_says_when_it_ends_by_itself(firmware: Firmware) -> None:
    require_program("qemu-system-arm")
    with pytest.raises(FirmwareFault) as caught:
        run_console(firmware, b"", timeout=30, options=("-no-such-option",))
    assert caught.value.kind == "crash"
    assert caught.value.what == (
        "the application ends QEMU (qemu-system-arm: -no-such-option: invalid option); its output ends with ''"
    )


def test_qemu_is_optional(firmware: Firmware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError) as caught:
        run_console(firmware, b"", timeout=1)
    assert str(caught.value) == (
        "qemu-system-arm is not installed\n"
        "  where: running nucleo-f446re in QEMU\n"
        "  try:   apt-get install qemu-system-arm"
    )


def test_qemu_has_no_machine_for_every_board(library: Firmware) -> None:
    require_program("qemu-system-arm")
    with pytest.raises(ToolError) as caught:
        run_console(library, b"", timeout=1)
    assert str(caught.value) == (
        "QEMU has no machine for port host on host\n"
        "  where: running host in QEMU\n"
        "  try:   choose a board with port mps2 or nrf5 or stm32f4 or virt"
    )


# ---------------------------------------------------------------- faults of the host library


def test_a_crash_of_the_library_is_a_fault(host: HostMachine) -> None:
    with pytest.raises(FirmwareFault) as caught:
        host.call("load_at", 16)
    assert (caught.value.kind, caught.value.function, caught.value.exit_code) == ("crash", "load_at", 6)
    assert str(caught.value) == (
        "load_at ends the process: SIGSEGV\n"
        "  where: host library\n"
        "  try:   build the library with the address and undefined-behaviour sanitizers and run again"
    )
    host.boot()
    assert host.call("sum", 1, 2) == 3


def test_an_endless_loop_of_the_library_is_a_fault(library: Firmware) -> None:
    machine = HostMachine(library, timeout=0.5)
    machine.boot()
    with pytest.raises(FirmwareFault) as caught:
        machine.call("spin")
    assert caught.value.kind == "endless-loop"
    assert caught.value.what == "spin is still running after 0.5 s"


@pytest.fixture(scope="session")
def sanitized() -> Firmware:
    try:
        find_libasan()
    except ToolError as error:
        missing(str(error))
    return host_library(("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))


@pytest.fixture
def checked(sanitized: Firmware) -> Iterator[HostMachine]:
    machine = HostMachine(sanitized, sanitize=True, timeout=20)
    machine.boot()
    yield machine
    machine.close()


def test_undefined_behaviour_is_a_fault(checked: HostMachine) -> None:
    assert checked.call("sum", 2**31 - 2, 1) == 2**31 - 1
    with pytest.raises(FirmwareFault) as caught:
        checked.call("sum", 2**31 - 1, 1)
    assert (caught.value.kind, caught.value.function) == ("sanitizer", "sum")
    assert re.fullmatch(
        r"sum: signed integer overflow: 2147483647 \+ 1 cannot be represented in type 'int'\n"
        r"  where: host library, probe\.c:\d+:\d+\n"
        r"  try:   fix the line that the sanitizer names: it may work here and fail on the board",
        str(caught.value),
    )


def test_an_access_past_the_end_is_a_fault(checked: HostMachine) -> None:
    assert checked.call("past_the_end", 3) == 40
    with pytest.raises(FirmwareFault) as caught:
        checked.call("past_the_end", 4)
    assert (caught.value.kind, caught.value.function) == ("sanitizer", "element")
    assert caught.value.address is not None
    assert re.fullmatch(
        r"element: global-buffer-overflow\n"
        r"  where: host library, probe\.c:\d+\n"
        r"  try:   fix the line that the sanitizer names: it may work here and fail on the board",
        str(caught.value),
    )


def test_sanitizers_do_not_get_in_the_way(checked: HostMachine) -> None:
    region = Region(checked.address("accumulator"), 4)
    assert checked.trace("forward", [1], {1: [region]}) == [(8).to_bytes(4, "little")]


def test_a_library_that_cannot_be_observed_is_refused() -> None:
    machine = HostMachine(host_library(op_done="op_done.c"))
    machine.boot()
    for look in (lambda: machine.on_op(print), lambda: machine.trace("forward", [1], {})):
        with pytest.raises(ToolError) as caught:
            look()
        assert str(caught.value) == (
            "the library has no mg_set_op_observer\n"
            "  where: host library\n"
            "  try:   link firmware/runtime/op_done_host.c instead of op_done.c"
        )
    machine.close()


def test_the_address_sanitizer_is_optional(library: Firmware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError) as caught:
        HostMachine(library, sanitize=True)
    assert str(caught.value) == (
        "cc has no address sanitizer: libasan.so was not found\n"
        "  where: host library with sanitizers\n"
        "  try:   apt-get install gcc, or run without sanitizers"
    )
