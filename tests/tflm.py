"""Layouts of the zoo's models for TFLite Micro, and what runs them, for the tests of that target."""

from __future__ import annotations

import dataclasses
import functools

import zoo
from projects import require
from tools import missing

from mcugen.boards import load_board
from mcugen.errors import ToolError
from mcugen.ir import Config, Firmware, Project, QuantizedModel, Tokenizer
from mcugen.tflm.interpreter import find_interpreter
from mcugen.tflm.layout import (
    TflmLayout,
    lay_out_tflm,
    make_op_library,
    make_tflm_project,
    on_this_computer,
)
from mcugen.tflm.render import with_standin
from mcugen.toolchain import build

COMMAND = "mcugen build random.bin --target tflm"


def require_interpreter() -> None:
    try:
        find_interpreter()
    except ToolError as error:
        missing(str(error))


def lay_out(
    model: QuantizedModel, context: int, board: str = "nucleo", tokenizer: Tokenizer | None = None
) -> TflmLayout:
    """A model in TFLite Micro on a board."""
    vocabulary = tokenizer or zoo.random_tokenizer(model.config.vocab_size)
    return lay_out_tflm(dataclasses.replace(model, name="random"), vocabulary, load_board(board), context)


@functools.cache
def laid_out(config: Config, context: int, *, board: str = "nucleo", kind: str = "int8") -> TflmLayout:
    """A random model of this shape. kind: int8, int4, or fc8, whose matrices are FULLY_CONNECTED."""
    model = zoo.fc8(config) if kind == "fc8" else zoo.quantized(config, bits=int(kind[3:]))
    return lay_out(model, context, board)


def op_library(tflm: TflmLayout) -> Firmware:
    """The ops of a layout on this computer, for the interpreter's package."""
    board = tflm.layout.board
    assert board.core == "host"
    return build(make_op_library(tflm, COMMAND), require("auto", board), shared=True)


def here(tflm: TflmLayout) -> tuple[TflmLayout, Firmware]:
    """The layout on this computer, and its ops. Skips without the interpreter's package."""
    require_interpreter()
    found = on_this_computer(tflm)
    return found, op_library(found)


def standin_project(tflm: TflmLayout) -> Project:
    """The generated project with the stand-in interpreter."""
    return with_standin(make_tflm_project(tflm, COMMAND).project)


def firmware(tflm: TflmLayout, toolchain: str = "auto") -> Firmware:
    """The image of that project."""
    return build(standin_project(tflm), require(toolchain, tflm.layout.board))
