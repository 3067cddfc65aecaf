"""Which files of firmware/ports/ start a board: what a project copies and compiles beside its model."""

from __future__ import annotations

from dataclasses import dataclass

from mcugen.ir import Board
from mcugen.resources import data_dir

_CONTRACT = "ports/port.h"
_CORTEX_M = "ports/cortex_m"  # startup and memcpy, the same for every Cortex-M


@dataclass(frozen=True, slots=True)
class PortFiles:
    """files: path relative to firmware/ -> content. sources: which are compiled. include_dirs: relative, too."""

    files: dict[str, bytes]
    sources: tuple[str, ...]
    include_dirs: tuple[str, ...]


def port_files(board: Board) -> PortFiles:
    """Return the port of `board`, with the start-up code of its core; sorted, startup first."""
    firmware = data_dir("firmware")
    folders = [f"ports/{board.port}"] if board.core == "host" else [_CORTEX_M, f"ports/{board.port}"]
    paths = [path for folder in folders for path in sorted((firmware / folder).glob("*.[ch]"))]
    names = [path.relative_to(firmware).as_posix() for path in paths]
    files = {name: (firmware / name).read_bytes() for name in (_CONTRACT, *names)}
    sources = sorted((name for name in names if name.endswith(".c")), key=lambda n: (not n.endswith("startup.c"), n))
    return PortFiles(files, tuple(sources), ("ports",))
