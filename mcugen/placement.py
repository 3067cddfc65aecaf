"""Graph + Plan + Board -> Placement: which memory holds the arena, runs the kernels, and serves the matrices.

What the context needs is placed first; what only makes a token faster gets the room that is left. check_placement,
the gate, shares no line with that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mcugen.errors import InternalError
from mcugen.ir import Bank, Board, Decision, Graph, Linear, Part, Placement, Plan

_ALIGNMENT = 8  # bytes, of what startup copies
_PARTS_OF_A_MATRIX = ("codes", "multiplier")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """share: how much of it a token reads, on the mean."""

    label: str
    nbytes: int
    share: float


def place(graph: Graph, plan: Plan, board: Board, *, other_ram: int, kernel_bytes: int) -> Placement:
    """Decide where the plan's arena, the kernels and the matrices lie.

    other_ram: what stack and variables take of the main RAM. kernel_bytes: what the kernels take at most. Whether the
    main RAM is large enough for what is left to it is for mcugen.fit to say.
    """
    parts, arena = _place_arena(graph, plan, board, other_ram)
    room = {"ram": board.ram.size - other_ram, **{memory.name: memory.region.size for memory in board.memories}}
    for part in parts:
        room[part.memory] -= part.end - part.begin
    room["ram"] -= round(board.headroom * board.ram.size)
    kernels = _place_kernels(board, room, kernel_bytes)
    if kernels.memory != "flash":
        room[kernels.memory] -= kernels.nbytes
    weights, matrices = _place_weights(graph, plan, board, room)
    whole = parts == (Part("ram", 0, plan.arena_bytes),)
    return Placement(() if whole else parts, kernels.memory, weights, (*arena, kernels, *matrices))


# ---------------------------------------------------------------- the arena


def _place_arena(graph: Graph, plan: Plan, board: Board, other_ram: int) -> tuple[tuple[Part, ...], list[Decision]]:
    """The whole in a fast memory, else in the main RAM, else the rings in whatever memories there are."""
    size = plan.arena_bytes
    for memory in board.memories:
        if memory.fast and "data" in memory.holds and size <= memory.region.size:
            why = "all of it fits, and there are fewer waits than in the main RAM"
            return (Part(memory.name, 0, size),), [Decision("arena", memory.name, size, why)]
    if size + other_ram <= board.ram.size:
        return (Part("ram", 0, size),), [Decision("arena", "ram", size, "the main RAM holds all of it")]
    parts = []
    begin = 0
    for memory in board.memories:
        missing = size - begin + other_ram - board.ram.size
        if "data" in memory.holds and missing > 0:
            end = _cut(graph, plan, begin, begin + memory.region.size, begin + missing)
            parts += [Part(memory.name, begin, end)] if end > begin else []
            begin = end
    why = "the main RAM alone is too small, and a KV ring is touched by few ops"
    decisions = [Decision(_rings_in(graph, plan, part), part.memory, part.end - part.begin, why) for part in parts]
    rest = Decision("rest of the arena" if parts else "arena", "ram", size - begin, "what is left of it")
    return (*parts, Part("ram", begin, size)), [*decisions, rest]


def _cut(graph: Graph, plan: Plan, begin: int, most: int, enough: int) -> int:
    """Where the rings from `begin` on are cut: behind one of them, at `most` at the latest, and no later than needed.

    The plan has the rings in front, one behind the other, so that a part of the arena is a run of them.
    """
    end = begin
    for name in sorted((n for n in plan.offsets if graph.buffers[n].state), key=lambda n: plan.offsets[n]):
        behind = plan.offsets[name] + graph.buffers[name].nbytes
        if plan.offsets[name] >= begin and behind <= most and end < enough:
            end = -(-behind // 4) * 4
    return end


def _rings_in(graph: Graph, plan: Plan, part: Part) -> str:
    rings = [n for n, at in plan.offsets.items() if graph.buffers[n].state and part.begin <= at < part.end]
    return rings[0] if len(rings) == 1 else f"{rings[0]} to {rings[-1]}"


# ---------------------------------------------------------------- kernels


def _place_kernels(board: Board, room: dict[str, int], kernel_bytes: int) -> Decision:
    """Into a memory for code, one for nothing else first; into the main RAM only instead of a serial flash."""
    able = [memory for memory in board.memories if "code" in memory.holds]
    for memory in sorted(able, key=lambda memory: len(memory.holds)):
        if kernel_bytes <= room[memory.name]:
            return Decision("kernels", memory.name, kernel_bytes, "code fetched from it does not wait for the flash")
    if not board.xip:
        why = "no other memory for code has room for them" if able else "there is no other memory for code"
        return Decision("kernels", "flash", 0, why)
    if board.flash_data is not None and board.ram_code is None:
        return Decision("kernels", "flash", 0, "no address is known where code in RAM is fetched")
    if kernel_bytes > room["ram"]:
        return Decision("kernels", "flash", 0, "the RAM has no room for them beside arena, stack and headroom")
    return Decision("kernels", "ram", kernel_bytes, "the flash is a serial one: each miss of its cache waits for it")


# ---------------------------------------------------------------- matrices


def _place_weights(
    graph: Graph, plan: Plan, board: Board, room: dict[str, int]
) -> tuple[dict[str, str], list[Decision]]:
    """Copy as many bytes as there is room for. A byte of a matrix is read once per token, so that it pays by size."""
    if not board.xip:
        why = "an internal flash feeds the core nearly as fast as RAM does; a copy would cost context"
        return {}, [Decision("matrices", "flash", 0, why)]
    places = ["ram", *(memory.name for memory in board.memories if "data" in memory.holds)]
    copied: dict[str, str] = {}
    used = dict.fromkeys(places, 0)
    left = 0
    for matrix in sorted(_matrices(graph, plan), key=lambda m: (-m.share, -m.nbytes)):
        memory = next((name for name in places if matrix.nbytes <= room[name] - used[name]), None)
        if memory is None:
            left += 1
        else:
            copied[matrix.label] = memory
            used[memory] += matrix.nbytes
    decisions = [
        Decision(
            f"{_count(list(copied.values()).count(name))}, copied at start", name, size, "read whole for every token"
        )
        for name, size in used.items()
        if size
    ]
    if left:
        decisions.append(Decision(_count(left), "flash", 0, "no memory has room for a copy"))
    return copied, decisions


def _count(matrices: int) -> str:
    return f"{matrices} matrices" if matrices > 1 else "1 matrix"


def _matrices(graph: Graph, plan: Plan) -> Iterator[_Matrix]:
    """Every matrix that is more than looked up, in the order of the forward pass, by the name of its constants."""
    sizes = dict(plan.flash)
    shares: dict[int, float] = {}
    labels: dict[int, str] = {}
    config = graph.model.config
    for op in graph.ops:
        for value in op.parameters.values():
            found: list[tuple[str, Linear]] = []
            share = 0.0 if op.kernel == "embed_s16" else 1.0  # of an embedding, one row is read
            if isinstance(value, Linear):
                found = [(op.label, value)]
            elif isinstance(value, Bank):
                found = [(f"{value.label}.{i}", w) for i, w in enumerate(value.matrices)]
                share = config.experts_per_token / config.n_experts
            for label, w in found:
                labels.setdefault(id(w.codes), label)
                shares[id(w.codes)] = max(share, shares.get(id(w.codes), 0.0))
    for key, label in labels.items():
        size = sum(-(-sizes.get(f"{label}.{part}", 0) // _ALIGNMENT) * _ALIGNMENT for part in _PARTS_OF_A_MATRIX)
        if shares[key] and size:
            yield _Matrix(label, size, shares[key])


# ---------------------------------------------------------------- gate


def check_placement(graph: Graph, plan: Plan, board: Board) -> None:
    """Gate: the parts of the arena cover it and cut no buffer in two, and no memory is given what it does not hold or
    has no room for. Raises InternalError."""
    placement = plan.placement
    memories = {memory.name: memory for memory in board.memories}
    end = 0
    for part in plan.parts:
        if part.begin != end or part.end < part.begin or part.begin % 4:
            raise InternalError(f"a part of the arena begins at {part.begin:,}, not {end:,}", where="placement")
        end = part.end
        for name, offset in plan.offsets.items():
            if offset < part.begin < offset + graph.buffers[name].nbytes:
                raise InternalError(f"{name} is cut in two at {part.begin:,}", where="placement")
    if end != plan.arena_bytes:
        raise InternalError(f"the parts end at {end:,}, the arena at {plan.arena_bytes:,}", where="placement")
    given = [(part.memory, "data") for part in plan.parts] + [(name, "data") for name in placement.weights.values()]
    for name, kind in [*given, (placement.kernels, "code")]:
        if name not in ("ram", "flash") and (name not in memories or kind not in memories[name].holds):
            raise InternalError(f"{name} is no memory for {kind}", where="placement")
    for memory in board.memories:
        if placement.nbytes(memory.name) > memory.region.size:
            raise InternalError(f"{memory.name} has no room for what lies in it", where="placement")
