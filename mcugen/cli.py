"""The command line: parse, call the pipeline, print. Every command has --json for machines."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from mcugen import __version__, pipeline
from mcugen.boards import list_boards, load_board
from mcugen.errors import McugenError
from mcugen.ir import Board
from mcugen.project import write_file
from mcugen.quantized_file import save_quantized
from mcugen.sampler import make_sampler
from mcugen.verify import mismatch


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
def _progress(hidden: bool = False) -> Iterator[pipeline.Progress]:
    """Bars on standard error while it is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _print_json(value: Mapping[str, object]) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def _command_line() -> str:
    """The command as the user typed it, with paths reduced to file names: generated files must not name a machine."""
    words = [Path(word).name if "/" in word or "\\" in word else word for word in sys.argv[1:]]
    return shlex.join(["mcugen", *words])


# ---------------------------------------------------------------- options

_Command = Callable[..., None]


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_PATH = click.Path(path_type=Path)
_model = click.argument("model", required=False, type=_PATH)
_tokenizer = click.option(
    "--tokenizer", type=_PATH, metavar="FILE", help="Vocabulary of MODEL (llama2.c tokenizer.bin)."
)
_board = click.option("--board", default="nucleo", show_default=True, help="A board's name, or a board file (TOML).")
_context = click.option("--context", type=int, metavar="N", help="Tokens remembered.  [default: the most that fits]")
_calibrate = click.option(
    "--calibrate", type=_PATH, metavar="TEXT", help="Text to calibrate on.  [default: own samples]"
)
_toolchain = click.option("--toolchain", default="auto", show_default=True, help="auto, zig or gcc.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_named = _options(_model, _tokenizer, _calibrate)
_laid_out = _options(_named, _board, _context)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mcugen")
def mcugen() -> None:
    """Tiny transformers on microcontrollers: integers only, proved bit for bit.

    MODEL is a llama2.c checkpoint (.bin, with --tokenizer) or a quantised model (.safetensors). Without MODEL, the
    model that ships with mcugen turns plain English into actions of a small house.

    Exit codes: 2 usage, 3 input, 4 does not fit, 5 tool missing, 6 mismatch, 70 a defect of mcugen.
    """


def _lay_out(
    model: Path | None,
    tokenizer: Path | None,
    calibrate: Path | None,
    board: str,
    context: int | None,
    progress: pipeline.Progress,
) -> tuple[pipeline.Source, pipeline.Layout]:
    facts = load_board(board)
    source = pipeline.open_source(model, tokenizer)
    quantized = pipeline.quantize_source(source, calibrate, progress)
    return source, pipeline.lay_out(quantized, source.tokenizer, facts, context)


# ---------------------------------------------------------------- commands


@mcugen.command()
@_options(_laid_out, _toolchain, _json)
@click.option("--out", type=_PATH, metavar="DIR", help="Where to write.  [default: build/MODEL-BOARD]")
@click.option("--verify-tokens", default=160, show_default=True, metavar="N", help="Tokens to verify; 0: do not.")
def build(
    model: Path | None,
    tokenizer: Path | None,
    calibrate: Path | None,
    board: str,
    context: int | None,
    toolchain: str,
    as_json: bool,
    out: Path | None,
    verify_tokens: int,
) -> None:
    """Write a C project with its firmware, memory report and verification report."""
    with _progress() as progress:
        source, layout = _lay_out(model, tokenizer, calibrate, board, context, progress)
        folder = out or Path("build") / f"{layout.name}-{layout.board.name}"
        built = pipeline.build_folder(
            source,
            layout.graph.model,
            layout,
            folder,
            toolchain=toolchain,
            command=_command_line(),
            tokens=verify_tokens,
            progress=progress,
        )
    _stop_where_different(built.ladder)
    firmware, demand = built.firmware, layout.demand
    ram = firmware.static_bytes + firmware.stack_bytes
    if as_json:
        _print_json(
            {
                "out": str(folder),
                "flash_bytes": firmware.flash_bytes,
                "ram_bytes": ram,
                "toolchain": firmware.toolchain,
                "plan": pipeline.plan_facts(layout),
                "verification": built.ladder.to_json() if built.ladder else None,
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


def _share(used: int, size: int) -> str:
    return f"{used:,} of {size:,} B ({100 * used / size:.1f} %)"


def _stop_where_different(ladder: pipeline.Ladder | None) -> None:
    for report in ladder.reports if ladder else ():
        if report.difference is not None:
            raise mismatch(report)


def _print_ladder(ladder: pipeline.Ladder | None) -> None:
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


@mcugen.command()
@_options(_laid_out, _toolchain, _json)
@click.option("--tokens", default=600, show_default=True, metavar="N", help="Greedy tokens to feed.")
def verify(
    model: Path | None,
    tokenizer: Path | None,
    calibrate: Path | None,
    board: str,
    context: int | None,
    toolchain: str,
    as_json: bool,
    tokens: int,
) -> None:
    """Compare the firmware with the simulator, op by op: exit code 0 where all is equal, 6 where not."""
    if tokens < 1:
        raise click.BadParameter("at least 1 token", param_hint="--tokens")
    with _progress() as progress:
        _, layout = _lay_out(model, tokenizer, calibrate, board, context, progress)
        command = _command_line()
        firmware = None
        if layout.board.core != "host":
            firmware = pipeline.make_firmware(layout, toolchain, command, progress)
        ladder = pipeline.climb(layout, firmware, tokens, command, progress)
    if as_json:
        _print_json(ladder.to_json())
    else:
        _print_ladder(ladder)
    _stop_where_different(ladder)


@mcugen.command()
@_options(_laid_out, _toolchain, _json)
@click.option("--prompt", help="What to type.  [default: every line of standard input]")
@click.option("--tokens", default=200, show_default=True, metavar="N", help="The longest answer.")
@click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-k", default=0, show_default=True, help="Keep the K likeliest tokens; 0: all.")
@click.option("--top-p", default=1.0, show_default=True, help="Keep the likeliest tokens that hold this share.")
@click.option("--seed", default=1, show_default=True, help="Of the random numbers.")
@click.option("--quiet", is_flag=True, help="Print the generated text and nothing else.")
def run(
    model: Path | None,
    tokenizer: Path | None,
    calibrate: Path | None,
    board: str,
    context: int | None,
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
    """Type a prompt at the emulated board's UART and stream its answer (--board host: on this computer)."""
    sampler = make_sampler(temperature, top_k, top_p, seed)
    with _progress(hidden=quiet) as progress:
        _, layout = _lay_out(model, tokenizer, calibrate, board, context, progress)
        firmware = pipeline.make_firmware(layout, toolchain, _command_line(), progress)
    if not quiet and not as_json:
        where = "on this computer" if layout.board.core == "host" else f"on an emulated {layout.board.name}"
        click.echo(f"{layout.graph.model.name} {where}, context {layout.graph.context}", err=True)
    prompts = [prompt] if prompt is not None else (line.rstrip("\r\n") for line in click.get_text_stream("stdin"))
    for text in prompts:
        parts = pipeline.run_prompt(layout, firmware, text, sampler, tokens)
        if as_json:
            answer = b"".join(parts).decode(errors="replace").removesuffix("\n")
            _print_json(
                {"model": layout.graph.model.name, "board": layout.board.name, "prompt": text, "text": answer}
            )
            continue
        for part in parts:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()


@mcugen.command()
@_options(_laid_out, _json)
def plan(
    model: Path | None,
    tokenizer: Path | None,
    calibrate: Path | None,
    board: str,
    context: int | None,
    as_json: bool,
) -> None:
    """Show where every byte goes, why the peak is where it is, and what would make it fit."""
    with _progress() as progress:
        _, layout = _lay_out(model, tokenizer, calibrate, board, context, progress)
    if as_json:
        _print_json(pipeline.plan_facts(layout))
    else:
        click.echo(pipeline.plan_text(layout), nl=False)


@mcugen.command()
@_options(_named, _json)
@click.option("--out", type=_PATH, metavar="FILE", help="Where to write.  [default: MODEL.safetensors]")
def quantize(
    model: Path | None, tokenizer: Path | None, calibrate: Path | None, as_json: bool, out: Path | None
) -> None:
    """Write the integers and the vocabulary as one file, which every command takes as MODEL."""
    with _progress() as progress:
        source = pipeline.open_source(model, tokenizer)
        quantized = pipeline.quantize_source(source, calibrate, progress)
    content = save_quantized(quantized, source.tokenizer)
    path = out or Path(f"{source.name}.safetensors")
    write_file(content, path)
    if as_json:
        _print_json({"out": str(path), "bytes": len(content), "recipe": quantized.recipe})
    else:
        click.echo(f"{path}: {len(content):,} B, {quantized.recipe}")


@mcugen.command(name="eval")
@_options(_named, _json)
@click.option("--text", required=True, type=_PATH, help="What to predict; paragraphs outside ASCII are dropped.")
@click.option("--tokens", default=20_000, show_default=True, metavar="N", help="How many of its tokens.")
def evaluate(
    model: Path | None, tokenizer: Path | None, calibrate: Path | None, as_json: bool, text: Path, tokens: int
) -> None:
    """Measure what the integers cost against float: perplexity, KL divergence, top-1 agreement."""
    with _progress() as progress:
        source = pipeline.open_source(model, tokenizer)
        quantized = pipeline.quantize_source(source, calibrate, progress)
        layout = pipeline.lay_out(quantized, source.tokenizer, load_board("host"))
        found = pipeline.measure(source, layout.graph, text, tokens, progress)
    if as_json:
        click.echo(found.to_json())
        return
    error = "" if found.standard_error is None else f" ± {100 * found.standard_error:.2f}"
    table = Table(title=f"{source.name}, {found.tokens:,} tokens", show_header=False, title_justify="left")
    table.add_row("perplexity, float", f"{found.float_perplexity:.4f}")
    table.add_row("perplexity, integers", f"{found.integer_perplexity:.4f}")
    table.add_row("change", f"{100 * found.perplexity_change:+.2f}{error} %")
    table.add_row("KL divergence", f"{found.kl:.5f} nats per token")
    table.add_row("top-1 agreement", f"{100 * found.top1:.2f} %")
    Console().print(table)


@mcugen.group(invoke_without_command=True)
@_json
@click.pass_context
def boards(ctx: click.Context, as_json: bool) -> None:
    """List the boards, or show one: mcugen boards show nucleo."""
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


@boards.command()
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> None:
    """Show a board's facts and where they come from."""
    board = load_board(name)
    if as_json:
        _print_json(_board_facts(board))
        return
    table = Table(title=board.title, show_header=False, title_justify="left")
    for key, value in _board_facts(board).items():
        table.add_row(key, str(value))
    Console().print(table)


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
