"""The upper rungs: the host build with sanitizers, and the ELF that is flashed, against the simulator, op by op.

Then the ladder itself is tested: faults are planted, and must be found and named.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Sequence

import ladder
import numpy as np
import pytest
import test_layouts
import zoo
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcugen import families, integers, plan, sources
from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen.ctext import identifier
from mcugen.emulate.host import HostMachine
from mcugen.emulate.machine import FirmwareFault, Machine, Region, Regions
from mcugen.errors import MismatchError
from mcugen.families import Family
from mcugen.ir import Config, Difference, Firmware, Graph, Linear, Plan, Project, VerificationReport
from mcugen.layout import Layout
from mcugen.lower import lower
from mcugen.packing import pack
from mcugen.simulate import Simulator, record, simulate
from mcugen.verify import AFTER_A_PROMPT, AFTER_THE_OPS, BEFORE_THE_OPS, mismatch, op_regions, verify, verify_prompt

SMALL = Config(16, 12, 2, 4, 2, 20, 8, False)  # max_position is 16
CONTEXT = 6


def tokens_for(layout: Layout, count: int) -> list[int]:
    return zoo.random_tokens(layout.graph.model.config, count, seed=3).tolist()


def climb(machine: Machine, layout: Layout, count: int, title: str = "machine") -> VerificationReport:
    try:
        return verify(machine, layout.graph, layout.plan, tokens_for(layout, count), rung="rung", title=title)
    finally:
        machine.close()


def all_values(graph: Graph, count: int) -> int:
    """How many integers the ops write for `count` tokens, and those of the ring that tokens have reached by the end of
    each chunk of 50."""
    per_token = sum(
        int(np.prod(graph.buffers[name].shape)) // (graph.context if op.row else 1)
        for op in graph.ops
        for name in op.outputs
    )
    slot = sum(buffer.shape[1] for buffer in graph.buffers.values() if buffer.state)
    ends = (min(end, count) for end in range(50, count + 50, 50))
    return count * per_token + sum(slot * min(end, graph.context) for end in ends)


def rebasings(graph: Graph, count: int) -> int:
    return len(simulate(graph, [1] * count).rebased)


# ---------------------------------------------------------------- every shape, op by op


MACHINES: dict[str, Callable[[Layout], Machine]] = {"host": ladder.host_machine, "nucleo": ladder.nucleo_machine}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("board", MACHINES)
@zoo.shapes()
def test_every_op_and_every_byte_of_the_ring_are_equal(config: Config, board: str, bits: int) -> None:
    """Two and more re-basings, a dozen wraps of the ring, a context that is not the trained one, three chunks."""
    machine = MACHINES[board]
    layout = ladder.laid_out(config, max(1, config.seq_len - 3), board=board, bits=bits)
    count = max(110, 4 * config.seq_len)
    assert rebasings(layout.graph, count) >= 2
    report = climb(machine(layout), layout, count)
    assert report.difference is None
    assert report.tokens == count
    assert report.ops == len(layout.graph.ops)
    assert report.values == all_values(layout.graph, count)


@pytest.mark.parametrize("context", [1, 8])
def test_a_ring_of_one_slot_and_one_of_the_trained_length(context: int) -> None:
    layout = ladder.laid_out(SMALL, context, board="host")
    assert climb(ladder.host_machine(layout), layout, 60).difference is None


@pytest.mark.slow
def test_gcc_makes_the_same_numbers_for_the_board() -> None:
    layout = ladder.laid_out(SMALL, CONTEXT)
    assert climb(ladder.nucleo_machine(layout, "gcc"), layout, 60).difference is None


@pytest.mark.slow
@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=zoo.configs(), seed=st.integers(0, 99), data=st.data())
def test_every_op_of_many_shapes_is_equal_on_the_host(config: Config, seed: int, data: st.DataObject) -> None:
    layout = any_layout(config, seed, "host", data)
    count = 4 * config.seq_len + 3
    assert rebasings(layout.graph, count) >= 1
    assert climb(ladder.host_machine(layout), layout, count).difference is None
    assert prompted(ladder.host_machine(layout), layout, min(count, 100)).difference is None


@pytest.mark.slow
@settings(max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=zoo.configs(), seed=st.integers(100, 199), data=st.data())
def test_every_op_of_many_shapes_is_equal_on_the_board(config: Config, seed: int, data: st.DataObject) -> None:
    layout = any_layout(config, seed, "nucleo", data)
    assert climb(ladder.nucleo_machine(layout), layout, 4 * config.seq_len + 3).difference is None
    assert prompted(ladder.nucleo_machine(layout), layout, 100).difference is None


def any_layout(config: Config, seed: int, board: str, data: st.DataObject) -> Layout:
    context, batch = data.draw(st.integers(1, config.seq_len), "context"), data.draw(st.integers(1, 8), "batch")
    if board != "host" and config.hidden_dim % 2:
        batch = 1  # see lower
    bits = data.draw(st.sampled_from([8, 4]), "bits")
    return ladder.laid_out(config, context, seed=seed, board=board, bits=bits, batch=batch)


# ---------------------------------------------------------------- prompts read at once


def prompted(machine: Machine, layout: Layout, count: int, title: str = "machine") -> VerificationReport:
    tokens = tokens_for(layout, count)
    try:
        return verify_prompt(machine, layout.graph, layout.plan, tokens, rung="rung", title=title)
    finally:
        machine.close()


@pytest.mark.parametrize("board", MACHINES)
@pytest.mark.parametrize("batch", range(1, 9))
def test_a_prompt_leaves_what_its_tokens_leave_one_by_one(board: str, batch: int) -> None:
    """One token; as many as one pass takes, and one more; to the end of the ring and past it, through re-basings."""
    layout = ladder.laid_out(SMALL, CONTEXT, board=board, batch=batch, bits=8 if batch % 2 else 4)
    firmware = ladder.host_library(layout) if board == "host" else ladder.nucleo_firmware(layout)
    slot = sum(buffer.shape[1] for buffer in layout.graph.buffers.values() if buffer.state)
    for count in (1, 2, batch, batch + 1, CONTEXT - 1, CONTEXT, CONTEXT + 1, 2 * batch + 1, 40):
        machine = HostMachine(firmware, sanitize=True) if board == "host" else ladder.CortexM(firmware)
        report = prompted(machine, layout, count)
        assert report.difference is None, count
        assert (report.tokens, report.ops) == (count, len(layout.graph.ops))
        assert report.values == slot * min(count, CONTEXT) + SMALL.vocab_size
        assert report.machine == ("machine, prompts" if batch == 1 else f"machine, prompts {batch} tokens at once")


@pytest.mark.parametrize("bits", [8, 4])
@zoo.shapes()
def test_prompts_of_every_shape(config: Config, bits: int) -> None:
    """The batch is larger than some contexts."""
    layout = ladder.laid_out(config, max(1, config.seq_len - 3), board="host", bits=bits, batch=8)
    for count in (config.seq_len - 2, 4 * config.seq_len + 3):
        assert prompted(ladder.host_machine(layout), layout, count).difference is None


@pytest.mark.parametrize("board", MACHINES)
def test_steps_after_a_prompt_and_prompts_after_steps(board: str) -> None:
    """Reading goes on where the ring is, whoever filled it; and a reset forgets."""
    layout = ladder.laid_out(SMALL, CONTEXT, board=board, batch=3)
    name, graph = layout.name, layout.graph
    machine = MACHINES[board](layout)
    machine.boot()
    machine.call(f"{name}_init")
    prompt = machine.address(f"{name}_prompt")
    tokens = tokens_for(layout, 30)

    def feed(steps: Sequence[int]) -> np.ndarray:
        """Take tokens in parts, the odd ones by read, the others by step; the logits of one more step."""
        at = 0
        for index, count in enumerate(steps):
            if index % 2:
                machine.write(prompt, np.array(tokens[at : at + count], "<u2").tobytes())
                machine.call(f"{name}_read", prompt, count)
            else:
                for token in tokens[at : at + count]:
                    machine.call(f"{name}_step", token)
            at += count
        machine.call(f"{name}_step", tokens[at])
        address = machine.address(f"{name}_arena") + layout.plan.offsets[graph.logits]
        return np.frombuffer(machine.read(address, 4 * SMALL.vocab_size), "<i4")

    for steps in ((2, 3), (0, 2, 1, 2), (1, 4, 1, 7), (0, 5, 2, 0, 3, 12), (0, 0, 0)):
        expected = simulate(graph, tokens[: sum(steps) + 1]).outputs[-1][0][-1]
        np.testing.assert_array_equal(feed(steps), expected)
        machine.call(f"{name}_reset")
    machine.close()


# ---------------------------------------------------------------- buffers that lie as a kernel family wants them


class InLayouts:
    """A machine that computes what the simulator computes, and keeps every buffer as its layout says: written element
    by element, padding and slots that no token has reached hold anything."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._graph, self._plan = graph, plan
        self._simulator = Simulator(graph)
        self.memory = bytearray(np.random.default_rng(0).bytes(plan.arena_bytes))
        self._rings = {n: np.zeros(b.shape, np.int8) for n, b in graph.buffers.items() if b.state}
        self.strike: tuple[int, str, int] | None = None  # at a token: a buffer, and the byte of it that changes
        self._prompt = b""

    def boot(self) -> None:
        pass

    def close(self) -> None:
        pass

    def call(self, symbol: str, *args: int) -> int:
        tokens: list[int] = []
        match symbol, args:
            case "random_init", ():
                pass
            case "random_read", (64, count):
                tokens = np.frombuffer(self._prompt[: 2 * count], "<u2").tolist()
            case "random_step", (token,):
                tokens = [token]
            case _:
                raise AssertionError(symbol)
        for token in tokens:
            self._step(token, self._simulator.count, {})
        return 0

    def address(self, symbol: str) -> int:
        return {"random_arena": 4096, "random_prompt": 64}[symbol]

    def write(self, address: int, data: bytes) -> None:
        assert address == 64
        self._prompt = data

    def read(self, address: int, size: int) -> bytes:
        assert 4096 <= address <= address + size <= 4096 + len(self.memory)
        return bytes(self.memory[address - 4096 : address - 4096 + size])

    def trace(self, symbol: str, tokens: Sequence[int], regions: Regions, start: int = 0) -> list[bytes]:
        assert symbol == "random_step"
        return [self._step(token, start + i, regions) for i, token in enumerate(tokens)]

    def _step(self, token: int, position: int, regions: Regions) -> bytes:
        trace, left = record(self._simulator, [token]), []
        slot, first = position % self._graph.context, len(self._graph.ops)
        for i, rings in trace.rebased.items():
            for op, (rebase, ring) in enumerate(zip(self._graph.rebase, rings, strict=True), first):
                assert i == 0
                self._rings[rebase.outputs[0]][:] = ring
                self._write(rebase.outputs[0], ring, position)
                left += [self.read(region.at(position), region.size) for region in regions.get(op, ())]
        for op, (step, outputs) in enumerate(zip(self._graph.ops, trace.outputs, strict=True)):
            for name, values in zip(step.outputs, outputs, strict=True):
                if step.row:
                    self._rings[name][slot] = values[0]
                    values = self._rings[name]
                self._write(name, values, position)
            left += [self.read(region.at(position), region.size) for region in regions.get(op, ())]
        return b"".join(left)

    def _write(self, name: str, values: np.ndarray, position: int) -> None:
        buffer = self._graph.buffers[name]
        reached = values[: position + 1] if buffer.state else values.reshape(1, -1)
        at = self._plan.offsets[name]
        there = slice(at, at + buffer.token_bytes)
        model = test_layouts.MODELS[buffer.layout]
        self.memory[there] = test_layouts.written(model, reached, bytes(self.memory[there]))
        if self.strike is not None and self.strike[:2] == (position, name):
            self.memory[at + self.strike[2]] ^= 1


PACKED = {  # codes, keys, values
    "dsp": ("words16", "plain", "value_pairs"),
    "v6m": ("unsigned8", "key_quads", "value_quads"),
    "mve": ("padded16", "plain", "value_columns"),
    "all": ("padded8", "key_quads", "value_columns"),
}


def packed(
    monkeypatch: pytest.MonkeyPatch, kind: str, context: int, batch: int = 1, config: Config = SMALL
) -> tuple[Graph, Plan]:
    """A model for a core whose kernels keep buffers in these layouts."""
    codes, keys, values = PACKED[kind]
    family = Family(kind, frozenset({kind}), codes, keys, values, score_rows=2, score_step=16)
    monkeypatch.setattr(families, "FAMILIES", (family, Family("portable")))
    model = dataclasses.replace(zoo.quantized(config), name="random")
    graph = lower(model, context, frozenset({kind}), batch)
    return graph, plan.plan_memory(graph, ladder.NUCLEO)


@pytest.mark.parametrize("context", [1, 5, 8])
@pytest.mark.parametrize("kind", PACKED)
def test_values_are_compared_whatever_their_layout(monkeypatch: pytest.MonkeyPatch, kind: str, context: int) -> None:
    """Contexts that fill no unit of slots; several chunks, wraps and re-basings; and one chunk that fills no ring."""
    graph, found = packed(monkeypatch, kind, context)
    tokens = zoo.random_tokens(SMALL, 110).tolist()
    assert rebasings(graph, 110) >= 2
    for count in (3, 110):
        report = verify(InLayouts(graph, found), graph, found, tokens[:count], rung="rung", title="machine")
        assert report.difference is None
        assert report.values == all_values(graph, count)


@pytest.mark.parametrize("kind", PACKED)
def test_what_a_prompt_leaves_is_compared_whatever_its_layout(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    graph, found = packed(monkeypatch, kind, 5, batch=4)
    for count in (1, 3, 5, 12):
        tokens = zoo.random_tokens(SMALL, count).tolist()
        report = verify_prompt(InLayouts(graph, found), graph, found, tokens, rung="rung", title="machine")
        assert report.difference is None
        machine = InLayouts(graph, found)
        machine.strike = (count - 1, "layers.1.values", 0)
        difference = verify_prompt(machine, graph, found, tokens, rung="rung", title="machine").difference
        assert difference is not None
        assert (difference.output, difference.element) == ("layers.1.values", 0)


def test_each_rung_has_its_own_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes padded to 16 on the board, whose kernels (the portable ones) take no notice; not so on this computer."""
    padded = Family("padded", frozenset({"dsp"}), "padded16", score_rows=2, score_step=16)
    monkeypatch.setattr(families, "FAMILIES", (padded, Family("portable")))
    model = dataclasses.replace(zoo.quantized(SMALL, bits=4), name="random")
    layout = layouts.lay_out(model, zoo.random_tokenizer(SMALL.vocab_size), ladder.NUCLEO, CONTEXT)
    assert layout.graph.buffers["layers.0.swiglu.codes"].nbytes == 16
    host = layouts.on_host(layout)
    assert host.graph.buffers["layers.0.swiglu.codes"].nbytes == SMALL.hidden_dim
    assert host.plan.offsets != layout.plan.offsets
    ladder.require_unicorn()
    found = rungs.climb(layout, ladder.nucleo_firmware(layout), 20, ladder.COMMAND)
    assert found.passed
    assert [report.tokens for report in found.reports[:4]] == [20, CONTEXT, 20, CONTEXT]


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_wrong_element_of_a_slot_is_named(monkeypatch: pytest.MonkeyPatch, kind: str, part: str) -> None:
    """In the slot that the op wrote it is the op's; in another one of the same unit it is a stray write."""
    graph, found = packed(monkeypatch, kind, 8)
    tokens = zoo.random_tokens(SMALL, 20).tolist()
    name = f"layers.1.{part}"
    buffer = graph.buffers[name]
    place = test_layouts.MODELS[buffer.layout].place
    for slot, column in ((7, 3), (4, 6), (2, 0)):
        machine = InLayouts(graph, found)
        machine.strike = (15, name, place(slot, column, buffer.shape[1]))  # token 15 goes into slot 7
        difference = verify(machine, graph, found, tokens[:16], rung="rung", title="machine").difference
        assert difference is not None
        if slot == 7:
            op = graph.ops[difference.op_index]
            assert (op.outputs, difference.kernel) == ((name,), op.kernel)
            assert (difference.token_index, difference.element) == (15, column)
        else:
            assert (difference.token_index, difference.label) == (15, AFTER_THE_OPS)
            assert (difference.output, difference.element) == (name, slot * buffer.shape[1] + column)
        assert abs(difference.expected - difference.observed) == 1


def test_a_rebased_ring_is_compared_in_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, found = packed(monkeypatch, "v6m", 8)
    machine = InLayouts(graph, found)
    turned = graph.model.max_position
    machine.strike = (turned, "layers.0.keys", 4 * 5 + 2)  # the ring is written when it is turned back, and once more
    tokens = zoo.random_tokens(SMALL, turned + 1).tolist()
    difference = verify(machine, graph, found, tokens, rung="rung", title="machine").difference
    assert difference is not None
    assert (difference.token_index, difference.kernel, difference.label) == (turned, "rebase_s8", "layers.0.rebase")
    assert difference.element == 2 * SMALL.kv_dim + 5


def test_regions_of_a_packed_ring_are_units_of_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, found = packed(monkeypatch, "all", 20, batch=3, config=dataclasses.replace(SMALL, seq_len=24))
    regions = op_regions(graph, {name: 4096 + offset for name, offset in found.offsets.items()})
    ops = {op.outputs[0]: index for index, op in enumerate(graph.ops)}
    keys, values = (found.offsets[f"layers.1.{part}"] + 4096 for part in ("keys", "values"))
    assert regions[ops["layers.1.keys"]] == [Region(keys, 4 * 8, 4 * 8, 20, 4)]
    assert regions[ops["layers.1.values"]] == [Region(values, 16 * 8, 16 * 8, 20, 16)]
    (rebased,) = regions[len(graph.ops) + 1]
    assert rebased == Region(keys, 20 * 8)
    assert [region.at(position) - values for region in regions[ops["layers.1.values"]] for position in (15, 16, 20)] == [
        0, 16 * 8, 0,
    ]  # fmt: skip
    codes, scale = regions[next(i for i, op in enumerate(graph.ops) if op.label == "layers.0.hidden_block")]
    assert (codes.size, scale.size) == (16, 8)  # of one token


# ---------------------------------------------------------------- a trained model, every rung


def story_ladder(tokens: int) -> rungs.Ladder:
    quantized = integers.quantize_source(
        sources.Source("stories260K", zoo.stories(), None, zoo.stories_tokenizer()), None
    )
    layout = layouts.lay_out(quantized, zoo.stories_tokenizer(), ladder.NUCLEO, 128)
    ladder.require_unicorn()
    firmware = ladder.nucleo_firmware(layout)
    return rungs.climb(layout, firmware, tokens, ladder.COMMAND)


def check_ladder(found: rungs.Ladder, tokens: int) -> None:
    assert found.passed
    for skipped in found.skipped:
        assert skipped.rung == "rung 4, nucleo-f446re in QEMU"  # the only tool that pip does not bring
    titles = [re.sub(r" \(.*", "", report.machine) for report in found.reports]
    board = "nucleo-f446re in unicorn"
    assert titles[:5] == ["host build", "host build", board, board, f"console of {board}"]
    assert [report.machine.endswith("), prompts") for report in found.reports[:4]] == [False, True] * 2
    assert [report.tokens for report in found.reports[:4]] == [tokens, 30, tokens, 30]
    assert found.profile is not None
    assert found.profiled_tokens == min(tokens, 64)
    assert 0 < (found.profile.stack_bytes or 0) <= ladder.NUCLEO.stack_bytes
    assert found.instructions_per_token == found.profile.total / found.profiled_tokens


def test_stories_are_equal_on_every_rung() -> None:
    check_ladder(story_ladder(40), 40)


@pytest.mark.slow
def test_stories_are_equal_over_600_tokens() -> None:
    """The ring of 128 slots wraps four times."""
    check_ladder(story_ladder(600), 600)


# ---------------------------------------------------------------- planted: a bit of the flash


def flash_offset(image: bytes, symbol: str) -> int:
    """Where in the ELF file an object's bytes lie."""
    elf = ELFFile(io.BytesIO(image))
    (entry,) = elf.get_section_by_name(".symtab").get_symbol_by_name(symbol)
    section = elf.get_section(entry["st_shndx"])
    return int(section["sh_offset"] + entry["st_value"] - section["sh_addr"])


def portable_board() -> Layout:
    """SMALL on a Cortex-M without extensions, where codes lie row by row."""
    plain = dataclasses.replace(ladder.NUCLEO, features=frozenset({"fpu"}))
    layout = ladder.laid_out(SMALL, CONTEXT)
    found = layouts.lay_out(layout.graph.model, layout.tokenizer, plain, CONTEXT)
    assert (found.graph.family, found.graph.packing) == ("portable", "row_major")
    return found


def with_flipped_bit(firmware: Firmware, symbol: str, byte: int, bit: int) -> Firmware:
    image = bytearray(firmware.image)
    image[flash_offset(firmware.image, symbol) + byte] ^= 1 << bit
    return dataclasses.replace(firmware, image=bytes(image))


def with_flipped_code(graph: Graph, label: str, row: int, column: int, bit: int) -> Graph:
    """The same graph with one bit of one weight flipped."""

    def flipped(w: Linear) -> Linear:
        codes = w.codes.copy()
        codes.view(np.uint8)[row, column] ^= 1 << bit
        return dataclasses.replace(w, codes=codes)

    ops = [
        dataclasses.replace(op, parameters={**op.parameters, "w": flipped(op.parameters["w"])})
        if op.label == label
        else op
        for op in graph.ops
    ]
    return dataclasses.replace(graph, ops=tuple(ops))


@pytest.mark.parametrize(
    ("label", "row", "column"),
    [
        ("layers.0.wq", 3, 5),
        ("layers.0.w3", 11, 0),
        ("layers.1.wv", 0, 15),
        ("layers.1.w2", 15, 11),
        ("logits", 19, 7),
    ],
)
def test_a_flipped_bit_of_a_weight_is_found_at_the_op_that_reads_it(label: str, row: int, column: int) -> None:
    layout = portable_board()
    graph, tokens = layout.graph, tokens_for(layout, 5)
    index = next(i for i, op in enumerate(graph.ops) if op.label == label)
    op = graph.ops[index]
    marked = np.zeros_like(op.parameters["w"].codes)
    marked[row, column] = 1
    (byte,) = np.flatnonzero(pack(dataclasses.replace(op.parameters["w"], codes=marked), graph.packing).stream)

    ladder.require_unicorn()
    symbol = f"{layout.name}_{identifier(label)}_codes"
    damaged = with_flipped_bit(ladder.nucleo_firmware(layout), symbol, int(byte), 6)
    report = climb(ladder.CortexM(damaged, watch_accesses=False), layout, 5, "the board")

    ours = simulate(graph, tokens).outputs[index][0]
    theirs = simulate(with_flipped_code(graph, label, row, column, 6), tokens).outputs[index][0]
    at = next(t for t in range(5) if (ours[t] != theirs[t]).any())
    assert report.difference == Difference(
        at, index, label, op.kernel, op.outputs[0], row, int(ours[at, row]), int(theirs[at, row])
    )
    assert str(mismatch(report)) == (
        f'the board differs from the simulator at token {at}, op {index} ({op.kernel} "{label}"), '
        f"{op.outputs[0]}[{row}]: {theirs[at, row]}, not {ours[at, row]}\n"
        f"  where: rung\n"
        f"  try:   compare {op.kernel} with its numpy twin: pytest tests/test_kernels.py -k {op.kernel}"
    )


@pytest.mark.parametrize(
    ("symbol", "byte", "label", "element"),
    [
        ("layer0_att_norm_gain", 2 * 9 + 1, "layers.0.att_norm", 9),  # int16
        ("layer1_ffn_norm_gain", 1, "layers.1.ffn_norm", 0),
        ("layer1_wo_multiplier", 2 * 4 + 1, "layers.1.wo", 4),  # int16
        ("layer0_key_zero", 4 * 3 + 2, "layers.0.keys", 3),  # int32
    ],
)
def test_a_flipped_bit_of_any_constant_is_found(symbol: str, byte: int, label: str, element: int) -> None:
    layout = portable_board()
    ladder.require_unicorn()
    damaged = with_flipped_bit(ladder.nucleo_firmware(layout), f"{layout.name}_{symbol}", byte, 5)
    found = climb(ladder.CortexM(damaged, watch_accesses=False), layout, 5).difference
    assert found is not None
    assert (found.token_index, found.label, found.element) == (0, label, element)


# ---------------------------------------------------------------- planted: a broken kernel


def changed(project: Project, old: str, new: str, file: str) -> Project:
    """The project with one change in one file."""
    content = project.files[file].decode()
    assert content.count(old) >= 1, f"{file} does not read {old!r} any more: plant another fault"
    return dataclasses.replace(project, files={**project.files, file: content.replace(old, new, 1).encode()})


def broken_machine(layout: Layout, old: str, new: str, file: str) -> HostMachine:
    project = layouts.make_project(layout, ladder.COMMAND, observed=True)
    return ladder.host_machine(layout, changed(project, old, new, file), sanitize=False)


def portable(bits: int = 8, batch: int = 1) -> Layout:
    """SMALL with the portable kernels, which the faults below are planted in."""
    return ladder.laid_out(SMALL, CONTEXT, board="host", bits=bits, batch=batch)


KERNEL_FAULTS = [  # the op that must be named, the file, what it reads, what it reads then
    ("embed_s16", "embed.c", "multiplier[token]", "multiplier[0]"),
    ("rmsnorm_s16", "rmsnorm.c", "i < norm->dim; i++) {\n        total", "i < norm->dim - 1; i++) {\n        total"),
    ("block_s8", "block.c", "x[i] * reciprocal, 23", "x[i] * reciprocal - (1 << 22), 23"),
    ("block_s8", "block.c", "sum += code", "sum -= code"),
    ("linear_s16", "linear.c", "(int16_t)mg_saturate_s16(scaled(acc[i],", "(int16_t)mg_saturate_s16(scaled(acc[0],"),
    ("rope_s16", "rope.c", "turn_at(position,", "turn_at(position + 1,"),
    ("rope_s8", "rope.c", "turn_pair_s8(y, x[i], x[i + 1],", "turn_pair_s8(y, x[i + 1], x[i],"),
    ("rope_s8", "rope.c", "ring + slot *", "ring + (slot / 2) *"),
    ("linear_s8", "linear.c", "(int8_t)mg_saturate_s8(scaled(acc[i],", "(int8_t)mg_saturate_s8(scaled(acc[0],"),
    ("linear_s8", "linear.c", "to_s8(ring + slot * w->rows", "to_s8(ring + (slot & 1) * w->rows"),
    ("attention_s16", "attention.c", "t = 0; t < length; t++) {\n                even", "t = 1; t < length; t++) {\n                even"),
    ("attention_s16", "attention.c", "(head / group)", "((attention->n_heads - 1 - head) / group)"),
    ("attention_s16", "attention.h", "mg_round_shift_s32(acc, attention->shift)", "(acc >> attention->shift)"),
    ("linear_add_s16", "linear.c", "residual[row + i] + change", "residual[row + i] + change + 1"),
    ("swiglu_s16", "swiglu.c", "silu * up[i], shift", "silu * up[i] - ((1 << shift) >> 1), shift"),
    ("linear_s32", "linear.c", "mg_saturate_s32(scaled(acc[i],", "mg_saturate_s32(scaled(acc[0],"),
    ("rebase_s8", "rope.c", "turn_at(-delta,", "turn_at(1 - delta,"),
    ("linear4_s16", "linear.c", "((*pairs & 15) ^ 8) - 8;", "(*pairs & 15) - 8;"),
    ("linear4_s16", "linear.c", "part * *scale++", "part * *scale"),
    ("linear4_s16", "linear.c", "(*pairs >> 4) * x[1]", "(*pairs >> 4) * x[0]"),
    ("linear4_s8", "linear.c", "to_s8(ring + slot * w->rows, x, scale, tokens, w, rows_int4)", "to_s8(ring + slot * w->rows, x, scale, tokens, w, rows_int8)"),
    ("linear4_add_s16", "linear.c", "residual[row + i] + change", "residual[row + i] + change + 1"),
]  # fmt: skip


def faulty(kernel: str) -> Layout:
    """Where a fault of this kernel shows; a hidden layer of 40 has two groups of columns."""
    if not kernel.startswith("linear4"):
        return portable()
    config = dataclasses.replace(SMALL, dim=64, hidden_dim=40)
    return ladder.laid_out(config, CONTEXT, board="host", bits=4)


@pytest.mark.parametrize(("kernel", "file", "old", "new"), KERNEL_FAULTS, ids=[fault[0] for fault in KERNEL_FAULTS])
def test_a_broken_kernel_is_named(kernel: str, file: str, old: str, new: str) -> None:
    layout = faulty(kernel)
    graph = layout.graph
    report = climb(broken_machine(layout, old, new, f"kernels/{file}"), layout, 40)
    found = report.difference
    assert found is not None
    op = (*graph.ops, *graph.rebase)[found.op_index]
    assert (found.kernel, found.kernel, found.label) == (kernel, op.kernel, op.label)
    assert found.output in op.outputs
    assert found.expected != found.observed
    assert report.tokens == 40  # the end of the chunk that it was found in
    if kernel == "rebase_s8":
        assert found.token_index == graph.model.max_position


PROMPT_FAULTS = [  # what the C reads, what it reads then, the file
    ("    layers(tokens, taken);", "    layers(tokens, 1);", "random.c"),
    ("        mg_ring_skip(&ring, taken - 1);\n", "", "random.c"),
    ("mg_ring_skip(&ring, taken - 1)", "mg_ring_skip(&ring, taken)", "random.c"),
    ("tokens += taken;", "tokens += 1;", "random.c"),
    ("taken < room", "taken <= room", "random.c"),
    ("token[t]", "token[0]", "random.c"),
    ("ring.length + t,", "ring.length,", "random.c"),
    ("ring.position + t,", "ring.position,", "random.c"),
    ("s16(LAYER1_WK) + t * 8", "s16(LAYER1_WK)", "random.c"),
    ("ring.slot + t, s16(LAYER1_WK)", "ring.slot, s16(LAYER1_WK)", "random.c"),
    ("ring->slot += tokens;", "ring->slot += 1;", "runtime/ring.h"),
    ("ring->length += tokens;", "ring->length += 1;", "runtime/ring.h"),
    ("ring->position += tokens;", "ring->position += 1;", "runtime/ring.h"),
    ("scaled(acc[i], w, row + i, scale[t].peak)", "scaled(acc[i], w, row + i, scale[0].peak)", "kernels/linear.c"),
    ("t++, y += w->rows, x += w->cols", "t++, y += w->rows", "kernels/linear.c"),
    ("t++, y += w->rows, residual += w->rows,", "t++, y += w->rows,", "kernels/linear.c"),
]


@pytest.mark.parametrize(("old", "new", "file"), PROMPT_FAULTS, ids=[fault[0].strip() for fault in PROMPT_FAULTS])
def test_a_fault_of_prompts_alone_is_found_there(old: str, new: str, file: str) -> None:
    """Token by token, all is equal. A prompt that fills the ring finds it, or one that goes on past it: then tokens are
    read one by one, and overwrite what those read at once have left."""
    layout = portable(batch=4)
    assert climb(broken_machine(layout, old, new, file), layout, 40).difference is None
    reports = [prompted(broken_machine(layout, old, new, file), layout, count) for count in (CONTEXT, CONTEXT + 2)]
    report = next(report for report in reports if report.difference is not None)
    found = report.difference
    assert found is not None
    assert (found.token_index, found.op_index) == (report.tokens - 1, len(layout.graph.ops))
    assert (found.label, found.kernel) == (AFTER_A_PROMPT, "")
    assert str(mismatch(report)) == (
        f"machine, prompts 4 tokens at once differs from the simulator at token {report.tokens - 1}, "
        f"after a prompt read at once, "
        f"{found.output}[{found.element}]: {found.observed}, not {found.expected}\n"
        f"  where: rung\n"
        f"  try:   token by token all is equal: look at the step's read, and at kernels on several tokens"
    )


def test_a_broken_kernel_is_named_on_the_board() -> None:
    layout = portable_board()
    kernel, file, old, new = next(fault for fault in KERNEL_FAULTS if fault[0] == "swiglu_s16")
    project = changed(layouts.make_project(layout, ladder.COMMAND), old, new, f"kernels/{file}")
    found = climb(ladder.nucleo_machine(layout, project=project), layout, 10).difference
    assert found is not None
    assert (found.kernel, found.label) == (kernel, "layers.0.swiglu")


def test_undefined_behaviour_ends_the_rung_and_is_named() -> None:
    """A shift out of an int's range, whose result nobody needs: the numbers stay right."""
    layout = portable()
    project = layouts.make_project(layout, ladder.COMMAND, observed=True)
    reads = "int32_t peak = 1; /* <= 32768 */"
    project = changed(project, reads, f"{reads}\n    peak += (n << 27) == 1 ? 1 : 0;", "kernels/block.c")
    with pytest.raises(FirmwareFault) as raised:
        climb(ladder.host_machine(layout, project), layout, 3)
    assert raised.value.exit_code == 6
    assert raised.value.kind == "sanitizer"
    assert str(raised.value).startswith(
        "mg_block_s8: left shift of 16 by 27 places cannot be represented in type 'int'\n  where: host library, block.c:"
    )


# ---------------------------------------------------------------- planted: memory and plan


class Struck(HostMachine):
    """A host machine one bit of whose memory changes between two chunks, or after the last."""

    def strike(self, symbol: str, byte: int, *, before: int | None = None, after: int | None = None) -> None:
        """Hit this byte of an object before or after the chunk that begins at this token."""
        self._target = (symbol, byte)
        self._before, self._after = before, after

    def trace(self, symbol: str, tokens: Sequence[int], regions: Regions, start: int = 0) -> list[bytes]:
        if start == self._before:
            self._hit()
        found = super().trace(symbol, tokens, regions, start)
        if start == self._after:
            self._hit()
        return found

    def _hit(self) -> None:
        symbol, byte = self._target
        address = self.address(symbol) + byte
        self.write(address, bytes([self.read(address, 1)[0] ^ 0x40]))


def struck(layout: Layout, buffer: str, element: int, **when: int) -> VerificationReport:
    machine = Struck(ladder.host_library(layout, sanitize=False))
    machine.strike(f"{layout.name}_arena", layout.plan.offsets[buffer] + element, **when)
    return climb(machine, layout, 120)


def test_a_byte_of_the_ring_that_changes_between_two_chunks_is_found_by_attention() -> None:
    layout = portable()
    slot = (50 - 2) % CONTEXT  # of the last token but one: still seen
    found = struck(layout, "layers.1.values", slot * SMALL.kv_dim + 5, before=50).difference
    assert found is not None
    assert (found.token_index, found.kernel, found.label) == (50, "attention_s16", "layers.1.attention")
    head_dim, group = SMALL.head_dim, SMALL.group_size
    assert found.element % head_dim == 5 % head_dim  # the channel that was hit
    assert found.element // head_dim // group == 5 // head_dim


def test_a_byte_of_the_ring_that_changes_after_the_last_op_is_found() -> None:
    layout = portable()
    report = struck(layout, "layers.0.keys", 17, after=100)
    found = report.difference
    assert found is not None
    expected = simulate(layout.graph, tokens_for(layout, 120)).state["layers.0.keys"].reshape(-1)[17]
    hit = int(np.int8(int(expected) ^ 0x40))
    last = len(layout.graph.ops)
    assert found == Difference(119, last, AFTER_THE_OPS, "", "layers.0.keys", 17, int(expected), hit)
    assert str(mismatch(report)) == (
        f"machine differs from the simulator at token 119, after its ops, layers.0.keys[17]: {hit}, not {expected}\n"
        f"  where: rung\n"
        f"  try:   each op wrote what it should: look for a write beside an op's outputs, or a wrong offset"
    )


@pytest.mark.parametrize(
    ("moved", "onto", "label"),
    [
        ("layers.0.w1", "layers.0.w3", "layers.0.swiglu"),  # the gate is overwritten before it is read
        ("layers.1.query", "layers.1.wk", "layers.1.wk"),  # likewise the query
        ("layers.0.values", "layers.0.keys", "layers.0.values"),
    ],
)
def test_a_plan_that_lets_two_live_buffers_share_bytes_is_found(moved: str, onto: str, label: str) -> None:
    layout = portable()
    offsets = {**layout.plan.offsets, moved: layout.plan.offsets[onto]}
    wrong = dataclasses.replace(layout, plan=dataclasses.replace(layout.plan, offsets=offsets))
    found = climb(ladder.host_machine(wrong, sanitize=False), wrong, 12).difference
    assert found is not None
    assert found.label in (label, "layers.1.attention", "layers.0.attention")


def test_an_offset_that_the_firmware_does_not_have_is_found() -> None:
    """The plan that verification reads is not the one that was rendered."""
    layout = portable()
    offsets = {**layout.plan.offsets, "layers.0.wo": layout.plan.offsets["layers.0.wo"] + 4}
    wrong = dataclasses.replace(layout, plan=dataclasses.replace(layout.plan, offsets=offsets))
    found = climb(ladder.host_machine(layout, sanitize=False), wrong, 12).difference
    assert found is not None
    assert (found.label, found.element) == ("layers.0.wo", 0)


# ---------------------------------------------------------------- planted: the list of ops


def test_an_op_that_does_not_announce_itself_is_an_error() -> None:
    layout = portable()
    machine = broken_machine(layout, "    mg_op_done(7);\n", "", f"{layout.name}.c")
    with pytest.raises(MismatchError) as raised:
        climb(machine, layout, 12)
    graph = layout.graph
    left = sum(step_bytes(graph))
    missing = step_bytes(graph)[7]
    assert str(raised.value) == (
        f"at token 0 the ops left {left - missing} bytes to compare, not {left}\n"
        f"  where: random_step: an op is missing, or not announced by mg_op_done\n"
        f"  try:   build again; the C sources and the graph do not belong together"
    )


def step_bytes(graph: Graph) -> list[int]:
    """Per op: bytes of its outputs; of a ring, one slot."""
    return [
        sum(graph.buffers[name].token_bytes // (graph.context if op.row else 1) for name in op.outputs)
        for op in graph.ops
    ]


def test_an_op_that_is_left_out_is_found() -> None:
    """Its place holds what another op left there."""
    layout = portable()
    source = layouts.make_project(layout, ladder.COMMAND, observed=True).files[f"{layout.name}.c"].decode()
    call = re.search(r"    mg_swiglu_s16\([^;]*;\n", source)
    assert call
    found = climb(broken_machine(layout, call[0], "", f"{layout.name}.c"), layout, 12).difference
    assert found is not None
    assert (found.token_index, found.label) == (0, "layers.0.swiglu")


def test_a_rebasing_that_does_not_happen_is_found() -> None:
    layout = portable()
    limit = layout.graph.model.max_position
    condition = f"ring.position == {limit}"
    machine = broken_machine(layout, condition, f"ring.position == {limit + 1}", f"{layout.name}.c")
    report = climb(machine, layout, 40, "the host")
    last = len(layout.graph.ops)
    assert report.difference == Difference(limit, last, BEFORE_THE_OPS, "", "re-basings", 0, 1, 0)
    assert str(mismatch(report)) == (
        f"the host differs from the simulator at token {limit}, before its ops, re-basings[0]: 0, not 1\n"
        f"  where: rung\n"
        f"  try:   compare when the step calls rebase with Simulator.feed in mcugen/simulate.py"
    )


# ---------------------------------------------------------------- the whole ladder


def test_the_plan_of_the_zoo_passes_its_gate() -> None:
    """What the faults above bypass."""
    layout = portable()
    plan.check_plan(layout.graph, layout.plan)


def test_the_ladder_stops_at_the_first_rung_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = ladder.laid_out(SMALL, CONTEXT)
    made = layouts.render_c

    def planted(*args: object, **kwargs: object) -> Project:
        project = made(*args, **kwargs)  # type: ignore[arg-type]
        return changed(project, "silu * up[i], shift", "silu * up[i] + 1000, shift", "kernels/swiglu.c")

    monkeypatch.setattr(layouts, "render_c", planted)
    ladder.require("gcc", ladder.HOST)
    firmware = ladder.nucleo_firmware(layout)
    found = rungs.climb(layout, firmware, 8, ladder.COMMAND)
    assert not found.passed
    assert [report.rung for report in found.reports] == ["rung 3, host"]
    assert found.profile is None
    assert found.to_json()["passed"] is False
    with pytest.raises(MismatchError, match=r'\(swiglu_s16 "layers\.0\.swiglu"\)'):
        found.raise_for_difference()
    assert "rung 3, host: host build (" in rungs.ladder_text(found)
    assert "DIFFERENT, 8 tokens" in rungs.ladder_text(found)


def test_a_fault_beside_the_ops_is_found_at_the_console() -> None:
    """A sampler that is off by one: every op is equal, and the text is not."""
    layout = ladder.laid_out(zoo.SHAPES["gqa"], 16)
    ladder.require_unicorn()
    project = layouts.make_project(layout, ladder.COMMAND)
    content = project.files["runtime/sampler.c"].decode()
    assert content.count("state << 13") == 1
    project = changed(project, "state << 13", "state << 12", "runtime/sampler.c")
    firmware = ladder.nucleo_firmware(layout, project=project)
    with pytest.raises(MismatchError) as raised:
        rungs.climb(layout, firmware, 8, ladder.COMMAND)
    text = str(raised.value)
    assert text.startswith("console of nucleo-f446re in unicorn prints ")
    assert " in line 10, not " in text
    assert text.endswith(
        "\n  where: rung 4, nucleo-f446re\n  try:   the ops agree: look at sampler.c, tokenizer.c, generate.c and console.c"
    )


def test_a_board_that_qemu_does_not_have_lacks_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = ladder.laid_out(dataclasses.replace(SMALL, vocab_size=300), CONTEXT, board="nucleo-l476rg")
    firmware = ladder.board_firmware(layout)
    monkeypatch.setenv("MCUGEN_REQUIRE_TOOLS", "1")
    found = rungs.climb(layout, firmware, 12, ladder.COMMAND)
    assert found.passed and [skipped.why for skipped in found.skipped] == ["QEMU has no such machine"]
    consoles = [report.rung for report in found.reports if report.machine.startswith("console")]
    assert consoles == ["rung 4, nucleo-l476rg"]
