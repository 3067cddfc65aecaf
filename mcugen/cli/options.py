"""The options that several commands have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from mcugen import sources
from mcugen.layout import MAX_TOKENS
from mcugen.recipes import (
    DISTILL_STEPS,
    RECIPES,
    VALUES,
)
from mcugen.resources import bundled_models

Command = Callable[..., None]


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)
AT_LEAST_0 = click.IntRange(min=0)
AT_LEAST_1 = click.IntRange(min=1)
model = click.argument("model", required=False, type=PATH)
tokenizer = click.option(
    "--tokenizer",
    type=PATH,
    metavar="FILE",
    help="Vocabulary of MODEL: a tokenizer.bin of llama2.c or a tokenizer.json.",
)
board = click.option("--board", default="nucleo", show_default=True, help="A board's name, or a board file (TOML).")
host_board = click.option("--board", default="host", show_default=True, help="The board whose context is used.")
context = click.option("--context", type=int, metavar="N", help="Tokens remembered.  [default: the most that fit]")
calibrate = click.option(
    "--calibrate", type=PATH, metavar="TEXT", help="Text to calibrate on.  [default: own samples]"
)
vocab_from = click.option(
    "--vocab-from", type=PATH, metavar="TEXT", help="Keep only the tokens that a text needs.  [default: all]"
)
recipe = click.option(
    "--recipe",
    metavar="NAME",
    help=f"How the layers' matrices become integers: {', '.join(RECIPES)}, or a file (TOML).  [default: w8]",
)
budget = click.option(
    "--budget",
    metavar="AMOUNT",
    help="What a mixed recipe may cost: 5bits per weight, 200KB of flash, 2% perplexity.",
)
values = click.option(
    "--values",
    type=click.Choice(list(VALUES)),
    help="Cached values; int4 saves RAM, and costs instructions and quality.  [default: int8]",
)
lora = click.option("--lora", type=PATH, metavar="DIR", help="A LoRA adapter (PEFT) to merge into MODEL.")
prune = click.option(
    "--prune",
    metavar="BUDGET",
    help="What to prune before anything is quantised: down to hidden=0.8 of the channels, to kv_heads=3, to 180KB of "
    "flash or for 2% perplexity.",
)
distill = click.option(
    "--distill",
    type=AT_LEAST_1,
    is_flag=False,
    flag_value=DISTILL_STEPS,
    metavar="[STEPS]",
    help=f"Train the codes to predict as the float model does; needs PyTorch.  [STEPS: {DISTILL_STEPS}]",
)
distill_text = click.option(
    "--distill-text", type=PATH, metavar="FILE", help="Text to train on, beside the model's own samples."
)
fc = click.option(
    "--fc",
    type=click.Choice(["custom", "builtin"]),
    default="custom",
    show_default=True,
    help="The matrix kernels of a TFLite Micro build: ours, or its own FULLY_CONNECTED.",
)
target = click.option(
    "--target",
    type=click.Choice(["c", "tflm", "microtvm"]),
    default="c",
    show_default=True,
    help="What is generated: C that needs nothing else; a .tflite and its ops for TensorFlow Lite Micro; or C whose "
    "kernels Apache TVM makes, in Model Library Format.",
)
prefill = click.option(
    "--prefill",
    default=1,
    show_default=True,
    metavar="N",
    help="Tokens of a prompt computed at once: faster, more RAM.",
)
sinks = click.option(
    "--sinks",
    default=0,
    show_default=True,
    metavar="S",
    help="First tokens that are remembered for ever, within the context.",
)
toolchain = click.option("--toolchain", default="auto", show_default=True, help="The C compiler: auto, zig or gcc.")
sampled = with_options(
    click.option(
        "--tokens", type=AT_LEAST_0, default=MAX_TOKENS, show_default=True, metavar="N", help="The longest answer."
    ),
    click.option("--temperature", default=0.0, show_default=True, metavar="T", help="0 takes the likeliest token."),
    click.option("--top-k", default=0, show_default=True, metavar="K", help="Keep the K likeliest tokens; 0: all."),
    click.option(
        "--top-p",
        default=1.0,
        show_default=True,
        metavar="P",
        help="Keep the likeliest tokens that hold this share.",
    ),
    click.option("--seed", default=1, show_default=True, metavar="N", help="Of the random numbers."),
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
EPILOG = (
    f"MODEL is a model that ships with mcugen ({', '.join(bundled_models())}; {sources.DEFAULT_MODEL} where none is "
    "named), the folder of a Hugging Face model, a GGUF file (pip install 'mcugen[formats]'), a llama2.c checkpoint "
    "(.bin, with --tokenizer) or a quantised model (.safetensors)."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the options of a command name: a model, how it becomes integers, and where these go."""

    model: Path | None
    tokenizer: Path | None
    calibrate: Path | None
    recipe: str | None
    budget: str | None
    vocab_from: Path | None = None
    board: str = "host"
    context: int | None = None
    prefill: int = 1
    sinks: int = 0
    target: str = "c"
    fc: str = "custom"
    lora: Path | None = None
    prune: str | None = None
    values: str | None = None
    distill: int | None = None
    distill_text: Path | None = None


def choose(command: Command) -> Command:
    """Hand the options of Choice over as one argument."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        chosen = {field.name: options.pop(field.name) for field in fields(Choice) if field.name in options}
        command(choice=Choice(**chosen), **options)

    return run


integers = with_options(model, tokenizer, lora, prune, calibrate, vocab_from, recipe, budget, values)
named = with_options(integers, distill, distill_text, fc, choose)
targeted = with_options(target, fc)
laid_out = with_options(integers, board, context, prefill, sinks, choose)
