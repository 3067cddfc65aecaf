"""The registers that a Cortex-M has of its own; a port's class adds those of its chip.

What no firmware of ours uses is absent on purpose: an access to it is reported, so that a wrong address cannot pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from mcugen.emulate.registers import PAGE, BadRegisterAccess
from mcugen.ir import Board

# Armv7-M Architecture Reference Manual; Armv8-M Mainline has them at the same addresses, Armv6-M has none of them.
_DWT_CTRL = 0xE0001000  # C1.8.7
_DWT_CYCCNT = 0xE0001004  # C1.8.8
_CPACR = 0xE000ED88  # B3.2.20
_DEMCR = 0xE000EDFC  # C1.6.5


class CortexMRegisters:
    """Registers (registers.py) after reset: those of the board's core, and `reset_values` by address.

    Each is a word that keeps what is written to it, unless a subclass knows better.
    cycles: provides what DWT_CYCCNT shows.
    """

    def __init__(self, board: Board, reset_values: Mapping[int, int], cycles: Callable[[], int]) -> None:
        self._values = dict(reset_values)
        if "v7m" in board.features:
            self._values |= {_DWT_CTRL: 0x40000000, _DWT_CYCCNT: 0, _DEMCR: 0}
        if "fpu" in board.features:
            self._values[_CPACR] = 0
        self._cycles = cycles
        self.pages = tuple(sorted({address & ~(PAGE - 1) for address in self._values}))
        self.output = bytearray()
        self.input: deque[int] = deque()
        self.unanswered_polls = 0

    def read(self, address: int, size: int) -> int:
        """Return what the core reads. Raises BadRegisterAccess."""
        self._check(address, size)
        return self._cycles() & 0xFFFFFFFF if address == _DWT_CYCCNT else self._values[address]

    def write(self, address: int, size: int, value: int) -> None:
        """Take what the core writes. Raises BadRegisterAccess."""
        self._check(address, size)
        self._values[address] = value

    def _check(self, address: int, size: int) -> None:
        if address not in self._values:
            raise BadRegisterAccess("no register that the port uses")
        if size != 4:
            raise BadRegisterAccess(f"{size} bytes of a 4-byte register")
