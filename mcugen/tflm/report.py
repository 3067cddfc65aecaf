"""What the TFLite Micro target costs beside the standalone one: flash, RAM, ops, instructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mcugen.costs import Cost, cost_rows, text_table
from mcugen.emulate.elf import parse_elf
from mcugen.fc8 import FcCost
from mcugen.ir import Firmware
from mcugen.ladder import Ladder
from mcugen.sheet import Sheet
from mcugen.tflm.layout import TflmLayout

_OF_STANDIN = ("_ZN6tflite", "_ZNK6tflite", "_ZTVN6tflite")  # mangled names in namespace tflite


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
    lines = [
        f"{graph.model.name} on {tflm.layout.board.name}, context {graph.context}, in TFLite Micro",
        "",
        *text_table([_HEADINGS, *cost_rows(found.tflm, found.standalone)]),
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
        rows = tuple(cost_rows(found.tflm, found.standalone))
        yield Sheet("beside the standalone target", _HEADINGS, rows, note=note)
