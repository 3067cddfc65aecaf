"""mcugen bench: what is counted equals what other means count, the cycles' model, comparisons, the committed baseline."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ladder
import numpy as np
import pytest
import zoo
from click.testing import CliRunner, Result
from projects import require
from tools import missing

from mcugen import bench as benches
from mcugen import gemv, kernels
from mcugen.bench import Bench, bench, compare, parse_positions, part_of, read_bench
from mcugen.bench_report import bench_sheets, comparison_sheets, gemv_sheets
from mcugen.boards import list_boards, load_board
from mcugen.cli import mcugen
from mcugen.cores import CORES
from mcugen.cycles import COSTS, FLASH, estimate
from mcugen.emulate.instructions import Instruction, decode
from mcugen.emulate.machine import Emulator
from mcugen.emulate.machines import open_machine
from mcugen.errors import InputError, MismatchError, ToolError, UsageError
from mcugen.families import choose_family
from mcugen.integers import quantize_source
from mcugen.ir import Config
from mcugen.layout import Layout, lay_out, make_firmware
from mcugen.sources import open_source

BASELINE = Path(__file__).parent / "bench_baseline.json"
TOLERANCE = 0.01  # of a count in the baseline
# One board for each core that has kernels of its own; tests/test_matrix.py runs on every board.
EMULATED = [
    "mps2-an383", "mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "nucleo-f446re", "qemu-virt-rv32",
]  # fmt: skip
QUICK = "nucleo-f446re"
BY_BOARD = [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EMULATED]
SHAPE = Config(48, 172, 2, 6, 2, 300, 16, False)


@functools.cache
def counted(board: str = QUICK, first: int = 0, last: int = 9, config: Config = SHAPE) -> Bench:
    layout = ladder.laid_out(config, config.seq_len, board=board)
    try:
        return bench(layout, ladder.board_firmware(layout), first, last)
    except ToolError as error:
        missing(str(error))


def started(layout: Layout, watch: bool) -> Emulator:
    machine = open_machine(ladder.board_firmware(layout), watch_accesses=watch)
    machine.boot()
    machine.call("random_init")
    machine.reset_profile()
    return machine


def failed(kind: type[Exception], text: str, function: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert str(caught.value) == text


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("board", BY_BOARD)
def test_the_counts_are_those_of_the_same_steps_without_an_observer(board: str) -> None:
    found = counted(board)
    layout = ladder.laid_out(SHAPE, 16, board=board)
    machine = started(layout, watch=False)
    totals = []
    token = layout.tokenizer.bos
    for _ in range(16):
        before = machine.instructions()
        logits = machine.read(machine.call("random_step", token), 4 * SHAPE.vocab_size)
        totals.append(machine.instructions() - before)
        token = int(np.frombuffer(logits, "<i4").argmax())
    machine.close()
    assert found.mean == sum(totals[:10]) / 10
    assert found.at == {0: totals[0]}  # a context of 16
    assert sum(op.instructions for op in found.ops) == pytest.approx(found.mean, rel=1e-12)
    assert sum(found.functions.values()) == pytest.approx(found.mean, rel=1e-12)
    assert sum(found.parts.values()) == pytest.approx(found.mean, rel=1e-12)


@pytest.mark.parametrize("board", BY_BOARD)
def test_an_op_costs_its_kernel_and_little_more(board: str) -> None:
    """The functions are counted by address, the ops by time."""
    found = counted(board)
    family = choose_family(load_board(board).features)
    for part, kernel in (("head", "linear_s32"), ("attention", "attention_s16"), ("SwiGLU", "swiglu_s16")):
        alone = found.functions[family.variant(kernel).symbol]
        assert alone < found.parts[part]
        if family.name == "portable" and board != "mps2-an383":  # there, long products are functions of their own
            calls = sum(op.part == part for op in found.ops)
            assert found.parts[part] < alone + 40 * calls


def test_the_mean_is_over_the_positions_that_are_named() -> None:
    singles = [counted(first=position, last=position) for position in (3, 4, 5)]
    found = counted(first=3, last=5)
    assert found.mean == sum(single.mean for single in singles) / 3
    assert found.positions == "3-5"
    for op, *same in zip(found.ops, *(single.ops for single in singles), strict=True):
        assert op.instructions == pytest.approx(sum(one.instructions for one in same) / 3)
    means = [single.mean for single in singles]
    assert means == sorted(means), "attention sees one token more at each position"


def test_positions_beyond_the_context_turn_the_keys_back() -> None:
    """max_position is 2 * 16: the 33rd token finds the ring turned back."""
    layout = ladder.laid_out(SHAPE, 16)
    assert layout.graph.model.max_position == 32
    turned, plain = counted(first=32, last=32), counted(first=31, last=31)
    assert "re-basing" in turned.parts
    assert "re-basing" not in plain.parts
    assert turned.mean == pytest.approx(plain.mean + turned.parts["re-basing"], rel=0.01)


def test_a_prompt_costs_less_than_steps_for_it_has_no_logits() -> None:
    found = counted(first=0, last=15)
    assert (found.prompt.tokens, found.prompt.batch) == (16, 1)
    head = found.parts["head"]
    assert found.mean - 1.3 * head < found.prompt.instructions < found.mean - head


@pytest.mark.parametrize("name", ["nucleo-f446re", "mps2-an383", "qemu-virt-rv32"])
def test_loads_stores_and_stack_are_those_that_the_emulator_watches(name: str) -> None:
    """Cores without IT blocks execute every access that they decode; others may skip one."""
    layout = ladder.laid_out(SHAPE, 16, board=name)
    machine = started(layout, watch=True)
    machine.call("random_step", layout.tokenizer.bos)
    profile, executions = machine.profile(), machine.executions()
    riscv = CORES[layout.board.core].family == "riscv"
    accesses = {"load": 0, "store": 0}
    for address, times in executions.items():
        instruction = decode(machine.read(address, 4), riscv)
        for kind in accesses:
            if instruction.kind.startswith(kind):
                accesses[kind] += times * (instruction.words or 1)
    machine.close()
    assert sum(executions.values()) == profile.total == counted(name, 0, 0).at[0]
    assert profile.loads is not None and profile.stores is not None
    if layout.board.core == "cortex-m4":
        assert profile.loads <= accesses["load"] <= 1.01 * profile.loads
    else:
        assert (accesses["load"], accesses["store"]) == (profile.loads, profile.stores)
    assert counted(name, 0, 0).stack_bytes >= (profile.stack_bytes or 0)
    assert counted(name, 0, 0).stack_bytes <= counted(name, 0, 0).stack_reserved


def test_the_stack_is_what_the_deepest_step_writes() -> None:
    layout = ladder.laid_out(SHAPE, 16)
    machine = started(layout, watch=True)
    token = layout.tokenizer.bos
    for _ in range(16):
        logits = machine.read(machine.call("random_step", token), 4 * SHAPE.vocab_size)
        token = int(np.frombuffer(logits, "<i4").argmax())
    assert counted(first=0, last=15).stack_bytes == machine.profile().stack_bytes
    machine.close()


@pytest.mark.parametrize("bits", [8, 4])
def test_every_op_has_a_part_and_every_matrix_a_row(bits: int) -> None:
    model = dataclasses.replace(zoo.quantized(SHAPE, 0, bits), name="random")
    layout = lay_out(model, zoo.random_tokenizer(300), ladder.NUCLEO, 16)
    for op in (*layout.graph.ops, *layout.graph.rebase):
        assert part_of(op) in benches.PARTS
    found = bench(layout, ladder.board_firmware(layout), 0, 0)
    assert found.weights == f"int{bits}"
    assert sum(matrix.calls for matrix in found.matrices) == 7 * SHAPE.n_layers + 1
    shapes = {(name, m.rows, m.cols, m.bits) for m in found.matrices for name in m.matrices}
    assert shapes == {
        ("wq", 48, 48, bits), ("wk", 16, 48, bits), ("wv", 16, 48, bits), ("wo", 48, 48, bits),
        ("w1", 172, 48, bits), ("w3", 172, 48, bits), ("w2", 48, 172, bits), ("logits", 300, 48, 8),
    }  # fmt: skip
    total = sum(m.calls * m.rows * m.cols * m.per_mac for m in found.matrices)
    gemv_parts = sum(found.parts[part] for part in ("QKV", "O", "gate+up", "down", "head"))
    assert total == pytest.approx(gemv_parts)
    assert {(block.n, block.calls) for block in found.blocks} == {(48, 3 * SHAPE.n_layers + 1), (172, SHAPE.n_layers)}


def test_a_wrong_logit_ends_the_count() -> None:
    right, other = ladder.laid_out(SHAPE, 16), ladder.laid_out(SHAPE, 16, seed=1)
    with pytest.raises(MismatchError) as caught:
        bench(right, ladder.board_firmware(other), 0, 0)
    expected, observed = (
        int(np.asarray(benches.Simulator(layout.graph).feed([layout.tokenizer.bos]))[0, 0])
        for layout in (right, other)
    )
    assert str(caught.value) == (
        f"nucleo-f446re in unicorn differs from the simulator at token 0, logits[0]: {observed}, not {expected}\n"
        "  where: bench\n"
        "  try:   mcugen verify names the op"
    )


NO_EMULATOR = (
    "instructions are counted in an emulator, and the host has none\n  where: --board\n  try:   name a board"
)


def test_the_host_is_not_counted() -> None:
    layout = ladder.laid_out(SHAPE, 16, board="host")
    failed(UsageError, NO_EMULATOR, bench, layout, ladder.nucleo_firmware(ladder.laid_out(SHAPE, 16)), 0, 0)
    failed(UsageError, NO_EMULATOR, gemv.gemv_bench, ladder.HOST, "auto")


def test_positions_are_a_range() -> None:
    assert parse_positions("0-63") == (0, 63)
    assert parse_positions("5") == (5, 5)
    assert parse_positions("600-65535") == (600, 65535)
    for text in ("", "-", "3-2", "0-65536", "1-2-3", "a", "-3", "1 - 2", "٣"):
        failed(
            UsageError,
            f"{text!r} is no range of positions from 0 to 65535\n"
            "  where: --positions\n"
            "  try:   write the first and the last one, as in 0-63",
            parse_positions,
            text,
        )


# ---------------------------------------------------------------- instructions and cycles

THUMB = [
    ((0x6808,), Instruction(2, "load")),  # ldr r0, [r1]
    ((0x8008,), Instruction(2, "store")),  # strh r0, [r1]
    ((0x5E88,), Instruction(2, "load")),  # ldrsh r0, [r1, r2]
    ((0x5488,), Instruction(2, "store")),  # strb r0, [r1, r2]
    ((0x4801,), Instruction(2, "load")),  # ldr r0, [pc, #4]
    ((0x4348,), Instruction(2, "multiply")),  # muls r0, r1
    ((0xB5F0,), Instruction(2, "store words", 5)),  # push {r4-r7, lr}
    ((0xBDF0,), Instruction(2, "load words", 5, returns=True)),  # pop {r4-r7, pc}
    ((0xBC30,), Instruction(2, "load words", 2)),  # pop {r4, r5}
    ((0xC90E,), Instruction(2, "load words", 3)),  # ldm r1, {r1-r3}
    ((0xC1F0,), Instruction(2, "store words", 4)),  # stm r1!, {r4-r7}
    ((0xD1FC,), Instruction(2, "jump back")),  # bne back
    ((0xD004,), Instruction(2, "jump ahead")),  # beq ahead
    ((0xDF00,), Instruction(2, "other")),  # svc
    ((0xB120,), Instruction(2, "jump ahead")),  # cbz r0
    ((0xE7FE,), Instruction(2, "jump")),  # b .
    ((0x4770,), Instruction(2, "jump")),  # bx lr
    ((0x4687,), Instruction(2, "jump")),  # mov pc, r0
    ((0x4680,), Instruction(2, "other")),  # mov r8, r0
    ((0xBF00,), Instruction(2, "other")),  # nop
    ((0xF000, 0xF800), Instruction(4, "jump")),  # bl
    ((0xF43F, 0xAFFE), Instruction(4, "jump back")),  # beq.w back
    ((0xF000, 0x8002), Instruction(4, "jump ahead")),  # beq.w ahead
    ((0xF3BF, 0x8F5F), Instruction(4, "other")),  # dmb
    ((0xF100, 0x0001), Instruction(4, "other")),  # add.w
    ((0xE8BD, 0x81F0), Instruction(4, "load words", 6, returns=True)),  # pop.w {r4-r8, pc}
    ((0xE92D, 0x41F0), Instruction(4, "store words", 6)),  # push.w {r4-r8, lr}
    ((0xE9D1, 0x2300), Instruction(4, "load words", 2)),  # ldrd r2, r3, [r1]
    ((0xE8F1, 0x2302), Instruction(4, "load words", 2)),  # ldrd r2, r3, [r1], #8
    ((0xE8DF, 0xF001), Instruction(4, "jump")),  # tbb [pc, r1]
    ((0xF8D1, 0x0004), Instruction(4, "load")),  # ldr.w
    ((0xF8A1, 0x0004), Instruction(4, "store")),  # strh.w
    ((0xFB01, 0xF002), Instruction(4, "multiply")),  # mul
    ((0xFB01, 0x3002), Instruction(4, "accumulate")),  # mla
    ((0xFB21, 0x3002), Instruction(4, "accumulate")),  # smlad
    ((0xFB51, 0xF012), Instruction(4, "multiply")),  # smmulr
    ((0xFB81, 0x2003), Instruction(4, "long multiply")),  # smull
    ((0xFBB1, 0xF0F2), Instruction(4, "divide")),  # udiv
    ((0xFA0F, 0xF081), Instruction(4, "other")),  # sxth.w
    ((0xF00F, 0xC00B), Instruction(4, "loop end")),  # le lr
    ((0xF04E, 0xE001), Instruction(4, "other")),  # dls lr, lr
    ((0xEEF2, 0x0E06), Instruction(4, "vector")),  # vmladav
    ((0xEC92, 0x1E00), Instruction(4, "vector")),  # vldrb
    ((0xFC31, 0x1E04), Instruction(4, "vector")),  # vector load, post-indexed
]
RISCV = [
    ((0x4188,), Instruction(2, "load")),  # c.lw a0, 0(a1)
    ((0xC188,), Instruction(2, "store")),  # c.sw
    ((0x4502,), Instruction(2, "load")),  # c.lwsp
    ((0xC02A,), Instruction(2, "store")),  # c.swsp
    ((0x8082,), Instruction(2, "jump")),  # ret
    ((0x9502,), Instruction(2, "jump")),  # c.jalr a0
    ((0x852E,), Instruction(2, "other")),  # c.mv a0, a1
    ((0x952E,), Instruction(2, "other")),  # c.add a0, a1
    ((0x9002,), Instruction(2, "other")),  # c.ebreak
    ((0xA001,), Instruction(2, "jump")),  # c.j
    ((0x2001,), Instruction(2, "jump")),  # c.jal
    ((0xDD7D,), Instruction(2, "jump back")),  # c.beqz back
    ((0xC101,), Instruction(2, "jump ahead")),  # c.beqz ahead
    ((0x0583, 0x0005), Instruction(4, "load")),  # lb a1, 0(a0)
    ((0x0023, 0x00B5), Instruction(4, "store")),  # sb a1, 0(a0)
    ((0x9CE3, 0xFEB5), Instruction(4, "jump back")),  # bne back
    ((0x1463, 0x00B5), Instruction(4, "jump ahead")),  # bne ahead
    ((0x00EF, 0x0000), Instruction(4, "jump")),  # jal
    ((0x0533, 0x02B5), Instruction(4, "multiply")),  # mul
    ((0x1533, 0x02B5), Instruction(4, "long multiply")),  # mulh
    ((0x4533, 0x02B5), Instruction(4, "divide")),  # div
    ((0x0533, 0x00B5), Instruction(4, "other")),  # add
]


@pytest.mark.parametrize(
    ("code", "expected", "riscv"), [(*case, False) for case in THUMB] + [(*case, True) for case in RISCV]
)
def test_instructions_are_what_the_manuals_say(code: tuple[int, ...], expected: Instruction, riscv: bool) -> None:
    halves = b"".join(half.to_bytes(2, "little") for half in code)
    assert decode(halves.ljust(4, b"\xff"), riscv) == expected


def test_every_core_has_a_cost_and_low_is_below_high() -> None:
    assert set(COSTS) == set(CORES) - {"host"}
    for cost in COSTS.values():
        assert all(0 <= low <= high for low, high in (*cost.kinds.values(), cost.word))
    ports = {board.port for board in list_boards()}
    assert set(FLASH) <= ports


def test_flash_waits_as_the_board_files_say() -> None:
    for board in list_boards():
        if board.port in FLASH:
            cost = FLASH[board.port]
            stated = int(board.facts["wait_states"].split()[0])  # of the flash's clock
            assert cost.wait(board.clock_hz) == stated * cost.ratio


def test_cycles_of_a_mix_that_was_added_by_hand() -> None:
    """Cortex-M4: sums 1, loads 1 to 2, POP {r4, r5, pc} 1 + 3 and the pipeline; 5 of 16 bytes; M0+ for comparison."""
    mix = {
        Instruction(2, "other"): 10.0,
        Instruction(4, "accumulate"): 4.0,
        Instruction(2, "load"): 3.0,
        Instruction(2, "load words", 3, returns=True): 1.0,
        Instruction(2, "jump back"): 2.0,
    }
    m4 = estimate(load_board("nucleo"), mix, 64.0)
    assert m4.low == 10 + 4 + 3 * 1 + (1 + 3 + 2) + 2 * 2
    assert m4.high == 10 + 4 + 3 * 2 + (1 + 3 + 4) + 2 * 4 + 64 / 16 * 5
    m0 = estimate(load_board("mps2-an383"), mix, 64.0)
    assert (m0.low, m0.high) == (10 + 4 + 6 + (1 + 3 + 2) + 4, 10 + 4 + 6 + (1 + 3 + 3) + 4)
    m7 = estimate(load_board("mps2-an500"), mix, 64.0)
    assert m7.low == 5 + 2 + 1.5 + (1.5 + 0.5) + 1
    assert m4.model == (
        "an estimate, not measured on hardware; cortex-m4: Arm DDI 0439, table of instruction timings; low: no wait "
        "for flash, high: for every line of weights; RM0390 section 3.4: lines of 128 bits, 5 wait states at 180 MHz"
    )
    assert m0.model.endswith("the multiplier of one cycle; memory without wait states")


def test_the_estimate_is_about_what_was_executed() -> None:
    found = counted()
    assert found.mean < found.cycles.low < found.cycles.high < 3 * found.mean
    low, high = found.tokens_per_second(1e6)
    assert (low, high) == (1e6 / found.cycles.high, 1e6 / found.cycles.low)


# ---------------------------------------------------------------- matrix kernels


def test_matrix_kernels_are_counted_by_shape() -> None:
    found = gemv.gemv_bench(load_board(QUICK), "zig")
    assert len(found.costs) == len(gemv.SHAPES) * len(gemv.WEIGHTS) * len(gemv.TOKENS)
    table = gemv.per_mac(found.costs)
    assert set(table) == set(gemv.SHAPES)
    for cost in found.costs:
        assert cost.per_mac == cost.instructions / (cost.rows * cost.cols) > 0
        assert 0 < cost.block < 40 * cost.cols
    for cells in table.values():
        assert all(cells[weights, 4] < 1.05 * cells[weights, 1] for weights in gemv.WEIGHTS), "per token, both"
    # A model's matrix of that shape costs the same, but for what differs between the calls.
    model = counted(config=dataclasses.replace(SHAPE, dim=64, n_heads=8, n_kv_heads=8))
    in_model = next(m for m in model.matrices if "wq" in m.matrices)
    alone = next(c for c in found.costs if (c.rows, c.cols, c.weights, c.tokens) == (64, 64, "int8", 1))
    assert 0 <= in_model.instructions - alone.instructions < 80  # arguments, the call, mg_op_done


def test_what_the_flash_cannot_hold_is_left_out() -> None:
    board = load_board(QUICK)
    small = dataclasses.replace(board, flash=dataclasses.replace(board.flash, size=64 * 1024))
    found = {(cost.rows, cost.cols, cost.weights) for cost in gemv.gemv_bench(small, "zig").costs}
    assert (64, 64, "int8") in found and (288, 288, "int4") in found
    assert (288, 288, "int8") not in found and (768, 288, "int4") not in found
    sheet = gemv_sheets(gemv.gemv_bench(small, "zig"))[0]
    assert next(row for row in sheet.rows if row[0] == "288x288")[1:3] == ("-", "-")


def test_a_wrong_product_ends_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.linear4_s16

    def wrong(*arguments: Any) -> np.ndarray:
        y = right(*arguments)
        y[0, 5] += 1
        return y

    w = gemv.random_linear(64, 64, "int4")
    inputs = np.random.default_rng([64, 64, 1]).integers(-20_000, 20_001, (1, 64)).astype(np.int16)
    y = int(right(*kernels.block_s8(inputs), w)[0, 5])
    monkeypatch.setattr(kernels, "linear4_s16", wrong)
    symbol = choose_family(load_board(QUICK).features).variant("linear4_s16").symbol
    firmware = gemv.compile_project(
        gemv.gemv_project(load_board(QUICK), choose_family(load_board(QUICK).features)), "zig"
    )
    failed(
        MismatchError,
        f"{symbol} differs from its numpy twin on 64x64 int4, token 0, row 5: {y}, not {y + 1}\n"
        f"  where: nucleo-f446re in unicorn ({firmware.toolchain})\n"
        "  try:   compare linear4_s16 with its numpy twin: pytest tests/test_kernels.py -k linear4_s16",
        gemv.gemv_bench,
        load_board(QUICK),
        "zig",
    )


@pytest.mark.parametrize("weights", gemv.WEIGHTS)
def test_the_random_matrices_keep_the_bounds_and_seldom_saturate(weights: str) -> None:
    for rows, cols in gemv.SHAPES:
        w = gemv.random_linear(rows, cols, weights)
        assert kernels.accumulator_bound(w) < 2 ** (w.shift - 1)
        inputs = np.random.default_rng([rows, cols, 4]).integers(-20_000, 20_001, (4, cols)).astype(np.int16)
        y = kernels.linear_s16(*kernels.block_s8(inputs), w)
        assert 300 < np.abs(y.astype(int)).mean() < 20_000
        assert (np.abs(y.astype(int)) >= 32_767).mean() < 0.05


# ---------------------------------------------------------------- comparing


def test_ratios_are_new_by_old() -> None:
    new = counted().to_json()
    same = compare(new, json.loads(json.dumps(new)))
    assert same["mean"] == same["prompt"] == same["flash_bytes"] == same["ram_bytes"] == 1
    assert set(same["parts"]) == set(counted().parts) and set(same["parts"].values()) == {1}
    assert (same["at"], same["changed"]) == ({"0": 1}, {})
    old = json.loads(json.dumps(new))
    old["instructions_per_token"]["mean"] *= 2
    old["instructions_per_token"]["at"] = {"0": 4 * new["instructions_per_token"]["at"]["0"], "63": 1}
    old["parts"]["O"]["instructions"] *= 5
    old["flash_bytes"] *= 8
    old["toolchain"] = "another"
    found = compare(new, old)
    assert (found["mean"], found["at"], found["flash_bytes"], found["ram_bytes"]) == (0.5, {"0": 0.25}, 0.125, 1)
    assert found["parts"]["O"] == pytest.approx(0.2)
    assert found["parts"]["QKV"] == 1
    assert found["changed"] == {"toolchain": ["another", counted().toolchain]}
    sheet = comparison_sheets(found, "old.json")[0]
    assert sheet.rows[:2] == (("instructions per token", "0.500"), ("  at position 0", "0.250"))
    assert sheet.note == f"toolchain: another before, now {counted().toolchain}"


@pytest.mark.parametrize(
    ("key", "value"), [("board", "mps2-an385"), ("model", "other"), ("context", 8), ("positions", "0-8")]
)
def test_results_of_different_things_are_not_compared(key: str, value: object) -> None:
    new = counted().to_json()
    old = json.loads(json.dumps(new))
    place = old["instructions_per_token"] if key == "positions" else old
    before, place[key] = place[key], value
    failed(
        UsageError,
        f"the result to compare with is of {key} {value}, not {before}\n"
        "  where: --compare\n"
        f"  try:   make both with the same {key}",
        compare,
        new,
        old,
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        ("", "it is no result of mcugen bench --json"),
        ("[]", "it is no result of mcugen bench --json"),
        ('{"board": "x"}', "it is no result of mcugen bench --json"),
    ],
)
def test_a_file_to_compare_with_must_be_a_result(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    failed(
        InputError,
        f"{path} cannot be read: {why}\n  where: --compare\n  try:   mcugen bench --json > FILE makes one",
        read_bench,
        path,
    )


# ---------------------------------------------------------------- the command


def cli(*arguments: object) -> Result:
    ladder.require_unicorn()
    require("zig", ladder.NUCLEO)
    return CliRunner().invoke(mcugen, ["bench", *map(str, arguments)], catch_exceptions=False)


def test_the_command_prints_what_was_counted(tmp_path: Path) -> None:
    result = cli("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert sorted(found) == [
        "blocks", "board", "clock_hz", "context", "core", "cycles", "family", "flash_bytes", "functions", "gemv",
        "instructions_per_token", "model", "ops", "parts", "prompt", "ram_bytes", "stack_bytes", "tokens_per_second",
        "tokens_per_second_per_mhz", "toolchain", "weights",
    ]  # fmt: skip
    assert found["instructions_per_token"]["positions"] == "0-63"
    assert list(found["instructions_per_token"]["at"]) == ["0", "127", "255", "63"]
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    old = tmp_path / "old.json"
    old.write_text(result.stdout)
    again = json.loads(cli("--json", "--compare", old).stdout)
    assert again["new_to_old"]["mean"] == 1
    assert {**again, "new_to_old": 0} == {**found, "new_to_old": 0}, "counts repeat"
    shown = cli("--compare", old).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert f"{found['instructions_per_token']['mean']:,.0f}, the mean of positions 0 to 63" in shown
    assert "instructions per token │ 1.000" in shown
    assert "an estimate, not measured on hardware" in shown


def test_the_command_measures_matrix_kernels(tmp_path: Path) -> None:
    found = json.loads(cli("--gemv", "--json").stdout)
    assert sorted(found) == ["board", "core", "family", "gemv", "toolchain"]
    assert len(found["gemv"]) == 36
    shown = cli("--gemv").stdout
    assert max(map(len, shown.splitlines())) <= 80
    for arguments, what in ((("model.bin",), "model"), (("--compare", tmp_path / "a"), "--compare")):
        result = cli(*arguments, "--gemv")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            f"Error: --gemv takes no {what}: its shapes are fixed\n  where: bench\n  try:   leave one of them out\n"
        )


def test_tables_have_a_cell_for_every_column() -> None:
    for sheet in (*bench_sheets(counted()), *gemv_sheets(gemv.gemv_bench(load_board(QUICK), "zig"))):
        assert all(len(row) == (len(sheet.columns) or 2) for row in sheet.rows)
    layers = bench_sheets(counted())[2]
    assert sum(float(row[-1].replace(",", "")) for row in layers.rows) == pytest.approx(
        counted().mean / 1000, abs=0.3
    )


# ---------------------------------------------------------------- the baseline


def baseline_model(board: str, model: str) -> dict[str, float]:
    stories = (zoo.DATA / "stories260K.bin", zoo.DATA / "tok512.bin") if model == "stories260K" else (None, None)
    if stories[0] is not None and not stories[0].exists():
        pytest.skip("stories260K.bin is not here")
    source = open_source(*stories)
    layout = lay_out(quantize_source(source, None), source.tokenizer, load_board(board))
    found = bench(layout, make_firmware(layout, "zig", "mcugen bench"), 0, 63)
    at = {f"at {position}": float(count) for position, count in found.at.items()}
    return {"mean": round(found.mean, 1), **at, "prompt": round(found.prompt.instructions, 1)}


def baseline_gemv(board: str) -> dict[str, float]:
    return {
        f"{cost.rows}x{cost.cols} {cost.weights}, tokens {cost.tokens}": round(cost.instructions, 1)
        for cost in gemv.gemv_bench(load_board(board), "zig").costs
    }


MEASURED: Mapping[str, Callable[[str], dict[str, float]]] = {
    "home": lambda board: baseline_model(board, "home"),
    "stories260K": lambda board: baseline_model(board, "stories260K"),
    "gemv": baseline_gemv,
}


def update(board: str, what: str, toolchain: str, counts: dict[str, float]) -> None:
    """Write one entry; several processes may do so at a time."""
    with BASELINE.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = json.loads(file.read() or "{}")
        boards = content.get("boards", {})
        boards.setdefault(board, {})[what] = counts
        file.truncate(0)
        file.write(json.dumps({"toolchain": toolchain, "boards": boards}, indent=1, sort_keys=True) + "\n")


def grown(counts: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """What is more than 1 % above the baseline, or has none."""
    return [
        f"{key}: {count:,.0f}, {f'{count / before[key] - 1:+.1%}' if key in before else 'not in the baseline'}"
        for key, count in counts.items()
        if key not in before or count > (1 + TOLERANCE) * before[key]
    ]


@pytest.mark.parametrize("what", MEASURED)
@pytest.mark.parametrize("board", BY_BOARD)
def test_no_count_grows_by_more_than_1_percent(
    board: str, what: str, update_golden: bool, record_property: Callable[[str, object], None]
) -> None:
    """tests/bench_baseline.json has the counts; what may change them: kernels, the generated calls, the compiler."""
    toolchain = require("zig", load_board(board)).title
    try:
        counts = MEASURED[what](board)
    except ToolError as error:
        missing(str(error))
    if update_golden:
        update(board, what, toolchain, counts)
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    how = "where it must be: pytest tests/test_bench.py --update-golden"
    assert baseline["toolchain"] == toolchain, how
    before = baseline["boards"].get(board, {}).get(what, {})
    assert not grown(counts, before), f"{board}, {what}: {how}"
    assert set(before) <= set(counts), how
    shrunk = [key for key, count in counts.items() if count < (1 - TOLERANCE) * before[key]]
    if shrunk:
        record_property("hint", f"{board}, {what}: {len(shrunk)} counts shrank by more than 1 %; pytest "
                                "tests/test_bench.py --update-golden keeps them")  # fmt: skip


def test_growth_is_seen() -> None:
    before = {"mean": 1000.0, "prompt": 500.0}
    assert grown({"mean": 1010.0, "prompt": 400.0}, before) == []
    assert grown({"mean": 1011.0, "prompt": 600.0}, before) == ["mean: 1,011, +1.1%", "prompt: 600, +20.0%"]
    assert grown({"new": 1.0}, before) == ["new: 1, not in the baseline"]


def test_the_baseline_has_every_emulated_board() -> None:
    found = json.loads(BASELINE.read_text(encoding="utf-8"))["boards"]
    assert sorted(found) == sorted(EMULATED)
    assert all(set(entry) == set(MEASURED) for entry in found.values())
