"""The ports nrf5, imxrt1062 and esp32c3 in the emulator: clock, console, fallback, a model op by op, and planted faults."""

from __future__ import annotations

import dataclasses
import struct
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
from mcugen.emulate import cortex_m, riscv, unicorn_machine
from mcugen.emulate.esp32c3 import Esp32c3
from mcugen.emulate.imxrt1062 import Imxrt1062
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.machines import open_machine
from mcugen.emulate.qemu import MACHINES, run_console
from mcugen.emulate.registers import Registers
from mcugen.emulate.unicorn_machine import UnicornMachine
from mcugen.errors import InputError, ToolError
from mcugen.ir import Config, Firmware
from mcugen.toolchain import build, to_bin
from mcugen.verify import verify

BOARDS = ("microbit", "microbit-v2", "nrf52840-dk", "teensy41", "esp32-c3-devkit")
PORTS = {name: f"ports/{load_board(name).port}/port.c" for name in BOARDS}
TOOLCHAINS = [pytest.param("zig"), pytest.param("gcc", marks=pytest.mark.slow)]
SMALL = Config(16, 12, 2, 4, 2, 300, 8, False)  # 300 pieces: prompts of any bytes
CONTEXT = 6
INSTRUCTIONS = 5_000_000  # more than any wait here takes: a port that hangs is found soon

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
    opened._limit = INSTRUCTIONS
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


# Says what a variable holds before main.
INITIALISED = MAIN.replace(
    b"int main(void);", b"int main(void);\nvolatile uint32_t initialised = 1234567u;", 1
).replace(b"mg_port_clock_hz()", b"initialised", 1)


@every_board
def test_variables_have_their_initial_values(name: str) -> None:
    assert b"".join(machine(firmware(name, INITIALISED)).console(b".")) == b"1234567"


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
    ("teensy41", b"set_bits(CCM_CCGR3, CCGR3_LPUART6);", b"", "the peripheral's clock is off in the CCM"),
    ("teensy41", b"DCDC_REG3 = 0x4008000C", b"DCDC_REG3 = 0x40080010", "no register that the port uses"),
    ("teensy41", b"(1250 - 800)", b"(1150 - 800)", "the voltage is too low for 600,000,000 Hz"),
    ("teensy41", b"CBCDR_IPG_DIV4 = 3 << 8", b"CBCDR_IPG_DIV4 = 1 << 8", "the peripheral bus runs at more than 150 MHz"),
    ("teensy41", b"PRE_PERIPH_PLL_ARM = 3 << 18", b"PRE_PERIPH_PLL_ARM = 2 << 18", "the core is switched to a PLL that is not ready"),
    ("teensy41", b"set_bits(CCM_CBCDR, CBCDR_PERIPH_CLK_SEL);\n    if", b"if", "the PLL is changed while the core runs from it"),
    ("teensy41", b"BAUD_OVERSAMPLING_16 = 15 << 24", b"BAUD_OVERSAMPLING_16 = 7 << 24", "LPUART6 does not run from the crystal at 115200 baud"),
    ("esp32-c3-devkit", b"*reg(RTC_WDTCONFIG0) = 0u;", b"", "a watchdog still runs, and will reset the chip"),
    ("esp32-c3-devkit", b"*reg(TIMG0_WDTWPROTECT) = WDT_KEY;", b"", "the watchdog's registers are closed"),
    ("esp32-c3-devkit", b"SWD_KEY 0x8F1D312Au", b"SWD_KEY 0x50D83AA1u", "the watchdog's registers are closed"),
    ("esp32-c3-devkit", b"SCLK_CRYSTAL = 3 << 20", b"SCLK_CRYSTAL = 1 << 20", "UART0 has no clock from the crystal"),
    ("esp32-c3-devkit", b"SIXTEENTHS / 16 + (", b"SIXTEENTHS / 8 + (", "UART0 runs at 57616 baud, not 115200"),
    ("esp32-c3-devkit", b"UART_CLKDIV = 0x60000014", b"UART_CLKDIV = 0x60000018", "no register that the port uses"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "why"), PLANTED)
def test_a_fault_in_the_port_is_reported(name: str, before: bytes, after: bytes, why: str) -> None:
    with pytest.raises(FirmwareFault) as caught:
        list(machine(firmware(name, MAIN, plant=(before, after))).console(b"."))
    assert caught.value.kind == "register"
    assert caught.value.what.endswith(f": {why}")


@pytest.mark.parametrize(
    ("name", "status"), [("microbit-v2", 0x4000211C), ("teensy41", 0x40198014), ("esp32-c3-devkit", 0x6000001C)]
)
def test_a_console_that_takes_nothing_does_not_hang_the_board(
    name: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 0
    full_value = 127 << 16 if name == "esp32-c3-devkit" else 0

    def full(address: int, value: int) -> int:
        nonlocal polls
        polls += address == status
        return full_value if address == status else value

    stuck(monkeypatch, name, full, riscv if name.startswith("esp32") else cortex_m)
    monkeypatch.setattr(unicorn_machine, "_UNANSWERED_POLLS", 10**9)  # polling for room is no waiting for input
    silent = MAIN.replace(b"write_number(mg_port_clock_hz());", b"write_number(7u);").replace(
        b"mg_port_read(); byte != '.'; byte = mg_port_read()", b"'.'; byte != '.'; byte = '.'"
    )
    assert b"".join(machine(firmware(name, silent)).console(b"")) == b"7"
    assert polls > 1000


# ---------------------------------------------------------------- nrf5

HFCLKSTARTED, BAUDRATE, ICACHECNF = 0x40000100, 0x40002524, 0x4001E540


@pytest.mark.parametrize("name", ["microbit", "nrf52840-dk"])
def test_an_nrf5_without_a_crystal_talks_all_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck(monkeypatch, name, lambda address, value: 0 if address == HFCLKSTARTED else value)
    board = machine(firmware(name, MAIN))
    assert b"".join(board.console(b"still here.")) == b"%dstill here" % load_board(name).clock_hz


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


# ---------------------------------------------------------------- imxrt1062

# Each flag that the port waits for, held where it does not help.
FLAGS = {"DC_OK": (0x40080000, 1 << 31, 0), "LOCK": (0x400D8000, 1 << 31, 0)}
FLAGS |= {"PERIPH_CLK_SEL_BUSY": (0x400FC048, 0, 1 << 5), "ARM_PODF_BUSY": (0x400FC048, 0, 1 << 16)}
GPR14, GPR16, GPR17, VTOR, CCR = 0x400AC038, 0x400AC040, 0x400AC044, 0xE000ED08, 0xE000ED14


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_never_comes_leaves_a_teensy_on_its_crystal(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, cleared, held = FLAGS[flag]
    stuck(monkeypatch, "teensy41", lambda address, value: value & ~cleared | held if address == where else value)
    board = machine(firmware("teensy41", MAIN))
    assert b"".join(board.console(b"still here.")) == b"24000000still here"
    assert board._registers.read(0x400FC014, 4) & 1 << 25  # CBCDR: PERIPH_CLK_SEL


def test_a_switch_to_the_pll_that_does_not_happen_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tried_pll = False

    def busy_from_then_on(address: int, value: int) -> int:
        nonlocal tried_pll
        tried_pll |= address == 0x400D8000  # PLL_ARM
        return value | 1 << 5 if address == 0x400FC048 and tried_pll else value  # CDHIPR: PERIPH_CLK_SEL_BUSY

    stuck(monkeypatch, "teensy41", busy_from_then_on)
    board = machine(firmware("teensy41", MAIN))
    assert b"".join(board.console(b".")) == b"24000000"
    assert board._registers.read(0x400FC014, 4) & 1 << 25  # CBCDR: PERIPH_CLK_SEL


def test_a_teensy_runs_at_its_clock_with_both_caches() -> None:
    board = machine(firmware("teensy41", MAIN))
    assert list(board.console(b"."))
    assert isinstance(board._registers, Imxrt1062)
    assert board._registers.core_hz() == 600_000_000
    assert board._registers.read(CCR, 4) >> 16 & 3 == 3
    assert board._registers.read(0xE000ED94, 4) == 1  # MPU_CTRL


@every_toolchain
def test_a_teensy_s_flash_begins_as_its_boot_rom_wants_it(toolchain: str) -> None:
    """RM, chapter System Boot: configuration at 0, image vector table at 4 KiB, and the code that it names."""
    board = machine(firmware("teensy41", MAIN, toolchain))
    board.boot()
    flash = load_board("teensy41").flash.origin
    config = struct.unpack("<128I", board.read(flash, 512))
    assert (config[0], config[1] >> 24, config[0x50 // 4]) == (
        0x42464346,
        0x56,
        8 * 1024**2,
    )  # "FCFB", version, bytes
    assert config[0x80 // 4 : 0x80 // 4 + 3] == (0x0A1804EB, 0x32041E20, 0x7C012604)  # PJRC, bootdata.c
    header, entry, _, _, boot_data, own, _, _ = struct.unpack("<8I", board.read(flash + 0x1000, 32))
    assert (header & 0xFF, header >> 8 & 0xFFFF, own) == (0xD1, 0x2000, flash + 0x1000)  # the length is big-endian
    assert struct.unpack("<3I", board.read(boot_data, 12)) == (flash, 8 * 1024**2, 0)
    assert board.address("mg_vectors") == flash + 0x2000
    assert entry == board.address("mg_boot") | 1

    board._uc.reg_write(board._set.sp, 0x2020_1000)  # the boot ROM's
    board._run(entry & ~1, board.address("main"))
    assert board._uc.reg_read(board._set.sp) <= board.address("_estack")
    shown = [board._registers.read(register, 4) for register in (GPR17, GPR16, GPR14, VTOR)]
    assert shown == [0xAAAAAAFF, 0x00200007, 0x00AA0000, flash + 0x2000]
    banks = [shown[0] >> 2 * bank & 3 for bank in range(16)]
    itcm, dtcm = (32 * 1024 * banks.count(kind) for kind in (3, 2))
    assert (itcm, dtcm) == (load_board("teensy41").memories[0].region.size, load_board("teensy41").ram.size)


# ---------------------------------------------------------------- esp32c3

ESP = "esp32-c3-devkit"
BY_BYTE_FROM_CODE = MAIN.replace(
    b"int main(void)\n{", b"int main(void)\n{\n    (void)*(volatile const uint8_t *)0x42000101u;", 1
)


@every_toolchain
def test_an_esp32_c3_s_flash_begins_as_its_boot_rom_wants_it(toolchain: str) -> None:
    """The magic number twice, then code; data as far behind 0x3C000000 as it is programmed behind 0x42000000."""
    layout = ladder.laid_out(SMALL, CONTEXT, board=ESP)
    image = ladder.board_firmware(layout, toolchain)
    board = machine(image)
    flash = load_board(ESP)
    assert to_bin(image.image)[:8] == bytes.fromhex("1d04dbae1d04dbae")
    assert board.address("Reset_Handler") == flash.flash.origin + 8
    assert board.address("mg_fault") % 256 == 0
    board.boot()
    address = (
        board.address("random_embedding") if board._elf.has("random_embedding") else board.address("mg_exp2_q15")
    )
    assert flash.flash_data is not None and 0 <= address - flash.flash_data < flash.flash.size
    assert board.read(address, 64) == board.read(address - flash.flash_data + flash.flash.origin, 64) != bytes(64)
    assert min(segment.address for segment in board._elf.segments) == flash.flash.origin


def test_an_esp32_c3_runs_on_its_crystal_with_its_watchdogs_off() -> None:
    board = machine(firmware(ESP, MAIN))
    assert list(board.console(b"."))
    assert isinstance(board._registers, Esp32c3)
    assert board._registers.core_hz() == load_board(ESP).clock_hz == 40_000_000


def test_the_bus_for_code_reads_no_data() -> None:
    with pytest.raises(FirmwareFault) as caught:
        list(machine(firmware(ESP, BY_BYTE_FROM_CODE)).console(b"."))
    assert caught.value.kind == "unmapped"
    assert caught.value.what.endswith(", where only code is")


def test_data_that_is_not_where_flash_is_read_is_a_wrong_board_file(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "boards" / f"{ESP}.toml").read_text(encoding="utf-8")
    for value, what in (
        ("0x42100000", "flash.data_origin 0x42100000..0x424fffff overlaps flash 0x42000000..0x423fffff"),
        ('"0x3C000000"', "flash.data_origin is '0x3C000000'"),
    ):
        path = tmp_path / "wrong.toml"
        path.write_text(text.replace("data_origin = 0x3C000000", f"data_origin = {value}"), encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load_board(str(path))
        assert caught.value.what == what
