"""Traces -> VerificationReport: does a machine compute what the simulator computes, op by op, byte by byte?

The relation is equality. A report names the first value that differs, in the order the firmware computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mcugen.ctext import model_prefix
from mcugen.emulate.machine import Machine, Region, Regions
from mcugen.errors import MismatchError
from mcugen.ir import Buffer, Difference, Graph, Op, Plan, Ring, Trace, VerificationReport
from mcugen.layouts import LAYOUTS, decode, stored_bytes
from mcugen.simulate import Simulator, record

CHUNK = 50  # tokens traced at a time: bounds memory, and how late a difference is seen

# Where a difference is that no op is to blame for: the label of such a Difference, whose kernel is empty.
BEFORE_THE_OPS = "before its ops"
AFTER_THE_OPS = "after its ops"
AFTER_A_PROMPT = "after a prompt read at once"
_HINTS = {
    BEFORE_THE_OPS: "compare when the step calls rebase with Simulator.feed in mcugen/simulate.py",
    AFTER_A_PROMPT: "token by token all is equal: look at the step's read, and at kernels on several tokens",
    AFTER_THE_OPS: "each op wrote what it should: look for a write beside an op's outputs, or a wrong offset",
}

IntArray = NDArray[np.integer]
Progress = Callable[[int, int], None]


def start_model(machine: Machine, name: str) -> None:
    """Boot a machine and initialise the model whose C begins with `name`."""
    machine.boot()
    machine.call(f"{name}_init")


def read_prompt(machine: Machine, name: str, tokens: Sequence[int] | IntArray) -> None:
    """Let the model read tokens as a prompt; at most as many as the application's buffer holds."""
    ids = np.asarray(tokens, "<u2")
    prompt = machine.address(f"{name}_prompt")
    machine.write(prompt, ids.tobytes())
    machine.call(f"{name}_read", prompt, len(ids))


def buffer_addresses(machine: Machine, graph: Graph, plan: Plan) -> Mapping[str, int]:
    """Where each buffer lies in a machine, whichever memory holds its part of the arena."""
    arena = f"{model_prefix(graph.model.name)}_arena"
    found: dict[str, int] = {}
    for part in plan.parts:
        last = part.end == plan.arena_bytes
        origin = machine.address(arena if last else f"{arena}_{part.memory}") - part.begin
        found |= {name: origin + at for name, at in plan.offsets.items() if part.begin <= at < part.end}
    return found


def op_regions(graph: Graph, addresses: Mapping[str, int]) -> Regions:
    """Where the outputs of every op lie in a machine that has the buffers at these addresses.

    Ops count on from graph.ops into graph.rebase, as the firmware numbers them.
    """
    regions: dict[int, list[Region]] = {}
    for index, op in enumerate((*graph.ops, *graph.rebase)):
        for name in op.outputs:
            buffer = graph.buffers[name]
            address = addresses[name]
            if op.row:
                ring = graph.ring(name)
                size = stored_bytes(buffer.layout, buffer.dtype, _unit(buffer))
                region = Region(address, size, size, ring.slots, LAYOUTS[buffer.layout].unit, ring.sinks)
            elif op.slots:
                region = Region(address, stored_bytes(buffer.layout, buffer.dtype, (op.slots, *buffer.shape[1:])))
            else:
                region = Region(address, buffer.token_bytes)
            regions.setdefault(index, []).append(region)
    return regions


def _unit(buffer: Buffer) -> tuple[int, ...]:
    """The shape of the slots of a ring that lie together."""
    return (LAYOUTS[buffer.layout].unit, *buffer.shape[1:])


def observe(machine: Machine, graph: Graph, plan: Plan, regions: Regions, tokens: Sequence[int], start: int) -> Trace:
    """Let a machine compute tokens and bring what it left behind into the simulator's form.

    start: how many tokens the machine has read since its reset. Raises MismatchError where ops are missing.
    """
    name = model_prefix(graph.model.name)
    records = machine.trace(f"{name}_step", tokens, regions, start)
    steps = [(op, graph.buffers[output]) for op in graph.ops for output in op.outputs]
    sizes = [region.size for index in range(len(graph.ops)) for region in regions[index]]
    rings = [graph.buffers[op.outputs[0]] for op in graph.rebase]
    ring_bytes = sum(ring.nbytes for ring in rings)
    step_bytes = sum(sizes)

    rebased: dict[int, tuple[NDArray[np.int8], ...]] = {}
    for index, left in enumerate(records):
        if len(left) == step_bytes + ring_bytes:
            rebased[index] = tuple(
                decode(left[end - ring.nbytes : end], ring.layout, ring.dtype, ring.shape).astype(np.int8)
                for ring, end in zip(rings, itertools.accumulate(ring.nbytes for ring in rings), strict=True)
            )
        elif len(left) != step_bytes:
            raise MismatchError(
                f"at token {start + index} the ops left {len(left)} bytes to compare, not {step_bytes}",
                where=f"{name}_step: an op is missing, or not announced by mg_op_done",
                hint="build again; the C sources and the graph do not belong together",
            )
    table = np.frombuffer(b"".join(left[-step_bytes:] for left in records), np.uint8)
    parts = np.split(table.reshape(len(records), step_bytes), np.cumsum(sizes)[:-1], axis=1)
    values = iter(_written(part, op, buffer, graph, start) for (op, buffer), part in zip(steps, parts, strict=True))
    outputs = tuple(tuple(next(values) for _ in op.outputs) for op in graph.ops)
    return Trace(tuple(tokens), outputs, rebased, read_state(machine, graph, plan))


def _written(stored: NDArray[np.uint8], op: Op, buffer: Buffer, graph: Graph, start: int) -> IntArray:
    """What an op left in one of its outputs at each token, from the bytes [T, nbytes] that were kept of it."""
    if op.row:
        return _slots(stored, buffer, graph.ring(buffer.name), start)
    return _front(stored, buffer, op.slots, start) if op.slots else _vectors(stored, buffer)


def _vectors(stored: NDArray[np.uint8], buffer: Buffer) -> IntArray:
    """A buffer after each token, from the bytes [T, nbytes] that it is stored in."""
    shape = (len(stored), *buffer.shape)
    return decode(stored.tobytes(), buffer.layout, buffer.dtype, shape).reshape(len(stored), -1)


def _front(stored: NDArray[np.uint8], buffer: Buffer, slots: int, start: int) -> IntArray:
    """The first slots of a ring after each token, from the units of slots [T, nbytes] that hold them; zero where no
    token has reached a slot."""
    unit, *columns = _unit(buffer)
    padded = -(-slots // unit) * unit
    rows = decode(stored.tobytes(), buffer.layout, buffer.dtype, (len(stored) * padded, *columns))
    reached = np.arange(slots) <= start + np.arange(len(stored))[:, None]
    return (rows.reshape(len(stored), padded, -1)[:, :slots] * reached[..., None]).reshape(len(stored), -1)


def _slots(stored: NDArray[np.uint8], buffer: Buffer, ring: Ring, start: int) -> IntArray:
    """The slot of a ring that each token wrote, from the units of slots [T, nbytes] that hold it."""
    unit, *columns = _unit(buffer)
    rows = decode(stored.tobytes(), buffer.layout, buffer.dtype, (len(stored) * unit, *columns))
    slots = ring.slot(start + np.arange(len(stored))) % unit
    return rows.reshape(len(stored), unit, -1)[np.arange(len(stored)), slots]


def read_state(machine: Machine, graph: Graph, plan: Plan) -> Mapping[str, IntArray]:
    """The KV ring as a machine holds it now."""
    addresses = buffer_addresses(machine, graph, plan)
    state = {}
    for name, buffer in graph.buffers.items():
        if buffer.state:
            content = machine.read(addresses[name], buffer.nbytes)
            state[name] = decode(content, buffer.layout, buffer.dtype, buffer.shape)
    return state


def _first(expected: IntArray, observed: IntArray) -> tuple[int, int, int] | None:
    """Element, expected and observed value of the first difference of two vectors."""
    different = np.flatnonzero(expected.ravel() != observed.ravel())
    if not len(different):
        return None
    element = int(different[0])
    return element, int(expected.ravel()[element]), int(observed.ravel()[element])


def compare(graph: Graph, expected: Trace, observed: Trace, start: int = 0) -> Difference | None:
    """The first difference of two traces: by token, then op, then element; the KV ring comes last, as far as tokens
    have reached it (in some layouts, memory that was never written holds no zeros)."""
    unequal = min(set(expected.rebased) ^ set(observed.rebased), default=None)
    wrong = np.zeros(len(expected.tokens), bool)
    for ours, theirs in zip(expected.outputs, observed.outputs, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            wrong |= (a.reshape(len(wrong), -1) != b).any(1)
    for t in range(len(wrong)):
        if t == unequal:
            happened = (int(t in expected.rebased), int(t in observed.rebased))
            return Difference(start + t, len(graph.ops), BEFORE_THE_OPS, "", "re-basings", 0, *happened)
        for i, op in enumerate(graph.rebase):
            if t in expected.rebased and (found := _first(expected.rebased[t][i], observed.rebased[t][i])):
                return Difference(start + t, len(graph.ops) + i, op.label, op.kernel, op.outputs[0], *found)
        if not wrong[t]:
            continue
        for i, op in enumerate(graph.ops):
            for name, a, b in zip(op.outputs, expected.outputs[i], observed.outputs[i], strict=True):
                if found := _first(a[t], b[t]):
                    return Difference(start + t, i, op.label, op.kernel, name, *found)
    count = start + len(expected.tokens)
    for name, ring in expected.state.items():
        if found := _first(ring[:count], observed.state[name][:count]):
            return Difference(count - 1, len(graph.ops), AFTER_THE_OPS, "", name, *found)
    return None


def verify(
    machine: Machine,
    graph: Graph,
    plan: Plan,
    tokens: Sequence[int],
    *,
    rung: str,
    title: str,
    progress: Progress | None = None,
) -> VerificationReport:
    """Feed tokens to a machine and to the simulator, and compare every output of every op and the whole KV ring.

    The machine is booted and the model initialised here. Stops at the first chunk that differs.
    """
    name = model_prefix(graph.model.name)
    start_model(machine, name)
    regions = op_regions(graph, buffer_addresses(machine, graph, plan))
    simulator = Simulator(graph)
    values = 0
    for start in range(0, len(tokens), CHUNK):
        chunk = tokens[start : start + CHUNK]
        expected = record(simulator, chunk)
        observed = observe(machine, graph, plan, regions, chunk, start)
        difference = compare(graph, expected, observed, start)
        reached = (ring[: start + len(chunk)] for ring in expected.state.values())
        values += sum(a.size for op in expected.outputs for a in op) + sum(ring.size for ring in reached)
        if difference is not None:
            return VerificationReport(rung, title, start + len(chunk), len(graph.ops), values, difference)
        if progress is not None:
            progress(start + len(chunk), len(tokens))
    return VerificationReport(rung, title, len(tokens), len(graph.ops), values, None)


def verify_prompt(
    machine: Machine, graph: Graph, plan: Plan, tokens: Sequence[int], *, rung: str, title: str
) -> VerificationReport:
    """Let a machine read tokens as a prompt, several at once where the graph says so, and compare what remains: the
    KV ring, and the logits of the last token.

    tokens: at most as many as the application's buffer holds. The machine is booted and the model initialised here.
    """
    name = model_prefix(graph.model.name)
    ids = np.asarray(tokens)
    start_model(machine, name)
    read_prompt(machine, name, ids[:-1])
    machine.call(f"{name}_step", int(ids[-1]))
    simulator = Simulator(graph)
    logits = simulator.feed(ids)[-1]
    expected = {graph.logits: logits, **{ring: slots[: len(ids)] for ring, slots in simulator.state.items()}}
    addresses = buffer_addresses(machine, graph, plan)
    difference = None
    for output, values in expected.items():
        buffer = graph.buffers[output]
        content = machine.read(addresses[output], buffer.nbytes)
        found = _first(values, decode(content, buffer.layout, buffer.dtype, buffer.shape)[: len(values)])
        if found and difference is None:
            difference = Difference(len(ids) - 1, len(graph.ops), AFTER_A_PROMPT, "", output, *found)
    count = sum(values.size for values in expected.values())
    at_once = f", prompts {graph.batch} tokens at once" if graph.batch > 1 else ", prompts"
    return VerificationReport(rung, title + at_once, len(ids), len(graph.ops), count, difference)


def mismatch(report: VerificationReport) -> MismatchError:
    """A report's difference as an error."""
    d = report.difference
    assert d is not None
    place = f'op {d.op_index} ({d.kernel} "{d.label}")' if d.kernel else d.label
    hint = _HINTS.get(d.label, f"compare {d.kernel} with its numpy twin: pytest tests/test_kernels.py -k {d.kernel}")
    return MismatchError(
        f"{report.machine} differs from the simulator at token {d.token_index}, {place}, "
        f"{d.output}[{d.element}]: {d.observed}, not {d.expected}",
        where=report.rung,
        hint=hint,
    )
