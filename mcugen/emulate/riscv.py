"""An RV32IMC core in unicorn, with the registers that the board's port uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    import unicorn
    from unicorn import riscv_const as riscv
except ImportError:  # an optional dependency; UnicornMachine says what to install
    unicorn = None

from mcugen.emulate.esp32c3 import Esp32c3
from mcugen.emulate.profile_hook import CODE_RISCV
from mcugen.emulate.registers import Registers
from mcugen.emulate.unicorn_machine import InstructionSet, UnicornMachine, check_model
from mcugen.emulate.virt import Virt
from mcugen.ir import Board

# RV32IMAC, the smallest of unicorn's cores that has I, M and C; the compiler emits no A.
_CPU_MODELS = {"rv32imc": "UC_CPU_RISCV32_SIFIVE_E31"}
REGISTERS: Mapping[str, Callable[[Board], Registers]] = {"virt": lambda _: Virt(), "esp32c3": Esp32c3}
# RISC-V Instruction Set Manual, volume II, table "Machine cause register (mcause) values after trap"
_EXCEPTIONS = {
    0: "misaligned jump",
    1: "instruction access fault",
    2: "illegal instruction",
    3: "ebreak",
    4: "misaligned load",
    5: "load access fault",
    6: "misaligned store",
    7: "store access fault",
    8: "ecall",
    9: "ecall",
    11: "ecall",
}


class RiscV(UnicornMachine):
    """The Machine of a board with an RV32IMC core. Errors and parameters: UnicornMachine."""

    def _instruction_set(self, board: Board) -> InstructionSet:
        check_model(board, REGISTERS, _CPU_MODELS)
        return InstructionSet(
            code=CODE_RISCV,
            code_bit=0,
            pc=riscv.UC_RISCV_REG_PC,
            sp=riscv.UC_RISCV_REG_SP,
            link=riscv.UC_RISCV_REG_RA,
            status=None,
            arguments=tuple(riscv.UC_RISCV_REG_A0 + i for i in range(8)),
            result=riscv.UC_RISCV_REG_A0,
            stack_alignment=16,  # RISC-V ABIs Specification, "Integer Calling Convention"
            exceptions=_EXCEPTIONS,
            skipped=4,  # measured with unicorn 2.1.4, for instructions of 16 bits, too
            invalid="has an ebreak",  # an undefined instruction is exception 2
            sleep="wfi",
        )

    def _engine(self) -> Any:
        engine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
        engine.ctl_set_cpu_model(getattr(riscv, _CPU_MODELS[self._board.core]))
        return engine

    def _peripherals(self) -> Registers:
        return REGISTERS[self._board.port](self._board)

    def _start(self) -> int:
        """The core, or its boot ROM, begins at the first code in flash; no register but pc has a stated value."""
        for register in range(1, 32):
            self._uc.reg_write(riscv.UC_RISCV_REG_X0 + register, 0xA5A5A5A5)
        return self.address("Reset_Handler")

    def _is_peripheral(self, address: int) -> bool:
        return 0x00100000 <= address < 0x80000000  # QEMU, hw/riscv/virt.c, virt_memmap: all but ROM and RAM
