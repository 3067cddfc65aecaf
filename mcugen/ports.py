"""Which files of firmware/ports/ start a board: what a project copies and compiles beside its model."""

from __future__ import annotations

from dataclasses import dataclass

from mcugen.cores import CORES
from mcugen.ir import Board
from mcugen.resources import data_dir

_CONTRACT = "ports/port.h"
_SECOND_CORE = "ports/second_core.h"
_FREESTANDING = "ports/freestanding"  # memcpy and others, where there is no C library


@dataclass(frozen=True, slots=True)
class PortFiles:
    """files: path relative to firmware/ -> content. sources: which are compiled. include_dirs: relative, too."""

    files: dict[str, bytes]
    sources: tuple[str, ...]
    include_dirs: tuple[str, ...]


def port_files(board: Board) -> PortFiles:
    """Return the port of `board`, with the start-up code of its core; sorted, startup first."""
    firmware = data_dir("firmware")
    family = CORES[board.core].family
    shared = [f"ports/{family}", _FREESTANDING] if family else []
    folders = [*shared, f"ports/{board.port}"]
    paths = [path for folder in folders for path in sorted((firmware / folder).glob("*.[chS]"))]
    several = board.cores > 1
    names = [path.relative_to(firmware).as_posix() for path in paths if several or path.stem != "second_core"]
    contracts = (_CONTRACT, _SECOND_CORE) if several else (_CONTRACT,)
    files = {name: (firmware / name).read_bytes() for name in (*contracts, *names)}
    sources = sorted(
        (name for name in names if name.endswith((".c", ".S"))), key=lambda n: (not n.endswith("startup.c"), n)
    )
    return PortFiles(files, tuple(sources), ("ports",))
