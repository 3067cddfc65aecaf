"""The registers of a board's peripherals, as an emulated core meets them; one class per port keeps to this."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

PAGE = 0x1000  # bytes; the emulator maps registers in pages


class BadRegisterAccess(Exception):
    """The access is one that the model refuses; the text says why."""


class Registers(Protocol):
    """Registers after reset.

    pages: addresses of the pages that hold them. output: bytes sent by the console, to be taken away by the owner.
    input: bytes that it will receive. unanswered_polls: looks for input since the last byte went in or out.
    """

    output: bytearray
    input: deque[int]
    unanswered_polls: int

    @property
    def pages(self) -> Sequence[int]: ...

    def read(self, address: int, size: int) -> int:
        """Return what the core reads. Raises BadRegisterAccess."""

    def write(self, address: int, size: int, value: int) -> None:
        """Take what the core writes. Raises BadRegisterAccess."""
