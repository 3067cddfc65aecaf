"""The registers of an ESP32-C3 that the port touches: its console UART0, the watchdogs that the boot ROM leaves on,
the core's clock.

Source: ESP32-C3 Technical Reference Manual, chapters UART Controller, Low-power Management, Timer Group and System
Registers; addresses and keys also in Espressif's esptool, targets/esp32c3.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mcugen.emulate.registers import PAGE, BadRegisterAccess
from mcugen.ir import Board

_FIFO, _CLKDIV, _STATUS, _CLK_CONF = 0x60000000, 0x60000014, 0x6000001C, 0x60000078
_RTC_CONFIG, _RTC_PROTECT, _SWD_CONF, _SWD_PROTECT = 0x60008090, 0x600080A8, 0x600080AC, 0x600080B0
_TIMG_CONFIG, _TIMG_PROTECT = 0x6001F048, 0x6001F064
_SYSCLK_CONF = 0x600C0058

# As the boot ROM leaves them: it has talked at 115200 baud, and its watchdogs run.
_BOOT_VALUES = {
    _FIFO: 0,
    _CLKDIV: 0x00B0015B,
    _STATUS: 0,
    _CLK_CONF: 0x03701000,
    _RTC_CONFIG: 1 << 31,
    _RTC_PROTECT: 0,
    _SWD_CONF: 0,
    _SWD_PROTECT: 0,
    _TIMG_CONFIG: 1 << 31 | 1 << 14,
    _TIMG_PROTECT: 0,
    _SYSCLK_CONF: 1,
}
# A register -> the one that must hold a key before it takes anything.
_KEYS = {
    _RTC_CONFIG: (_RTC_PROTECT, 0x50D83AA1),
    _TIMG_CONFIG: (_TIMG_PROTECT, 0x50D83AA1),
    _SWD_CONF: (_SWD_PROTECT, 0x8F1D312A),
}
_AUTO_FEED = 1 << 31
_CRYSTAL_HZ = 40_000_000
_FROM_CRYSTAL, _ENABLED = 3 << 20, 1 << 25 | 1 << 24 | 1 << 22
_BAUD_TOLERANCE = 0.02


class Esp32c3:
    """Registers (registers.py) as the boot ROM leaves them. The console is UART0."""

    pages: Sequence[int] = tuple(sorted({address & ~(PAGE - 1) for address in _BOOT_VALUES}))

    def __init__(self, board: Board) -> None:
        self._values = dict(_BOOT_VALUES)
        self._baud = dict(board.port_defines)["MG_UART_BAUD"]
        self.output = bytearray()
        self.input: deque[int] = deque()
        self.unanswered_polls = 0

    def read(self, address: int, size: int) -> int:
        """Return what the core reads. Raises BadRegisterAccess."""
        self._check(address, size)
        if address == _STATUS:
            self.unanswered_polls += 1
            return min(len(self.input), 128)
        if address == _FIFO:
            self.unanswered_polls = 0
            return self.input.popleft() if self.input else 0
        return self._values[address]

    def write(self, address: int, size: int, value: int) -> None:
        """Take what the core writes. Raises BadRegisterAccess."""
        self._check(address, size)
        protect, key = _KEYS.get(address, (None, 0))
        if protect is not None and self._values[protect] != key:
            raise BadRegisterAccess("the watchdog's registers are closed")
        self._values[address] = value
        if address == _FIFO:
            self.unanswered_polls = 0
            self._check_transmitter()
            self.output.append(value & 0xFF)

    def core_hz(self) -> int | None:
        """The core's clock on the crystal, None where it runs from something else."""
        source, divider = self._values[_SYSCLK_CONF] >> 10 & 3, (self._values[_SYSCLK_CONF] & 0x3FF) + 1
        return None if source else _CRYSTAL_HZ // divider

    def _check_transmitter(self) -> None:
        """A console that talks is one of a program that has begun: nothing may reset it any more."""
        clock, divider = self._values[_CLK_CONF], self._values[_CLKDIV]
        bits = (divider & 0xFFF) + (divider >> 20 & 15) / 16
        baud = _CRYSTAL_HZ / ((clock >> 12 & 0xFF) + 1) / max(bits, 1)
        if self._values[_RTC_CONFIG] or self._values[_TIMG_CONFIG] or not self._values[_SWD_CONF] & _AUTO_FEED:
            raise BadRegisterAccess("a watchdog still runs, and will reset the chip")
        if clock & _ENABLED != _ENABLED or clock & _FROM_CRYSTAL != _FROM_CRYSTAL:
            raise BadRegisterAccess("UART0 has no clock from the crystal")
        if abs(baud - self._baud) > _BAUD_TOLERANCE * self._baud:
            raise BadRegisterAccess(f"UART0 runs at {baud:.0f} baud, not {self._baud}")

    def _check(self, address: int, size: int) -> None:
        if address not in self._values:
            raise BadRegisterAccess("no register that the port uses")
        if size != 4:
            raise BadRegisterAccess(f"{size} bytes of a 4-byte register")
