"""What a target costs beside another: flash, RAM, ops, instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from mcugen.ir import Firmware, QuantizedModel
from mcugen.ladder import Ladder, profile_tokens, verification_tokens
from mcugen.layout import Layout, lay_out, make_firmware
from mcugen.sources import Progress


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes, and counts of one token.

    model: the constants. code: everything else in flash, without an interpreter. ops_code: of that, ops, kernels and
    tables; 0 where they are not told apart. arena: all that is planned. statics, stack: the rest of the RAM. ops:
    nodes, or kernel calls. instructions: over the ladder's positions; None where no emulator ran.
    """

    model: int
    code: int
    ops_code: int
    arena: int
    statics: int
    stack: int
    ops: int
    instructions: float | None

    @property
    def flash(self) -> int:
        return self.model + self.code

    @property
    def ram(self) -> int:
        return self.arena + self.statics + self.stack

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "flash": self.flash, "ram": self.ram}


def firmware_cost(layout: Layout, firmware: Firmware, instructions: float | None) -> Cost:
    """Of a C project. instructions: per token, where an emulator counted."""
    constants = sum(size for _, size in layout.plan.flash)
    return Cost(
        model=constants,
        code=firmware.flash_bytes - constants,
        ops_code=0,
        arena=layout.plan.arena_bytes,
        statics=firmware.static_bytes - sum(p.end - p.begin for p in layout.plan.parts if p.memory == "ram"),
        stack=firmware.stack_bytes,
        ops=len(layout.graph.ops),
        instructions=instructions,
    )


def standalone_cost(
    model: QuantizedModel, beside: Layout, ladder: Ladder | None, toolchain: str, command: str, progress: Progress
) -> Cost:
    """Of the standalone target: the model with the context and on the board of another target's layout.

    ladder: of that other target; where an emulator counted there, it counts here.
    """
    layout = lay_out(model, beside.tokenizer, beside.board, beside.graph.context)
    firmware = make_firmware(layout, toolchain, command, progress)
    instructions = None
    if ladder is not None and ladder.profile is not None:
        fed = verification_tokens(layout.graph, layout.tokenizer, ladder.profiled_tokens)
        instructions = profile_tokens(layout, firmware, fed).total / len(fed)
    return firmware_cost(layout, firmware, instructions)


def cost_rows(ours: Cost, standalone: Cost | None) -> Iterator[tuple[str, str, str, str]]:
    """What, ours, the standalone target's, and the one to the other."""

    def row(what: str, of: Callable[[Cost], int]) -> tuple[str, str, str, str]:
        here, there = of(ours), of(standalone) if standalone else 0
        return what, f"{here:,}", f"{there:,}" if there else "", f"{here / there:.2f}" if there else ""

    yield row("flash: model", lambda c: c.model)
    yield row("flash: code and tables, application included", lambda c: c.code)
    if ours.ops_code:
        yield row("  of which ops, kernels and their tables", lambda c: c.ops_code)
    yield row("RAM", lambda c: c.ram)
    yield row("  arena", lambda c: c.arena)
    yield row("  other variables", lambda c: c.statics)
    yield row("  stack", lambda c: c.stack)
    yield row("ops of a token", lambda c: c.ops)
    if ours.instructions is not None:
        yield row("instructions per token", lambda c: round(c.instructions or 0))


def text_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return ["  ".join(cell).rstrip() for cell in cells]
