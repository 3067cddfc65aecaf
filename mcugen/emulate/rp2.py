"""The registers of an RP2040 or RP2350 that the port touches, as a program sees them; the board file has their addresses.

What the port does not use is absent on purpose: an access to it is reported, so that a wrong address in the port
cannot pass. Sources: "RP2040 Datasheet" and "RP2350 Datasheet", chapters Resets, Clocks, XOSC, PLL, GPIO, UART.
"""

from __future__ import annotations

from collections.abc import Callable

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import PAGE, BadRegisterAccess
from mcugen.ir import Board

_REF_SELECTED, _SYS_CTRL, _SYS_SELECTED, _PERI_CTRL = 0x38, 0x3C, 0x44, 0x48  # of the clocks
_PERI_ENABLE = 1 << 11
_XOSC_ENABLE = 0xFAB000  # with the frequency range in the bits below
_PLL_POWER = 1 << 0 | 1 << 5  # PD, VCOPD: 0 where it runs
_PLL_POSTDIV_DOWN = 1 << 3
_READY = 1 << 31
_FUNCTION_UART = 2
_PAD_ISOLATED = 1 << 8  # RP2350 only, where it is set at reset
_DR, _FR, _CR = 0x00, 0x18, 0x30  # of the UART
_FR_RXFE = 1 << 4
_CR_TRANSMITS = 1 << 8 | 1 << 0  # TXE, UARTEN
_CR_RECEIVES = 1 << 9 | 1 << 0
_FUNCTION_NONE = 0x1F


class Rp2(CortexMRegisters):
    """Registers (registers.py) after reset. The console is the UART at the board's MG_UART_BASE."""

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        at = {name.removeprefix("MG_").lower(): value for name, value in board.port_defines}
        pad = 0x116 if at["chip"] == 2350 else 0x56
        blocks = {
            at["resets_base"]: {0x00: 0x1FFFFFFF, 0x08: 0},
            at["clocks_base"]: {0x30: 0, _REF_SELECTED: 1, _SYS_CTRL: 0, _SYS_SELECTED: 1, _PERI_CTRL: 0},
            at["xosc_base"]: {0x00: 0, 0x04: 0, 0x0C: 0xC4},
            at["pll_base"]: {0x00: 1, 0x04: 0x2D, 0x08: 0, 0x0C: 0x77000},
            at["io_base"]: {0x04: _FUNCTION_NONE, 0x0C: _FUNCTION_NONE},
            at["pads_base"]: {0x04: pad, 0x08: pad},
            at["uart_base"]: dict.fromkeys((_DR, _FR, 0x24, 0x28, 0x2C, _CR), 0),
        }
        values = {base + offset: value for base, block in blocks.items() for offset, value in block.items()}
        super().__init__(board, values, cycles)
        self._at = at
        self._resets = {at[f"{name}_base"]: at[f"reset_{name}"] for name in ("io", "pads", "pll", "uart")}

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        at = self._at
        if address == at["resets_base"] + 0x08:
            return ~self._values[at["resets_base"]] & 0x1FFFFFFF
        if address == at["xosc_base"] + 0x04:
            return _READY if self._crystal() else 0
        if address == at["pll_base"]:
            running = self._crystal() and not self._values[address + 0x04] & _PLL_POWER
            return value | (_READY if running and self._values[address + 0x08] else 0)
        if address in (at["clocks_base"] + _REF_SELECTED, at["clocks_base"] + _SYS_SELECTED):
            return 1 << (self._values[address - 8] & 3)
        if address == at["uart_base"] + _FR:
            self.unanswered_polls += 1
            return 0 if self._connected(_CR_RECEIVES, 1) and self.input else _FR_RXFE
        if address == at["uart_base"] + _DR:
            self.unanswered_polls = 0
            return self.input.popleft() if self._connected(_CR_RECEIVES, 1) and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        super().write(address, size, value)
        at = self._at
        if address == at["clocks_base"] + 0x30 and value & 3 == 2 and not self._crystal():
            raise BadRegisterAccess("the crystal does not run: the chip would stop")
        if address == at["clocks_base"] + _SYS_CTRL and value & 1 and not self._pll():
            raise BadRegisterAccess("the PLL does not run: the chip would stop")
        if address == at["uart_base"] + _DR:
            self.unanswered_polls = 0
            if not self._connected(_CR_TRANSMITS, 0):
                raise BadRegisterAccess("the UART does not transmit: it, its clock or its pin is not set up")
            self.output.append(value & 0xFF)

    def _crystal(self) -> bool:
        return self._values[self._at["xosc_base"]] & 0xFFF000 == _XOSC_ENABLE

    def _pll(self) -> bool:
        base = self._at["pll_base"]
        on = not self._values[base + 0x04] & (_PLL_POWER | _PLL_POSTDIV_DOWN)
        return on and not self._values[self._at["resets_base"]] & self._resets[base]

    def _connected(self, on: int, gpio: int) -> bool:
        """Does the UART do what the bits `on` say, and reach the pin?"""
        at, values = self._at, self._values
        return (
            values[at["uart_base"] + _CR] & on == on
            and bool(values[at["clocks_base"] + _PERI_CTRL] & _PERI_ENABLE)
            and values[at["io_base"] + 8 * gpio + 4] == _FUNCTION_UART
            and not values[at["pads_base"] + 4 * gpio + 4] & _PAD_ISOLATED
        )

    def _check(self, address: int, size: int) -> None:
        super()._check(address, size)
        held = self._resets.get(address & ~(PAGE - 1), 0)
        if self._values[self._at["resets_base"]] & held:
            raise BadRegisterAccess("the peripheral is held in reset")
