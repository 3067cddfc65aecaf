"""The memory plan: safe on any graph, small on real ones, and honest about why it is as large as it is."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from zoo import SHAPES, model_of, quantized, random_tokens, shapes

from mcugen import families
from mcugen.boards import load_board
from mcugen.errors import DoesNotFitError, InternalError
from mcugen.families import Family
from mcugen.fit import Demand, check_fits, demand_of, fits_board, largest_context
from mcugen.ir import Board, Buffer, Config, Graph, KernelVariant, MemoryRegion, Op, Plan
from mcugen.lower import lower
from mcugen.plan import check_plan, plan_memory
from mcugen.plan_report import plan_json, plan_report
from mcugen.quantize import calibrate, quantize

NUCLEO = dataclasses.replace(load_board("nucleo-f446re"), stack_bytes=1536)
STORIES = Config(64, 172, 5, 8, 4, 512, 512, True)  # the shape of stories260K
CODE, STATICS = 20_000, 64
VARIANT = KernelVariant("mg_test", "kernels/test.c")


@functools.cache
def stories_graph(context: int) -> Graph:
    """The graph of a model of stories260K's shape; the plan depends on nothing else."""
    return lower(_stories_model(), context)


@functools.cache
def _stories_model():
    model = model_of(STORIES)
    return quantize(model, calibrate(model, [random_tokens(STORIES, 32)], "32 random tokens"))


def aligned(size: int) -> int:
    return (size + 3) // 4 * 4


# ---------------------------------------------------------------- random graphs


def make_graph(buffers: list[Buffer], ops: list[Op], rebase: list[Op], logits: str) -> Graph:
    return Graph(quantized(SHAPES["narrow"]), 1, {b.name: b for b in buffers}, tuple(ops), tuple(rebase), logits)


def make_op(inputs=(), outputs=(), scratch=(), in_place: bool = False, label: str = "op") -> Op:
    return Op("test_s8", label, VARIANT, tuple(inputs), tuple(outputs), tuple(scratch), in_place)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Steps of up to 12 ops over buffers of all sizes, with state, scratch and ops that may work in place."""
    buffers: list[Buffer] = []

    def new(state: bool = False, like: Buffer | None = None) -> Buffer:
        kind = ("state" if state else "b") + str(len(buffers))
        dtype = like.dtype if like else draw(st.sampled_from(["int8", "int16", "int32"]))
        shape = like.shape if like else (draw(st.integers(1, 40)),)
        buffers.append(Buffer(kind, dtype, shape, state))
        return buffers[-1]

    def scratches() -> list[str]:
        return [new().name for _ in range(draw(st.integers(0, 1)))]

    states = [new(state=True) for _ in range(draw(st.integers(0, 3)))]
    rebase = [
        make_op([s.name], [s.name], scratches(), label=f"rebase.{s.name}") for s in states if draw(st.booleans())
    ]
    ops, known = [], list(states)
    for index in range(draw(st.integers(1, 12))):
        # mostly the newest buffers, so that lifetimes differ
        sources = draw(st.lists(st.sampled_from(known[-4:]), max_size=3)) if known else []
        in_place = bool(sources) and draw(st.booleans())
        outputs = [new(like=sources[0] if in_place and draw(st.booleans()) else None)]
        outputs += [new()] if draw(st.integers(0, 3)) == 0 else []
        into_state = bool(states) and draw(st.integers(0, 3)) == 0
        names = [draw(st.sampled_from(states)).name] if into_state else [b.name for b in outputs]
        ops.append(make_op([b.name for b in sources], names, scratches(), in_place, f"op{index}"))
        known += [] if into_state else outputs
    passing = [b for b in known if not b.state]
    assume(passing)
    return make_graph(buffers, ops, rebase, draw(st.sampled_from(passing)).name)


@given(graphs())
def test_every_plan_is_safe_and_no_smaller_than_its_bound(graph: Graph) -> None:
    plan = plan_memory(graph, NUCLEO)
    check_plan(graph, plan)
    assert runs_alike(graph, plan)
    assert plan.arena_bytes >= plan.lower_bound == bound_by_counting(graph)
    assert plan.live_bytes == tuple(live_bytes(graph, i) for i in range(len(graph.ops)))


@given(graphs())
def test_the_peak_names_the_buffers_alive_at_it(graph: Graph) -> None:
    plan = plan_memory(graph, NUCLEO)
    op = graph.ops[plan.peak_op] if plan.peak_op >= 0 else graph.rebase[plan.peak_op]
    assert {*op.inputs, *op.outputs, *op.scratch} <= set(plan.peak_buffers)
    spans = {(plan.offsets[name], aligned(graph.buffers[name].nbytes)) for name in plan.peak_buffers}
    state = {name for name, buffer in graph.buffers.items() if buffer.state}
    assert state <= set(plan.peak_buffers)
    assert sum(size for _, size in spans) == plan.lower_bound


@given(graphs(), st.data())
def test_a_plan_that_passes_the_gate_computes_the_same(graph: Graph, data: st.DataObject) -> None:
    """The gate against memory itself: whatever offsets it lets through, the arena computes what arrays compute."""
    plan = plan_memory(graph, NUCLEO)
    offsets = dict(plan.offsets)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(offsets)))
        offsets[name] = data.draw(st.sampled_from(sorted(offsets.values())) | st.integers(0, plan.arena_bytes))
    mutant = dataclasses.replace(
        plan, offsets=offsets, arena_bytes=plan.arena_bytes + data.draw(st.sampled_from([0, 8]))
    )
    if passes(graph, mutant):
        assert runs_alike(graph, mutant)


def passes(graph: Graph, plan: Plan) -> bool:
    try:
        check_plan(graph, plan)
    except InternalError:
        return False
    return True


def uses(op: Op) -> tuple[str, ...]:
    return (*op.inputs, *op.outputs, *op.scratch)


def live_bytes(graph: Graph, at: int) -> int:
    """Bytes alive at op `at` (below 0: rebase), counted by hand; a buffer handed on in place is counted once."""
    ops = (*graph.rebase, *graph.ops)
    now = at + len(graph.rebase)
    size = 0
    for name, buffer in graph.buffers.items():
        used = [i for i, op in enumerate(ops) if name in uses(op)]
        if used and name == graph.logits:
            used.append(len(ops) - 1)
        if buffer.state or (used and used[0] <= now <= used[-1]):
            size += aligned(buffer.nbytes)
    op = ops[now]
    if not op.in_place:
        return size
    source, target = graph.buffers[op.inputs[0]], graph.buffers[op.outputs[0]]
    shares = (
        not source.state
        and not target.state
        and (source.dtype, source.shape) == (target.dtype, target.shape)
        and source.name != graph.logits
        and source.name not in op.inputs[1:]
        and not any(source.name in uses(later) for later in ops[now + 1 :])
    )
    return size - aligned(target.nbytes) * shares


def bound_by_counting(graph: Graph) -> int:
    return max(live_bytes(graph, i) for i in range(-len(graph.rebase), len(graph.ops)))


def runs_alike(graph: Graph, plan: Plan) -> bool:
    """Run the graph in the planned arena and with an array per buffer, and compare logits and state.

    An op writes bytes that depend on every byte it reads. In the arena it is as nasty as a kernel may be: outputs
    and scratch are smeared before the inputs are read, except for an output that the op may write in place.
    """
    arena = np.zeros(plan.arena_bytes, np.uint8)
    views = {name: arena[offset : offset + graph.buffers[name].nbytes] for name, offset in plan.offsets.items()}
    arrays = {name: np.zeros(graph.buffers[name].nbytes, np.uint8) for name in plan.offsets}
    kept = [graph.logits, *(name for name, buffer in graph.buffers.items() if buffer.state)]
    for _ in range(2):  # tokens
        for op in (*graph.rebase, *graph.ops):
            run_op(graph, op, views, smear=True)
            run_op(graph, op, arrays, smear=False)
        if any((views[name] != arrays[name]).any() for name in kept):
            return False
    return True


def run_op(graph: Graph, op: Op, memory: Mapping[str, np.ndarray], smear: bool) -> None:
    spared = op.outputs[:1] if op.in_place else ()
    for name in (*op.outputs, *op.scratch):
        if smear and name not in spared and not graph.buffers[name].state:
            memory[name][:] = 0xEE
    seed = zlib.crc32(b"".join([op.label.encode(), *(memory[name].tobytes() for name in op.inputs)]))
    for i, name in enumerate(op.outputs):
        memory[name][:] = np.random.default_rng([seed, i]).integers(0, 256, len(memory[name]))
    if smear:
        for name in op.scratch:
            memory[name][:] = 0xDD


# ---------------------------------------------------------------- wrong plans are refused


def chain_graph(in_place: bool = True) -> Graph:
    """state; a -> b in place -> c, which reads both b and d; scratch s at b."""
    buffers = [
        Buffer("ring", "int8", (8,), True),
        Buffer("a", "int16", (8,)),
        Buffer("b", "int16", (8,)),
        Buffer("c", "int32", (4,)),
        Buffer("d", "int8", (6,)),
        Buffer("s", "int32", (2,)),
    ]
    ops = [
        make_op([], ["a", "d"], label="first"),
        make_op(["a"], ["b"], ["s"], in_place=in_place, label="second"),
        make_op(["b", "d"], ["c"], label="third"),
    ]
    return make_graph(buffers, ops, [make_op(["ring"], ["ring"], label="turn")], "c")


GOOD = {"ring": 0, "a": 8, "b": 8, "c": 40, "d": 24, "s": 32}


def chain_plan(arena_bytes: int = 56, **offsets: int) -> Plan:
    return Plan(arena_bytes, {**GOOD, **offsets}, 48, 1, (), (), 0)


def refusal(graph: Graph, plan: Plan) -> tuple[str, str]:
    with pytest.raises(InternalError) as caught:
        check_plan(graph, plan)
    return caught.value.what, caught.value.where


def test_the_gate_takes_a_plan_made_by_hand() -> None:
    check_plan(chain_graph(), chain_plan())
    check_plan(chain_graph(in_place=False), chain_plan(72, b=56))
    check_plan(chain_graph(), chain_plan(s=40))  # scratch where the logits come later


@pytest.mark.parametrize(
    ("plan", "what", "where"),
    [
        (chain_plan(52), "c lies at 40 to 56, outside the arena's 52 B", ""),
        (chain_plan(40), "an arena of 40 B is below its bound of 48 B", ""),
        (chain_plan(58), "an arena of 58 B is no multiple of 4 B", ""),
        (chain_plan(a=-8), "a lies at -8 to 8, outside the arena's 56 B", ""),
        (chain_plan(d=26), "d lies at 26, not a multiple of 4 B and of its elements", ""),
        (chain_plan(other=0), "other has an offset but is no buffer of the graph", ""),
        (chain_plan(a=4, b=4), "a overwrites ring, which is state", ", op 0 (test_s8, first)"),
        (chain_plan(d=16), "d at 16 overlaps a at 8 while the op uses both", ", op 0 (test_s8, first)"),
        (chain_plan(s=20), "s at 20 overlaps a at 8 while the op uses both", ", op 1 (test_s8, second)"),
        (chain_plan(s=24), "d is read, but s has overwritten it", ", op 2 (test_s8, third)"),
        (chain_plan(b=12), "b at 12 overlaps a at 8 while the op uses both", ", op 1 (test_s8, second)"),
        (chain_plan(c=24), "c at 24 overlaps d at 24 while the op uses both", ", op 2 (test_s8, third)"),
        (chain_plan(s=0), "s overwrites ring, which is state", ", op 1 (test_s8, second)"),
    ],
)
def test_a_wrong_plan_is_refused(plan: Plan, what: str, where: str) -> None:
    assert refusal(chain_graph(), plan) == (what, f"memory plan{where}")


def test_a_buffer_without_a_place_is_refused() -> None:
    plan = chain_plan()
    offsets = {name: offset for name, offset in plan.offsets.items() if name != "b"}
    what = refusal(chain_graph(), dataclasses.replace(plan, offsets=offsets))[0]
    assert what == "b has no offset"


def test_sharing_needs_an_op_that_works_in_place() -> None:
    what, where = refusal(chain_graph(in_place=False), chain_plan())
    assert what == "b at 8 overlaps a at 8 while the op uses both"
    assert where == "memory plan, op 1 (test_s8, second)"


def test_sharing_needs_an_input_that_dies_there() -> None:
    graph = chain_graph()
    third = dataclasses.replace(graph.ops[2], inputs=("b", "d", "a"))
    graph = dataclasses.replace(graph, ops=(*graph.ops[:2], third))
    assert refusal(graph, chain_plan()) == (
        "a is read, but b has overwritten it",
        "memory plan, op 2 (test_s8, third)",
    )
    plan = plan_memory(graph, NUCLEO)
    check_plan(graph, plan)
    assert plan.offsets["a"] != plan.offsets["b"]


def test_sharing_is_with_the_first_input_only() -> None:
    graph = chain_graph()
    for inputs in (("d", "a"), ("a", "a")):
        second = dataclasses.replace(graph.ops[1], inputs=inputs)
        changed = dataclasses.replace(graph, ops=(graph.ops[0], second, graph.ops[2]))
        assert refusal(changed, chain_plan())[0] == "b at 8 overlaps a at 8 while the op uses both"
        check_plan(changed, plan_memory(changed, NUCLEO))


def test_sharing_needs_elements_of_one_size() -> None:
    graph = chain_graph()
    graph = dataclasses.replace(graph, buffers={**graph.buffers, "b": Buffer("b", "int8", (16,))})
    assert refusal(graph, chain_plan())[0] == "b at 8 overlaps a at 8 while the op uses both"
    check_plan(graph, plan_memory(graph, NUCLEO))


def test_state_survives_the_rebase_ops() -> None:
    graph = chain_graph()
    turn = dataclasses.replace(graph.rebase[0], scratch=("s",))
    graph = dataclasses.replace(graph, rebase=(turn,))
    check_plan(graph, chain_plan())
    assert refusal(graph, chain_plan(s=4)) == (
        "s at 4 overlaps ring at 0 while the op uses both",
        "memory plan, rebase op 0 (test_s8, turn)",
    )
    turn = dataclasses.replace(turn, scratch=("ring",), inputs=(), outputs=())
    assert refusal(dataclasses.replace(graph, rebase=(turn,)), chain_plan())[0] == (
        "ring is state and must not be scratch"
    )


def test_what_was_never_written_is_not_read() -> None:
    graph = chain_graph()
    graph = dataclasses.replace(graph, ops=graph.ops[1:])
    assert refusal(graph, chain_plan()) == ("a is read before it is written", "memory plan, op 0 (test_s8, second)")
    assert refusal(dataclasses.replace(chain_graph(), logits="a"), chain_plan()) == (
        "a is read, but b has overwritten it",
        "memory plan, after the last op",
    )


def test_every_overlap_of_two_live_buffers_is_refused() -> None:
    """Move each buffer of a real plan onto each other one that is alive with it."""
    graph = stories_graph(8)
    plan = plan_memory(graph, NUCLEO)
    life = {name: (-len(graph.rebase), len(graph.ops)) for name, buffer in graph.buffers.items() if buffer.state}
    life |= plan.lifetimes
    refused = 0
    for name in graph.buffers:
        for other in list(graph.buffers)[:: 1 + len(graph.buffers) // 24]:
            apart = life[name][1] <= life[other][0] or life[other][1] <= life[name][0]  # touching: handed on in place
            if name == other or apart:
                continue
            offset = min(plan.offsets[other], (plan.arena_bytes - graph.buffers[name].nbytes) // 4 * 4)
            mutant = dataclasses.replace(plan, offsets={**plan.offsets, name: offset})
            assert not passes(graph, mutant), (name, other)
            refused += 1
    assert refused > 200


# ---------------------------------------------------------------- real models


@pytest.mark.parametrize(("context", "arena"), [(1, 2_440), (128, 43_080), (512, 165_960)])
def test_stories_meets_its_lower_bound(context: int, arena: int) -> None:
    graph = stories_graph(context)
    plan = plan_memory(graph, NUCLEO)
    check_plan(graph, plan)
    assert plan.arena_bytes == plan.lower_bound == arena
    assert sum(b.nbytes for b in graph.buffers.values() if b.state) == 320 * context


@shapes()
def test_every_shape_comes_near_its_lower_bound(config: Config) -> None:
    graph = lower(quantized(config), config.seq_len)
    plan = plan_memory(graph, NUCLEO)
    check_plan(graph, plan)
    assert plan.lower_bound == bound_by_counting(graph)
    assert plan.arena_bytes <= 1.02 * plan.lower_bound


def test_the_peak_of_stories_is_at_the_logits() -> None:
    graph = stories_graph(128)
    plan = plan_memory(graph, NUCLEO)
    assert graph.ops[plan.peak_op].label == "logits"
    assert plan.peak_buffers[10:] == ("final_norm.codes", "final_norm.scale", "logits")
    assert plan.stack_bytes == NUCLEO.stack_bytes


def test_constants_count_once() -> None:
    plan = plan_memory(stories_graph(128), NUCLEO)
    items = dict(plan.flash)
    assert len(items) == len(plan.flash)
    assert items["embedding.codes"] == 512 * 64
    assert "logits.codes" not in items  # the embedding's
    assert items["logits.multiplier"] == 2 * 512
    assert [name for name in items if "rope_step" in name] == ["layers.0.query.rope_step"]
    assert not [name for name in items if "rebase" in name]  # the zero points of layers.*.keys
    weights = 512 * 64 + 5 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 172)
    rows = 2 * 512 + 5 * (2 * 64 + 2 * 32 + 2 * 172 + 64)
    per_layer = 2 * 2 * 64 + 4 * 32  # two gains, zero points
    assert sum(items.values()) == weights + 2 * rows + 5 * per_layer + 2 * 64 + 4 * 4
    assert sum(dict(plan_memory(lower(quantized(SHAPES["gqa"]), 4), NUCLEO).flash)[f"{x}.codes"] for x in
               ("embedding", "logits")) == 2 * 300 * 48  # fmt: skip


def test_int4_codes_take_half_a_byte_and_a_byte_per_group() -> None:
    int8, int4 = (dict(plan_memory(lower(quantized(SHAPES["gqa"], bits=b), 4), NUCLEO).flash) for b in (8, 4))
    assert list(int8) == list(int4)
    for name, size in int8.items():
        if not name.endswith(".codes") or name in ("embedding.codes", "logits.codes"):
            assert int4[name] == size
    assert int4["layers.0.wq.codes"] == 48 * (48 // 2 + 2)  # groups of 32 columns and of 16
    assert int4["layers.1.w2.codes"] == 48 * (172 // 2 + 6)


def test_the_plan_is_the_same_in_every_process() -> None:
    program = (
        "from test_plan import *; import json;"
        "graphs = [stories_graph(100), lower(quantized(SHAPES['gqa']), 5)];"
        "plans = [plan_memory(g, NUCLEO) for g in graphs];"
        "print([plan_report(g, p, NUCLEO, demand(g, p)) for g, p in zip(graphs, plans)]);"
        "print([json.dumps(plan_json(g, p, NUCLEO, demand(g, p))) for g, p in zip(graphs, plans)])"
    )
    outputs = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        outputs.add(subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    assert b"layers.1.keys" in outputs.pop()


# ---------------------------------------------------------------- what fits


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_the_largest_context_is_exact(limit: int, upper: int) -> None:
    asked = []

    def fits(context: int) -> bool:
        asked.append(context)
        assert 1 <= context <= upper
        return context <= limit

    assert largest_context(fits, upper) == min(limit, upper)
    assert len(asked) <= 12


def test_the_largest_of_few_contexts_is_exact() -> None:
    for upper in range(1, 33):
        for limit in range(upper + 2):
            assert largest_context(lambda context, limit=limit: context <= limit, upper) == min(limit, upper)


def test_nothing_fits_where_there_is_no_context_to_try() -> None:
    assert largest_context(lambda context: True, 0) == 0


def demand(graph: Graph, plan: Plan) -> Demand:
    return demand_of(graph, plan, code_bytes=CODE, static_bytes=STATICS)


def ram_at(context: int) -> int:
    graph = stories_graph(context)
    return demand(graph, plan_memory(graph, NUCLEO)).ram


def board_with(ram: int = 128 * 1024, flash: int = 512 * 1024, name: str = "small") -> Board:
    return dataclasses.replace(
        NUCLEO, name=name, ram=MemoryRegion(NUCLEO.ram.origin, ram), flash=MemoryRegion(NUCLEO.flash.origin, flash)
    )


def does_not_fit(context: int, board: Board, boards: tuple[Board, ...] = ()) -> str:
    graph = stories_graph(context)
    plan = plan_memory(graph, board)
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(graph, plan, board, demand(graph, plan), ram_at=ram_at, boards=boards)
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_a_demand_adds_up() -> None:
    graph = stories_graph(128)
    d = demand(graph, plan_memory(graph, NUCLEO))
    assert d == Demand(40_960, 2_120, 1_536, 64, 269_440, 20_000)
    assert (d.ram, d.flash) == (44_680, 289_440)


def test_a_model_that_fits_to_the_byte_fits() -> None:
    graph = stories_graph(128)
    plan = plan_memory(graph, NUCLEO)
    d = demand(graph, plan)
    exact = board_with(d.ram, d.flash)
    check_fits(graph, plan, exact, d, ram_at=ram_at)
    assert fits_board(d, exact)
    for board in (board_with(d.ram - 1, d.flash), board_with(d.ram, d.flash - 1)):
        assert not fits_board(d, board)
        with pytest.raises(DoesNotFitError):
            check_fits(graph, plan, board, d, ram_at=ram_at)


def test_too_little_ram_is_answered_with_the_largest_context() -> None:
    assert does_not_fit(512, NUCLEO) == (
        "KV ring (163,840 B), activations (2,120 B), stack (1,536 B) and runtime (64 B) need 167,560 B of RAM; "
        "nucleo-f446re has 131,072 B\n"
        "  where: memory plan, peak at op 88 (linear_s32, logits)\n"
        "  try:   --context 397 (now 512) needs 130,760 B"
    )
    assert ram_at(397) == 130_760
    assert ram_at(398) > 131_072
    assert "try:   --context 127 (now 128) needs 44,360 B" in does_not_fit(128, board_with(ram_at(127)))


def test_a_board_that_has_room_is_named() -> None:
    large = board_with(ram=512 * 1024, name="large")
    larger = board_with(ram=1024 * 1024, name="a larger one")
    host = dataclasses.replace(board_with(ram=256 * 1024, name="host"), core="host")
    assert does_not_fit(512, NUCLEO, (larger, host, NUCLEO, board_with(1024), large)).endswith(
        "--context 397 (now 512) needs 130,760 B; or --board large"
    )
    assert does_not_fit(512, board_with(3000), (large,)).endswith(
        "no context fits: --context 1 needs 4,040 B; --board large has room for --context 512"
    )
    assert does_not_fit(128, board_with(flash=1024), (large,)).endswith("  try:   --board large has room")


def test_where_no_context_fits_fewer_layers_may() -> None:
    assert does_not_fit(128, board_with(3900)).endswith(
        "  try:   no context fits: --context 1 needs 4,040 B; a model of 3 fewer layers (2, now 5) would fit"
    )
    assert 4_040 - 3 * 64 <= 3900 < 4_040 - 2 * 64


def test_where_no_layers_help_the_peak_says_what_would() -> None:
    assert does_not_fit(128, board_with(3000)).endswith(
        "  try:   no context fits: --context 1 needs 4,040 B; take a board with that much RAM, or a model that "
        "shrinks logits (2,048 B) and final_norm.codes (64 B)"
    )


def test_too_little_flash_is_answered_with_fewer_layers() -> None:
    assert does_not_fit(128, board_with(flash=200_000)) == (
        "constants (269,440 B) and code (20,000 B) need 289,440 B of flash; small has 200,000 B\n"
        "  where: memory plan, flash; the largest constant is embedding.codes, 32,768 B\n"
        "  try:   2 fewer layers (3, now 5; 46,899 B each), or a board with more flash"
    )
    assert does_not_fit(128, board_with(flash=40_000)).endswith(
        "  try:   take a board with at least 289,440 B of flash: 54,945 B remain without any layer"
    )


# ---------------------------------------------------------------- report


def test_the_report_says_where_the_peak_is_and_why() -> None:
    graph = stories_graph(128)
    plan = plan_memory(graph, NUCLEO)
    report = plan_report(graph, plan, NUCLEO, demand(graph, plan), largest_context=397)
    assert report.startswith(
        """\
Memory plan of random0 on nucleo-f446re, context 128

RAM: 44,680 of 131,072 B used (34.1 %), 86,392 B free
  headroom the board asks for: 26,214 B (20 %), kept
  KV ring      40,960 B
  activations   2,120 B
  stack         1,536 B
  runtime          64 B
Flash: 289,440 of 524,288 B used (55.2 %), 234,848 B free
  constants  269,440 B
  code        20,000 B
Arena (ring and activations): 43,080 B, the least possible (43,080 B)

Peak: 43,080 B alive at op 88 (linear_s32, logits)
  buffer             bytes  why it is alive
  10 state buffers  40,960  kept from token to token: the KV ring
  logits             2,048  output of the op
  final_norm.codes      64  input of the op
  final_norm.scale       8  input of the op

What would change it
  each slot of the context costs 320 B of ring
  the next lower peak is 41,848 B at op 14 (linear_s16, layers.0.w3): whatever shrinks the ops of the highest \
peak alone saves at most 1,232 B
  the largest context that fits nucleo-f446re is 397 (trained: 512)
"""
    )
    assert "\n  layers.0.keys                  0  4,096  always\n" in report
    assert "\n  logits                    40,960  2,048  88..88\n" in report
    assert report.endswith("  sum                       269,440\n")


def test_the_report_names_waiting_buffers_and_missing_headroom() -> None:
    graph = stories_graph(512)
    plan = plan_memory(graph, NUCLEO)
    report = plan_report(graph, plan, board_with(180_000), demand(graph, plan))
    assert "  headroom the board asks for: 36,000 B (20 %), NOT kept, 23,560 B short\n" in report
    assert "largest context" not in report
    graph = lower(quantized(Config(8, 12, 1, 2, 1, 30, 512, True)), 512)  # scores are larger than logits
    report = plan_report(graph, plan := plan_memory(graph, NUCLEO), NUCLEO, demand(graph, plan))
    assert "Peak: 5,168 B alive at op 8 (attention_s16, layers.0.attention)\n" in report
    assert "  layers.0.scores     1,024  scratch of the op\n" in report
    assert "  embedding              16  waits for op 10 (linear_add_s16, layers.0.wo)\n" in report


def test_several_tokens_at_once_take_their_room() -> None:
    """8 tokens hold 8 of each vector; rings, scores and what only the last token needs stay."""
    one, eight = stories_graph(128), lower(_stories_model(), 128, batch=8)
    plan = plan_memory(eight, NUCLEO)
    check_plan(eight, plan)
    assert plan.arena_bytes == plan.lower_bound == bound_by_counting(eight)
    # w1 and w3 of 172 values, the residual of 64, and a block of 64 codes and its scale, next to the rings
    assert plan.lower_bound == 40_960 + 8 * (2 * 2 * 172 + 2 * 64 + 64 + 8)
    assert runs_alike(eight, plan)
    assert plan.flash == plan_memory(one, NUCLEO).flash
    report = plan_report(eight, plan, NUCLEO, demand(eight, plan))
    assert report.startswith("Memory plan of random0 on nucleo-f446re, context 128, prompts 8 tokens at once\n")
    found = plan_json(eight, plan, NUCLEO, demand(eight, plan))
    assert (found["prefill"], found["kernels"]) == (8, "portable")
    assert plan_json(one, plan_memory(one, NUCLEO), NUCLEO, demand(one, plan_memory(one, NUCLEO)))["prefill"] == 1


def test_padded_rings_take_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 slots of 8 channels each: in pairs, in fours, in sixteens; codes of 2 bytes."""
    plain = Family("portable")
    for values, slots in (("value_pairs", 6), ("key_quads", 8), ("value_columns", 16)):
        packed = Family("packed", frozenset({"fast"}), codes="words16", values=values, score_rows=2, score_step=16)
        monkeypatch.setattr(families, "FAMILIES", (packed, plain))
        graph = lower(quantized(SHAPES["mqa"]), 5, frozenset({"fast"}), batch=2)
        plan = plan_memory(graph, NUCLEO)
        check_plan(graph, plan)
        d = demand(graph, plan)
        assert d.ring == 5 * 8 + slots * 8
        found = {b["name"]: b for b in json.loads(json.dumps(plan_json(graph, plan, NUCLEO, d)))["buffers"]}
        ring, codes = found["layers.0.values"], found["layers.0.att_norm.codes"]
        assert (ring["bytes"], ring["layout"], ring["shape"]) == (slots * 8, values, [5, 8])
        assert (codes["bytes"], codes["layout"], codes["tokens"]) == (2 * 2 * 32, "words16", 2)
        assert found["layers.0.scores"]["shape"] == [2, 16]


@given(graphs())
def test_any_plan_can_be_reported(graph: Graph) -> None:
    plan = plan_memory(graph, NUCLEO)
    report = plan_report(graph, plan, NUCLEO, demand(graph, plan))
    buffers = report[report.index("Buffers by offset") :]
    for name, offset in plan.offsets.items():
        row = next(line.split() for line in buffers.splitlines() if line.split()[:1] == [name])
        assert row[1:3] == [f"{offset:,}", f"{graph.buffers[name].nbytes:,}"]
    peak = report[report.index("Peak: ") : report.index("What would change it")]
    assert all(graph.buffers[name].state or f"  {name} " in peak for name in plan.peak_buffers)
    assert json.loads(json.dumps(plan_json(graph, plan, NUCLEO, demand(graph, plan))))["peak"]["op"] == plan.peak_op


def test_the_json_holds_every_buffer() -> None:
    graph = stories_graph(128)
    plan = plan_memory(graph, NUCLEO)
    found = json.loads(json.dumps(plan_json(graph, plan, NUCLEO, demand(graph, plan))))
    assert found["arena_bytes"] == found["lower_bound"] == 43_080
    assert found["peak"]["name"] == "op 88 (linear_s32, logits)"
    assert {b["name"]: b["offset"] for b in found["buffers"]} == dict(plan.offsets)
    assert found["ram"]["used"] == 44_680
    assert found["flash"]["used"] == 289_440
    ring, logits = (next(b for b in found["buffers"] if b["name"] == n) for n in ("layers.0.keys", "logits"))
    assert (ring["state"], ring["first_op"]) == (True, None)
    assert (logits["state"], logits["first_op"], logits["last_op"]) == (False, 88, 88)
