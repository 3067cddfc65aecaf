"""A Cortex-M in unicorn, with the registers that the board's port uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    import unicorn
    from unicorn import arm_const as arm
except ImportError:  # an optional dependency; UnicornMachine says what to install
    unicorn = None

from mcugen.emulate.imxrt1062 import Imxrt1062
from mcugen.emulate.mps2 import Mps2
from mcugen.emulate.nrf5 import Nrf5
from mcugen.emulate.profile_hook import CODE_THUMB
from mcugen.emulate.registers import Registers
from mcugen.emulate.rp2 import Rp2
from mcugen.emulate.stm32f4 import Stm32f4
from mcugen.emulate.stm32g4 import Stm32g4
from mcugen.emulate.stm32h5 import Stm32h5
from mcugen.emulate.stm32h7 import Stm32h7
from mcugen.emulate.stm32l4 import Stm32l4
from mcugen.emulate.stm32u5 import Stm32u5
from mcugen.emulate.unicorn_machine import InstructionSet, UnicornMachine, check_model
from mcugen.ir import Board

_CPU_MODELS = {
    "cortex-m0": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m0plus": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m3": "UC_CPU_ARM_CORTEX_M3",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
    "cortex-m33": "UC_CPU_ARM_CORTEX_M33",
}
# The registers of a port, from the board and what its cycle counter shows.
REGISTERS: Mapping[str, Callable[[Board, Callable[[], int]], Registers]] = {
    "stm32f4": Stm32f4,
    "stm32g4": Stm32g4,
    "stm32h5": Stm32h5,
    "stm32h7": Stm32h7,
    "stm32l4": Stm32l4,
    "stm32u5": Stm32u5,
    "mps2": Mps2,
    "nrf5": Nrf5,
    "imxrt1062": Imxrt1062,
    "rp2": Rp2,
}
# QEMU's exception numbers, target/arm/cpu.h
_EXCEPTIONS = {1: "undefined instruction", 2: "svc", 3: "prefetch abort", 4: "data abort", 7: "bkpt"}


class CortexM(UnicornMachine):
    """The Machine of a board with a Cortex-M. Errors and parameters: UnicornMachine."""

    def _instruction_set(self, board: Board) -> InstructionSet:
        check_model(board, REGISTERS, _CPU_MODELS)
        return InstructionSet(
            code=CODE_THUMB,
            code_bit=1,
            pc=arm.UC_ARM_REG_PC,
            sp=arm.UC_ARM_REG_SP,
            link=arm.UC_ARM_REG_LR,
            status=arm.UC_ARM_REG_XPSR,
            arguments=(arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3),
            result=arm.UC_ARM_REG_R0,
            stack_alignment=8,  # AAPCS, 6.2.1.2
            exceptions=_EXCEPTIONS,
            skipped=0,
            invalid="has an undefined instruction",
            sleep="wfi or wfe",
        )

    def _engine(self) -> Any:
        engine = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        engine.ctl_set_cpu_model(getattr(arm, _CPU_MODELS[self._board.core]))
        return engine

    def _peripherals(self) -> Registers:
        registers = REGISTERS[self._board.port](self._board, lambda: int(self._state.instructions))
        if self._board.cores > 1 and isinstance(registers, Rp2):
            registers.second.runner = self._second_core(registers.second)
        return registers

    def _start(self) -> int:
        """The core loads its stack pointer from word 0 of the vector table and begins at word 1."""
        table = self.read(self.address("mg_vectors"), 8)
        self._uc.reg_write(arm.UC_ARM_REG_SP, int.from_bytes(table[:4], "little"))
        self._uc.reg_write(arm.UC_ARM_REG_LR, 0xFFFFFFFF)
        return int.from_bytes(table[4:], "little") & ~1

    def _is_peripheral(self, address: int) -> bool:
        return 0x40000000 <= address < 0x60000000 or address >= 0xA0000000  # Armv7-M manual, B3.1
