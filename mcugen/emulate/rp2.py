"""The registers of an RP2040 or RP2350 that the port touches, as a program sees them.

What the port does not use is absent on purpose: an access to it is reported, so that a wrong address in the port or
in the board file cannot pass. Sources: "RP2040 Datasheet" and "RP2350 Datasheet", chapters Resets, Clocks, XOSC, PLL,
GPIO, UART; addresses: their sections "Address map".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import PAGE, BadRegisterAccess
from mcugen.emulate.second_core import Mailboxes
from mcugen.ir import Board


@dataclass(frozen=True, slots=True)
class _Chip:
    """Base addresses of peripherals. held: those that come up in reset, with their bit. pad: a pad after reset.
    vectors: the vector table's address. words: that can wait between the cores."""

    resets: int
    clocks: int
    xosc: int
    pll: int
    io: int
    pads: int
    uart: int
    held: Mapping[str, int]
    pad: int
    vectors: int
    words: int


_CHIPS: Mapping[str, _Chip] = {
    "cortex-m0plus": _Chip(
        0x4000C000, 0x40008000, 0x40024000, 0x40028000, 0x40014000, 0x4001C000, 0x40034000,
        held={"io": 5, "pads": 8, "pll": 12, "uart": 22}, pad=0x56, vectors=0x10000100, words=8,
    ),
    "cortex-m33": _Chip(
        0x40020000, 0x40010000, 0x40048000, 0x40050000, 0x40028000, 0x40038000, 0x40070000,
        held={"io": 6, "pads": 9, "pll": 14, "uart": 26}, pad=0x116, vectors=0x10000000, words=4,
    ),
}  # fmt: skip

_SIO, _VTOR = 0xD0000000, 0xE000ED08
_RESET, _RESET_DONE = 0x00, 0x08
_REF_CTRL, _REF_SELECTED, _SYS_CTRL, _SYS_SELECTED, _PERI_CTRL = 0x30, 0x38, 0x3C, 0x44, 0x48
_PERI_ENABLE = 1 << 11
_XOSC_CTRL, _XOSC_STATUS, _XOSC_STARTUP = 0x00, 0x04, 0x0C
_XOSC_ENABLE = 0xFAB000  # with the frequency range in the bits below
_PLL_CS, _PLL_PWR, _PLL_FBDIV, _PLL_PRIM = 0x00, 0x04, 0x08, 0x0C
_PLL_VCO_DOWN = 1 << 5 | 1 << 0
_PLL_POSTDIV_DOWN = 1 << 3
_READY = 1 << 31  # the crystal is stable; the PLL is locked
_CTRL, _PAD = (0x04, 0x0C), (0x04, 0x08)  # of GPIO 0 and 1
_FUNCTION_UART, _FUNCTION_NONE = 2, 0x1F
_PAD_ISOLATED = 1 << 8  # on the RP2350, where it is set at reset
_DR, _FR, _IBRD, _FBRD, _LCR_H, _CR = 0x00, 0x18, 0x24, 0x28, 0x2C, 0x30
_FR_RXFE = 1 << 4
_CR_TRANSMITS = 1 << 8 | 1 << 0  # TXE, UARTEN
_CR_RECEIVES = 1 << 9 | 1 << 0


class Rp2(CortexMRegisters):
    """Registers (registers.py) after reset. The console is UART0 on GPIO 0 and 1."""

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        self._chip = chip = _CHIPS[board.core]
        blocks = {
            chip.resets: {_RESET: 0x1FFFFFFF, _RESET_DONE: 0},
            chip.clocks: {_REF_CTRL: 0, _REF_SELECTED: 1, _SYS_CTRL: 0, _SYS_SELECTED: 1, _PERI_CTRL: 0},
            chip.xosc: {_XOSC_CTRL: 0, _XOSC_STATUS: 0, _XOSC_STARTUP: 0xC4},
            chip.pll: {_PLL_CS: 1, _PLL_PWR: 0x2D, _PLL_FBDIV: 0, _PLL_PRIM: 0x77000},
            chip.io: dict.fromkeys(_CTRL, _FUNCTION_NONE),
            chip.pads: dict.fromkeys(_PAD, chip.pad),
            chip.uart: dict.fromkeys((_DR, _FR, _IBRD, _FBRD, _LCR_H, _CR), 0),
        }
        values = {base + offset: value for base, block in blocks.items() for offset, value in block.items()}
        self.second = Mailboxes(_SIO, chip.words, chip.vectors, "fpu" in board.features)
        values |= dict.fromkeys(self.second.addresses(), 0) | {_VTOR: chip.vectors}
        super().__init__(board, values, cycles)
        self._held = {getattr(chip, name): 1 << bit for name, bit in chip.held.items()}

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        chip = self._chip
        if address in self.second.addresses():
            return self.second.read(address)
        if address == chip.resets + _RESET_DONE:
            return ~self._values[chip.resets] & 0x1FFFFFFF
        if address == chip.xosc + _XOSC_STATUS:
            return _READY if self._crystal() else 0
        if address == chip.pll:
            return value | (_READY if self._locked() else 0)
        if address in (chip.clocks + _REF_SELECTED, chip.clocks + _SYS_SELECTED):
            return 1 << (self._values[address - 8] & 3)
        if address == chip.uart + _FR:
            self.unanswered_polls += 1
            return 0 if self._connected(_CR_RECEIVES, 1) and self.input else _FR_RXFE
        if address == chip.uart + _DR:
            self.unanswered_polls = 0
            return self.input.popleft() if self._connected(_CR_RECEIVES, 1) and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        super().write(address, size, value)
        chip = self._chip
        if address in self.second.addresses():
            self.second.write(address, value)
        if address == chip.clocks + _REF_CTRL and value & 3 == 2 and not self._crystal():
            raise BadRegisterAccess("the crystal does not run: the chip would stop")
        if address == chip.clocks + _SYS_CTRL and value & 1 and not self._clocks_out():
            raise BadRegisterAccess("the PLL does not run: the chip would stop")
        if address == chip.uart + _DR:
            self.unanswered_polls = 0
            if not self._connected(_CR_TRANSMITS, 0):
                raise BadRegisterAccess("the UART does not transmit: it, its clock or its pin is not set up")
            self.output.append(value & 0xFF)

    def _crystal(self) -> bool:
        return self._values[self._chip.xosc] & 0xFFF000 == _XOSC_ENABLE

    def _locked(self) -> bool:
        on = not self._values[self._chip.pll + _PLL_PWR] & _PLL_VCO_DOWN
        return on and self._crystal() and self._values[self._chip.pll + _PLL_FBDIV] > 0

    def _clocks_out(self) -> bool:
        return self._locked() and not self._values[self._chip.pll + _PLL_PWR] & _PLL_POSTDIV_DOWN

    def _connected(self, on: int, gpio: int) -> bool:
        """Does the UART do what the bits `on` of its control register say, and reach the pin?"""
        chip, values = self._chip, self._values
        return (
            values[chip.uart + _CR] & on == on
            and bool(values[chip.clocks + _PERI_CTRL] & _PERI_ENABLE)
            and values[chip.io + _CTRL[gpio]] == _FUNCTION_UART
            and not values[chip.pads + _PAD[gpio]] & _PAD_ISOLATED
        )

    def _check(self, address: int, size: int) -> None:
        super()._check(address, size)
        if self._values[self._chip.resets] & self._held.get(address & ~(PAGE - 1), 0):
            raise BadRegisterAccess("the peripheral is held in reset")
