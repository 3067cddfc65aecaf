"""The registers of an i.MX RT1062 that the port touches: clocks, voltage, caches and MPU, the console and its pins.

Source: i.MX RT1060 Processor Reference Manual, chapters CCM, DCDC, IOMUXC and LPUART; Armv7-M Architecture Reference
Manual for the core's own.
"""

from __future__ import annotations

from collections.abc import Callable

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import BadRegisterAccess
from mcugen.ir import Board

_CCM = 0x400FC000
_CACRR, _CBCDR, _CBCMR, _CSCDR1, _CDHIPR = (_CCM + offset for offset in (0x10, 0x14, 0x18, 0x24, 0x48))
_CCGR3, _CCGR4, _CCGR6 = _CCM + 0x74, _CCM + 0x78, _CCM + 0x80
_PLL_ARM = 0x400D8000
_DCDC_REG0, _DCDC_REG3 = 0x40080000, 0x4008000C
_GPR14, _GPR16, _GPR17 = 0x400AC038, 0x400AC040, 0x400AC044
_MUX_TX, _MUX_RX, _PAD_RX, _RX_SELECT = 0x401F80C4, 0x401F80C8, 0x401F82B8, 0x401F8550
_BAUD, _STAT, _CTRL, _DATA = (0x40198000 + offset for offset in (0x10, 0x14, 0x18, 0x1C))
_VTOR, _CCR, _MPU_CTRL, _MPU_RBAR, _MPU_RASR = 0xE000ED08, 0xE000ED14, 0xE000ED94, 0xE000ED9C, 0xE000EDA0
_ICIALLU, _DCISW = 0xE000EF50, 0xE000EF60

_RESET_VALUES = dict.fromkeys(
    (_CDHIPR, _DCDC_REG0, _DATA, _CTRL, _STAT, _RX_SELECT, _VTOR, _MPU_CTRL, _MPU_RBAR, _MPU_RASR, _ICIALLU, _DCISW),
    0,
) | {
    _CACRR: 1,
    _CBCDR: 0x000A8200,
    _CBCMR: 0x2DAE8324,
    _CSCDR1: 0x06490B00,
    _CCGR3: 0,  # the boot ROM leaves on what it needs, and that is not this
    _CCGR4: 0,
    _CCGR6: 0,
    _PLL_ARM: 0x00013063,
    _DCDC_REG3: 0x0000010E,
    _GPR14: 0,
    _GPR16: 0x00200003,
    _GPR17: 0,
    _MUX_TX: 5,
    _MUX_RX: 5,
    _PAD_RX: 0x10B0,
    _BAUD: 0x0F000004,
    _CCR: 0x00040200,
}
# What begins at an address -> the register and bits that start its clock.
_CLOCKS = {0x40080000: (_CCGR6, 3 << 6), 0x401F8000: (_CCGR4, 3 << 2), 0x40198000: (_CCGR3, 3 << 6)}

_ON_CRYSTAL = 1 << 25  # CBCDR
_PLL_LOCK, _PLL_ENABLE, _PLL_OFF = 1 << 31, 1 << 13, 1 << 16 | 1 << 12  # bypassed or powered down
_DCDC_OK = 1 << 31
_TARGET_1250_MV = 18
_CRYSTAL_HZ = 24_000_000
_MOST_IPG_HZ = 150_000_000
_NEEDS_1250_MV = 528_000_000  # Hz, above
_STAT_TX_EMPTY, _STAT_RECEIVED = 3 << 22, 1 << 21
_TRANSMITS, _RECEIVES = 1 << 19, 1 << 18
_LPUART6 = 2  # as a pin's function
_BAUD_TOLERANCE = 0.02


class Imxrt1062(CortexMRegisters):
    """Registers (registers.py) as the boot ROM leaves them. The console is LPUART6, pins 0 and 1 of a Teensy 4.1."""

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        super().__init__(board, _RESET_VALUES, cycles)
        self._baud_rate = dict(board.port_defines)["MG_UART_BAUD"]

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        if address == _PLL_ARM:
            return value | (_PLL_LOCK if value & _PLL_ENABLE and not value & _PLL_OFF else 0)
        if address == _DCDC_REG0:
            return value | _DCDC_OK
        if address == _STAT:
            self.unanswered_polls += 1
            return _STAT_TX_EMPTY | (_STAT_RECEIVED if self._receives() and self.input else 0)
        if address == _DATA:
            self.unanswered_polls = 0
            return self.input.popleft() if self._receives() and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        was_on_crystal = self._values[_CBCDR] & _ON_CRYSTAL
        super().write(address, size, value)
        if address == _CBCDR and was_on_crystal and not value & _ON_CRYSTAL:
            self._check_clock()
        elif address == _PLL_ARM and not was_on_crystal:
            raise BadRegisterAccess("the PLL is changed while the core runs from it")
        elif address == _DATA:
            self.unanswered_polls = 0
            self._check_transmitter()
            self.output.append(value & 0xFF)

    def core_hz(self) -> int:
        """The core's clock, from the PLL."""
        divider = (self._values[_CACRR] & 7) + 1
        return _CRYSTAL_HZ // 2 * (self._values[_PLL_ARM] & 127) // divider // ((self._values[_CBCDR] >> 10 & 7) + 1)

    def _check_clock(self) -> None:
        if not self.read(_PLL_ARM, 4) & _PLL_LOCK or self._values[_CBCMR] >> 18 & 3 != 3:
            raise BadRegisterAccess("the core is switched to a PLL that is not ready")
        if self.core_hz() > _NEEDS_1250_MV and self._values[_DCDC_REG3] & 31 < _TARGET_1250_MV:
            raise BadRegisterAccess(f"the voltage is too low for {self.core_hz():,} Hz")
        if self.core_hz() // ((self._values[_CBCDR] >> 8 & 3) + 1) > _MOST_IPG_HZ:
            raise BadRegisterAccess("the peripheral bus runs at more than 150 MHz")

    def _check_transmitter(self) -> None:
        baud = self._values[_BAUD]
        clock = _CRYSTAL_HZ / ((self._values[_CSCDR1] & 63) + 1)
        rate = clock / ((baud >> 24 & 31) + 1) / max(baud & 0x1FFF, 1)
        if not self._values[_CTRL] & _TRANSMITS:
            raise BadRegisterAccess("LPUART6 is not enabled")
        if self._values[_MUX_TX] != _LPUART6:
            raise BadRegisterAccess("pin 1 is not LPUART6's")
        if not self._values[_CSCDR1] & 1 << 6 or abs(rate - self._baud_rate) > _BAUD_TOLERANCE * self._baud_rate:
            raise BadRegisterAccess(f"LPUART6 does not run from the crystal at {self._baud_rate} baud")

    def _receives(self) -> bool:
        pin = self._values[_MUX_RX] == _LPUART6 and self._values[_RX_SELECT] == 1
        return pin and bool(self._values[_CTRL] & _RECEIVES)

    def _check(self, address: int, size: int) -> None:
        super()._check(address, size)
        enable = _CLOCKS.get(address & ~0x3FFF)
        if enable and self._values[enable[0]] & enable[1] != enable[1]:
            raise BadRegisterAccess("the peripheral's clock is off in the CCM")
