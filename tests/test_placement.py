"""Which memory holds what: the decisions, the gate, what the linker makes of them, and that every bit stays the same."""

from __future__ import annotations

import dataclasses
import functools
import re

import ladder
import pytest
import zoo

from mcugen import layout as layouts
from mcugen.boards import load_board
from mcugen.emulate.elf import parse_elf
from mcugen.emulate.machine import FirmwareFault
from mcugen.emulate.machines import open_machine
from mcugen.emulate.unicorn_machine import UnicornMachine
from mcugen.errors import DoesNotFitError, InternalError
from mcugen.ir import Board, Config, Decision, Memory, MemoryRegion, Part, Placement, Plan
from mcugen.layout import Layout, lay_out, plan_facts, plan_text
from mcugen.lower import lower
from mcugen.placement import check_placement, place
from mcugen.plan import plan_memory
from mcugen.verify import verify, verify_prompt

KIB = 1024
CONFIG = Config(32, 40, 2, 4, 4, 80, 1000, False)  # a slot of a ring has 32 B; embedding and classifier differ
CONTEXT = 64
OTHER, KERNELS = 1000, 3000
TOOLCHAINS = [pytest.param("zig"), pytest.param("gcc", marks=pytest.mark.slow)]


def memory(name: str, size: int, *holds: str, fast: bool = False) -> Memory:
    return Memory(name, MemoryRegion(0x1000_0000, size), frozenset(holds), fast)


def board_with(*memories: Memory, ram: int = 128 * KIB, xip: bool = False, **more: object) -> Board:
    nucleo = load_board("nucleo")
    region = MemoryRegion(nucleo.ram.origin, ram)
    return dataclasses.replace(nucleo, ram=region, memories=memories, xip=xip, headroom=0.0, **more)


def placed(board: Board, config: Config = CONFIG, context: int = CONTEXT, kernels: int = KERNELS) -> Plan:
    """The plan of a random model on a board, with its placement, which passes the gate."""
    graph = lower(zoo.quantized(config), context, board.features)
    plan = plan_memory(graph, board)
    plan = dataclasses.replace(plan, placement=place(graph, plan, board, other_ram=OTHER, kernel_bytes=kernels))
    check_placement(graph, plan, board)
    return plan


ARENA = placed(board_with()).arena_bytes
RING = 32 * CONTEXT


def why(plan: Plan, what: str) -> tuple[str, int, str]:
    found = [d for d in plan.placement.decisions if d.what == what]
    assert len(found) == 1
    return found[0].memory, found[0].nbytes, found[0].why


# ---------------------------------------------------------------- the arena


def test_the_arena_lies_in_a_fast_memory_that_holds_all_of_it() -> None:
    plan = placed(board_with(memory("dtcm", ARENA, "data", fast=True)))
    assert plan.parts == (Part("dtcm", 0, ARENA),)
    reason = "all of it fits, and there are fewer waits than in the main RAM"
    assert why(plan, "arena") == ("dtcm", ARENA, reason)


@pytest.mark.parametrize(
    "other",
    [
        memory("dtcm", ARENA - 4, "data", fast=True),
        memory("itcm", 2 * ARENA, "code", fast=True),
        memory("sram2", 2 * ARENA, "data"),
    ],
    ids=lambda m: m.name,
)
def test_otherwise_in_the_main_ram_if_that_holds_it(other: Memory) -> None:
    plan = placed(board_with(other, ram=ARENA + OTHER))
    assert plan.parts == (Part("ram", 0, ARENA),)
    assert why(plan, "arena") == ("ram", ARENA, "the main RAM holds all of it")


def test_rings_leave_the_main_ram_until_the_rest_fits() -> None:
    two = (memory("ccm", 2 * RING + 100, "data"), memory("sram4", RING, "code", "data"))
    for missing, expected in (
        (1, [("ccm", RING)]),
        (RING, [("ccm", RING)]),
        (RING + 1, [("ccm", 2 * RING)]),
        (2 * RING + 1, [("ccm", 2 * RING), ("sram4", RING)]),
        (3 * RING + 1, [("ccm", 2 * RING), ("sram4", RING)]),  # and does not fit: mcugen.fit says so
    ):
        plan = placed(board_with(*two, ram=ARENA + OTHER - missing))
        *others, main = plan.parts
        assert [(part.memory, part.end - part.begin) for part in others] == expected
        assert main == Part("ram", sum(size for _, size in expected), ARENA)
    assert why(plan, "layers.0.keys to layers.0.values")[:2] == ("ccm", 2 * RING)
    reason = "the main RAM alone is too small, and a KV ring is touched by few ops"
    assert why(plan, "layers.1.keys") == ("sram4", RING, reason)
    assert why(plan, "rest of the arena") == ("ram", ARENA - 3 * RING, "what is left of it")


def test_a_memory_for_code_takes_no_ring() -> None:
    plan = placed(board_with(memory("itcm", 64 * KIB, "code"), ram=ARENA + OTHER - 1))
    assert plan.parts == (Part("ram", 0, ARENA),)


# ---------------------------------------------------------------- kernels


def test_kernels_run_from_a_memory_for_code_first_of_all_one_for_nothing_else() -> None:
    both, code = memory("ccm", KERNELS, "code", "data"), memory("itcm", KERNELS, "code")
    reason = "code fetched from it does not wait for the flash"
    assert why(placed(board_with(both)), "kernels") == ("ccm", KERNELS, reason)
    assert why(placed(board_with(both, code)), "kernels") == ("itcm", KERNELS, reason)
    assert why(placed(board_with(memory("d", KERNELS, "data"))), "kernels")[0] == "flash"


def test_kernels_stay_in_an_internal_flash_otherwise() -> None:
    assert why(placed(board_with()), "kernels") == ("flash", 0, "there is no other memory for code")
    small = board_with(memory("itcm", KERNELS - 1, "code"))
    assert why(placed(small), "kernels") == ("flash", 0, "no other memory for code has room for them")


def test_the_context_comes_before_the_kernels() -> None:
    ccm = memory("ccm", RING + KERNELS - 1, "code", "data")
    assert placed(board_with(ccm)).placement.kernels == "ccm"
    assert placed(board_with(ccm, ram=ARENA + OTHER - 1)).placement.kernels == "flash"


def test_kernels_run_from_the_main_ram_instead_of_a_serial_flash() -> None:
    room = ARENA + OTHER + KERNELS
    reason = "the flash is a serial one: each miss of its cache waits for it"
    assert why(placed(board_with(ram=room, xip=True)), "kernels") == ("ram", KERNELS, reason)
    full = "the RAM has no room for them beside arena, stack and headroom"
    assert why(placed(board_with(ram=room - 1, xip=True)), "kernels") == ("flash", 0, full)
    two_buses = board_with(xip=True, flash_data=0x3C00_0000)
    unknown = "no address is known where code in RAM is fetched"
    assert why(placed(two_buses), "kernels") == ("flash", 0, unknown)
    known = dataclasses.replace(two_buses, ram_code=0x4038_0000)
    assert placed(known).placement.kernels == "ram"
    free = dataclasses.replace(board_with(ram=room, xip=True), headroom=0.01)
    assert placed(free).placement.kernels == "flash"


# ---------------------------------------------------------------- matrices

MATRICES = [f"layers.{i}.{name}" for i in (0, 1) for name in ("wq", "wk", "wv", "wo", "w1", "w3", "w2")] + ["logits"]


def test_matrices_stay_in_an_internal_flash() -> None:
    plan = placed(board_with(memory("sram2", 512 * KIB, "data")))
    assert not plan.placement.weights
    reason = "an internal flash feeds the core nearly as fast as RAM does; a copy would cost context"
    assert why(plan, "matrices") == ("flash", 0, reason)


def test_all_matrices_but_the_embedding_are_copied_where_there_is_room() -> None:
    plan = placed(board_with(xip=True))
    assert list(plan.placement.weights) != MATRICES and sorted(plan.placement.weights) == sorted(MATRICES)
    assert set(plan.placement.weights.values()) == {"ram"}
    embedded = 80 * 32 + 2 * 80  # codes and multipliers
    size = sum(n for label, n in plan.flash if label.endswith(("codes", "multiplier"))) - embedded
    assert why(plan, "15 matrices, copied at start") == ("ram", size, "read whole for every token")


def test_an_embedding_that_is_the_classifier_is_read_whole() -> None:
    plan = placed(board_with(xip=True), dataclasses.replace(CONFIG, shared_classifier=True))
    embedding = plan.flash[0][0].removesuffix(".codes")
    assert plan.placement.weights[embedding] == "ram"


def test_the_largest_matrices_go_first_into_every_room_that_there_is() -> None:
    classifier, w1 = 80 * 32 + 160, 40 * 32 + 80
    room = ARENA + OTHER + KERNELS + classifier + w1 - 1
    others = (memory("ocram", 2 * w1, "data"), memory("itcm", KERNELS, "code"))
    plan = placed(board_with(*others, ram=room - KERNELS, xip=True))
    weights = plan.placement.weights
    assert (plan.placement.kernels, weights["logits"]) == ("itcm", "ram")
    assert [name for name, at in weights.items() if at == "ocram"] == ["layers.0.w1", "layers.0.w3"]
    assert sum(n for n in map(dict(plan.flash).get, ["logits.codes"]) if n) == 80 * 32
    assert any(d.memory == "flash" and d.why == "no memory has room for a copy" for d in plan.placement.decisions)


def test_the_headroom_stays_free() -> None:
    for headroom in (0.0, 0.1, 0.3, 0.6):
        board = dataclasses.replace(board_with(ram=40 * KIB, xip=True), headroom=headroom)
        plan = placed(board)
        assert plan.placement.nbytes("ram") + OTHER <= board.ram.size * (1 - headroom) or not plan.placement.weights


def test_experts_come_behind_what_every_token_reads() -> None:
    config = dataclasses.replace(CONFIG, n_experts=4, experts_per_token=1, hidden_dim=400)
    arena, expert = placed(board_with(), config).arena_bytes, 400 * 32 + 2 * 400
    board = board_with(ram=arena + OTHER + KERNELS + expert, xip=True)
    weights = placed(board, config).placement.weights
    assert "logits" in weights and "layers.1.wo" in weights
    assert not any(".w1." in name for name in weights)  # each is the largest, and read by one token in four


# ---------------------------------------------------------------- the gate


def broken(text: str, board: Board, **changes: object) -> None:
    graph = lower(zoo.quantized(CONFIG), CONTEXT, board.features)
    plan = plan_memory(graph, board)
    plan = dataclasses.replace(plan, placement=Placement(**changes))  # type: ignore[arg-type]
    with pytest.raises(InternalError, match=re.escape(text)):
        check_placement(graph, plan, board)


def test_the_gate_refuses_what_no_memory_can_hold() -> None:
    board = board_with(memory("ccm", 2 * RING, "data"))
    broken("layers.0.keys is cut in two at 1,024", board, parts=(Part("ccm", 0, 1024), Part("ram", 1024, ARENA)))
    broken("begins at 2,048, not 1,024", board, parts=(Part("ccm", 0, 1024), Part("ram", 2048, ARENA)))
    broken(f"the parts end at {ARENA - 4:,}", board, parts=(Part("ram", 0, ARENA - 4),))
    broken("itcm is no memory for data", board, parts=(Part("itcm", 0, ARENA),))
    broken("ccm is no memory for code", board, kernels="ccm")
    broken("dtcm is no memory for data", board, weights={"logits": "dtcm"})
    broken("ccm has no room for what lies in it", board, decisions=(Decision("x", "ccm", 2 * RING + 1, ""),))


# ---------------------------------------------------------------- contexts, reports


def test_more_memories_hold_a_longer_context_and_the_plan_says_why() -> None:
    config = dataclasses.replace(CONFIG, seq_len=2000)
    model, tokenizer = zoo.quantized(config), zoo.random_tokenizer(config.vocab_size)
    board = load_board("nucleo-g474re")
    alone, whole = (lay_out(model, tokenizer, dataclasses.replace(board, memories=m)) for m in ((), board.memories))
    assert (alone.graph.context, whole.graph.context) == (730, 964)
    assert {part.memory for part in whole.plan.parts} == {"ccm", "ram"}
    ring = 32 * 964
    assert f"in other memories  -{ring:,} B" in plan_text(whole)
    assert f"ccm: {ring:,} of 32,768 B used (94.1 %), {32_768 - ring:,} B free" in plan_text(whole)
    assert re.search(rf"layers\.0\.keys +ccm +{ring:,} B  the main RAM alone is too small", plan_text(whole))
    facts = plan_facts(whole)
    assert facts["memories"] == [{"name": "ccm", "used": ring, "size": 32_768}]
    with pytest.raises(DoesNotFitError) as caught:
        lay_out(model, tokenizer, board, 1000)
    assert str(caught.value) == (
        "KV ring (128,000 B), activations (4,224 B), stack (1,024 B) and runtime (516 B) need 133,764 B of RAM; "
        "nucleo-g474re has 98,304 B, which is full with 32,000 B in ccm already\n"
        "  where: memory plan, peak at op 8 (attention_s16, layers.0.attention)\n"
        "  try:   --context 964 (now 1000) needs 98,180 B; or --board nrf52840-dk"
    )


# ---------------------------------------------------------------- the firmware

BOARDS = {  # memory of the arena's front, of the kernels, of matrices
    "pico": ("ram", "ram", {"ram"}),
    "pico2": ("ram", "ram", {"ram"}),
    "nucleo-h743zi2": ("dtcm", "itcm", set()),
    "nucleo-g474re": ("ccm", "flash", set()),
    "teensy41": ("ram", "itcm", {"ram"}),
    "esp32-c3-devkit": ("ram", "ram", {"ram"}),
}
each_board = pytest.mark.parametrize("name", BOARDS)
each_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS)


@functools.cache
def laid_out(name: str) -> Layout:
    context = 900 if name == "nucleo-g474re" else 40
    return ladder.laid_out(CONFIG, context, board=name, batch=3)


@functools.cache
def machine(name: str, toolchain: str) -> UnicornMachine:
    ladder.require_unicorn()
    found = open_machine(ladder.board_firmware(laid_out(name), toolchain), watch_accesses=False)
    assert isinstance(found, UnicornMachine)
    return found


def region(board: Board, name: str) -> MemoryRegion:
    if name == "ram":
        return board.ram
    return board.flash if name == "flash" else next(m.region for m in board.memories if m.name == name)


def holds(found: MemoryRegion, address: int) -> bool:
    return found.origin <= address < found.origin + found.size


@each_toolchain
@each_board
def test_everything_is_where_the_plan_says_and_computes_the_same(name: str, toolchain: str) -> None:
    layout = laid_out(name)
    plan, board = layout.plan, layout.board
    front, kernels, weights = BOARDS[name]
    assert (plan.parts[0].memory, plan.placement.kernels) == (front, kernels)
    assert set(plan.placement.weights.values()) == weights
    here = machine(name, toolchain)
    elf = parse_elf(ladder.board_firmware(layout, toolchain).image)
    symbols = {op.variant.symbol for op in layout.graph.ops}
    code = region(board, kernels)
    if kernels == "ram" and board.ram_code is not None:
        code = MemoryRegion(board.ram_code, board.ram.size)
    assert all(holds(code, elf.symbol(symbol).address) for symbol in symbols)
    assert holds(board.flash, elf.symbol("random_step").address)
    suffix = "" if len(plan.parts) == 1 else f"_{front}"
    assert holds(region(board, front), elf.symbol(f"random_arena{suffix}").address)
    in_ram = holds(board.ram, elf.symbol("random_layer0_wq_codes").address)
    assert in_ram == bool(weights)
    assert not holds(board.ram, elf.symbol("random_embedding_codes").address)
    tokens = [1, *range(2, 60)]
    rung = dict(rung="rung 4", title=here.title)
    assert verify(here, layout.graph, plan, tokens, **rung).difference is None
    assert verify_prompt(here, layout.graph, plan, tokens[:20], **rung).difference is None


@each_board
def test_what_lies_elsewhere_is_zero_after_start(name: str) -> None:
    here, plan = machine(name, "zig"), laid_out(name).plan
    here.boot()
    for part in plan.parts:
        arena = (
            "random_arena"
            if part is plan.parts[-1] or part.end == plan.arena_bytes
            else f"random_arena_{part.memory}"
        )
        assert not any(here.read(here.address(arena), part.end - part.begin))


@pytest.mark.parametrize("name", ["pico", "nucleo-h743zi2", "esp32-c3-devkit"])
def test_only_what_was_placed_as_code_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A return, written behind the kernels' page or beside them, is data."""
    here = machine(name, "zig")
    here.boot()
    kernel = here.address(laid_out(name).graph.ops[0].variant.symbol)
    code = next((begin, size) for begin, size in here._elf.code if begin <= kernel < begin + size)
    behind = sum(code)
    data = behind if laid_out(name).board.ram_code is None else behind - 0x4038_0000 + 0x3FC8_0000
    here.write(data, b"\x70\x47" if name != "esp32-c3-devkit" else b"\x82\x80")
    monkeypatch.setattr(here, "address", lambda symbol: behind)
    with pytest.raises(FirmwareFault) as caught:
        here.call("anything")
    assert caught.value.kind == "execute-data"
    assert "which is not code" in caught.value.what


def test_the_profile_still_counts_by_function() -> None:
    here, layout = machine("pico", "zig"), laid_out("pico")
    here.boot()
    here.call("random_init")
    here.reset_profile()
    here.call("random_step", 1)
    counted = here.profile().instructions
    assert all(counted[op.variant.symbol] > 0 for op in layout.graph.ops if op.kernel == "rmsnorm_s16")
    assert sum(counted.values()) == here.profile().total


def test_a_memory_that_overflows_is_named() -> None:
    layout = laid_out("nucleo-h743zi2")
    itcm, dtcm = layout.board.memories
    small = dataclasses.replace(itcm, region=MemoryRegion(itcm.region.origin, 64))
    board = dataclasses.replace(layout.board, memories=(small, dtcm))
    with pytest.raises(
        DoesNotFitError, match=r"B of itcm; nucleo-h743zi2 has 64 B\n.*\n.*what the plan places there"
    ):
        layouts.make_firmware(dataclasses.replace(layout, board=board), "zig", ladder.COMMAND)
