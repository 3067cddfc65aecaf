"""Layouts of the zoo's models for the microTVM target, and what runs them."""

from __future__ import annotations

import dataclasses
import functools

import zoo
from tools import missing

from mcugen.boards import load_board
from mcugen.errors import ToolError
from mcugen.ir import Config, QuantizedModel, Tokenizer
from mcugen.layout import Layout
from mcugen.microtvm.emitter import find_tvm
from mcugen.microtvm.layout import lay_out_microtvm

COMMAND = "mcugen build random.bin --target microtvm"


def require_tvm() -> None:
    try:
        find_tvm()
    except ToolError as error:
        missing(str(error))


def lay_out(model: QuantizedModel, context: int, board: str = "nucleo", tokenizer: Tokenizer | None = None) -> Layout:
    """A model in the microTVM target on a board."""
    vocabulary = tokenizer or zoo.random_tokenizer(model.config.vocab_size)
    return lay_out_microtvm(dataclasses.replace(model, name="random"), vocabulary, load_board(board), context)


@functools.cache
def laid_out(config: Config, context: int, *, board: str = "nucleo", bits: int = 8) -> Layout:
    """A random model of this shape."""
    return lay_out(zoo.quantized(config, bits=bits), context, board)
