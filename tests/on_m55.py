"""Call kernels on an emulated Cortex-M55 with Helium, as on_core.py does on the cores that unicorn has.

The core is QEMU's, in the machine mps3-an547. One process serves all calls of a test session.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile
from on_core import FENCE, FILLER, FIRMWARE, FLAGS, _run
from tools import missing

from mcugen.cores import gcc_core_flags, zig_core_flags
from mcugen.emulate.qemu import QemuMachine
from mcugen.emulate.qemu_core import LR, PC, SP, QemuCore
from mcugen.errors import ToolError
from mcugen.ir import MemoryRegion

MACHINE = QemuMachine("mps3-an547")
CODE, CODE_SIZE = 0x1000_0000, 0x0008_0000  # the instruction TCM
RAM, RAM_SIZE = 0x3100_0000, 0x0040_0000  # SRAM
STACK = RAM + RAM_SIZE
TIMEOUT_S = 60.0  # of one call
FEATURES = frozenset({"fpu", "mve"})

# Every exception ends at `fault`; `_start` switches the vector unit on (CPACR) and waits at `idle`.
START = f"""    .syntax unified
    .thumb
    .section .vectors, "a"
    .word {STACK:#x}, _start
    .rept 14
    .word fault
    .endr
    .section .text.start, "ax"
    .thumb_func
    .type _start, %function
    .global _start
_start:
    ldr r0, =0xE000ED88
    ldr r1, [r0]
    orr r1, r1, #0xF00000
    str r1, [r0]
    dsb
    isb
    .global idle
    .thumb_func
    .type idle, %function
idle:
    b idle
    .global fault
    .thumb_func
    .type fault, %function
fault:
    b fault
"""
LINK = f"""ENTRY(_start)
SECTIONS {{
  . = {CODE:#x};
  .text : {{ KEEP(*(.vectors)) KEEP(*(.text*)) *(.rodata*) }}
  . = {RAM:#x};
  .data : {{ *(.data*) *(.bss*) *(COMMON) }}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.comment) *(.eh_frame*) }}
}}
"""


def build(toolchain: str, sources: Sequence[Path]) -> Path:
    """Compile and link `sources`; cached by content."""
    zig = [sys.executable, "-m", "ziglang", "cc", *zig_core_flags("cortex-m55", FEATURES)]
    command = zig if toolchain == "zig" else ["arm-none-eabi-gcc", *gcc_core_flags("cortex-m55", FEATURES)]
    extra = ["-fno-sanitize=undefined", "-fno-unroll-loops"] if toolchain == "zig" else []
    includes = [f"-I{FIRMWARE / 'kernels'}"]
    sources = [*sources, FIRMWARE / "ports" / "freestanding" / "mem.c"]
    digest = hashlib.sha256(repr([command[1:], FLAGS, extra, LINK, START]).encode())
    for path in [*sources, *sorted((FIRMWARE / "kernels").rglob("*.h"))]:
        digest.update(path.name.encode() + path.read_bytes())
    cache = Path(tempfile.gettempdir()) / f"mcugen-on-core-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    image = cache / f"{digest.hexdigest()[:32]}.elf"
    if image.exists():
        return image
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        (folder / "link.ld").write_text(LINK)
        (folder / "start.S").write_text(START)
        objects = []
        for index, source in enumerate([folder / "start.S", *sources]):
            objects.append(str(folder / f"{index}.o"))
            language = [flag for flag in FLAGS if source.suffix == ".c" or not flag.startswith("-std")]
            _run([*command, *language, *extra, *includes, "-c", str(source), "-o", objects[-1]])
        runtime = ["-rtlib=compiler-rt", "-Wl,-e,_start"] if toolchain == "zig" else ["-lgcc"]
        link = ["-nostdlib", "-Wl,--build-id=none", "-T", str(folder / "link.ld"), *objects, *runtime]
        _run([*command, *link, "-o", str(folder / "out.elf")])
        (folder / "out.elf").replace(image)
    return image


@dataclass
class M55:
    """An emulated Cortex-M55 with `sources` loaded. Arrays are placed in RAM until reset()."""

    toolchain: str
    image: Path
    instructions: int = 0  # of the last call

    def __post_init__(self) -> None:
        with self.image.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".symtab")
            self.symbols = {s.name: s["st_value"] & ~1 for s in table.iter_symbols() if s.name}
        self._core: QemuCore | None = None
        self.reset()

    def core(self) -> QemuCore:
        """The core, started anew after a fault."""
        if self._core is None:
            region = MemoryRegion(CODE, CODE_SIZE)
            try:
                self._core = QemuCore(MACHINE, self.image.read_bytes(), region, where="kernels on a Cortex-M55")
            except (ToolError, FileNotFoundError) as error:
                missing(str(error))
            self._core.add_breakpoints([self.symbols["idle"], self.symbols["fault"]])
            assert self._core.run(TIMEOUT_S)
        return self._core

    def reset(self) -> None:
        """Forget every array."""
        self._top = RAM + 0x10000
        self._placed: list[tuple[int, int]] = []

    def place(self, array: np.ndarray | bytes, align: int = 4) -> int:
        """The address of a copy of an array, fenced on both sides."""
        content = array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes()
        start = -(-(self._top + FENCE) // align) * align
        self.core().write(start - FENCE, bytes([FILLER]) * FENCE + content + bytes([FILLER]) * FENCE)
        self._top = start + len(content)
        self._placed.append((start, len(content)))
        return start

    def struct(self, *words: int) -> int:
        """The address of a C struct of 32-bit members."""
        return self.place(np.array([w & 0xFFFFFFFF for w in words], np.uint32))

    def read(self, address: int, dtype: str, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        (content,) = self.core().read((address, count * np.dtype(dtype).itemsize))
        return np.frombuffer(content, dtype).reshape(shape)

    def call(self, symbol: str, *arguments: int) -> int:
        """Call a C function with integers and addresses; returns r0. Checks the fences afterwards."""
        core = self.core()
        words = [a & 0xFFFFFFFF for a in arguments]
        stacked = np.array(words[4:], np.uint32).tobytes()
        stack = (STACK - 256 - len(stacked)) & ~15
        if stacked:
            core.write(stack, stacked)
        end = self.symbols["idle"]
        core.set_registers({**dict(enumerate(words[:4])), SP: stack, LR: end | 1, PC: self.symbols[symbol]})
        core.counts.reset()
        stopped = core.run(TIMEOUT_S)
        registers = core.registers()
        if not stopped or registers[PC] != end:
            self._fail(symbol, stopped, registers)
        self.instructions = core.counts.total()
        assert registers[SP] == stack, "the stack pointer moved"
        found = core.read(*((edge, FENCE) for at, size in self._placed for edge in (at - FENCE, at + size)))
        fence = bytes([FILLER]) * FENCE
        assert all(piece == fence for piece in found[0::2]), "written in front of an array"
        assert all(piece == fence for piece in found[1::2]), "written behind an array"
        return registers[0]

    def _fail(self, symbol: str, stopped: bool, registers: list[int]) -> None:
        assert self._core is not None
        status, *frame = (int.from_bytes(w, "little") for w in self._core.read(
            (0xE000ED28, 4), *((registers[SP] + 4 * i, 4) for i in range(8))))  # fmt: skip
        self._core.close()
        self._core = None
        self.reset()
        what = f"fault, CFSR {status:#x}, at {frame[6]:#x}" if stopped else f"no end; at {registers[PC]:#x}"
        raise AssertionError(f"{symbol}: {what}")


@functools.cache
def load(toolchain: str, sources: tuple[str, ...]) -> M55:
    """A core with files of firmware/ loaded, e.g. ("kernels/linear.c",); shared by all tests of a process."""
    return M55(toolchain, build(toolchain, [FIRMWARE / source for source in sources]))
