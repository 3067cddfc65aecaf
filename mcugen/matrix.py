"""Boards x compilers, each climbed by itself: one row of facts and a verdict for every pair.

A point is plain data, and measure_point a function at the top of a module: mcugen.sweep can run them anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mcugen.boards import list_boards, load_board
from mcugen.errors import UsageError
from mcugen.integers import quantize_source
from mcugen.ir import Firmware
from mcugen.ladder import climb
from mcugen.layout import lay_out, make_firmware
from mcugen.sheet import Sheet
from mcugen.sources import open_source
from mcugen.sweep import SweepResult
from mcugen.toolchain import TOOLCHAINS

COMPILERS = tuple(name for name in TOOLCHAINS if name != "auto")


@dataclass(frozen=True, slots=True)
class Point:
    """A model for a board, and who compiles it. context: tokens remembered at most; less where that does not fit."""

    model: Path | None
    tokenizer: Path | None
    board: str
    toolchain: str
    context: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a point. machines: all that computed the simulator's bits. instructions: per token, the mean of
    positions 0 to 63; None on the host. ram_bytes: of the main RAM, and the arena's wherever it lies. stack: the most
    that a step used, None where no emulator tells."""

    core: str
    machines: tuple[str, ...]
    context: int
    instructions: float | None
    flash_bytes: int
    ram_bytes: int
    code_bytes: int
    stack_bytes: int | None


def points(
    model: Path | None,
    tokenizer: Path | None,
    boards: Sequence[str],
    toolchains: Sequence[str],
    context: int,
    tokens: int,
) -> list[Point]:
    """boards: names and files; none for all that ship with mcugen. Raises UsageError, InputError."""
    for name in toolchains:
        if name not in COMPILERS:
            raise UsageError(
                f"there is no compiler {name!r}",
                where="--toolchain",
                hint=f"choose {' or '.join(COMPILERS)}, or both",
            )
    if context < 1:
        raise UsageError("a context has at least one token", where="--context", hint="--context 128")
    for name in boards:
        load_board(name)  # which one is wrong is said before any process starts
    names = boards or [board.name for board in list_boards()]
    return [
        Point(model, tokenizer, board, toolchain, context, tokens)
        for board in names
        for toolchain in toolchains or COMPILERS
    ]


def measure_point(point: Point) -> Row:
    """Quantise, lay out, build, verify. Raises what these raise: DoesNotFitError, MismatchError..."""
    source = open_source(point.model, point.tokenizer)
    board = load_board(point.board)
    model = quantize_source(source, None)
    most = lay_out(model, source.tokenizer, board).graph.context
    layout = lay_out(model, source.tokenizer, board, min(point.context, most))
    command = f"mcugen build --board {board.name}"
    firmware = None if board.core == "host" else make_firmware(layout, point.toolchain, command)
    ladder = climb(layout, firmware, point.tokens, command, toolchain=point.toolchain)
    ladder.raise_for_difference()
    return Row(
        core=board.core,
        machines=tuple(dict.fromkeys(report.machine for report in ladder.reports)),
        context=layout.graph.context,
        instructions=ladder.instructions_per_token,
        flash_bytes=0 if firmware is None else firmware.flash_bytes,
        ram_bytes=0 if firmware is None else _ram(firmware),
        code_bytes=0 if firmware is None else _sum(firmware, (".text", ".kernels")),
        stack_bytes=None if ladder.profile is None else ladder.profile.stack_bytes,
    )


def _sum(firmware: Firmware, starts: tuple[str, ...]) -> int:
    """Bytes of the sections whose names begin so."""
    return sum(size for name, size in firmware.sections.items() if name.startswith(starts))


def _ram(firmware: Firmware) -> int:
    return firmware.static_bytes + firmware.stack_bytes + _sum(firmware, (".arena_",))


def matrix_sheet(model: str, results: Iterable[SweepResult[Point, Row]]) -> Sheet:
    """One row a point."""
    rows = []
    for result in results:
        pair = f"{result.point.board} {result.point.toolchain}"
        if (row := result.value) is None:
            rows.append((pair, *[""] * 5, (result.error or "").split("\n")[0]))
        else:
            figures = (row.instructions, row.flash_bytes, row.ram_bytes, row.code_bytes, row.stack_bytes)
            rows.append((pair, *("" if not value else f"{value:,.0f}" for value in figures), "equal"))
    return Sheet(
        f"{model} on every board",
        ("board", "a token", "flash", "RAM", "code", "stack", "verdict"),
        tuple(rows),
        frozenset({6}),
        "A token: instructions, exact, the mean of positions 0 to 63. The others: bytes; code is part of flash, all "
        "but constants; stack: what a step used of it. Equal: this computer, emulators op by op, and their consoles.",
    )


def matrix_json(results: Iterable[SweepResult[Point, Row]]) -> dict[str, object]:
    return {
        "rows": [
            {
                "board": result.point.board,
                "compiler": result.point.toolchain,
                "error": result.error,
                **({} if result.value is None else asdict(result.value)),
            }
            for result in results
        ]
    }
