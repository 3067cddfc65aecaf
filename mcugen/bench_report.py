"""What was counted, as tables of text for people; the command line draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mcugen.bench import PARTS, Bench
from mcugen.gemv import TOKENS, WEIGHTS, GemvBench, per_mac
from mcugen.sheet import Sheet

FUNCTIONS = 12  # the costliest ones


def bench_sheets(b: Bench) -> list[Sheet]:
    return [_facts(b), _parts(b), _layers(b), _matrices(b), _functions(b)]


def _facts(b: Bench) -> Sheet:
    clock = f"{b.clock_hz / 1e6:g} MHz"
    rows = [
        ("weights", b.weights),
        ("kernels", f"{b.family}, {b.toolchain}"),
        ("flash", f"{b.flash_bytes:,} of {b.flash_size:,} B"),
        ("RAM", f"{b.ram_bytes:,} of {b.ram_size:,} B"),
        ("stack", f"{b.stack_bytes:,} of {b.stack_reserved:,} B used by a step"),
        ("context", f"{b.context} tokens"),
        ("instructions per token", f"{b.mean:,.0f}, the mean of positions {b.first} to {b.last}"),
        *((f"  at position {position}", f"{count:,}") for position, count in b.at.items()),
        ("  of a prompt", f"{b.prompt.instructions:,.0f} ({b.prompt.tokens} tokens, {b.prompt.batch} at once)"),
        ("cycles per token *", _range(b.cycles.low, b.cycles.high, ",.0f")),
        ("tokens per second per MHz *", _range(*b.tokens_per_second(1e6), ".2f")),
        (f"tokens per second, {clock} *", _range(*b.tokens_per_second(b.clock_hz), ",.1f")),
    ]
    return Sheet(f"{b.model} on {b.board}", (), tuple(rows), note=f"* {b.cycles.model}")


def _range(low: float, high: float, form: str) -> str:
    return f"{low:{form}} to {high:{form}}"


def _parts(b: Bench) -> Sheet:
    rows = [(part, f"{count:,.0f}", f"{100 * count / b.mean:.1f} %") for part, count in b.parts.items()]
    return Sheet("where a token's instructions go", ("part", "instructions", "share"), tuple(rows))


def _layers(b: Bench) -> Sheet:
    """Which layer costs what, in thousands of instructions."""
    columns: dict[str, tuple[str, ...]] = {
        "QKV": ("QKV",), "attention": ("attention",), "O": ("O",), "gate+up": ("gate+up",), "down": ("down",),
        "other": tuple(part for part in PARTS if part not in ("QKV", "attention", "O", "gate+up", "down")),
    }  # fmt: skip

    def row(name: str, layer: int | None) -> tuple[str, ...]:
        ops = [op for op in b.ops if op.layer == layer]
        sums = [sum(op.instructions for op in ops if op.part in parts) for parts in columns.values()]
        return (name, *(f"{count / 1000:,.1f}" for count in (*sums, sum(sums))))

    layers = sorted({op.layer for op in b.ops if op.layer is not None})
    rows = [*(row(str(layer), layer) for layer in layers), row("outside", None)]
    return Sheet("layer by layer, in thousands", ("layer", *columns, "all"), tuple(rows))


def _matrices(b: Bench) -> Sheet:
    rows = [
        (", ".join(m.matrices), f"{m.rows}x{m.cols}", f"int{m.bits}{f'/{m.group}' if m.group else ''}", str(m.calls),
         f"{m.instructions:,.0f}", f"{m.per_mac:.3f}")
        for m in b.matrices
    ]  # fmt: skip
    rows += [
        ("block", str(block.n), "", str(block.calls), f"{block.instructions:,.0f}",
         f"{block.instructions / block.n:.3f}")
        for block in b.blocks
    ]  # fmt: skip
    columns = ("matrix", "rows x cols", "codes", "calls", "instructions", "per MAC")
    note = "per call; block: what quantises a vector for the matrices, per value"
    return Sheet("matrices", columns, tuple(rows), frozenset({2}), note)


def _functions(b: Bench) -> Sheet:
    costliest = sorted(b.functions.items(), key=lambda item: (-item[1], item[0]))
    rows = [(name, f"{count:,.0f}", f"{100 * count / b.mean:.1f} %") for name, count in costliest[:FUNCTIONS]]
    return Sheet("functions", ("function", "instructions", "share"), tuple(rows))


def gemv_sheets(b: GemvBench) -> list[Sheet]:
    """Instructions per multiply-accumulate."""
    calls = [(weights, tokens) for weights in WEIGHTS for tokens in TOKENS]
    columns = tuple(f"{weights}, {tokens}" if tokens > 1 else weights for weights, tokens in calls)
    rows = [(f"{rows}x{cols}", *_cells(cells, calls)) for (rows, cols), cells in per_mac(b.costs).items()]
    note = (
        f"{b.toolchain}; the whole call, without quantising its input; int4/32: scales for groups of 32 columns; "
        f"', {TOKENS[-1]}': per token, {TOKENS[-1]} tokens in one call; every result equals its numpy twin"
    )
    title = f"instructions per MAC, {b.family} kernels on {b.board} ({b.core})"
    return [Sheet(title, ("rows x cols", *columns), tuple(rows), note=note)]


def _cells(cells: Mapping[tuple[str, int], float], calls: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{cells[call]:.3f}" if call in cells else "-" for call in calls]


def comparison_sheets(ratios: Mapping[str, Any], file: str) -> list[Sheet]:
    """Ratios new / old, as bench.compare makes them."""
    rows = [("instructions per token", ratios["mean"])]
    rows += [(f"  at position {position}", ratio) for position, ratio in ratios["at"].items()]
    rows += [("  of a prompt", ratios["prompt"])]
    rows += [(part, ratio) for part, ratio in ratios["parts"].items()]
    rows += [("flash", ratios["flash_bytes"]), ("RAM", ratios["ram_bytes"])]
    changed = "; ".join(f"{key}: {old} before, now {new}" for key, (old, new) in ratios["changed"].items())
    cells = tuple((name, f"{ratio:.3f}") for name, ratio in rows)
    return [Sheet(f"new / old, compared with {file}", ("what", "ratio"), cells, note=changed)]
