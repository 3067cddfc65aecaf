"""The registers of Arm's MPS2 FPGA images that the port touches: one UART of the Cortex-M System Design Kit (CMSDK).

Source: Cortex-M System Design Kit Technical Reference Manual (DDI 0479), section "APB UART".
"""

from __future__ import annotations

from collections.abc import Callable

from mcugen.emulate.cortex_m_registers import CortexMRegisters
from mcugen.emulate.registers import BadRegisterAccess
from mcugen.ir import Board

_DATA, _STATE, _CTRL, _BAUDDIV = 0x00, 0x04, 0x08, 0x10
_STATE_RX_FULL = 1 << 1  # bit 0, transmit buffer full, is never set: every byte leaves at once
_CTRL_TX_EN, _CTRL_RX_EN = 1 << 0, 1 << 1
_LEAST_BAUDDIV = 16


class Mps2(CortexMRegisters):
    """Registers (registers.py) after reset. The console is the UART at the board's MG_UART_BASE."""

    def __init__(self, board: Board, cycles: Callable[[], int]) -> None:
        self._base = dict(board.port_defines)["MG_UART_BASE"]
        offsets = (_DATA, _STATE, _CTRL, _BAUDDIV)
        super().__init__(board, {self._base + offset: 0 for offset in offsets}, cycles)

    def read(self, address: int, size: int) -> int:
        value = super().read(address, size)
        if address == self._base + _STATE:
            self.unanswered_polls += 1
            return _STATE_RX_FULL if self._enabled(_CTRL_RX_EN) and self.input else 0
        if address == self._base + _DATA:
            self.unanswered_polls = 0
            return self.input.popleft() if self._enabled(_CTRL_RX_EN) and self.input else 0
        return value

    def write(self, address: int, size: int, value: int) -> None:
        super().write(address, size, value)
        if address == self._base + _DATA:
            self.unanswered_polls = 0
            if not self._enabled(_CTRL_TX_EN):
                raise BadRegisterAccess("the UART does not transmit: it is not enabled, or its BAUDDIV is below 16")
            self.output.append(value & 0xFF)

    def _enabled(self, direction: int) -> bool:
        on = self._values[self._base + _CTRL] & direction
        return bool(on) and self._values[self._base + _BAUDDIV] >= _LEAST_BAUDDIV
