"""The NUCLEO-F446RE's port, run in the emulator: clock, console, fallback, and the end of the stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import project, require
from tools import missing

from mcugen.boards import load_board
from mcugen.emulate import cortex_m, unicorn_machine
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.stm32f4 import Stm32f4
from mcugen.errors import ToolError
from mcugen.toolchain import build

RCC_PLLCFGR, RCC_CFGR, FLASH_ACR, USART2_BRR = 0x40023804, 0x40023808, 0x40023C00, 0x40004408
RCC_CR, PWR_CSR, CPACR = 0x40023800, 0x40007004, 0xE000ED88

# Says what its clock is, then repeats what it is told up to a full stop.
MAIN = b"""#include "port.h"

int main(void);

static void write_number(uint32_t number)
{
    char digits[10];
    size_t first = sizeof digits;
    do {
        first--;
        digits[first] = (char)('0' + (char)(number % 10u));
        number /= 10u;
    } while (number > 0u);
    mg_port_write(digits + first, sizeof digits - first);
}

int main(void)
{
    mg_port_init();
    write_number(mg_port_clock_hz());
    for (int32_t byte = mg_port_read(); byte != '.'; byte = mg_port_read()) {
        const char echo = (char)byte;
        mg_port_write(&echo, 1u);
    }
    return 0;
}
"""

OVERFLOW = b"""#include "port.h"

int main(void);

int main(void)
{
    volatile uint8_t room[4096]; /* the board reserves less */
    for (size_t i = sizeof room; i > 0u; i--) {
        room[i - 1u] = 1u;
    }
    return room[0];
}
"""


@pytest.fixture(params=["zig", "gcc"])
def toolchain_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def machine(toolchain_name: str, main: bytes, cache: Path) -> CortexM:
    board = load_board("nucleo")
    firmware = build(project(board, main=main), require(toolchain_name, board), cache_dir=cache)
    try:
        return CortexM(firmware)
    except ToolError as error:
        missing(str(error))


def test_the_board_runs_at_180_mhz_and_talks(toolchain_name: str, tmp_path: Path) -> None:
    board = machine(toolchain_name, MAIN, tmp_path)
    assert b"".join(board.console(b"hi\xff.")) == b"180000000hi\xff"
    registers = board._registers
    # RM0390 6.3.2: VCO = 16 MHz / M * N, core = VCO / P; M = 8, N = 180, P = 2, from HSI, Q and R legal.
    pllcfgr = registers.read(RCC_PLLCFGR, 4)
    assert 16_000_000 // (pllcfgr & 63) * (pllcfgr >> 6 & 511) // (2 + 2 * (pllcfgr >> 16 & 3)) == 180_000_000
    assert pllcfgr >> 22 & 1 == 0
    assert min(pllcfgr >> 24 & 15, pllcfgr >> 28 & 7) >= 2
    assert registers.read(CPACR, 4) == 15 << 20  # the FPU: full access to coprocessors 10 and 11
    assert registers.read(RCC_CFGR, 4) == 2 << 2 | 2 | 5 << 10 | 4 << 13  # PLL; APB1 / 4, APB2 / 2
    assert registers.read(FLASH_ACR, 4) == 0x705  # caches, prefetch, 5 wait states
    assert registers.read(USART2_BRR, 4) == round(45_000_000 / 115_200)


# Each flag that the port waits for, held at zero.
FLAGS = {"PLLRDY": (RCC_CR, 1 << 25), "ODRDY": (PWR_CSR, 1 << 16), "ODSWRDY": (PWR_CSR, 1 << 17)}
FLAGS |= {"LATENCY": (FLASH_ACR, 15), "SWS": (RCC_CFGR, 3 << 2)}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_never_comes_leaves_the_board_alive_at_16_mhz(
    flag: str, toolchain_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, mask = FLAGS[flag]

    class Stuck(Stm32f4):
        def read(self, address: int, size: int) -> int:
            value = super().read(address, size)
            return value & ~mask if address == where else value

    monkeypatch.setitem(cortex_m.REGISTERS, "stm32f4", Stuck)
    board = machine(toolchain_name, MAIN, tmp_path)
    assert b"".join(board.console(b"still here.")) == b"16000000still here"
    assert board._registers.read(RCC_CFGR, 4) == 0  # HSI, no prescaler
    assert board._registers.read(USART2_BRR, 4) == round(16_000_000 / 115_200)


def test_a_console_that_takes_nothing_does_not_hang_the_board(
    toolchain_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Stm32f4):
        def read(self, address: int, size: int) -> int:
            value = super().read(address, size)
            return value & ~(1 << 7) if address == 0x40004400 else value  # TXE

    monkeypatch.setitem(cortex_m.REGISTERS, "stm32f4", Deaf)
    monkeypatch.setattr(unicorn_machine, "_UNANSWERED_POLLS", 10**9)  # polling for room is no waiting for input
    silent = MAIN.replace(b"write_number(mg_port_clock_hz());", b"write_number(7u);")
    assert b"".join(machine(toolchain_name, silent, tmp_path).console(b".")) == b"7"


def test_a_stack_overflow_leaves_ram_and_faults(toolchain_name: str, tmp_path: Path) -> None:
    with pytest.raises(FirmwareFault) as caught:
        list(machine(toolchain_name, OVERFLOW, tmp_path).console(b""))
    assert caught.value.kind == "stack-overflow"
    assert caught.value.address is not None
    assert caught.value.address < load_board("nucleo").ram.origin
