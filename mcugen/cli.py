"""The command line: parse, call the pipeline, print. Every command has --json for machines."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from mcugen import __version__, flashing, pipeline, sources, tokenizer_json
from mcugen import bench as benches
from mcugen.bench_report import bench_sheets, comparison_sheets, gemv_sheets
from mcugen.board_file import new_board
from mcugen.boards import list_boards, load_board
from mcugen.console import sampler_line
from mcugen.errors import McugenError, MismatchError, UsageError
from mcugen.eval_report import eval_json, eval_sheets, stream_sheets, sweep_json, sweep_sheets
from mcugen.export import ECOSYSTEMS
from mcugen.gemv import gemv_bench
from mcugen.integers import quantize_by_choice, quantize_source
from mcugen.ir import Board, QuantizedModel
from mcugen.ladder import Ladder, climb, climb_board
from mcugen.layout import MAX_TOKENS, Layout, lay_out, make_firmware, plan_facts, plan_text
from mcugen.matrix import matrix_json, matrix_sheet, measure_point, points
from mcugen.microtvm.emitter import find_tvm
from mcugen.microtvm.layout import lay_out_microtvm
from mcugen.microtvm.target import build_microtvm_folder, microtvm_sheets, verify_microtvm
from mcugen.project import write_file
from mcugen.quantized_file import save_quantized
from mcugen.recipes import (
    DISTILL_STEPS,
    MIXED,
    RECIPES,
    VALUES,
    W8,
    Recipe,
    parse_pruning,
    recipe_named,
    with_budget,
)
from mcugen.resources import bundled_models
from mcugen.sampler import make_sampler
from mcugen.serial_console import BAUD, open_console
from mcugen.sheet import Sheet
from mcugen.sources import Source, adapted, open_source, trim_source
from mcugen.sweep import sweep as run_sweep
from mcugen.sweep_plot import check_plot, sweep_plot
from mcugen.tflm.layout import TflmLayout, lay_out_tflm
from mcugen.tflm.report import tflm_sheets
from mcugen.tflm.target import build_tflm_folder, custom_twin, tflm_facts, verify_tflm
from mcugen.tokenizer import MAX_VOCAB
from mcugen.trials import OWN_SAMPLES, Options, Trial, parse_axes, run_trial


class _Group(click.Group):
    """Turns errors into text on standard error and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except McugenError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


def main() -> None:
    """Entry point: what no McugenError explains is our own defect and exits with 70."""
    try:
        mcugen(prog_name="mcugen")
    except Exception as error:
        click.echo(f"Internal error: {type(error).__name__}: {error}", err=True)
        click.echo("  this is a defect of mcugen: please report it with the command line", err=True)
        sys.exit(70)


@contextmanager
def _progress(hidden: bool = False) -> Iterator[sources.Progress]:
    """Bars on standard error while it is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            name = stage.partition(":")[0]  # what follows changes while it runs
            if name not in tasks:
                tasks[name] = bars.add_task(stage, total=total)
            bars.update(tasks[name], completed=done, total=total, description=stage)

        yield show


def _print_json(value: Mapping[str, object]) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))


# ---------------------------------------------------------------- options

_Command = Callable[..., None]


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_PATH = click.Path(path_type=Path)
_AT_LEAST_0 = click.IntRange(min=0)
_AT_LEAST_1 = click.IntRange(min=1)
_model = click.argument("model", required=False, type=_PATH)
_tokenizer = click.option(
    "--tokenizer",
    type=_PATH,
    metavar="FILE",
    help="Vocabulary of MODEL: a tokenizer.bin of llama2.c or a tokenizer.json.",
)
_board = click.option("--board", default="nucleo", show_default=True, help="A board's name, or a board file (TOML).")
_host_board = click.option("--board", default="host", show_default=True, help="The board whose context is used.")
_context = click.option("--context", type=int, metavar="N", help="Tokens remembered.  [default: the most that fit]")
_calibrate = click.option(
    "--calibrate", type=_PATH, metavar="TEXT", help="Text to calibrate on.  [default: own samples]"
)
_vocab_from = click.option(
    "--vocab-from", type=_PATH, metavar="TEXT", help="Keep only the tokens that a text needs.  [default: all]"
)
_recipe = click.option(
    "--recipe",
    metavar="NAME",
    help=f"How the layers' matrices become integers: {', '.join(RECIPES)}, or a file (TOML).  [default: w8]",
)
_budget = click.option(
    "--budget",
    metavar="AMOUNT",
    help="What a mixed recipe may cost: 5bits per weight, 200KB of flash, 2% perplexity.",
)
_values = click.option(
    "--values",
    type=click.Choice(list(VALUES)),
    help="Cached values; int4 saves RAM, and costs instructions and quality.  [default: int8]",
)
_lora = click.option("--lora", type=_PATH, metavar="DIR", help="A LoRA adapter (PEFT) to merge into MODEL.")
_prune = click.option(
    "--prune",
    metavar="BUDGET",
    help="What to prune before anything is quantised: down to hidden=0.8 of the channels, to kv_heads=3, to 180KB of "
    "flash or for 2% perplexity.",
)
_distill = click.option(
    "--distill",
    type=_AT_LEAST_1,
    is_flag=False,
    flag_value=DISTILL_STEPS,
    metavar="[STEPS]",
    help=f"Train the codes to predict as the float model does; needs PyTorch.  [STEPS: {DISTILL_STEPS}]",
)
_distill_text = click.option(
    "--distill-text", type=_PATH, metavar="FILE", help="Text to train on, beside the model's own samples."
)
_fc = click.option(
    "--fc",
    type=click.Choice(["custom", "builtin"]),
    default="custom",
    show_default=True,
    help="The matrix kernels of a TFLite Micro build: ours, or its own FULLY_CONNECTED.",
)
_target = click.option(
    "--target",
    type=click.Choice(["c", "tflm", "microtvm"]),
    default="c",
    show_default=True,
    help="What is generated: C that needs nothing else; a .tflite and its ops for TensorFlow Lite Micro; or C whose "
    "kernels Apache TVM makes, in Model Library Format.",
)
_prefill = click.option(
    "--prefill",
    default=1,
    show_default=True,
    metavar="N",
    help="Tokens of a prompt computed at once: faster, more RAM.",
)
_sinks = click.option(
    "--sinks",
    default=0,
    show_default=True,
    metavar="S",
    help="First tokens that are remembered for ever, within the context.",
)
_toolchain = click.option("--toolchain", default="auto", show_default=True, help="The C compiler: auto, zig or gcc.")
_sampled = _options(
    click.option(
        "--tokens", type=_AT_LEAST_0, default=MAX_TOKENS, show_default=True, metavar="N", help="The longest answer."
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
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_EPILOG = (
    f"MODEL is a model that ships with mcugen ({', '.join(bundled_models())}; {sources.DEFAULT_MODEL} where none is "
    "named), the folder of a Hugging Face model, a GGUF file (pip install 'mcugen[formats]'), a llama2.c checkpoint "
    "(.bin, with --tokenizer) or a quantised model (.safetensors)."
)


@dataclass(frozen=True, slots=True)
class _Choice:
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


def _choose(command: _Command) -> _Command:
    """Hand the options of _Choice over as one argument."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        chosen = {field.name: options.pop(field.name) for field in fields(_Choice) if field.name in options}
        command(choice=_Choice(**chosen), **options)

    return run


_integers = _options(_model, _tokenizer, _lora, _prune, _calibrate, _vocab_from, _recipe, _budget, _values)
_named = _options(_integers, _distill, _distill_text, _fc, _choose)
_targeted = _options(_target, _fc)
_laid_out = _options(_integers, _board, _context, _prefill, _sinks, _choose)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mcugen")
def mcugen() -> None:
    """Tiny transformers on microcontrollers: integers only, proved bit for bit.

    Without further words, commands take home, a model that turns plain English into the actions of a small house, and
    a NUCLEO-F446RE: try mcugen run --prompt "it is too dark in the bedroom". A second model that ships with mcugen
    tells stories: try mcugen run tales --prompt "Once upon a time" --temperature 0.8.

    Exit codes: 2 usage, 3 input, 4 does not fit, 5 tool missing, 6 mismatch, 70 a defect of mcugen.
    """


def _open(choice: _Choice) -> Source:
    """The model that the options name, as they change it."""
    most = MAX_VOCAB if choice.vocab_from is None else tokenizer_json.MAX_TOKENS
    source = open_source(choice.model, choice.tokenizer, most)
    if choice.lora is not None:
        source = adapted(source, choice.lora)
    if choice.vocab_from is not None:
        source, line = trim_source(source, choice.vocab_from)
        click.echo(line, err=True)
    return source


def _quantize(choice: _Choice, progress: sources.Progress) -> tuple[Source, QuantizedModel]:
    source = _open(choice)
    recipe = _recipe_of(choice)
    return source, quantize_source(source, choice.calibrate, progress, recipe, choice.fc, choice.distill_text)


def _recipe_of(choice: _Choice) -> Recipe | None:
    """What --recipe and the options beside it name; a budget alone is for the mixed recipe."""
    recipe = None if choice.recipe is None else recipe_named(choice.recipe)
    if choice.budget is not None:
        recipe = with_budget(recipe or MIXED, choice.budget)
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


def _command(choice: _Choice, board: Board, verb: str = "build") -> str:
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


def _lay_out(choice: _Choice, progress: sources.Progress, one_core: bool = False) -> tuple[Source, Layout, str]:
    """What the options of a command name: the source, its layout on the board, and the command that generates it.

    one_core: leave the board's other cores alone.
    """
    _refuse_builtin(choice)
    board = load_board(choice.board)
    if one_core:
        board = replace(board, cores=1)
    source, quantized = _quantize(choice, progress)
    layout = lay_out(quantized, source.tokenizer, board, choice.context, choice.prefill, choice.sinks)
    return source, layout, _command(choice, board)


def _lay_out_tflm(choice: _Choice, progress: sources.Progress) -> tuple[Source, TflmLayout, str]:
    """The same for --target tflm."""
    _refuse_prefill(choice, "TensorFlow Lite Micro")
    _refuse_sinks(choice, "TensorFlow Lite Micro")
    board = load_board(choice.board)
    source, quantized = _quantize(choice, progress)
    tflm = lay_out_tflm(quantized, source.tokenizer, board, choice.context)
    return source, tflm, _command(choice, board)


def _lay_out_microtvm(choice: _Choice, progress: sources.Progress) -> tuple[Source, Layout, str]:
    """The same for --target microtvm."""
    find_tvm()  # before anything that takes its time
    _refuse_builtin(choice)
    _refuse_prefill(choice, "microTVM")
    _refuse_sinks(choice, "microTVM")
    board = load_board(choice.board)
    source, quantized = _quantize(choice, progress)
    return source, lay_out_microtvm(quantized, source.tokenizer, board, choice.context), _command(choice, board)


def _refuse_prefill(choice: _Choice, target: str) -> None:
    if choice.prefill != 1:
        raise UsageError(
            f"the {target} target reads one token at a time",
            where="--prefill",
            hint="leave --prefill out, or --target c",
        )


def _refuse_sinks(choice: _Choice, target: str) -> None:
    if choice.sinks:
        raise UsageError(
            f"the {target} target keeps the latest tokens only",
            where="--sinks",
            hint="leave --sinks out, or --target c",
        )


def _refuse_builtin(choice: _Choice) -> None:
    if choice.fc != "custom":
        raise UsageError(
            f"--fc {choice.fc} is for TensorFlow Lite Micro, which brings FULLY_CONNECTED",
            where="--fc",
            hint="add --target tflm, or leave --fc out",
        )


# ---------------------------------------------------------------- commands


@mcugen.command(epilog=_EPILOG, short_help="Write a C project with its firmware and reports.")
@_options(_targeted, _laid_out, _toolchain, _json)
@click.option("--out", type=_PATH, metavar="DIR", help="Where to write.  [default: build/MODEL-BOARD, and -TARGET]")
@click.option(
    "--verify-tokens", type=_AT_LEAST_0, default=160, show_default=True, metavar="N", help="Tokens to verify."
)
def build(
    choice: _Choice,
    toolchain: str,
    as_json: bool,
    out: Path | None,
    verify_tokens: int,
) -> None:
    """Write a C project with its firmware, memory report and verification report; or what --target says.

    An earlier result in DIR is replaced; anything else there is left alone. Where the firmware differs from the
    simulator, or something is missing, nothing is written.
    """
    if choice.target == "tflm":
        _build_tflm(choice, toolchain, as_json, out, verify_tokens)
        return
    if choice.target == "microtvm":
        _build_microtvm(choice, toolchain, as_json, out, verify_tokens)
        return
    with _progress() as progress:
        source, layout, command = _lay_out(choice, progress)
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}"
        built = pipeline.build_folder(
            source,
            layout.graph.model,
            layout,
            folder,
            toolchain=toolchain,
            command=command,
            tokens=verify_tokens,
            progress=progress,
        )
    _print_built(built, as_json)


@mcugen.command(epilog=_EPILOG, short_help="Write the C as a library for another build system.")
@click.option("--as", "ecosystem", type=click.Choice(list(ECOSYSTEMS)), required=True, help="Whose layout.")
@_options(_laid_out, _toolchain, _json)
@click.option("--out", type=_PATH, metavar="DIR", help="Where to write.  [default: build/MODEL-BOARD-ECOSYSTEM]")
@click.option(
    "--verify-tokens", type=_AT_LEAST_0, default=160, show_default=True, metavar="N", help="Tokens to verify."
)
def export(
    choice: _Choice, ecosystem: str, toolchain: str, as_json: bool, out: Path | None, verify_tokens: int
) -> None:
    """Write model, kernels and runtime as a library for another build system, with an example application.

    The kernels are those of the board's core; --board host has portable C for any. The library never has main, a
    heap, the UART or a linker script. The same C is verified as firmware first; where a bit differs, nothing is
    written.
    """
    with _progress() as progress:
        _, layout, _ = _lay_out(choice, progress, one_core=True)  # starting another is the application's
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}-{ecosystem}"
        ladder = pipeline.export_folder(
            layout,
            ecosystem,
            folder,
            toolchain=toolchain,
            command=_command(choice, layout.board, f"export --as {ecosystem}"),
            tokens=verify_tokens,
            progress=progress,
        )
    if as_json:
        _print_json({"out": str(folder), "verification": ladder.to_json() if ladder else None})
        return
    click.echo(f"{layout.graph.model.name} for {layout.board.name} as a {ECOSYSTEMS[ecosystem].title}: {folder}")
    _print_ladder(ladder)


def _print_built(built: pipeline.Built, as_json: bool, more: Mapping[str, object] | None = None) -> None:
    layout, folder = built.layout, built.out
    firmware, demand = built.firmware, layout.demand
    ram = firmware.static_bytes + firmware.stack_bytes
    if as_json:
        _print_json(
            {
                "out": str(folder),
                "flash_bytes": firmware.flash_bytes,
                "ram_bytes": ram,
                "toolchain": firmware.toolchain,
                "plan": plan_facts(layout),
                "verification": built.ladder.to_json() if built.ladder else None,
                **(more or {}),
            }
        )
        return
    table = Table(title=f"{layout.graph.model.name} on {layout.board.name}", show_header=False, title_justify="left")
    if layout.board.core != "host":
        table.add_row("flash", _share(firmware.flash_bytes, layout.board.flash.size))
        table.add_row("RAM", f"{_share(ram, layout.board.ram.size)}, of which KV ring {demand.ring:,} B")
    table.add_row("context", f"{layout.graph.context} tokens (at most {layout.largest_context} fit)")
    table.add_row("toolchain", firmware.toolchain)
    table.add_row("written to", str(folder))
    Console().print(table)
    _print_ladder(built.ladder)


def _build_tflm(choice: _Choice, toolchain: str, as_json: bool, out: Path | None, verify_tokens: int) -> None:
    with _progress() as progress:
        source, tflm, command = _lay_out_tflm(choice, progress)
        layout = tflm.layout
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}-tflm"
        built = build_tflm_folder(
            source,
            custom_twin(source, layout.graph.model, choice.calibrate, progress, _recipe_of(choice)),
            tflm,
            folder,
            toolchain=toolchain,
            command=command,
            tokens=verify_tokens,
            progress=progress,
        )
    if as_json:
        _print_json(
            {
                "out": str(folder),
                "plan": plan_facts(layout),
                "tflm": tflm_facts(tflm),
                "comparison": built.comparison.to_json() if built.comparison else None,
                "verification": built.ladder.to_json() if built.ladder else None,
            }
        )
        return
    _print_sheets(tflm_sheets(tflm, built.comparison, str(folder)))
    _print_ladder(built.ladder)


def _build_microtvm(choice: _Choice, toolchain: str, as_json: bool, out: Path | None, verify_tokens: int) -> None:
    with _progress() as progress:
        source, layout, command = _lay_out_microtvm(choice, progress)
        found = build_microtvm_folder(
            source,
            layout.graph.model,
            layout,
            out or Path("build") / f"{layout.name}-{layout.board.name}-microtvm",
            toolchain=toolchain,
            command=command,
            tokens=verify_tokens,
            progress=progress,
        )
    costs = None if found.costs is None else [cost.to_json() for cost in found.costs]
    _print_built(found.built, as_json, {"costs": costs})
    if not as_json:
        _print_sheets(microtvm_sheets(found))


def _share(used: int, size: int) -> str:
    return f"{used:,} of {size:,} B ({100 * used / size:.1f} %)"


def _print_ladder(ladder: Ladder | None) -> None:
    if ladder is None:
        click.echo("not verified (--verify-tokens 0)")
        return
    table = Table(title="verification", title_justify="left")
    for column in ("rung", "machine", "verdict", "tokens", "values compared"):
        table.add_column(column, justify="right" if column in ("tokens", "values compared") else "left")
    for report in ladder.reports:
        verdict = "equal" if report.difference is None else "different"
        table.add_row(report.rung, report.machine, verdict, str(report.tokens), f"{report.values:,}")
    for skipped in ladder.skipped:
        table.add_row(skipped.rung, skipped.why, "skipped", "", "")
    Console().print(table)
    if ladder.instructions_per_token is not None:
        positions = f"positions 0 to {ladder.profiled_tokens - 1}"
        click.echo(f"instructions per token, {positions}: {ladder.instructions_per_token:,.0f}")


@mcugen.command(epilog=_EPILOG, short_help="Compare the firmware with the simulator, op by op.")
@_options(_targeted, _laid_out, _toolchain, _json)
@click.option(
    "--tokens", type=_AT_LEAST_1, default=600, show_default=True, metavar="N", help="Greedy tokens to feed."
)
@click.option("--port", metavar="PORT", help="Compare the board at this serial port instead; auto finds it.")
def verify(
    choice: _Choice,
    toolchain: str,
    as_json: bool,
    tokens: int,
    port: str | None,
) -> None:
    """Compare the firmware with the simulator, op by op: exit code 0 where all is equal, 6 where not.

    First the C on this computer, with sanitizers; then the ELF that is flashed, in an emulator; then its console.
    With --port, the console of a real board that runs what `mcugen build` made of the same options: tokens, hashes of
    their logits, and a sampled text.
    """
    if port is not None and choice.target != "c":
        raise UsageError("--port is for --target c", where="--port", hint="leave one of them out")
    with _progress() as progress:
        if port is not None:
            _, layout, command = _lay_out(choice, progress)
            baud = dict(layout.board.port_defines).get("MG_UART_BAUD", BAUD)
            with closing(open_console(None if port == "auto" else port, baud)) as console:
                ladder = climb_board(layout, console, tokens, command, progress=progress)
        elif choice.target == "tflm":
            _, tflm, command = _lay_out_tflm(choice, progress)
            ladder = verify_tflm(tflm, tokens, command, toolchain=toolchain, progress=progress)
        elif choice.target == "microtvm":
            _, layout, command = _lay_out_microtvm(choice, progress)
            ladder = verify_microtvm(layout, tokens, command, toolchain=toolchain, progress=progress)
        else:
            _, layout, command = _lay_out(choice, progress)
            firmware = None
            if layout.board.core != "host":
                firmware = make_firmware(layout, toolchain, command, progress)
            ladder = climb(layout, firmware, tokens, command, toolchain=toolchain, progress=progress)
    if as_json:
        _print_json(ladder.to_json())
    else:
        _print_ladder(ladder)
    ladder.raise_for_difference()


@mcugen.command(epilog=_EPILOG, short_help="Verify on every board, with every compiler.")
@_options(_model, _tokenizer)
@click.option("--board", "names", multiple=True, metavar="BOARD", help="Only this one; may be given several times.")
@click.option("--toolchain", "compilers", multiple=True, metavar="NAME", help="zig or gcc.  [default: both]")
@click.option("--context", default=128, show_default=True, metavar="N", help="Tokens remembered, where they fit.")
@click.option(
    "--tokens", type=_AT_LEAST_1, default=160, show_default=True, metavar="N", help="Greedy tokens to feed."
)
@click.option("--jobs", type=_AT_LEAST_1, metavar="N", help="Processes.  [default: one for each core]")
@_json
def matrix(
    model: Path | None,
    tokenizer: Path | None,
    names: tuple[str, ...],
    compilers: tuple[str, ...],
    context: int,
    tokens: int,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Verify on every board, with every compiler: instructions, bytes and a verdict for each.

    Exit code 6 where any differs or fails.
    """
    found = points(model, tokenizer, names, compilers, context, tokens)
    name = open_source(model, tokenizer).name
    with _progress() as progress:
        done = itertools.count(1)
        progress("boards", 0, len(found))
        results = run_sweep(
            found, measure_point, jobs=jobs, completed=lambda _: progress("boards", next(done), len(found))
        )
    if as_json:
        _print_json(matrix_json(results))
    else:
        _print_sheets([matrix_sheet(name, results)])
    failed = [result for result in results if result.error is not None]
    if failed:
        first = failed[0]
        raise MismatchError(
            f"{len(failed)} of {len(results)} fail, {first.point.board} with {first.point.toolchain} first: "
            f"{first.error}",
            where="matrix",
            hint="mcugen verify with that board and compiler tells more",
        )


@mcugen.command(epilog=_EPILOG, short_help="Count instructions: by position, part, layer and matrix.")
@_options(_laid_out, _toolchain, _json)
@click.option(
    "--positions", default="0-63", show_default=True, metavar="A-B", help="Take the mean over these; 0 is the first."
)
@click.option(
    "--compare", type=_PATH, metavar="FILE", help="Print ratios to an earlier result of bench, made with --json."
)
@click.option("--gemv", is_flag=True, help="Measure the board's matrix kernels on fixed shapes; takes no model.")
def bench(
    choice: _Choice,
    toolchain: str,
    as_json: bool,
    positions: str,
    compare: Path | None,
    gemv: bool,
) -> None:
    """Count the instructions of a token on an emulated board: exact counts; cycles are an estimate, as a range.

    The position of a token is the number of tokens before it. The firmware reads its own greedy tokens; where a logit
    is not the simulator's, it ends with exit code 6.
    """
    if gemv:
        _bench_gemv(choice, toolchain, as_json, compare)
        return
    first, last = benches.parse_positions(positions)
    earlier = None if compare is None else benches.read_bench(compare)
    with _progress() as progress:
        _, layout, command = _lay_out(choice, progress)
        firmware = make_firmware(layout, toolchain, command, progress)
        found = benches.bench(layout, firmware, first, last, progress)
    result = found.to_json()
    ratios = None if earlier is None else benches.compare(result, earlier)
    if as_json:
        _print_json(result if ratios is None else {**result, "new_to_old": ratios})
        return
    _print_sheets(bench_sheets(found))
    if ratios is not None:
        _print_sheets(comparison_sheets(ratios, str(compare)))


def _bench_gemv(choice: _Choice, toolchain: str, as_json: bool, compare: Path | None) -> None:
    if choice.model is not None or compare is not None:
        raise UsageError(
            f"--gemv takes no {'model' if choice.model is not None else '--compare'}: its shapes are fixed",
            where="bench",
            hint="leave one of them out",
        )
    with _progress() as progress:
        found = gemv_bench(load_board(choice.board), toolchain, progress)
    if as_json:
        _print_json(found.to_json())
    else:
        _print_sheets(gemv_sheets(found))


def _print_sheets(sheets: Iterable[Sheet]) -> None:
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", show_header=bool(sheet.columns))
        for index, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if index == 0 or index in sheet.text else "right")
        for row in sheet.rows:
            table.add_row(*row)
        Console().print(table)
        if sheet.note:
            Console().print(sheet.note, markup=False, highlight=False)


@mcugen.command(epilog=_EPILOG, short_help="Talk to the model on an emulated board.")
@_options(_laid_out, _toolchain, _json)
@click.option("--prompt", metavar="TEXT", help="What to type.  [default: every line of standard input]")
@_sampled
@click.option("--quiet", is_flag=True, help="Print the generated text and nothing else.")
def run(
    choice: _Choice,
    toolchain: str,
    as_json: bool,
    prompt: str | None,
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    quiet: bool,
) -> None:
    """Type a prompt at the emulated board's UART and stream its answer (--board host: on this computer).

    With --json, one line of JSON for each answer.
    """
    sampler = make_sampler(temperature, top_k, top_p, seed)
    with _progress(hidden=quiet) as progress:
        _, layout, command = _lay_out(choice, progress)
        firmware = make_firmware(layout, toolchain, command, progress)
    if not quiet and not as_json:
        where = "on this computer" if layout.board.core == "host" else f"on an emulated {layout.board.name}"
        click.echo(f"{layout.graph.model.name} {where}, context {layout.graph.context}", err=True)
    for typed in _prompts(prompt, quiet):
        parts = pipeline.run_prompt(layout, firmware, typed, sampler, tokens)
        text = typed.decode(errors="replace")
        facts = {"model": layout.graph.model.name, "board": layout.board.name, "prompt": text}
        _print_answer(parts, facts if as_json else None)


def _prompts(prompt: str | None, quiet: bool) -> Iterator[bytes]:
    """The prompt, or every line of standard input, which a person is asked for."""
    if prompt is not None:
        yield os.fsencode(prompt)
        return
    asks = sys.stdin.isatty() and not quiet
    click.echo("> " if asks else "", nl=False, err=True)
    for line in sys.stdin.buffer:
        yield line.rstrip(b"\r\n")
        click.echo("> " if asks else "", nl=False, err=True)


@mcugen.command(short_help="Program a real board with what mcugen build wrote.")
@click.argument("folder", required=False, type=_PATH, metavar="[DIR]")
@click.option("--board", metavar="BOARD", help="A board's name or file.  [default: what DIR was built for]")
@click.option("--tool", metavar="TOOL", help="Take this one of the board file's ways alone.")
@click.option("--drive", type=_PATH, metavar="PATH", help="Where the board's USB drive is mounted.")
@click.option("--dry-run", is_flag=True, help="Check the image, print the commands, and program nothing.")
@_json
def flash(
    folder: Path | None, board: str | None, tool: str | None, drive: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Program a real board with the firmware in DIR, which mcugen build wrote.  [default: build/home-BOARD]

    The image is checked against the board's memory map. Then the ways that the board file states are tried in its
    order, until one finds the board: a copy to its USB drive, OpenOCD, pyOCD, esptool, or Teensy's loader.
    """
    default = Path("build") / f"{sources.DEFAULT_MODEL}-{load_board(board or 'nucleo').name}"
    image = flashing.open_image(folder or default, board)
    found = flashing.ways(image, tool, drive)
    taken = None if dry_run else flashing.flash(image, found)
    share = _share(image.size, image.board.flash.size)
    if as_json:
        _print_json(
            {
                "folder": str(image.folder),
                "board": image.board.name,
                "build": image.build,
                "start": f"{image.start:#010x}",
                "bytes": image.size,
                "ways": [{"tool": w.tool, "command": list(w.command), "lacks": w.lacks or None} for w in found],
                "flashed_with": taken.tool if taken else None,
            }
        )
        return
    click.echo(f"{image.title}, build {image.build}: {share} from {image.start:#010x}")
    if taken is not None:
        click.echo(f"flashed with {taken.tool}; now: mcugen monitor")
        return
    for way in found:
        click.echo(f"\n{way.tool}: {way.lacks or 'ready'}\n  {flashing.shown(way)}")
        click.echo(f"  try: {way.remedy}" if way.lacks else "", nl=bool(way.lacks))


@mcugen.command(short_help="Talk to the model on a real board, over its serial port.")
@click.option("--port", metavar="PORT", help="The board's serial port.  [default: the only one of a USB device]")
@click.option("--baud", type=_AT_LEAST_1, default=BAUD, show_default=True, metavar="N", help="The port's speed.")
@click.option("--prompt", metavar="TEXT", help="What to type.  [default: every line of standard input]")
@_options(_sampled, _json)
@click.option("--quiet", is_flag=True, help="Print the generated text and nothing else.")
def monitor(
    port: str | None,
    baud: int,
    prompt: str | None,
    as_json: bool,
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    quiet: bool,
) -> None:
    """Say which build the board runs, type prompts and stream its answers. Lines that begin with # steer its console.

    With --json, one line of JSON for each answer.
    """
    sampler = make_sampler(temperature, top_k, top_p, seed)
    with closing(open_console(port, baud)) as console:
        found = console.running()
        if not quiet and not as_json:
            click.echo(f"{found.title} at {console.name}, build {found.build}", err=True)
        for setting in (f"#tokens {tokens}", sampler_line(sampler)):
            list(console.ask(setting.encode()))
        for typed in _prompts(prompt, quiet):
            pipeline.check_prompt(typed, "monitor", commands=True)
            facts = {"running": found.title, "build": found.build, "prompt": typed.decode(errors="replace")}
            _print_answer(console.ask(typed), facts if as_json else None)


def _print_answer(parts: Iterable[bytes], facts: Mapping[str, str] | None) -> None:
    """Print an answer as it comes; or, once complete, as one line of JSON with these facts."""
    if facts is not None:
        answer = b"".join(parts).decode(errors="replace")
        click.echo(json.dumps({**facts, "text": answer.removesuffix("\n")}, sort_keys=True))
        return
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


@mcugen.command(epilog=_EPILOG, short_help="Show where every byte goes, and what would make it fit.")
@_options(_laid_out, _json)
def plan(
    choice: _Choice,
    as_json: bool,
) -> None:
    """Show where every byte goes, why the peak is where it is, and what would make it fit."""
    with _progress() as progress:
        _, layout, _ = _lay_out(choice, progress)
    if as_json:
        _print_json(plan_facts(layout))
    else:
        click.echo(plan_text(layout), nl=False)


@mcugen.command(epilog=_EPILOG, short_help="Write the integers and the vocabulary as one file.")
@_options(_named, _json)
@click.option("--out", type=_PATH, metavar="FILE", help="Where to write.  [default: MODEL.safetensors]")
def quantize(choice: _Choice, as_json: bool, out: Path | None) -> None:
    """Write the integers and the vocabulary as one file, which every command takes as MODEL."""
    with _progress() as progress:
        source = _open(choice)
        quantized, precisions = quantize_by_choice(
            source, choice.calibrate, progress, _recipe_of(choice), choice.fc, choice.distill_text
        )
    content = save_quantized(quantized, source.tokenizer)
    path = out or Path(f"{source.name}.safetensors")
    write_file(content, path)
    if as_json:
        facts: dict[str, object] = {"out": str(path), "bytes": len(content), "recipe": quantized.recipe}
        _print_json(facts if precisions is None else {**facts, "precisions": precisions.to_json()})
    else:
        _print_sheets([] if precisions is None else [precisions.sheet()])
        click.echo(f"{path}: {len(content):,} B, {quantized.recipe}")


@mcugen.command(name="eval", epilog=_EPILOG, short_help="Measure what the integers cost against float.")
@_options(_integers, _distill, _distill_text, _fc, _host_board, _context, _choose, _json)
@click.option("--text", type=_PATH, metavar="FILE", help="What to predict; paragraphs outside ASCII are dropped.")
@click.option(
    "--tokens", type=_AT_LEAST_1, default=20_000, show_default=True, metavar="N", help="How many of its tokens."
)
@click.option(
    "--cases",
    type=_PATH,
    metavar="FILE",
    help='What to answer: prompt TAB answer, or .jsonl of {"prompt", "answer"}.',
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="AXIS",
    help="Try options side by side: recipe=w8,w4 or budget=5bits,2% or calibrate=own,FILE or context=N,N or "
    "fc=custom,builtin; may be given once for each.",
)
@click.option(
    "--stream", type=_AT_LEAST_1, metavar="N", help="Predict streams of N tokens, past the trained context."
)
@click.option(
    "--sinks",
    "stream_sinks",
    metavar="S|auto",
    help="First tokens that a stream remembers for ever; auto: as many as help the float model.  [default: 0]",
)
@click.option("--jobs", type=_AT_LEAST_1, metavar="N", help="Processes of a sweep.  [default: one for each core]")
@click.option("--plot", type=_PATH, metavar="FILE", help="Draw a sweep as .png or .svg; needs matplotlib.")
def evaluate(
    choice: _Choice,
    as_json: bool,
    text: Path | None,
    tokens: int,
    cases: Path | None,
    sweep: tuple[str, ...],
    stream: int | None,
    stream_sinks: str | None,
    jobs: int | None,
    plot: Path | None,
) -> None:
    """Measure what the integers cost against float.

    On a text: perplexity, KL divergence, top-1 agreement, each op's error. On the cases of a task: exact answers; the
    model that ships with mcugen has cases of its own.
    """
    if stream is not None:
        _stream(choice, as_json, text, tokens, stream, stream_sinks, cases is not None or bool(sweep))
        return
    if stream_sinks is not None:
        raise UsageError(
            "--sinks is for streams longer than the context",
            where="--sinks",
            hint="add --stream 2304, or leave it out",
        )
    if text is None and cases is None:
        cases = sources.default_cases(choice.model)
    if sweep:
        _sweep(choice, as_json, text, tokens, cases, sweep, jobs, plot)
        return
    for option, given in (("--jobs", jobs), ("--plot", plot)):
        if given is not None:
            raise UsageError(f"{option} is for a sweep", where=option, hint="add --sweep w8,w4, or leave it out")
    found = exact = None
    with _progress() as progress:
        source, quantized = _quantize(choice, progress)
        graph = lay_out(quantized, source.tokenizer, load_board(choice.board), choice.context).graph
        if text is not None:
            found = pipeline.measure(source, graph, text, tokens, progress)
        if cases is not None:
            exact = pipeline.measure_cases(source, graph, cases, progress)
    if as_json:
        _print_json(eval_json(source.tokenizer, found, exact))
    else:
        _print_sheets(eval_sheets(source.name, source.tokenizer, found, exact))


def _stream(
    choice: _Choice, as_json: bool, text: Path | None, tokens: int, length: int, typed: str | None, other: bool
) -> None:
    if text is None or other:
        raise UsageError(
            "a stream is measured on a text alone",
            where="--stream",
            hint="add --text FILE, without --cases and --sweep",
        )
    if typed not in (None, "auto") and not typed.isdecimal():
        raise UsageError(f"{typed!r} is no number of sinks", where="--sinks", hint="--sinks 4, or --sinks auto")
    sinks = None if typed == "auto" else int(typed or 0)
    with _progress() as progress:
        source, quantized = _quantize(choice, progress)
        board = load_board(choice.board)
        found = pipeline.measure_stream(
            source,
            lambda sinks: lay_out(quantized, source.tokenizer, board, choice.context, sinks=sinks),
            text,
            tokens,
            length,
            sinks,
            progress,
        )
    if as_json:
        _print_json(found.to_json())
    else:
        _print_sheets(stream_sheets(source.name, found))


def _sweep(
    choice: _Choice,
    as_json: bool,
    text: Path | None,
    tokens: int,
    cases: Path | None,
    words: tuple[str, ...],
    jobs: int | None,
    plot: Path | None,
) -> None:
    for option, given in (
        ("--lora", choice.lora),
        ("--vocab-from", choice.vocab_from),
        ("--prune", choice.prune),
        ("--values", choice.values),
        ("--distill", choice.distill),
        ("--distill-text", choice.distill_text),
    ):
        if given is not None:
            in_file = option in ("--prune", "--values", "--distill")
            raise UsageError(
                f"a sweep takes no {option}",
                where=option,
                hint="state it in a recipe file, and name that in --sweep" if in_file else "leave it out",
            )
    axes, options = parse_axes(words, _options_of(choice))
    if plot is not None:
        check_plot(plot)
    source = open_source(choice.model, choice.tokenizer)  # before any process starts
    pipeline.float_model(source)
    trials = [Trial(o, choice.model, choice.tokenizer, choice.board, text, tokens, cases) for o in options]
    with _progress() as progress:
        done = itertools.count(1)
        progress("trials", 0, len(trials))
        results = run_sweep(
            trials, run_trial, jobs=jobs, completed=lambda _: progress("trials", next(done), len(trials))
        )
    if plot is not None:
        write_file(sweep_plot(source.name, axes, results, plot), plot)
    if as_json:
        _print_json(sweep_json(source.tokenizer, results))
    else:
        _print_sheets(sweep_sheets(source.name, axes, results))


def _options_of(choice: _Choice) -> Options:
    """Where a sweep starts from: what the other options say."""
    return Options(
        recipe=choice.recipe,
        budget=choice.budget,
        calibrate=OWN_SAMPLES if choice.calibrate is None else str(choice.calibrate),
        context=choice.context,
        fc=choice.fc,
    )


class _Boards(click.Group):
    """Tells who types a board's name where a command is expected what to type."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} One board: mcugen boards show {args[0]}", ctx) from error


@mcugen.group(cls=_Boards, invoke_without_command=True)
@_json
@click.pass_context
def boards(ctx: click.Context, as_json: bool) -> None:
    """List the boards; `mcugen boards show nucleo` shows one."""
    if ctx.invoked_subcommand is not None:
        return
    found = list_boards()
    if as_json:
        _print_json({board.name: _board_facts(board) for board in found})
        return
    table = Table()
    for column in ("board", "core", "clock", "flash", "RAM", "what it is"):
        table.add_column(column, justify="right" if column in ("clock", "flash", "RAM") else "left")
    for board in found:
        sizes = (
            f"{board.clock_hz // 1_000_000} MHz",
            f"{board.flash.size // 1024} KiB",
            f"{board.ram.size // 1024} KiB",
        )
        table.add_row(board.name, board.core, *(sizes if board.core != "host" else ("", "", "")), board.title)
    Console().print(table)


@boards.command(short_help="Show the facts of a board and where they come from.")
@click.argument("name", metavar="BOARD")
@_json
def show(name: str, as_json: bool) -> None:
    """Show the facts of BOARD, a name or a board file (TOML), and where they come from."""
    board = load_board(name)
    if as_json:
        _print_json(_board_facts(board))
        return
    table = Table(title=board.title, show_header=False, title_justify="left")
    for key, value in _board_facts(board).items():
        table.add_row(key, str(value))
    Console().print(table)


@boards.command(short_help="Write a board file of your own to begin with.")
@click.argument("name")
@click.option("--like", default="nucleo", show_default=True, metavar="BOARD", help="The board to begin with.")
@click.option("--out", type=_PATH, metavar="FILE", help="The file to write.  [default: NAME.toml]")
@_json
def new(name: str, like: str, out: Path | None, as_json: bool) -> None:
    """Write a commented board file (TOML) for a board of your own, with the values of another board to correct."""
    text = new_board(name, like)
    file = out or Path(f"{name}.toml")
    if file.exists():
        raise UsageError(f"{file} is there already", where="--out", hint="choose another file, or remove that one")
    write_file(text.encode(), file)
    if as_json:
        _print_json({"file": str(file), "name": name, "like": load_board(like).name})
        return
    click.echo(f"{file}: values of {load_board(like).name}, each of them to check")
    click.echo(f"try:  mcugen build --board {file} --verify-tokens 0")


def _board_facts(board: Board) -> dict[str, object]:
    return {
        "name": board.name,
        "title": board.title,
        "core": board.core,
        "features": sorted(board.features),
        "clock_hz": board.clock_hz,
        "flash_origin": f"{board.flash.origin:#010x}",
        "flash_bytes": board.flash.size,
        "ram_origin": f"{board.ram.origin:#010x}",
        "ram_bytes": board.ram.size,
        "stack_bytes": board.stack_bytes,
        "headroom": board.headroom,
        "port": board.port,
        **board.facts,
    }
