"""Layouts of the zoo's models and the machines that run them, for the tests of the ladder's upper rungs."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util

import zoo
from projects import require
from tools import missing

from mcugen import layout as layouts
from mcugen.boards import load_board
from mcugen.emulate.cortex_m import CortexM
from mcugen.emulate.host import HostMachine, find_libasan
from mcugen.emulate.machine import Emulator
from mcugen.emulate.machines import open_machine
from mcugen.errors import ToolError
from mcugen.ir import Config, Firmware, Project, Tokenizer
from mcugen.layout import Layout
from mcugen.toolchain import build

COMMAND = "mcugen verify random.bin"
HOST = load_board("host")
NUCLEO = load_board("nucleo")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def require_unicorn() -> None:
    if importlib.util.find_spec("unicorn") is None:
        missing("unicorn is not installed")


@functools.cache
def laid_out(
    config: Config,
    context: int,
    *,
    seed: int = 0,
    board: str = "nucleo",
    tokenizer: Tokenizer | None = None,
    bits: int = 8,
    batch: int = 1,
    sinks: int = 0,
) -> Layout:
    """A random model of this shape, planned for a ring of `context` slots, so many of them sinks, and `batch` tokens of a
    prompt at once."""
    model = dataclasses.replace(zoo.quantized(config, seed, bits), name="random")
    vocabulary = tokenizer or zoo.random_tokenizer(config.vocab_size)
    return layouts.lay_out(model, vocabulary, load_board(board), context, batch, sinks)


def host_library(layout: Layout, project: Project | None = None, *, sanitize: bool = True) -> Firmware:
    """The C of a layout on this computer (or a project made from it) as a library."""
    toolchain = require("gcc", HOST)
    if sanitize:
        try:
            find_libasan()
        except ToolError:
            missing("libasan is not installed")
    project = project or layouts.make_project(layout, COMMAND, observed=True)
    flags = SANITIZERS if sanitize else ()
    return build(project, toolchain, opt="-O1", extra_flags=flags, shared=True)


def host_machine(layout: Layout, project: Project | None = None, *, sanitize: bool = True) -> HostMachine:
    """That library as a machine, with ASan and UBSan unless told otherwise."""
    return HostMachine(host_library(layout, project, sanitize=sanitize), sanitize=sanitize)


def board_firmware(layout: Layout, toolchain: str = "zig") -> Firmware:
    """The layout's application for its board, as it is flashed."""
    return build(layouts.make_project(layout, COMMAND), require(toolchain, layout.board))


def board_machine(layout: Layout, toolchain: str = "zig") -> Emulator:
    """The emulator of the layout's board, with that application."""
    require_unicorn()
    return open_machine(board_firmware(layout, toolchain), watch_accesses=False)


def nucleo_firmware(layout: Layout, toolchain: str = "zig", project: Project | None = None) -> Firmware:
    """The layout's application for the board, as it is flashed."""
    return build(project or layouts.make_project(layout, COMMAND), require(toolchain, NUCLEO))


def nucleo_machine(layout: Layout, toolchain: str = "zig", project: Project | None = None) -> CortexM:
    require_unicorn()
    return CortexM(nucleo_firmware(layout, toolchain, project), watch_accesses=False)
