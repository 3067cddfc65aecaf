"""Which emulator runs a board's firmware."""

from __future__ import annotations

from mcugen.cores import CORES
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.machine import Emulator
from mcugen.emulate.qemu_machine import QemuCortexM
from mcugen.emulate.riscv import RiscV
from mcugen.ir import Firmware


def open_machine(firmware: Firmware, *, watch_accesses: bool = True) -> Emulator:
    """Return the emulator of the firmware's board.

    watch_accesses: refuse misaligned accesses, count loads and stores, measure the stack, where the emulator can:
        slower, and as exact. Raises ToolError where the emulator or a model of the board is missing.
    """
    if "mve" in CORES[firmware.board.core].features:
        return QemuCortexM(firmware)  # unicorn has no core with vector instructions
    emulator = RiscV if CORES[firmware.board.core].family == "riscv" else CortexM
    return emulator(firmware, watch_accesses=watch_accesses)
