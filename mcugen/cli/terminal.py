"""What every command shares: errors, progress, tables and JSON, and the group that they belong to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from mcugen import __version__, sources
from mcugen.errors import McugenError
from mcugen.sheet import Sheet


class Group(click.Group):
    """Turns errors into text on standard error and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except McugenError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@contextmanager
def progress_bars(hidden: bool = False) -> Iterator[sources.Progress]:
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


def print_json(value: Mapping[str, object]) -> None:
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_sheets(sheets: Iterable[Sheet]) -> None:
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left", show_header=bool(sheet.columns))
        for index, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if index == 0 or index in sheet.text else "right")
        for row in sheet.rows:
            table.add_row(*row)
        Console().print(table)
        if sheet.note:
            Console().print(sheet.note, markup=False, highlight=False)


def share_of(used: int, size: int) -> str:
    return f"{used:,} of {size:,} B ({100 * used / size:.1f} %)"


def prompts(prompt: str | None, quiet: bool) -> Iterator[bytes]:
    """The prompt, or every line of standard input, which a person is asked for."""
    if prompt is not None:
        yield os.fsencode(prompt)
        return
    asks = sys.stdin.isatty() and not quiet
    click.echo("> " if asks else "", nl=False, err=True)
    for line in sys.stdin.buffer:
        yield line.rstrip(b"\r\n")
        click.echo("> " if asks else "", nl=False, err=True)


def print_answer(parts: Iterable[bytes], facts: Mapping[str, str] | None) -> None:
    """Print an answer as it comes; or, once complete, as one line of JSON with these facts."""
    if facts is not None:
        answer = b"".join(parts).decode(errors="replace")
        click.echo(json.dumps({**facts, "text": answer.removesuffix("\n")}, sort_keys=True))
        return
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mcugen")
def mcugen() -> None:
    """Tiny transformers on microcontrollers: integers only, proved bit for bit.

    Without further words, commands take home, a model that turns plain English into the actions of a small house, and
    a NUCLEO-F446RE: try mcugen run --prompt "it is too dark in the bedroom". A second model that ships with mcugen
    tells stories: try mcugen run tales --prompt "Once upon a time" --temperature 0.8.

    Exit codes: 2 usage, 3 input, 4 does not fit, 5 tool missing, 6 mismatch, 70 a defect of mcugen.
    """
