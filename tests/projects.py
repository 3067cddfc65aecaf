"""Small projects for the tests of toolchains, ports and emulators."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jinja2
from tools import missing

from mcugen.errors import ToolError
from mcugen.ir import Board, Project
from mcugen.ports import port_files
from mcugen.rendering import memory_map
from mcugen.resources import data_dir
from mcugen.toolchain import Toolchain, find_toolchain

PROBE = Path(__file__).parent / "probe"
PROBE_STACK = 1024  # bytes: little, so that a recursion ends soon
# main uses none of these: without EXTERN the linker drops them.
PROBED = (
    "sum add_six call_at doze forward load_at mg_port_clock_hz past_the_end recurse spin store_at "
    "supervisor_call breakpoint undefined_instruction constants"
)


def template(file: str, /, **values: object) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("templates") / "c"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(file).render(**values).encode()


def linker_script(board: Board) -> bytes:
    return template("linker.ld.j2", **memory_map(board, board.stack_bytes))


def project(board: Board, **sources: bytes) -> Project:
    """The port of `board` and `sources`, given as name=content for name.c."""
    port = port_files(board)
    written = {f"{name}.c": content for name, content in sources.items()}
    script = None if board.core == "host" else "linker.ld"
    files = {**port.files, **written} | ({} if script is None else {script: linker_script(board)})
    return Project("demo", board, files, (*port.sources, *written), port.include_dirs, script)


def read_files(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def probe_project(board: Board) -> Project:
    """The firmware of tests/probe/ for a Cortex-M board: functions that behave, and functions that do not."""
    board = dataclasses.replace(board, stack_bytes=PROBE_STACK)
    port = port_files(board)
    files = {
        **port.files,
        **read_files(data_dir("firmware") / "runtime", "op_done.h", "op_done.c"),
        **read_files(PROBE, "probe.h", "probe.c", "probe_target.c"),
        "linker.ld": f"EXTERN({PROBED})\n".encode() + linker_script(board),
    }
    sources = (*port.sources, "op_done.c", "probe.c", "probe_target.c")
    return Project("probe", board, files, sources, (".", *port.include_dirs), "linker.ld")


def require(name: str, board: Board) -> Toolchain:
    """Find a compiler; skip without it, or fail where all tools are required."""
    try:
        return find_toolchain(name, board)
    except ToolError as error:
        missing(str(error))
