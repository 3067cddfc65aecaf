"""The Python side of count_plugin.c: its compilation for this computer, and the memory that it counts in."""

from __future__ import annotations

import functools
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcugen import toolchain
from mcugen.boards import load_board
from mcugen.ir import MemoryRegion, Project


@functools.cache
def build_count_plugin() -> bytes:
    """Compile count_plugin.c to a shared library, or take it from the toolchain's cache.

    Raises ToolError where this computer has no C compiler.
    """
    source = (Path(__file__).parent / "count_plugin.c").read_bytes()
    host = load_board("host")
    project = Project("count_plugin", host, {"count_plugin.c": source}, ("count_plugin.c",), (".",), None)
    return toolchain.build(project, toolchain.find_toolchain("auto", host), shared=True).image


class Counts:
    """How often each instruction of a region was executed.

    values: uint64[size / 2 + 1], shared with QEMU: entry i counts the instruction at origin + 2 i, the last one all
    those outside the region. They are exact whenever the core stands still.
    """

    def __init__(self, folder: Path, code: MemoryRegion) -> None:
        """folder: where QEMU finds the plugin and the counts; it may go as soon as QEMU has started."""
        self._code = code
        self._plugin, self._file = folder / "count_plugin.so", folder / "counts"
        self._plugin.write_bytes(build_count_plugin())
        with self._file.open("w+b") as file:
            file.truncate((code.size // 2 + 1) * 8)
            shared = mmap.mmap(file.fileno(), 0)
        self.values: NDArray[np.uint64] = np.frombuffer(shared, np.uint64)

    def options(self, lifeline: int) -> list[str]:
        """QEMU's options that load the plugin. lifeline: a descriptor for reading; QEMU ends when it ends."""
        where = f"counts={self._file},origin={self._code.origin:#x},places={self._code.size // 2}"
        return ["-plugin", f"{self._plugin},{where},lifeline={lifeline}"]

    def reset(self) -> None:
        """Begin to count anew."""
        self.values[:] = 0

    def total(self) -> int:
        return int(self.values.sum())

    def by_address(self) -> dict[int, int]:
        """Address -> executions of the instructions that were executed inside the region."""
        places = np.flatnonzero(self.values[:-1])
        return {self._code.origin + 2 * int(place): int(self.values[place]) for place in places}

    def elsewhere(self) -> int:
        return int(self.values[-1])
