"""Call kernels on an emulated core, without a board: compile, link at a fixed address, place arrays, call, count.

Independent of mcugen.emulate on purpose: the harness that tests kernels shares nothing with the one that verifies
firmware. Counts are exact: every executed instruction, those that an IT block skips included.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import unicorn
from elftools.elf.elffile import ELFFile
from unicorn import arm_const as arm
from unicorn import riscv_const as riscv

from mcugen.cores import gcc_core_flags, zig_core_flags

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
CODE, CODE_SIZE = 0x0001_0000, 0x0080_0000
RAM, RAM_SIZE = 0x2000_0000, 0x0100_0000
STACK = RAM + RAM_SIZE
RETURN = 0x0000_1000
FILLER = 0xA5
LIMIT = 10_000_000  # instructions of a call
FENCE = 64  # bytes around every array that no kernel may write

LINK = f"""ENTRY(_start)
SECTIONS {{
  . = {CODE:#x};
  _start = .;
  .text : {{ KEEP(*(.text*)) *(.rodata*) *(.srodata*) }}
  . = {RAM:#x};
  .data : {{ *(.data*) *(.sdata*) *(.bss*) *(.sbss*) *(COMMON) }}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.comment) *(.eh_frame*) }}
}}
"""
FLAGS = [
    "-std=c99", "-O2", "-ffreestanding", "-fno-strict-aliasing", "-fomit-frame-pointer", "-fno-stack-protector",
    "-ffunction-sections", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-g0", "-Wall", "-Wextra",
    "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror",
]  # fmt: skip
FEATURES = {
    "cortex-m0plus": frozenset(),
    "cortex-m3": frozenset(),
    "cortex-m4": frozenset({"dsp", "fpu"}),
    "cortex-m7": frozenset({"dsp", "fpu"}),
    "cortex-m33": frozenset({"dsp", "fpu"}),
}
CPUS = {
    "cortex-m0plus": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m3": "UC_CPU_ARM_CORTEX_M3",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
    "cortex-m33": "UC_CPU_ARM_CORTEX_M33",
}
RISCV = "rv32imc"


def core_flags(core: str, toolchain: str) -> list[str]:
    """The compiler's command for a core."""
    if core == RISCV:
        if toolchain == "zig":
            cpu = "-mcpu=generic_rv32+m+c"
            return [sys.executable, "-m", "ziglang", "cc", "-target", "riscv32-freestanding-none", cpu, "-mabi=ilp32"]
        return ["riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32"]
    features = FEATURES[core]
    if toolchain == "zig":
        return [sys.executable, "-m", "ziglang", "cc", *zig_core_flags(core, features)]
    return ["arm-none-eabi-gcc", *gcc_core_flags(core, features)]


def build(core: str, toolchain: str, sources: Sequence[Path]) -> Path:
    """Compile and link `sources` for a core; cached by content."""
    command = core_flags(core, toolchain)
    extra = ["-fno-sanitize=undefined", "-fno-unroll-loops"] if toolchain == "zig" else []
    includes = [f"-I{FIRMWARE / 'kernels'}"]
    sources = [*sources, FIRMWARE / "ports" / "freestanding" / "mem.c"]
    digest = hashlib.sha256(repr([command[1:], FLAGS, extra, LINK]).encode())
    for path in [*sources, *sorted((FIRMWARE / "kernels").rglob("*.h"))]:
        digest.update(path.name.encode() + path.read_bytes())
    cache = Path(tempfile.gettempdir()) / f"mcugen-on-core-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    image = cache / f"{digest.hexdigest()[:32]}.elf"
    if image.exists():
        return image
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        script = Path(folder) / "link.ld"
        script.write_text(LINK)
        fresh = Path(folder) / "out.elf"
        objects = []
        for index, source in enumerate(sources):
            objects.append(str(Path(folder) / f"{index}.o"))
            language = [flag for flag in FLAGS if source.suffix == ".c" or not flag.startswith("-std")]
            _run([*command, *language, *extra, *includes, "-c", str(source), "-o", objects[-1]])
        runtime = ["-rtlib=compiler-rt", "-Wl,-e,_start"] if toolchain == "zig" else ["-lgcc"]
        link = ["-nostdlib", "-Wl,--build-id=none", "-T", str(script), *objects, *runtime, "-o", str(fresh)]
        _run([*command, *link])
        fresh.replace(image)
    return image


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")


@dataclass
class Core:
    """An emulated core with `sources` loaded. Arrays are placed in RAM until reset()."""

    core: str
    toolchain: str
    image: Path
    instructions: int = 0  # of the last call

    def __post_init__(self) -> None:
        if self.core == RISCV:
            self.uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
        else:
            self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
            self.uc.ctl_set_cpu_model(getattr(arm, CPUS[self.core]))
        self.uc.mem_map(0x0, 0x10000, unicorn.UC_PROT_ALL)
        self.uc.mem_map(CODE, CODE_SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.uc.mem_map(RAM, RAM_SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        with self.image.open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_LOAD"):
                if segment["p_filesz"]:
                    self.uc.mem_write(segment["p_vaddr"], segment.data())
            table = elf.get_section_by_name(".symtab")
            self.symbols = {s.name: s["st_value"] & ~1 for s in table.iter_symbols() if s.name}
        self._counted = 0
        self._sizes: dict[tuple[int, int], int] = {}  # instructions of a block
        self.uc.hook_add(unicorn.UC_HOOK_BLOCK, self._count)
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        self.reset()

    def _count(self, uc: unicorn.Uc, address: int, size: int, _data: object) -> None:
        """A block runs from its first to its last instruction."""
        if (address, size) not in self._sizes:
            self._sizes[address, size] = self._instructions(bytes(uc.mem_read(address, size)))
        self._counted += self._sizes[address, size]
        if self._counted > LIMIT:
            self.uc.emu_stop()

    def _instructions(self, code: bytes) -> int:
        """Lengths of Thumb (Armv7-M ARM, A5.1) and RV32C (RISC-V unprivileged specification, 1.5)."""
        count = at = 0
        while at < len(code):
            wide = code[at] & 3 == 3 if self.core == RISCV else code[at + 1] >> 3 >= 0x1D
            at += 4 if wide else 2
            count += 1
        return count

    def _interrupt(self, uc: unicorn.Uc, number: int, _data: object) -> None:
        raise AssertionError(f"exception {number} in {self.core}")

    def reset(self) -> None:
        """Forget every array."""
        self.entry_stack = STACK  # the stack pointer at the start of the last call
        self._top = RAM + 0x10000
        self._placed: list[tuple[int, int]] = []

    def place(self, array: np.ndarray | bytes, align: int = 4) -> int:
        """The address of a copy of an array, fenced on both sides."""
        content = array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes()
        start = -(-(self._top + FENCE) // align) * align
        self.uc.mem_write(start - FENCE, bytes([FILLER]) * FENCE + content + bytes([FILLER]) * FENCE)
        self._top = start + len(content)
        self._placed.append((start, len(content)))
        return start

    def struct(self, *words: int) -> int:
        """The address of a C struct of 32-bit members."""
        return self.place(np.array([w & 0xFFFFFFFF for w in words], np.uint32))

    def read(self, address: int, dtype: str, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        content = bytes(self.uc.mem_read(address, count * np.dtype(dtype).itemsize))
        return np.frombuffer(content, dtype).reshape(shape)

    def call(self, symbol: str, *arguments: int) -> int:
        """Call a C function with integers and addresses; returns r0 / a0. Checks the fences afterwards."""
        words = [a & 0xFFFFFFFF for a in arguments]
        in_registers = 8 if self.core == RISCV else 4
        stacked = np.array(words[in_registers:], np.uint32).tobytes()
        stack = (STACK - 256 - len(stacked)) & ~15
        self.entry_stack = stack
        if stacked:
            self.uc.mem_write(stack, stacked)
        if self.core == RISCV:
            registers = [riscv.UC_RISCV_REG_A0 + i for i in range(8)]
            sp, link, result, entry = riscv.UC_RISCV_REG_SP, riscv.UC_RISCV_REG_RA, registers[0], RETURN
        else:
            registers = [arm.UC_ARM_REG_R0 + i for i in range(4)]
            sp, link, result, entry = arm.UC_ARM_REG_SP, arm.UC_ARM_REG_LR, registers[0], RETURN | 1
        for register, word in zip(registers, words, strict=False):
            self.uc.reg_write(register, word)
        self.uc.reg_write(sp, stack)
        self.uc.reg_write(link, entry)
        self._counted = 0
        start = self.symbols[symbol]
        self.uc.emu_start(start if self.core == RISCV else start | 1, RETURN)
        assert self._counted <= LIMIT, f"{symbol} does not end"
        self.instructions = self._counted
        assert self.uc.reg_read(sp) == stack, "the stack pointer moved"
        for at, size in self._placed:
            fence = bytes([FILLER]) * FENCE
            assert bytes(self.uc.mem_read(at - FENCE, FENCE)) == fence, "written in front of an array"
            assert bytes(self.uc.mem_read(at + size, FENCE)) == fence, "written behind an array"
        return int(self.uc.reg_read(result))


@functools.cache
def load(core: str, toolchain: str, sources: tuple[str, ...]) -> Core:
    """A core with files of firmware/ loaded, e.g. ("kernels/linear.c",); shared by all tests of a process."""
    return Core(core, toolchain, build(core, toolchain, [FIRMWARE / source for source in sources]))
