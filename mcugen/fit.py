"""Does a plan fit a board, and if not, what would: the largest context, another board, fewer layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mcugen.errors import DoesNotFitError
from mcugen.ir import Board, Graph, Plan


@dataclass(frozen=True, slots=True)
class Demand:
    """What a firmware asks of a board, in bytes.

    ring: state, the KV ring. activations: the rest of the arena. stack: what the board reserves. statics: variables
    of the runtime outside the arena. constants: generated tensors. code: kernels, runtime and their tables.
    elsewhere: of ring and activations, what lies outside the main RAM.
    """

    ring: int
    activations: int
    stack: int
    statics: int
    constants: int
    code: int
    elsewhere: int = 0

    @property
    def ram(self) -> int:
        """Of the main RAM, without copies of what is in flash."""
        return self.whole_ram - self.elsewhere

    @property
    def whole_ram(self) -> int:
        return self.ring + self.activations + self.stack + self.statics

    @property
    def flash(self) -> int:
        return self.constants + self.code


def demand_of(graph: Graph, plan: Plan, *, code_bytes: int, static_bytes: int) -> Demand:
    """Add up what `plan` asks for; code_bytes and static_bytes are the caller's estimate or measurement."""
    ring = sum(buffer.nbytes for buffer in graph.buffers.values() if buffer.state)
    return Demand(
        ring=ring,
        activations=plan.arena_bytes - ring,
        stack=plan.stack_bytes,
        statics=static_bytes,
        constants=sum(size for _, size in plan.flash),
        code=code_bytes,
        elsewhere=sum(part.end - part.begin for part in plan.parts if part.memory != "ram"),
    )


def largest_context(fits: Callable[[int], bool], upper: int) -> int:
    """Largest context in [1, upper] for which fits(context); 0 if there is none.

    fits: true up to some context and false from there on, as the ring grows with every slot.
    """
    low, high = 0, upper + 1  # fits(low) or low == 0; not fits(high) or high > upper
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def check_fits(
    graph: Graph,
    plan: Plan,
    board: Board,
    demand: Demand,
    *,
    ram_at: Callable[[int], int],
    boards: Iterable[Board] = (),
) -> None:
    """Hold the demand against the board's flash and main RAM; no placement asks too much of the other memories.

    ram_at: RAM in bytes of the same model planned for another context. boards: from which the smallest
    with room for this context is recommended; never the host.
    Raises DoesNotFitError with the largest context that fits or, where none does, with what would.
    """
    roomy = [b.name for b in sorted(boards, key=_size) if b.core != "host" and fits_board(demand, b)]
    if demand.flash > board.flash.size:
        raise DoesNotFitError(
            f"constants ({demand.constants:,} B) and code ({demand.code:,} B) need {demand.flash:,} B of flash; "
            f"{board.name} has {board.flash.size:,} B",
            where=f"memory plan, flash; the largest constant is {_largest_constant(plan)}",
            hint=_flash_hint(graph, demand, plan, board, roomy),
        )
    if demand.ram > board.ram.size:
        best = largest_context(lambda context: ram_at(context) <= board.ram.size, graph.context - 1)
        hint = _context_hint(graph, best, ram_at, roomy) if best else _ram_hint(graph, plan, board, ram_at(1), roomy)
        raise DoesNotFitError(
            f"KV ring ({demand.ring:,} B), activations ({demand.activations:,} B), stack ({demand.stack:,} B) and "
            f"runtime ({demand.statics:,} B) need {demand.whole_ram:,} B of RAM; {_memories(plan, board)}",
            where=f"memory plan, peak at {op_name(graph, plan.peak_op)}",
            hint=hint,
        )


def fits_board(demand: Demand, board: Board) -> bool:
    """In one memory; whether more of them would do, only a plan for that board can tell."""
    return demand.flash <= board.flash.size and demand.whole_ram <= board.ram.size


def op_name(graph: Graph, index: int) -> str:
    """ "op 17 (attention_s16, layers.2.attention)"; a negative index is a rebase op's."""
    op = graph.ops[index] if index >= 0 else graph.rebase[index]
    kind, number = ("op", index) if index >= 0 else ("rebase op", index + len(graph.rebase))
    return f"{kind} {number} ({op.kernel}, {op.label})"


# ---------------------------------------------------------------- hints


def _memories(plan: Plan, board: Board) -> str:
    """What the board has, and which of its memories are in use."""
    parts = [f"{part.end - part.begin:,} B in {part.memory}" for part in plan.parts if part.memory != "ram"]
    main = f"{board.name} has {board.ram.size:,} B"
    return f"{main}, which is full with {' and '.join(parts)} already" if parts else main


def _size(board: Board) -> tuple[int, int, str]:
    return board.ram.size, board.flash.size, board.name


def _context_hint(graph: Graph, best: int, ram_at: Callable[[int], int], roomy: list[str]) -> str:
    hint = f"--context {best} (now {graph.context}) needs {ram_at(best):,} B"
    return f"{hint}; or --board {roomy[0]}" if roomy else hint


def _ram_hint(graph: Graph, plan: Plan, board: Board, least: int, roomy: list[str]) -> str:
    """No context fits: name a board, else how many layers would, else the buffers that make the peak."""
    hint = f"no context fits: --context 1 needs {least:,} B"
    if roomy:
        return f"{hint}; --board {roomy[0]} has room for --context {graph.context}"
    layers = graph.model.config.n_layers
    slot = int(sum(b.nbytes / b.shape[0] for b in graph.buffers.values() if b.state))  # ring bytes of --context 1
    fewer = layers - -(-(least - board.ram.size) * layers // slot) if slot else 0
    if fewer > 0:
        return f"{hint}; a model of {layers - fewer} fewer layers ({fewer}, now {layers}) would fit"
    passing = sorted((-graph.buffers[n].nbytes, n) for n in plan.peak_buffers if not graph.buffers[n].state)
    largest = " and ".join(f"{name} ({-size:,} B)" for size, name in passing[:2])
    return f"{hint}; take a board with that much RAM, or a model that shrinks {largest or 'its KV ring'}"


def _flash_hint(graph: Graph, demand: Demand, plan: Plan, board: Board, roomy: list[str]) -> str:
    if roomy:
        return f"--board {roomy[0]} has room"
    layers = graph.model.config.n_layers
    layer = sum(size for name, size in plan.flash if name.startswith("layers.")) // layers
    fewer = layers - -(-(demand.flash - board.flash.size) // layer) if layer else 0
    if fewer > 0:
        return f"{layers - fewer} fewer layers ({fewer}, now {layers}; {layer:,} B each), or a board with more flash"
    fixed = demand.flash - layers * layer
    return f"take a board with at least {demand.flash:,} B of flash: {fixed:,} B remain without any layer"


def _largest_constant(plan: Plan) -> str:
    name, size = max(plan.flash, key=lambda item: item[1], default=("none", 0))
    return f"{name}, {size:,} B"
