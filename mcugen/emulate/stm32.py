"""The registers that newer STM32 families share, from the STM32L4 on: clock gates, GPIO and the console's UART.

A family's class adds its clock tree. What a chip would not survive, or would answer with nonsense, is refused: a
peripheral whose clock is off, a PLL that is changed while it runs, a clock that voltage or wait states do not allow,
a byte at another baud rate than the board's. What the port does not use is absent on purpose.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import BadRegisterAccess
from mcugen.ir import Board

_BLOCK = 0x400  # bytes of addresses that a peripheral has
_MODER, _AFRL, _AFRH = 0x00, 0x20, 0x24
_CR1, _CR3, _BRR, _ISR, _RDR, _TDR = 0x00, 0x08, 0x0C, 0x1C, 0x24, 0x28
_CR1_UE, _CR1_RE, _CR1_TE = 1 << 0, 1 << 2, 1 << 3
_ISR_RXNE, _ISR_TC_TXE = 1 << 5, 3 << 6
_MODE_ALTERNATE = 2
_TOLERANCE = 0.02  # of the baud rate: half of what a receiver forgives, the other half is for the oscillator


@dataclass(frozen=True, slots=True)
class Field:
    """Bits of a register."""

    register: int
    low: int
    width: int = 1

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.low


@dataclass(frozen=True, slots=True)
class Chip:
    """One family's registers.

    reset: value after reset of each register of clocks, power and flash.
    follows: field of a status register -> the field that it follows, at once.
    gates: base of a peripheral -> the bit that starts its clock.
    lpuarts: bases of those among them that count in 1/256 clocks.
    pll_on: the PLL's enable bit. pll_factors: registers that may not be written while it is set.
    switch: the field that selects the system clock.
    """

    reset: Mapping[int, int]
    follows: Mapping[Field, Field]
    gates: Mapping[int, Field]
    lpuarts: frozenset[int]
    pll_on: Field
    pll_factors: frozenset[int]
    switch: Field


@dataclass(frozen=True, slots=True)
class Clocks:
    """Clocks in Hz: the core's, and that of the bus which feeds the console."""

    core: float
    bus: float


class Stm32(CortexMRegisters, abc.ABC):
    """Registers (registers.py) after reset. The console is the UART at the board's MG_UART_BASE."""

    chip: Chip  # of the family

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        self._defines = dict(board.port_defines)
        self._uart, self._gpio = self._defines["MG_UART_BASE"], self._defines["MG_GPIO_BASE"]
        console = {self._uart + offset: 0 for offset in (_CR1, _CR3, _BRR, _ISR, _RDR, _TDR)}
        pins = {self._gpio + _MODER: 0xFFFFFFFF, self._gpio + _AFRL: 0, self._gpio + _AFRH: 0}
        super().__init__(board, {**self.chip.reset, **console, **pins}, cycles)

    @abc.abstractmethod
    def clocks(self) -> Clocks:
        """The clocks that the registers give. Raises BadRegisterAccess where the chip cannot run at them."""

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        for status, control in self.chip.follows.items():
            if status.register == address:
                value = value & ~status.mask | self.field(control) << status.low
        if address == self._uart + _ISR:
            self.unanswered_polls += 1
            return _ISR_TC_TXE | (_ISR_RXNE if self._enabled(_CR1_RE) and self.input else 0)
        if address == self._uart + _RDR:
            self.unanswered_polls = 0
            return self.input.popleft() if self._enabled(_CR1_RE) and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        if address in self.chip.pll_factors and self.field(self.chip.pll_on):
            raise BadRegisterAccess("the PLL is on: its factors cannot change")
        if address in (self._uart + _BRR, self._uart + _CR3) and self._enabled(0):
            raise BadRegisterAccess("the UART is enabled: its settings cannot change")
        selected = self.field(self.chip.switch)
        super().write(address, size, value)
        if address == self.chip.switch.register:
            self.clocks()
            if self.field(self.chip.switch) != selected:
                self.switched()
        if address == self._uart + _TDR:
            self.unanswered_polls = 0
            self._check_console()
            self.output.append(value & 0xFF)

    def field(self, field: Field) -> int:
        """Return what was written to a field, or its value after reset."""
        return (self._values[field.register] & field.mask) >> field.low

    def switched(self) -> None:
        """Another system clock was selected. Raises BadRegisterAccess where that may not be now."""

    def _enabled(self, direction: int) -> bool:
        wanted = _CR1_UE | direction
        return self._values[self._uart + _CR1] & wanted == wanted

    def _check(self, address: int, size: int) -> None:
        super()._check(address, size)
        base = address & -_BLOCK
        gate = self.chip.gates.get(base)
        if gate is None and base in (self._uart, self._gpio):
            raise BadRegisterAccess("no GPIO or UART that the model of the family knows")
        if gate is not None and not self.field(gate):
            raise BadRegisterAccess("the peripheral's clock is off in the RCC")

    def _check_console(self) -> None:
        """Would the byte arrive? Raises BadRegisterAccess."""
        if not self._enabled(_CR1_TE):
            raise BadRegisterAccess("the UART does not transmit: it is not enabled")
        pin = self._defines["MG_UART_TX_PIN"]
        mode = self.field(Field(self._gpio + _MODER, 2 * pin, 2))
        function = self.field(Field(self._gpio + (_AFRH if pin > 7 else _AFRL), pin % 8 * 4, 4))
        if (mode, function) != (_MODE_ALTERNATE, self._defines["MG_UART_FUNCTION"]):
            raise BadRegisterAccess("the UART's pin is not connected to it")
        divider = self._values[self._uart + _BRR]
        steps, least = (256, 0x300) if self._uart in self.chip.lpuarts else (1, 16)
        check_baud(self.clocks().bus * steps, divider, self._defines["MG_UART_BAUD"], least)


def require(condition: bool, what: str) -> None:
    """Raise BadRegisterAccess with `what` unless the condition holds."""
    if not condition:
        raise BadRegisterAccess(what)


def check_baud(hertz: float, divider: int, wanted: int, least: int = 16) -> None:
    """Raise BadRegisterAccess where a UART's clock, in Hz, divided by BRR is another baud rate than the one wanted.

    least: BRR that the UART can count.
    """
    right = divider >= least and abs(hertz / divider / wanted - 1) <= _TOLERANCE
    require(right, f"BRR of {divider} does not give {wanted} baud")


def ahb_divider(code: int) -> int:
    """What an HPRE field divides by: 1 below 8, then 2, 4, 8, 16, 64 to 512."""
    return 1 if code < 8 else 1 << (code - 7 if code < 12 else code - 6)


def apb_divider(code: int) -> int:
    """What a PPRE field divides by: 1 below 4, then 2 to 16."""
    return 1 if code < 4 else 1 << (code - 3)


def gpio_gates(first: int, count: int, register: int) -> dict[int, Field]:
    """The gates of `count` GPIO ports, one block each from `first`, and one bit each from 0."""
    return {first + _BLOCK * i: Field(register, i) for i in range(count)}
