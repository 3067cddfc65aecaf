"""Plan -> text and JSON for the build folder: where every byte goes, why the peak is there, what would lower it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from mcugen.fit import Demand, op_name
from mcugen.ir import Board, Graph, MemoryRegion, Plan, Ring


def plan_report(graph: Graph, plan: Plan, board: Board, demand: Demand, largest_context: int | None = None) -> str:
    """The plan in words and tables. largest_context: the largest that fits the board, where the caller knows it."""
    prompts = f", prompts {graph.batch} tokens at once" if graph.batch > 1 else ""
    lines = [
        f"Memory plan of {graph.model.name} on {board.name}, context {graph.context}{prompts}",
        "",
        *_totals(plan, board, demand),
        "",
        *_placement(plan),
        *_peak(graph, plan),
        "",
        *_advice(graph, plan, board, largest_context),
        "",
        *_rings(graph),
        *_buffers(graph, plan),
        "",
        *_flash(plan, demand),
    ]
    return "\n".join(lines) + "\n"


def plan_json(graph: Graph, plan: Plan, board: Board, demand: Demand) -> dict[str, object]:
    """The same facts for a program; every size in bytes."""
    return {
        "model": graph.model.name,
        "board": board.name,
        "context": graph.context,
        "sinks": graph.sinks,
        "rings": [{"slots": ring.slots, "sinks": ring.sinks} for ring in graph.rings],
        "prefill": graph.batch,
        "kernels": graph.family,
        "arena_bytes": plan.arena_bytes,
        "lower_bound": plan.lower_bound,
        "ram": {
            "ring": demand.ring,
            "activations": demand.activations,
            "stack": demand.stack,
            "statics": demand.statics,
            "elsewhere": demand.elsewhere,
            "copies": _copies(plan),
            "used": demand.ram + _copies(plan),
            "size": board.ram.size,
        },
        "memories": [
            {"name": memory.name, "used": plan.placement.nbytes(memory.name), "size": memory.region.size}
            for memory in board.memories
        ],
        "placement": [asdict(decision) for decision in plan.placement.decisions],
        "copied": dict(plan.placement.weights),
        "flash": {
            "constants": demand.constants,
            "code": demand.code,
            "used": demand.flash,
            "size": board.flash.size,
            "items": [{"name": name, "bytes": size} for name, size in plan.flash],
        },
        "peak": {"op": plan.peak_op, "name": op_name(graph, plan.peak_op), "buffers": list(plan.peak_buffers)},
        "live_bytes": list(plan.live_bytes),
        "buffers": [
            {
                "name": name,
                "offset": plan.offsets[name],
                "bytes": graph.buffers[name].nbytes,
                "dtype": graph.buffers[name].dtype,
                "shape": list(graph.buffers[name].shape),
                "layout": graph.buffers[name].layout,
                "tokens": graph.buffers[name].tokens,
                "state": graph.buffers[name].state,
                "first_op": None if graph.buffers[name].state else plan.lifetimes[name][0],
                "last_op": None if graph.buffers[name].state else plan.lifetimes[name][1],
            }
            for name in _by_offset(plan)
        ],
    }


def _by_offset(plan: Plan) -> list[str]:
    return sorted(plan.offsets, key=lambda name: (plan.offsets[name], plan.lifetimes.get(name, (0, 0)), name))


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Columns under each other: the first `left` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        yield ("  " + "  ".join(cells)).rstrip()


# ---------------------------------------------------------------- sections


def _totals(plan: Plan, board: Board, demand: Demand) -> list[str]:
    over = plan.arena_bytes - plan.lower_bound
    copies = _copies(plan)
    others = [(memory, plan.placement.nbytes(memory.name)) for memory in board.memories]
    quality = "the least possible" if over == 0 else f"{over:,} B above the least possible"
    return [
        *_memory("RAM", demand.ram + copies, board.ram, board.headroom),
        *_table(
            [
                ("KV ring", f"{demand.ring:,} B"),
                ("activations", f"{demand.activations:,} B"),
                *([("in other memories", f"-{demand.elsewhere:,} B")] if demand.elsewhere else []),
                ("stack", f"{demand.stack:,} B"),
                ("runtime", f"{demand.statics:,} B"),
                *([("copies from flash", f"{copies:,} B")] if copies else []),
            ]
        ),
        *(line for memory, used in others if used for line in _memory(memory.name, used, memory.region, 0.0)),
        *_memory("Flash", demand.flash, board.flash, 0.0),
        *_table([("constants", f"{demand.constants:,} B"), ("code", f"{demand.code:,} B")]),
        f"Arena (ring and activations): {plan.arena_bytes:,} B, {quality} ({plan.lower_bound:,} B)",
    ]


def _copies(plan: Plan) -> int:
    """What lies in main RAM as a copy of what is in flash."""
    in_ram = sum(part.end - part.begin for part in plan.parts if part.memory == "ram")
    return max(plan.placement.nbytes("ram") - in_ram, 0)


def _placement(plan: Plan) -> list[str]:
    """What lies where, and why."""
    decisions = plan.placement.decisions
    if not decisions:
        return []
    rows = [(d.what, d.memory, f"{d.nbytes:,} B" if d.nbytes else "") for d in decisions]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"  {what.ljust(wide[0])}  {memory.ljust(wide[1])}  {size.rjust(wide[2])}  {d.why}"
        for (what, memory, size), d in zip(rows, decisions, strict=True)
    ]
    return ["What lies where, and why", *lines, ""]


def _memory(name: str, used: int, region: MemoryRegion, headroom: float) -> list[str]:
    share = 100 * used / region.size
    line = f"{name}: {used:,} of {region.size:,} B used ({share:.1f} %), {region.size - used:,} B free"
    if not headroom:
        return [line]
    wanted = round(region.size * headroom)
    verdict = "kept" if region.size - used >= wanted else f"NOT kept, {wanted - region.size + used:,} B short"
    return [line, f"  headroom the board asks for: {wanted:,} B ({100 * headroom:.0f} %), {verdict}"]


def _peak(graph: Graph, plan: Plan) -> list[str]:
    """Every buffer alive at the peak and what it is there for."""
    rows = [("buffer", "bytes", "why it is alive")]
    state = [name for name in plan.peak_buffers if graph.buffers[name].state]
    if state:
        size = sum(graph.buffers[name].nbytes for name in state)
        rows.append((f"{len(state)} state buffers", f"{size:,}", "kept from token to token: the KV ring"))
    rows += [
        (name, f"{graph.buffers[name].nbytes:,}", _reason(graph, plan, name))
        for name in sorted(plan.peak_buffers, key=lambda name: (-graph.buffers[name].nbytes, name))
        if name not in state
    ]
    wide = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    return [
        f"Peak: {plan.lower_bound:,} B alive at {op_name(graph, plan.peak_op)}",
        *(f"  {name.ljust(wide[0])}  {size.rjust(wide[1])}  {why}" for name, size, why in rows),
    ]


def _reason(graph: Graph, plan: Plan, name: str) -> str:
    op = graph.ops[plan.peak_op] if plan.peak_op >= 0 else graph.rebase[plan.peak_op]
    if name in op.scratch:
        return "scratch of the op"
    if name in op.outputs:
        source = op.inputs[0] if op.inputs else name
        shared = source != name and plan.offsets[source] == plan.offsets[name]
        return f"output, in the bytes of {source}" if shared else "output of the op"
    if name in op.inputs:
        return "input of the op"
    return f"waits for {op_name(graph, plan.lifetimes[name][1])}"


def _advice(graph: Graph, plan: Plan, board: Board, largest: int | None) -> list[str]:
    """What a slot costs, which op comes next, and the context that fits."""
    grows = sum(b.nbytes for b in graph.buffers.values() if b.state and b.shape[0] == graph.context)
    lines = [
        "What would change it",
        f"  each slot of the context costs {grows / graph.context:,.0f} B of ring",
    ]
    others = [(size, -i) for i, size in enumerate(plan.live_bytes) if size < plan.lower_bound]
    if others:
        size, index = max(others)
        lines.append(
            f"  the next lower peak is {size:,} B at {op_name(graph, -index)}: whatever shrinks the ops of the "
            f"highest peak alone saves at most {plan.lower_bound - size:,} B"
        )
    if largest:
        trained = graph.model.config.seq_len
        lines.append(f"  the largest context that fits {board.name} is {largest} (trained: {trained})")
    return lines


def _rings(graph: Graph) -> list[str]:
    """The rings by layer, where they are not all the same or keep sinks."""
    if not graph.sinks and set(graph.rings) == {Ring(graph.context)}:
        return []
    rows = [("layer", "slots", "sinks", "bytes")]
    for i, ring in enumerate(graph.rings):
        state = (b for b in graph.buffers.values() if b.state and b.name.startswith(f"layers.{i}."))
        rows.append((f"{i}", f"{ring.slots}", f"{ring.sinks}", f"{sum(b.nbytes for b in state):,}"))
    return ["KV rings", *_table(rows), ""]


def _buffers(graph: Graph, plan: Plan) -> list[str]:
    rows = [("buffer", "offset", "bytes", "ops")]
    for name in _by_offset(plan):
        buffer = graph.buffers[name]
        ops = "always" if buffer.state else "{}..{}".format(*plan.lifetimes[name])
        rows.append((name, f"{plan.offsets[name]:,}", f"{buffer.nbytes:,}", ops))
    return ["Buffers by offset, alive from their first to their last op (below 0: rebase ops)", *_table(rows)]


def _flash(plan: Plan, demand: Demand) -> list[str]:
    rows = [*((name, f"{size:,}") for name, size in plan.flash), ("sum", f"{demand.constants:,}")]
    return ["Constants in flash, bytes", *_table(rows)]
