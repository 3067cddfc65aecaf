"""The registers of QEMU's machine "virt" that the port touches: its console, an NS16550 UART of byte registers.

Section numbers: TI PC16550D data sheet. What the port does not use is absent on purpose, as in stm32f4.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mcugen.emulate.registers import BadRegisterAccess

_UART = 0x10000000  # QEMU, hw/riscv/virt.c, virt_memmap
_DATA = _UART + 0  # 8.0: RBR when read, THR when written
_FCR = _UART + 2  # 8.5, write only
_LCR = _UART + 3  # 8.3
_LSR = _UART + 5  # 8.6.1, read only

_LCR_8N1 = 3
_LSR_DATA_READY = 1 << 0
_LSR_TRANSMITTER_EMPTY = 3 << 5  # THRE, TEMT


class Virt:
    """Registers (registers.py) after reset."""

    pages: Sequence[int] = (_UART,)

    def __init__(self) -> None:
        self._line_control = 0
        self.output = bytearray()
        self.input: deque[int] = deque()
        self.unanswered_polls = 0

    def read(self, address: int, size: int) -> int:
        """Return what the core reads. Raises BadRegisterAccess."""
        self._check(address, size, (_DATA, _LCR, _LSR))
        if address == _LCR:
            return self._line_control
        if address == _LSR:
            self.unanswered_polls += 1
            return _LSR_TRANSMITTER_EMPTY | (_LSR_DATA_READY if self.input else 0)
        self.unanswered_polls = 0
        return self.input.popleft() if self.input else 0

    def write(self, address: int, size: int, value: int) -> None:
        """Take what the core writes. Raises BadRegisterAccess."""
        self._check(address, size, (_DATA, _FCR, _LCR))
        if address == _LCR:
            self._line_control = value
        elif address == _DATA:
            self.unanswered_polls = 0
            if self._line_control != _LCR_8N1:
                raise BadRegisterAccess("the UART is not set to 8 data bits, no parity, 1 stop bit")
            self.output.append(value & 0xFF)

    def _check(self, address: int, size: int, known: Sequence[int]) -> None:
        if address not in known:
            raise BadRegisterAccess("no register that the port uses")
        if size != 1:
            raise BadRegisterAccess(f"{size} bytes of a 1-byte register")
