"""The Nucleo boards: clock, console and fallback of each port, and what the models of their registers refuse."""

from __future__ import annotations

import functools
from dataclasses import replace

import ladder
import pytest
from projects import project, require
from test_ports import MAIN
from tools import require_program

from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.boards import load_board
from mcugen.console import END_OF_TRANSMISSION
from mcugen.emulate import cortex_m, unicorn_machine
from mcugen.emulate.cortex_m import REGISTERS, CortexM
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.qemu import run_console
from mcugen.emulate.stm32 import Stm32, ahb_divider, apb_divider
from mcugen.emulate.stm32f4 import Stm32f4
from mcugen.emulate.stm32l4 import Stm32l4
from mcugen.integers import quantize_source
from mcugen.ir import Board, Firmware
from mcugen.layout import Layout
from mcugen.sources import open_source
from mcugen.toolchain import build
from mcugen.verify import verify

# Board -> clock in MHz of the core, of the console's bus; after reset, of both.
CLOCKS = {
    "nucleo-l476rg": (80, 80, 4),
    "nucleo-g474re": (170, 170, 16),
    "nucleo-h743zi2": (480, 120, 64),
    "nucleo-u575zi-q": (160, 160, 4),
    "nucleo-h563zi": (250, 250, 32),
}
BOARDS = ("nucleo-f401re", *CLOCKS)
TOOLCHAINS = [pytest.param("zig"), pytest.param("gcc", marks=pytest.mark.slow)]
INSTRUCTIONS = 50_000_000  # enough for every bounded wait
CPACR, CCR = 0xE000ED88, 0xE000ED14

every_new_family = pytest.mark.parametrize("name", CLOCKS)
each_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS)


@functools.cache
def echo(name: str, toolchain: str = "zig") -> Firmware:
    """An application that says what its clock is, then repeats what it is told up to a full stop."""
    board = load_board(name)
    return build(project(board, main=MAIN), require(toolchain, board))


def run(firmware: Firmware, typed: bytes = b".") -> tuple[bytes, CortexM]:
    ladder.require_unicorn()
    machine = CortexM(firmware, instructions=INSTRUCTIONS)
    return b"".join(machine.console(typed)), machine


def fault_of(firmware: Firmware) -> str:
    with pytest.raises(FirmwareFault) as caught:
        run(firmware)
    return f"{caught.value.kind}: {caught.value.what.partition(': ')[2]}"


def planted(board: Board, path: str, old: str, new: str) -> Firmware:
    """The echo with one text in one file of its port replaced."""
    made = project(board, main=MAIN)
    source = made.files[path].decode()
    assert not old or source.count(old) == 1, f"{path} has {source.count(old)} of {old!r}"
    files = {**made.files, path: source.replace(old, new).encode()}
    return build(replace(made, files=files), require("zig", board))


# ---------------------------------------------------------------- clock and console


@each_toolchain
@every_new_family
def test_the_board_runs_at_its_clock_and_talks(name: str, toolchain: str) -> None:
    core, bus, _ = CLOCKS[name]
    output, machine = run(echo(name, toolchain), b"hi\xff.")
    assert output == b"%d000000hi\xff" % core
    registers = machine._registers
    assert isinstance(registers, Stm32)
    clocks = registers.clocks()  # from the registers, by the reference manual
    assert (clocks.core, clocks.bus) == (core * 1e6, bus * 1e6)
    assert load_board(name).clock_hz == core * 1_000_000
    defines = dict(load_board(name).port_defines)
    steps = 256 if name == "nucleo-g474re" else 1
    assert registers.read(defines["MG_UART_BASE"] + 0x0C, 4) == round(bus * 1e6 * steps / 115_200)
    assert registers.read(CPACR, 4) == 15 << 20


@each_toolchain
def test_an_f401_has_its_own_pll_factors_and_no_over_drive(toolchain: str) -> None:
    output, machine = run(echo("nucleo-f401re", toolchain), b"hi\xff.")
    assert output == b"84000000hi\xff"
    registers = machine._registers
    pllcfgr = registers.read(0x40023804, 4)  # RM0368 6.3.2: as RM0390, with a VCO of 192 to 432 MHz
    vco = 16_000_000 // (pllcfgr & 63) * (pllcfgr >> 6 & 511)
    assert 192_000_000 <= vco <= 432_000_000
    assert vco // (2 + 2 * (pllcfgr >> 16 & 3)) == 84_000_000
    assert min(pllcfgr >> 24 & 15, pllcfgr >> 28 & 7) >= 2
    assert registers.read(0x40023C00, 4) == 0x702  # caches, prefetch, 2 wait states
    assert registers.read(0x40004408, 4) == round(21_000_000 / 115_200)  # APB1 / 4
    assert registers.read(0x40023840, 4) == 1 << 17  # APB1ENR: no clock for PWR
    assert isinstance(registers, Stm32f4)
    assert (registers.clocks().core, registers.clocks().bus) == (84e6, 21e6)


# Each flag that a port waits for, as (register, mask, what it shows where it never comes).
FLAGS = {
    "nucleo-l476rg": {
        "HSIRDY": (0x40021000, 1 << 10, 0), "PLLRDY": (0x40021000, 1 << 25, 0), "LATENCY": (0x40022000, 7, 0),
        "SWS": (0x40021008, 3 << 2, 0),
    },
    "nucleo-g474re": {
        "PLLRDY": (0x40021000, 1 << 25, 0), "LATENCY": (0x40022000, 15, 0), "SWS": (0x40021008, 3 << 2, 1 << 2),
    },
    "nucleo-h743zi2": {
        "ACTVOSRDY": (0x58024804, 1 << 13, 0), "VOSRDY": (0x58024818, 1 << 13, 0), "PLL1RDY": (0x58024400, 1 << 25, 0),
        "LATENCY": (0x52002000, 0x3F, 0x37), "SWS": (0x58024410, 7 << 3, 0),
    },
    "nucleo-u575zi-q": {
        "HSIRDY": (0x46020C00, 1 << 10, 0), "VOSRDY": (0x4602080C, 1 << 15, 0), "BOOSTRDY": (0x4602080C, 1 << 14, 0),
        "LATENCY": (0x40022000, 15, 1), "PLL1RDY": (0x46020C00, 1 << 25, 0), "SWS": (0x46020C1C, 3 << 2, 0),
    },
    "nucleo-h563zi": {
        "VOSRDY": (0x44020814, 1 << 3, 0), "LATENCY": (0x40022000, 0x3F, 0x13), "PLL1RDY": (0x44020C00, 1 << 25, 0),
        "SWS": (0x44020C1C, 3 << 3, 0),
    },
}  # fmt: skip


@each_toolchain
@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name, flags in FLAGS.items() for flag in flags])
def test_a_flag_that_never_comes_leaves_the_board_alive_on_its_first_oscillator(
    name: str, flag: str, toolchain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, mask, shown = FLAGS[name][flag]
    port = load_board(name).port
    chip = REGISTERS[port]
    assert isinstance(chip, type)

    class Stuck(chip):  # type: ignore[misc]
        def read(self, address: int, size: int) -> int:
            value = int(super().read(address, size))
            return value & ~mask | shown if address == where else value

    monkeypatch.setitem(cortex_m.REGISTERS, port, Stuck)
    output, machine = run(echo(name, toolchain), b"still here.")  # every byte at the right baud rate: see Stm32
    assert output == b"%d000000still here" % CLOCKS[name][2]
    clocks = machine._registers.clocks()  # type: ignore[attr-defined]
    assert (clocks.core, clocks.bus) == (CLOCKS[name][2] * 1e6,) * 2


def test_a_cache_that_stays_busy_is_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nucleo-u575zi-q", "nucleo-h563zi"):
        output, machine = run(echo(name))
        assert machine._registers.read(0x40030400, 4) & 1 == 1
        chip = REGISTERS[load_board(name).port]
        assert isinstance(chip, type)

        class Busy(chip):  # type: ignore[misc]
            def read(self, address: int, size: int) -> int:
                value = int(super().read(address, size))
                return value | 1 if address == 0x40030404 else value

        monkeypatch.setitem(cortex_m.REGISTERS, load_board(name).port, Busy)
        assert run(echo(name))[0] == output
        assert run(echo(name))[1]._registers.read(0x40030400, 4) & 1 == 0


def test_an_m7_runs_with_both_caches() -> None:
    _, machine = run(echo("nucleo-h743zi2"))
    assert machine._registers.read(CCR, 4) == 0x40200 | 3 << 16


@each_toolchain
def test_a_console_that_takes_nothing_does_not_hang_the_board(
    toolchain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Stm32l4):
        def read(self, address: int, size: int) -> int:
            value = super().read(address, size)
            return value & ~(1 << 7) if address == 0x40004400 + 0x1C else value  # ISR: TXE

    board = load_board("nucleo-l476rg")
    silent = MAIN.replace(b"write_number(mg_port_clock_hz());", b"write_number(7u);")
    firmware = build(project(board, main=silent), require(toolchain, board))
    monkeypatch.setitem(cortex_m.REGISTERS, board.port, Deaf)
    monkeypatch.setattr(unicorn_machine, "_UNANSWERED_POLLS", 10**9)  # polling for room is no waiting for input
    assert run(firmware)[0] == b"7"


# ---------------------------------------------------------------- what the models refuse

OFF = "register: the peripheral's clock is off in the RCC"
FEW = "register: too few wait states of flash"
UNUSED = "register: no register that the port uses"
LOCK = "register: the PLL does not lock"
SWAPPED = "mg_stm32_set_bits(RCC_CR, CR_PLLON);\n    *mg_stm32_reg(RCC_PLLCFGR) = PLLCFGR;"
PLANTED = [
    ("nucleo-f401re", "OVER_DRIVE = MG_CLOCK_HZ > 168000000", "OVER_DRIVE = 1",
     "register: over-drive, which an F401 does not have, at a clock that does not need it"),
    ("nucleo-f401re", "(PLL_N << 6)", "(PLL_N / 4 << 6)", LOCK),
    ("nucleo-f401re", "(MG_CLOCK_HZ - 1) / 30000000", "1", FEW),
    ("nucleo-f401re", "clock_hz / 4u", "clock_hz / 2u", "register: BRR of 365 does not give 115200 baud"),
    ("nucleo-f446re", "OVER_DRIVE = MG_CLOCK_HZ > 168000000", "OVER_DRIVE = 0",
     "register: a core clock of 180 MHz without over-drive"),
    ("nucleo-f446re", "CFGR_PPRE1_DIV4 | ", "", "register: a bus clock above 45 MHz (APB1) or 90 MHz (APB2)"),
    ("nucleo-l476rg", "RCC_PLLCFGR = 0x4002100C", "RCC_PLLCFGR = 0x40021010", UNUSED),
    ("nucleo-l476rg", "(PLL_N << 8)", "((3 * PLL_N) << 8)", LOCK),
    ("nucleo-l476rg", "(1 << 24) |", "", "register: output R of the PLL is off"),
    ("nucleo-l476rg", "ACR_LATENCY_4 = 4,", "ACR_LATENCY_4 = 3,", FEW),
    ("nucleo-l476rg", "*mg_stm32_reg(RCC_PLLCFGR) = PLLCFGR;\n    mg_stm32_set_bits(RCC_CR, CR_PLLON);", SWAPPED,
     "register: the PLL is on: its factors cannot change"),
    ("nucleo-l476rg", "fast = {PLL_HZ, PLL_HZ}", "fast = {PLL_HZ, PLL_HZ / 2}",
     "register: BRR of 347 does not give 115200 baud"),
    ("nucleo-g474re", "    mg_stm32_enable(RCC_APB1ENR1, APB1ENR1_PWR);\n", "", OFF),
    ("nucleo-g474re", "mg_stm32_set_field(PWR_CR5, CR5_R1MODE, 0u);", "", "register: a core clock of 170 MHz"),
    ("nucleo-g474re", "CFGR_HPRE_DIV2 | CFGR_SW_PLL", "CFGR_SW_PLL", "register: the core's clock rises at one stroke"),
    ("nucleo-g474re", "ACR_LATENCY_4 = 4,", "ACR_LATENCY_4 = 3,", FEW),
    ("nucleo-h743zi2", "set < CACHE_SETS", "set < CACHE_SETS / 2",
     "register: only 256 of 512 lines of the data cache are invalid"),
    ("nucleo-h743zi2", "mg_stm32_set_field(PWR_CR3, CR3_SUPPLY_MASK, CR3_LDOEN);", "",
     "register: the voltage is fixed until the supply is set"),
    ("nucleo-h743zi2", "    mg_stm32_set_bits(SYSCFG_PWRCR, PWRCR_ODEN);\n", "",
     "register: a core clock of 480 MHz at voltage scale 1"),
    ("nucleo-h743zi2", "    mg_stm32_enable(RCC_APB4ENR, APB4ENR_SYSCFG);\n", "", OFF),
    ("nucleo-h743zi2", "4 | (2 << 4)", "4 | (1 << 4)", FEW),
    ("nucleo-h743zi2", "(4 << 4) | (4 << 8)", "4 << 4",
     "register: a bus clock above 240 MHz (AXI) or 120 MHz (APB)"),
    ("nucleo-h743zi2", "(3 << 2) | (1 << 16)", "(2 << 2) | (1 << 16)",
     "register: the PLL's input is out of its range"),
    ("nucleo-u575zi-q", "    mg_stm32_enable(RCC_AHB3ENR, AHB3ENR_PWR);\n", "", OFF),
    ("nucleo-u575zi-q", "VOSR_RANGE_1 = 3 << 16", "VOSR_RANGE_1 = 2 << 16",
     "register: a core clock of 160 MHz at that voltage"),
    ("nucleo-u575zi-q", "VOSR_BOOSTEN, VOSR_BOOSTRDY, VOSR_BOOSTRDY", "0u, 0u, 0u",
     "register: the voltage booster is off"),
    ("nucleo-u575zi-q", "(3 << 2)", "(0 << 2)", "register: the PLL's input is out of its range"),
    ("nucleo-u575zi-q", "ACR_LATENCY_4 = 4,", "ACR_LATENCY_4 = 3,", FEW),
    ("nucleo-h563zi", "VOSCR_VOS_0 = 3 << 4", "VOSCR_VOS_0 = 2 << 4",
     "register: a core clock of 250 MHz at voltage scale 1"),
    ("nucleo-h563zi", "5 | (2 << 4)", "5 | (1 << 4)", FEW),
    ("nucleo-h563zi", "(2 << 2)", "(3 << 2)", "register: the PLL's input is out of its range"),
    ("nucleo-h563zi", "PWR_VOSCR = 0x44020810", "PWR_VOSCR = 0x4402080C", UNUSED),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "fault"), PLANTED)
def test_a_port_that_would_fail_on_the_board_fails_here(name: str, old: str, new: str, fault: str) -> None:
    port = load_board(name).port
    assert fault_of(planted(load_board(name), f"ports/{port}/port.c", old, new)) == fault


CONSOLE = [
    ("    connect(MG_UART_TX_PIN);\n", "", "register: the UART's pin is not connected to it"),
    ("*mg_stm32_reg(UART_CR1) = CR1_UE_TE_RE;", "", "register: the UART does not transmit: it is not enabled"),
    ("    mg_stm32_enable(MG_GPIO_ENABLE, MG_GPIO_ENABLE_BIT);\n", "", OFF),
    ("    mg_stm32_enable(MG_UART_ENABLE, MG_UART_ENABLE_BIT);\n", "", OFF),
    ("UART_CR3 = MG_UART_BASE + 0x08", "UART_CR3 = MG_UART_BASE + 0x04", UNUSED),
    ("    *mg_stm32_reg(UART_BRR)", "    *mg_stm32_reg(UART_CR1) = 1u;\n    *mg_stm32_reg(UART_BRR)",
     "register: the UART is enabled: its settings cannot change"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fault"), CONSOLE)
def test_a_console_that_would_stay_silent_on_the_board_is_a_fault_here(old: str, new: str, fault: str) -> None:
    assert fault_of(planted(load_board("nucleo-u575zi-q"), "ports/stm32/console.c", old, new)) == fault


DEFINES = [
    ("nucleo-l476rg", "MG_UART_ENABLE_BIT", 16, OFF),
    ("nucleo-l476rg", "MG_GPIO_BASE", 0x48000400, OFF),  # GPIOB
    ("nucleo-l476rg", "MG_UART_BASE", 0x40004C00, "register: no GPIO or UART that the model of the family knows"),
    ("nucleo-h563zi", "MG_GPIO_ENABLE", 0x44020C90, UNUSED),
    ("nucleo-g474re", "MG_UART_STEPS", 1, "register: BRR of 1476 does not give 115200 baud"),
]


@pytest.mark.parametrize(("name", "key", "value", "fault"), DEFINES)
def test_a_wrong_fact_of_the_board_file_is_a_fault(name: str, key: str, value: int, fault: str) -> None:
    board = load_board(name)
    assert dict(board.port_defines)[key] != value
    wrong = tuple(sorted({**dict(board.port_defines), key: value}.items()))
    assert fault_of(planted(replace(board, port_defines=wrong), "ports/stm32/console.c", "", "")) == fault


# A UART other than the Nucleo's, and its pins, by the board file alone: PA9 and PA10, PA2 and PA3, PB14 and PB15.
OWN = {
    "L476, USART1": ("nucleo-l476rg", {
        "MG_UART_BASE": 0x40013800, "MG_UART_ENABLE": 0x40021060, "MG_UART_ENABLE_BIT": 14, "MG_UART_TX_PIN": 9,
        "MG_UART_RX_PIN": 10,
    }),
    "L476, LPUART1": ("nucleo-l476rg", {
        "MG_UART_BASE": 0x40008000, "MG_UART_ENABLE": 0x4002105C, "MG_UART_ENABLE_BIT": 0, "MG_UART_FUNCTION": 8,
        "MG_UART_STEPS": 256,
    }),
    "H743, USART1": ("nucleo-h743zi2", {
        "MG_UART_BASE": 0x40011000, "MG_UART_ENABLE": 0x580244F0, "MG_UART_ENABLE_BIT": 4, "MG_UART_TX_PIN": 14,
        "MG_UART_RX_PIN": 15, "MG_UART_FUNCTION": 4, "MG_GPIO_BASE": 0x58020400, "MG_GPIO_ENABLE_BIT": 1,
    }),
}  # fmt: skip


@pytest.mark.parametrize("own", OWN)
def test_a_board_of_ones_own_says_where_its_console_is(own: str) -> None:
    name, other = OWN[own]
    board = load_board(name)
    mine = replace(board, port_defines=tuple(sorted({**dict(board.port_defines), **other}.items())))
    firmware = build(project(mine, main=MAIN), require("zig", mine))
    assert run(firmware, b"hello.")[0] == b"%dhello" % board.clock_hz


def test_prescalers_are_those_of_the_reference_manual() -> None:
    assert [ahb_divider(code) for code in range(16)] == [1] * 8 + [2, 4, 8, 16, 64, 128, 256, 512]
    assert [apb_divider(code) for code in range(8)] == [1, 1, 1, 1, 2, 4, 8, 16]


# ---------------------------------------------------------------- the default model


@functools.cache
def default_model(name: str) -> Layout:
    source = open_source(None, None)
    return layouts.lay_out(quantize_source(source, None), source.tokenizer, load_board(name))


@each_toolchain
@pytest.mark.parametrize("name", BOARDS)
def test_the_default_model_is_equal_op_by_op_and_at_its_console(name: str, toolchain: str) -> None:
    layout = default_model(name)
    machine = ladder.board_machine(layout, toolchain)
    tokens = rungs.verification_tokens(layout.graph, layout.tokenizer, 8)
    report = verify(machine, layout.graph, layout.plan, tokens, rung="rung", title=machine.title)
    machine.close()
    assert (report.machine, report.difference, report.tokens) == (f"{name} in unicorn", None, len(tokens))

    lines = b"#check 8\n#tokens 3\n"
    checked = f"{layout.name} on {name}\n".encode() + END_OF_TRANSMISSION + rungs.check_lines(layout.graph, tokens)
    firmware = ladder.board_firmware(layout, toolchain)
    output = b"".join(CortexM(firmware, watch_accesses=False).console(lines))
    assert output.startswith(checked + END_OF_TRANSMISSION)
    if name == "nucleo-f401re":  # QEMU's STM32F405 has no clock registers: the fallback, at 16 MHz
        require_program("qemu-system-arm")
        assert run_console(firmware, lines, timeout=60, prompt=END_OF_TRANSMISSION) == output
        assert run_console(echo(name, toolchain), b"", timeout=60, prompt=b"000000") == b"16000000"
