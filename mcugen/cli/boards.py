"""Commands about boards: their facts, and real ones at the end of a cable."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from mcugen import flashing, pipeline, sources
from mcugen.board_file import new_board
from mcugen.boards import list_boards, load_board
from mcugen.cli import options
from mcugen.cli.options import AT_LEAST_1, PATH, with_options
from mcugen.cli.terminal import mcugen, print_answer, print_json, prompts, share_of
from mcugen.console import sampler_line
from mcugen.errors import UsageError
from mcugen.ir import Board
from mcugen.project import write_file
from mcugen.sampler import make_sampler
from mcugen.serial_console import BAUD, open_console


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
@options.as_json
@click.pass_context
def boards(ctx: click.Context, as_json: bool) -> None:
    """List the boards; `mcugen boards show nucleo` shows one."""
    if ctx.invoked_subcommand is not None:
        return
    found = list_boards()
    if as_json:
        print_json({board.name: _board_facts(board) for board in found})
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
@options.as_json
def show(name: str, as_json: bool) -> None:
    """Show the facts of BOARD, a name or a board file (TOML), and where they come from."""
    board = load_board(name)
    if as_json:
        print_json(_board_facts(board))
        return
    table = Table(title=board.title, show_header=False, title_justify="left")
    for key, value in _board_facts(board).items():
        table.add_row(key, str(value))
    Console().print(table)


@boards.command(short_help="Write a board file of your own to begin with.")
@click.argument("name")
@click.option("--like", default="nucleo", show_default=True, metavar="BOARD", help="The board to begin with.")
@click.option("--out", type=PATH, metavar="FILE", help="The file to write.  [default: NAME.toml]")
@options.as_json
def new(name: str, like: str, out: Path | None, as_json: bool) -> None:
    """Write a commented board file (TOML) for a board of your own, with the values of another board to correct."""
    text = new_board(name, like)
    file = out or Path(f"{name}.toml")
    if file.exists():
        raise UsageError(f"{file} is there already", where="--out", hint="choose another file, or remove that one")
    write_file(text.encode(), file)
    if as_json:
        print_json({"file": str(file), "name": name, "like": load_board(like).name})
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


@mcugen.command(short_help="Program a real board with what mcugen build wrote.")
@click.argument("folder", required=False, type=PATH, metavar="[DIR]")
@click.option("--board", metavar="BOARD", help="A board's name or file.  [default: what DIR was built for]")
@click.option("--tool", metavar="TOOL", help="Take this one of the board file's ways alone.")
@click.option("--drive", type=PATH, metavar="PATH", help="Where the board's USB drive is mounted.")
@click.option("--dry-run", is_flag=True, help="Check the image, print the commands, and program nothing.")
@options.as_json
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
    share = share_of(image.size, image.board.flash.size)
    if as_json:
        print_json(
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
@click.option("--baud", type=AT_LEAST_1, default=BAUD, show_default=True, metavar="N", help="The port's speed.")
@click.option("--prompt", metavar="TEXT", help="What to type.  [default: every line of standard input]")
@with_options(options.sampled, options.as_json)
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
        for typed in prompts(prompt, quiet):
            pipeline.check_prompt(typed, "monitor", commands=True)
            facts = {"running": found.title, "build": found.build, "prompt": typed.decode(errors="replace")}
            print_answer(console.ask(typed), facts if as_json else None)
