"""What the options of a command name: a model, its integers, their layout on a board."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import click

from mcugen import sources, tokenizer_json
from mcugen.boards import load_board
from mcugen.cli.options import Choice
from mcugen.errors import UsageError
from mcugen.integers import quantize_source
from mcugen.ir import Board, QuantizedModel
from mcugen.layout import Layout, lay_out
from mcugen.microtvm.emitter import find_tvm
from mcugen.microtvm.layout import lay_out_microtvm
from mcugen.recipes import VALUES, W8, Recipe, chosen_recipe, parse_pruning
from mcugen.sources import Source, adapted, open_source, trim_source
from mcugen.tflm.layout import TflmLayout, lay_out_tflm
from mcugen.tokenizer import MAX_VOCAB


def open_named(choice: Choice) -> Source:
    """The model that the options name, as they change it."""
    most = MAX_VOCAB if choice.vocab_from is None else tokenizer_json.MAX_TOKENS
    source = open_source(choice.model, choice.tokenizer, most)
    if choice.lora is not None:
        source = adapted(source, choice.lora)
    if choice.vocab_from is not None:
        source, line = trim_source(source, choice.vocab_from)
        click.echo(line, err=True)
    return source


def quantize_named(choice: Choice, progress: sources.Progress) -> tuple[Source, QuantizedModel]:
    source = open_named(choice)
    recipe = recipe_of(choice)
    return source, quantize_source(source, choice.calibrate, progress, recipe, choice.fc, choice.distill_text)


def recipe_of(choice: Choice) -> Recipe | None:
    """What --recipe and the options beside it name."""
    recipe = chosen_recipe(choice.recipe, choice.budget)
    if choice.values is not None:
        recipe = replace(recipe or W8, value_bits=VALUES[choice.values])
    if choice.prune is not None:
        recipe = replace(recipe or W8, prune=parse_pruning(choice.prune))
    if choice.distill is not None:
        recipe = replace(recipe or W8, steps=choice.distill)
    if choice.distill_text is not None and not (recipe or W8).steps:
        raise UsageError(
            "a text to train on, and no training", where="--distill-text", hint="add --distill, or leave it out"
        )
    return recipe


def command_of(choice: Choice, board: Board, verb: str = "build") -> str:
    """The command that generates what the options name.

    It goes into the generated files: the same for `build`, `verify` and `run`, so that they are the same to the byte,
    and with file names only, so that they name no machine.
    """
    words = ["mcugen", *verb.split(), *([choice.model.resolve().name] if choice.model else [])]
    files = (
        ("--tokenizer", choice.tokenizer),
        ("--lora", choice.lora),
        ("--calibrate", choice.calibrate),
        ("--vocab-from", choice.vocab_from),
    )
    for option, path in files:
        words += [option, path.name] if path else []
    words += ["--prune", choice.prune] if choice.prune else []
    if choice.recipe:
        words += ["--recipe", Path(choice.recipe).name if choice.recipe.endswith(".toml") else choice.recipe]
    words += ["--budget", choice.budget] if choice.budget else []
    words += ["--values", choice.values] if choice.values else []
    words += ["--board", Path(choice.board).name if choice.board.endswith(".toml") else board.name]
    words += ["--context", str(choice.context)] if choice.context is not None else []
    words += ["--prefill", str(choice.prefill)] if choice.prefill != 1 else []
    words += ["--sinks", str(choice.sinks)] if choice.sinks else []
    words += ["--target", choice.target] if choice.target != "c" else []
    words += ["--fc", choice.fc] if choice.fc != "custom" else []
    return shlex.join(words)


def lay_out_named(choice: Choice, progress: sources.Progress, library: bool = False) -> tuple[Source, Layout, str]:
    """What the options of a command name: the source, its layout on the board, and the command that generates it.

    library: leave the board's other cores and memories to the application.
    """
    refuse_builtin(choice)
    board = load_board(choice.board)
    if library:
        board = replace(board, cores=1, memories=(), xip=False)
    source, quantized = quantize_named(choice, progress)
    layout = lay_out(quantized, source.tokenizer, board, choice.context, choice.prefill, choice.sinks)
    return source, layout, command_of(choice, board)


def lay_out_tflm_named(choice: Choice, progress: sources.Progress) -> tuple[Source, TflmLayout, str]:
    """The same for --target tflm."""
    _refuse_prefill(choice, "TensorFlow Lite Micro")
    _refuse_sinks(choice, "TensorFlow Lite Micro")
    board = load_board(choice.board)
    source, quantized = quantize_named(choice, progress)
    tflm = lay_out_tflm(quantized, source.tokenizer, board, choice.context)
    return source, tflm, command_of(choice, board)


def lay_out_microtvm_named(choice: Choice, progress: sources.Progress) -> tuple[Source, Layout, str]:
    """The same for --target microtvm."""
    find_tvm()  # before anything that takes its time
    refuse_builtin(choice)
    _refuse_prefill(choice, "microTVM")
    _refuse_sinks(choice, "microTVM")
    board = load_board(choice.board)
    source, quantized = quantize_named(choice, progress)
    return source, lay_out_microtvm(quantized, source.tokenizer, board, choice.context), command_of(choice, board)


def _refuse_prefill(choice: Choice, target: str) -> None:
    if choice.prefill != 1:
        raise UsageError(
            f"the {target} target reads one token at a time",
            where="--prefill",
            hint="leave --prefill out, or --target c",
        )


def _refuse_sinks(choice: Choice, target: str) -> None:
    if choice.sinks:
        raise UsageError(
            f"the {target} target keeps the latest tokens only",
            where="--sinks",
            hint="leave --sinks out, or --target c",
        )


def refuse_builtin(choice: Choice) -> None:
    if choice.fc != "custom":
        raise UsageError(
            f"--fc {choice.fc} is for TensorFlow Lite Micro, which brings FULLY_CONNECTED",
            where="--fc",
            hint="add --target tflm, or leave --fc out",
        )
