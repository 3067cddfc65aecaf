"""What the TFLite Micro target costs beside the standalone one: flash, RAM, ops, instructions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from mcugen.emulate.elf import parse_elf
from mcugen.fc8 import FcCost
from mcugen.ir import Firmware
from mcugen.ladder import Ladder
from mcugen.layout import Layout
from mcugen.sheet import Sheet
from mcugen.tflm.layout import TflmLayout

_OF_STANDIN = ("_ZN6tflite", "_ZNK6tflite", "_ZTVN6tflite")  # mangled names in namespace tflite


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes, and counts of one token.

    model: the .tflite, or the constants. code: everything else in flash, without TFLM itself. ops_code: of that,
    custom ops, kernels and tables; 0 where they are not told apart. arena: the interpreter's, or ours. statics,
    stack: the rest of the RAM. ops: nodes, or kernel calls. instructions: over the ladder's positions; None where
    no emulator ran.
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """standalone: None where the model is known for FULLY_CONNECTED alone. kinds: of ops that the resolver must hold.
    fc_cost: of --fc builtin, against our own kernels."""

    tflm: Cost
    standalone: Cost | None
    kinds: int
    tensors: int
    fc_cost: FcCost | None

    def to_json(self) -> dict[str, object]:
        return {
            "tflm": self.tflm.to_json(),
            "standalone": None if self.standalone is None else self.standalone.to_json(),
            "kinds_of_ops": self.kinds,
            "tensors": self.tensors,
            "fc_cost": None if self.fc_cost is None else self.fc_cost.to_json(),
        }


def tflm_cost(tflm: TflmLayout, firmware: Firmware, ops: Firmware, ladder: Ladder | None) -> Cost:
    """firmware: the project with the stand-in interpreter. ops: the image of the ops alone."""
    symbols = parse_elf(firmware.image).symbols
    standin = sum(s.size for s in symbols if s.name.startswith(_OF_STANDIN) and s.is_function)
    return Cost(
        model=len(tflm.tflite),
        code=firmware.flash_bytes - len(tflm.tflite) - standin,
        ops_code=ops.flash_bytes,
        arena=tflm.arena_bytes,
        statics=firmware.static_bytes - tflm.arena_bytes,
        stack=firmware.stack_bytes,
        ops=len(tflm.model.operators),
        instructions=None if ladder is None else ladder.instructions_per_token,
    )


def standalone_cost(layout: Layout, firmware: Firmware, instructions: float | None) -> Cost:
    """instructions: per token, where an emulator counted."""
    constants = sum(size for _, size in layout.plan.flash)
    return Cost(
        model=constants,
        code=firmware.flash_bytes - constants,
        ops_code=0,
        arena=layout.plan.arena_bytes,
        statics=firmware.static_bytes - layout.plan.arena_bytes,
        stack=firmware.stack_bytes,
        ops=len(layout.graph.ops),
        instructions=instructions,
    )


def comparison_rows(found: Comparison) -> Iterator[tuple[str, str, str, str]]:
    """What, TFLM, standalone, and the one to the other."""

    def row(what: str, of: Callable[[Cost], int]) -> tuple[str, str, str, str]:
        ours, theirs = of(found.tflm), of(found.standalone) if found.standalone else 0
        return what, f"{ours:,}", f"{theirs:,}" if theirs else "", f"{ours / theirs:.2f}" if theirs else ""

    yield row("flash: model", lambda c: c.model)
    yield row("flash: code and tables, application included", lambda c: c.code)
    yield row("  of which ops, kernels and their tables", lambda c: c.ops_code)
    yield row("RAM", lambda c: c.ram)
    yield row("  arena", lambda c: c.arena)
    yield row("  other variables", lambda c: c.statics)
    yield row("  stack", lambda c: c.stack)
    yield row("ops of a token", lambda c: c.ops)
    if found.tflm.instructions is not None:
        yield row("instructions per token", lambda c: round(c.instructions or 0))


def arena_lines(tflm: TflmLayout) -> Iterator[str]:
    """The arena in words."""
    a = tflm.arena
    rings = sum(t.nbytes for t in tflm.model.tensors if t.variable)
    more = tflm.arena_bytes - a.total
    yield f"arena: {tflm.arena_bytes:,} B; TFLM asks for {a.total:,} B, and {more:,} B are for other versions of it"
    yield f"  head (memory plan): {a.head:,} B"
    yield f"  stays beside it:    {a.persistent:,} B, of which KV rings and counter {rings:,} B"
    yield f"  while it starts:    {a.temporary:,} B in the head's place"


def fc_line(cost: FcCost) -> str:
    """What --fc builtin costs, in a line."""
    return (
        f"--fc builtin costs {100 * cost.change:+.2f} % perplexity against --fc custom, KL {cost.kl:.5f}, "
        f"top-1 {100 * cost.top1:.1f} %, on {cost.tokens:,} tokens of the model's own text"
    )


_HEADINGS = ("", "TFLite Micro", "standalone", "ratio")
_NOTE = "Flash is without TFLite Micro itself; instructions are counted with a small interpreter in its place."


def report_text(tflm: TflmLayout, found: Comparison) -> str:
    """The comparison for the build folder."""
    graph = tflm.layout.graph
    rows = [_HEADINGS, *comparison_rows(found)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]

    def line(row: tuple[str, ...]) -> str:
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    lines = [
        f"{graph.model.name} on {tflm.layout.board.name}, context {graph.context}, in TFLite Micro",
        "",
        *map(line, rows),
        "",
        _NOTE,
        f"{found.kinds} kinds of ops, {found.tensors} tensors.",
        "",
        *arena_lines(tflm),
        *(["", fc_line(found.fc_cost)] if found.fc_cost else []),
    ]
    return "\n".join(lines) + "\n"


def tflm_sheets(tflm: TflmLayout, found: Comparison | None, out: str) -> Iterator[Sheet]:
    """The same for the terminal. found: None for a build on this computer, which has no figures of its own."""
    layout = tflm.layout
    facts = [
        (f"{layout.name}.tflite", f"{len(tflm.tflite):,} B"),
        ("arena", f"{tflm.arena_bytes:,} B"),
        ("context", f"{layout.graph.context} tokens (at most {layout.largest_context} fit)"),
        ("written to", out),
    ]
    yield Sheet(f"{layout.graph.model.name} on {layout.board.name}, TFLite Micro", (), tuple(facts))
    if found is not None:
        note = "\n".join([_NOTE, *([fc_line(found.fc_cost)] if found.fc_cost else [])])
        yield Sheet("beside the standalone target", _HEADINGS, tuple(comparison_rows(found)), note=note)
