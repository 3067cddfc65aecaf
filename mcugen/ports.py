"""Which files of firmware/ports/ start a board: what a project copies and compiles beside its model."""

from __future__ import annotations

from dataclasses import dataclass

from mcugen.cores import CORES
from mcugen.ir import Board
from mcugen.resources import data_dir

_CONTRACT = "ports/port.h"
_SECOND_CORE = "ports/second_core.h"
_FREESTANDING = "ports/freestanding"  # memcpy and others, where there is no C library
# What the chips of several ports share.
_SHARED = {port: "ports/stm32" for port in ("stm32g4", "stm32h5", "stm32h7", "stm32l4", "stm32u5")}


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
    shared += [_SHARED[board.port]] if board.port in _SHARED else []
    folders = [*shared, *([] if board.own_port else [f"ports/{board.port}"])]
    paths = [path for folder in folders for path in sorted((firmware / folder).glob("*.[chS]"))]
    own = {f"ports/{board.port}/{name}": content for name, content in board.own_port}
    several = board.cores > 1
    shipped = {
        path.relative_to(firmware).as_posix(): path.read_bytes()
        for path in paths
        if several or path.stem != "second_core"
    }
    names = [*shipped, *own]
    contracts = (_CONTRACT, _SECOND_CORE) if several else (_CONTRACT,)
    files = {name: (firmware / name).read_bytes() for name in contracts} | shipped | own
    sources = sorted(
        (name for name in names if name.endswith((".c", ".S"))), key=lambda n: (not n.endswith("startup.c"), n)
    )
    return PortFiles(files, tuple(sources), ("ports",))
