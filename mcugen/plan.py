"""Graph -> Plan: where every buffer lies in the arena, what the constants take, and why the peak is where it is.

Packing after the greedy best-fit planners for tensors with known lifetimes (Pisarchyk and Lee, Efficient Memory
Management for Deep Neural Net Inference, 2020). check_plan, the gate, shares no line with the planner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from mcugen.errors import InternalError
from mcugen.ir import Bank, Board, Graph, Linear, Norm, Op, Plan
from mcugen.packing import pack

ALIGNMENT = 4  # bytes: the widest element is int32, and kernels may read int8 codes by words
MATRIX_BYTES = 28  # of an mg_linear_t on a 32-bit core, where a table of experts holds it
IMPROVEMENTS = 32  # packing orders tried after the fixed ones; only where those miss the lower bound


@dataclass(frozen=True, slots=True)
class _Block:
    """Bytes that one buffer, or a chain of buffers handed on in place, holds from op `first` to op `last`."""

    buffers: tuple[str, ...]
    size: int  # bytes, a multiple of the plan's alignment
    first: int
    last: int

    @property
    def name(self) -> str:
        return self.buffers[0]

    def alive_at(self, index: int) -> bool:
        return self.first <= index <= self.last

    def meets(self, other: _Block) -> bool:
        return self.first <= other.last and other.first <= self.last


_ORDERS: tuple[Callable[[_Block], tuple[object, ...]], ...] = (
    lambda b: (-b.size, b.first, b.name),
    lambda b: (-b.size * (b.last - b.first + 1), b.first, b.name),
    lambda b: (-(b.last - b.first), -b.size, b.name),
    lambda b: (b.first, -b.size, b.name),
)


def plan_memory(graph: Graph, board: Board, alignment: int = ALIGNMENT) -> Plan:
    """Lay out the arena: the state buffers first, at fixed offsets, above them the buffers of one step.

    The result depends on the graph alone, not on the order of any mapping's hash: ties go to the earlier op, then
    to the name. Whether it fits `board` is for mcugen.fit to say; the board gives the stack.
    alignment: of every offset, bytes; a multiple of ALIGNMENT.
    """
    offsets, base = _stack_up(graph, alignment)
    lifetimes = _lifetimes(graph)
    blocks = _blocks(graph, lifetimes, alignment)
    live = {i: base + sum(b.size for b in blocks if b.alive_at(i)) for i in _op_indices(graph)}
    lower_bound = max(live.values(), default=base)
    # the first op of the step with that sum; a rebase op only where no other has it
    peak_op = min((i for i, size in live.items() if size == lower_bound), key=lambda i: (i < 0, i), default=0)

    placed, arena_bytes = _pack(blocks, base, lower_bound)
    offsets |= {name: offset for block, offset in placed.items() for name in block.buffers}
    state = tuple(name for name in offsets if graph.buffers[name].state)
    alive = sorted(name for name, (first, last) in lifetimes.items() if first <= peak_op <= last)
    return Plan(
        arena_bytes=arena_bytes,
        offsets={name: offsets[name] for name in graph.buffers if name in offsets},
        lower_bound=lower_bound,
        peak_op=peak_op,
        peak_buffers=(*state, *alive),
        flash=tuple(_flash_items(graph)),
        stack_bytes=board.stack_bytes,
        lifetimes=lifetimes,
        live_bytes=tuple(live[i] for i in range(len(graph.ops))),
    )


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _op_indices(graph: Graph) -> range:
    """Rebase ops count up to -1, the ops of the step from 0: the order in which they run."""
    return range(-len(graph.rebase), len(graph.ops))


def _stack_up(graph: Graph, alignment: int) -> tuple[dict[str, int], int]:
    """Offsets of the state buffers, one after the other in the graph's order, and where they end."""
    offsets, end = {}, 0
    for name, buffer in graph.buffers.items():
        if buffer.state:
            offsets[name] = end
            end += _aligned(buffer.nbytes, alignment)
    return offsets, end


def _lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """First and last op that touches each buffer that is no state; the logits outlive the step."""
    lifetimes: dict[str, tuple[int, int]] = {}
    for index, op in zip(_op_indices(graph), (*graph.rebase, *graph.ops), strict=True):
        for name in (*op.inputs, *op.outputs, *op.scratch):
            if not graph.buffers[name].state:
                lifetimes[name] = (lifetimes.get(name, (index, index))[0], index)
    if graph.logits in lifetimes:
        lifetimes[graph.logits] = (lifetimes[graph.logits][0], len(graph.ops) - 1)
    return lifetimes


def _blocks(graph: Graph, lifetimes: Mapping[str, tuple[int, int]], alignment: int) -> list[_Block]:
    """Join the buffers that ops may hand on in place."""
    chains = {name: [name] for name in lifetimes}
    for index, op in zip(_op_indices(graph), (*graph.rebase, *graph.ops), strict=True):
        if _hands_on(op, graph, lifetimes, index):
            chain = chains[op.inputs[0]]
            chain.append(op.outputs[0])
            chains[op.outputs[0]] = chain
    unique = {chain[0]: tuple(chain) for chain in chains.values()}
    return [
        _Block(
            chain,
            max(_aligned(graph.buffers[name].nbytes, alignment) for name in chain),
            min(lifetimes[name][0] for name in chain),
            max(lifetimes[name][1] for name in chain),
        )
        for chain in unique.values()
    ]


def _hands_on(op: Op, graph: Graph, lifetimes: Mapping[str, tuple[int, int]], index: int) -> bool:
    """Whether outputs[0] takes over the bytes of inputs[0], which dies here."""
    if not op.in_place:
        return False
    source, target = op.inputs[0], op.outputs[0]
    others = (*op.inputs[1:], *op.outputs[1:], *op.scratch)
    if source == target or source in others or target in (*op.inputs, *others) or graph.logits == source:
        return False
    old, new = graph.buffers[source], graph.buffers[target]
    if old.state or new.state or (old.dtype, old.nbytes) != (new.dtype, new.nbytes):
        return False
    return lifetimes[source][1] == index == lifetimes[target][0]


# ---------------------------------------------------------------- packing


def _pack(blocks: list[_Block], base: int, lower_bound: int) -> tuple[dict[_Block, int], int]:
    """Try several orders of best fit and keep the smallest result; stop where the lower bound is met."""
    best: tuple[dict[_Block, int], int] = ({}, base)
    for attempt, order in enumerate(_attempts(blocks, base)):
        placed = _best_fit(order, base)
        end = _end(placed, base)
        if attempt == 0 or end < best[1]:
            best = placed, end
        if end == lower_bound:
            break
    return best


def _attempts(blocks: list[_Block], base: int) -> Iterator[list[_Block]]:
    """The fixed orders; then, again and again, the block that ends highest goes to the front."""
    ordered = [sorted(blocks, key=key) for key in _ORDERS]
    yield from ordered
    order = min(ordered, key=lambda o: _end(_best_fit(o, base), base))
    for _ in range(IMPROVEMENTS if blocks else 0):
        placed = _best_fit(order, base)
        highest = max(placed, key=lambda b: (placed[b] + b.size, -b.size, b.name))
        order = [highest, *(b for b in order if b is not highest)]
        yield order


def _end(placed: Mapping[_Block, int], base: int) -> int:
    return max((offset + block.size for block, offset in placed.items()), default=base)


def _best_fit(order: Iterable[_Block], base: int) -> dict[_Block, int]:
    """Place block after block into the smallest gap between those it meets in time, else above them."""
    placed: dict[_Block, int] = {}
    for block in order:
        at, smallest = base, None
        met = sorted((offset, other.size) for other, offset in placed.items() if other.meets(block))
        for offset, size in met:
            gap = offset - at
            if gap >= block.size and (smallest is None or gap < smallest[0]):
                smallest = (gap, at)
            at = max(at, offset + size)
        placed[block] = at if smallest is None else smallest[1]
    return placed


# ---------------------------------------------------------------- flash


def _flash_items(graph: Graph) -> Iterator[tuple[str, int]]:
    """Name and bytes of every constant tensor, in the order of use; an array used twice lies in flash once."""
    seen: set[int] = set()
    for op in (*graph.ops, *graph.rebase):
        for name, value in op.parameters.items():
            for label, stored, size in _constants(op, name, value, graph.packing):
                if id(stored) not in seen:
                    seen.add(id(stored))
                    yield label, size


def _constants(op: Op, name: str, value: object, packing: str) -> Iterator[tuple[str, object, int]]:
    """Label, the object that stands for it, and bytes in flash of each tensor in one parameter."""
    if isinstance(value, Bank):
        yield f"{value.label}.table", value.matrices, MATRIX_BYTES * len(value.matrices)
        for i, w in enumerate(value.matrices):
            yield from _matrix_constants(f"{value.label}.{i}", w, packing)
    elif isinstance(value, Linear):
        yield from _matrix_constants(op.label, value, packing)
    elif isinstance(value, Norm):
        yield f"{op.label}.gain", value.gain, value.gain.nbytes
    elif isinstance(value, np.ndarray):
        yield f"{op.label}.{name}", value, value.nbytes


def _matrix_constants(label: str, w: Linear, packing: str) -> Iterator[tuple[str, object, int]]:
    stored = pack(w, packing if w.fc is None else "row_major")  # FULLY_CONNECTED reads them as they are
    yield f"{label}.codes", w.codes, stored.stream.nbytes
    yield f"{label}.multiplier", w.multiplier, w.multiplier.nbytes


# ---------------------------------------------------------------- gate


def check_plan(graph: Graph, plan: Plan) -> None:
    """Gate: run through the ops and watch who owns each byte of the arena.

    Raises InternalError where a buffer lies outside the arena or on an odd address, where an op reads a buffer that
    another one has overwritten, where operands of one op overlap other than in place, or where state is lost.
    """
    _Walk(graph, plan).run()


class _Walk:
    """One pass over the step, the rebase ops first. owner: the number of the buffer that last wrote each byte."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._graph, self._plan = graph, plan
        self._names = tuple(graph.buffers)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._where = "memory plan"

    def run(self) -> None:
        self._check_frame()
        self._owner = np.full(self._plan.arena_bytes, -1, np.int32)
        state = [name for name, buffer in self._graph.buffers.items() if buffer.state]
        for name in state:
            self._take(name)
        for list_name, ops in (("rebase op", self._graph.rebase), ("op", self._graph.ops)):
            for index, op in enumerate(ops):
                self._where = f"memory plan, {list_name} {index} ({op.kernel}, {op.label})"
                self._step(op)
        self._where = "memory plan, after the last op"
        for name in (self._graph.logits, *state):
            self._read(name)

    def _check_frame(self) -> None:
        """Sizes, bounds and alignment, before any op."""
        if self._plan.arena_bytes % 4:
            self._fail(f"an arena of {self._plan.arena_bytes:,} B is no multiple of 4 B")
        if self._plan.arena_bytes < self._plan.lower_bound:
            self._fail(f"an arena of {self._plan.arena_bytes:,} B is below its bound of {self._plan.lower_bound:,} B")
        for name, offset in self._plan.offsets.items():
            if name not in self._graph.buffers:
                self._fail(f"{name} has an offset but is no buffer of the graph")
            end = offset + self._graph.buffers[name].nbytes
            if offset < 0 or end > self._plan.arena_bytes:
                self._fail(f"{name} lies at {offset:,} to {end:,}, outside the arena's {self._plan.arena_bytes:,} B")
            if offset % max(4, np.dtype(self._graph.buffers[name].dtype).itemsize):
                self._fail(f"{name} lies at {offset:,}, not a multiple of 4 B and of its elements")

    def _span(self, name: str) -> slice:
        if name not in self._plan.offsets:
            self._fail(f"{name} has no offset")
        offset = self._plan.offsets[name]
        return slice(offset, offset + self._graph.buffers[name].nbytes)

    def _step(self, op: Op) -> None:
        for name in op.inputs:
            self._read(name)
        written = (*op.outputs, *op.scratch)
        for i, name in enumerate(written):
            for other in (*op.inputs, *written[:i]):
                self._check_apart(op, name, other)
        for name in op.scratch:
            if self._graph.buffers[name].state:
                self._fail(f"{name} is state and must not be scratch")
        for name in written:
            if not self._graph.buffers[name].state:
                self._take(name)

    def _check_apart(self, op: Op, name: str, other: str) -> None:
        """Two operands share bytes only where the op says in place, and then all of them."""
        one, two = self._span(name), self._span(other)
        if name == other or one.stop <= two.start or two.stop <= one.start:
            return
        pair = op.in_place and name == op.outputs[0] and other == op.inputs[0] and other not in op.inputs[1:]
        alike = self._graph.buffers[name].dtype == self._graph.buffers[other].dtype
        if not (pair and alike and one == two):
            self._fail(f"{name} at {one.start:,} overlaps {other} at {two.start:,} while the op uses both")

    def _read(self, name: str) -> None:
        owners = self._owner[self._span(name)]
        for number in owners[owners != self._numbers[name]][:1]:
            if number < 0:
                self._fail(f"{name} is read before it is written")
            self._fail(f"{name} is read, but {self._names[number]} has overwritten it")

    def _take(self, name: str) -> None:
        """Write a buffer: every byte is its own from now on, whoever had it, except for state."""
        span = self._span(name)
        for number in np.unique(self._owner[span]):
            if number >= 0 and self._graph.buffers[self._names[number]].state:
                self._fail(f"{name} overwrites {self._names[number]}, which is state")
        self._owner[span] = self._numbers[name]

    def _fail(self, what: str) -> NoReturn:
        raise InternalError(what, where=self._where)
