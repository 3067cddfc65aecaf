"""The registers of a Nordic nRF51 or nRF52 that the port touches: crystal, console, its two pins, the flash's cache.

Sources: nRF51 Series Reference Manual, chapters CLOCK, GPIO and UART; nRF52833 and nRF52840 Product Specifications,
the same chapters and NVMC.
"""

from __future__ import annotations

from collections.abc import Callable

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import BadRegisterAccess
from mcugen.ir import Board

_HFCLKSTART, _HFCLKSTARTED = 0x40000000, 0x40000100
_STARTRX, _STARTTX = 0x40002000, 0x40002008
_RXDRDY, _TXDRDY = 0x40002108, 0x4000211C
_ENABLE, _PSELTXD, _PSELRXD = 0x40002500, 0x4000250C, 0x40002514
_RXD, _TXD, _BAUDRATE = 0x40002518, 0x4000251C, 0x40002524
_GPIO, _GPIO_PORT = 0x50000000, 0x300
_OUTSET, _DIRSET, _PIN_CNF = 0x508, 0x518, 0x700

_TASKS = frozenset({_HFCLKSTART, _STARTRX, _STARTTX})
_EVENTS = frozenset({_HFCLKSTARTED, _RXDRDY, _TXDRDY})
_ENABLED = 4
_DISCONNECTED = 0xFFFFFFFF
_PIN_DISCONNECTED = 1 << 1  # the reset value of PIN_CNF: an input that is not read
_UART_HZ = 16_000_000
_BAUD_TOLERANCE = 0.02  # what a UART of 8 bits can bear, the other side's own error aside


class Nrf5(CortexMRegisters):
    """Registers (registers.py) after reset. The console is the UART, at the board's pins."""

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        defines = dict(board.port_defines)
        self._baud = defines["MG_UART_BAUD"]
        self._tx_pin, self._rx_pin = defines["MG_UART_TX_PIN"], defines["MG_UART_RX_PIN"]
        self._outset, self._dirset = self._of_port(self._tx_pin, _OUTSET), self._of_port(self._tx_pin, _DIRSET)
        self._pin_cnf = self._of_port(self._rx_pin, _PIN_CNF) + 4 * (self._rx_pin % 32)
        values = dict.fromkeys((*_TASKS, *_EVENTS, _ENABLE, _RXD, _TXD, self._outset, self._dirset), 0)
        values |= {_PSELTXD: _DISCONNECTED, _PSELRXD: _DISCONNECTED, _BAUDRATE: 0x04000000}
        values[self._pin_cnf] = _PIN_DISCONNECTED
        if defines["MG_ICACHECNF"]:
            values[defines["MG_ICACHECNF"]] = 0
        super().__init__(board, values, cycles)

    @staticmethod
    def _of_port(pin: int, offset: int) -> int:
        return _GPIO + pin // 32 * _GPIO_PORT + offset

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        if address in _TASKS or address == _TXD:
            raise BadRegisterAccess("the register is write-only")
        if address == _RXDRDY:
            self.unanswered_polls += 1
            return int(bool(value or self.input)) if self._receives() else 0
        if address == _RXD:
            self.unanswered_polls = 0
            return self.input.popleft() if self._receives() and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        super().write(address, size, value)
        if address in _EVENTS and value:
            raise BadRegisterAccess("an event is only ever cleared")
        if address == _HFCLKSTART:
            self._values[_HFCLKSTARTED] = 1
        elif address in (_PSELTXD, _PSELRXD) and self._values[_ENABLE]:
            raise BadRegisterAccess("the UART takes its pins before it is enabled")
        elif address == _TXD:
            self.unanswered_polls = 0
            self._check_transmitter()
            self.output.append(value & 0xFF)
            self._values[_TXDRDY] = 1

    def _check_transmitter(self) -> None:
        baud = self._values[_BAUDRATE] * _UART_HZ / 2**32
        driven = self._values[self._dirset] & self._values[self._outset] & 1 << self._tx_pin % 32
        if self._values[_ENABLE] != _ENABLED or not self._values[_STARTTX]:
            raise BadRegisterAccess("the UART does not transmit: it is not enabled, or not started")
        if self._values[_PSELTXD] != self._tx_pin or not driven:
            raise BadRegisterAccess(f"the UART does not drive the board's pin {self._tx_pin}")
        if abs(baud - self._baud) > _BAUD_TOLERANCE * self._baud:
            raise BadRegisterAccess(f"the UART runs at {baud:.0f} baud, not {self._baud}")

    def _receives(self) -> bool:
        pin = self._values[_PSELRXD] == self._rx_pin and not self._values[self._pin_cnf] & _PIN_DISCONNECTED
        return pin and self._values[_ENABLE] == _ENABLED and bool(self._values[_STARTRX])
