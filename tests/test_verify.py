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
import zoo
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcugen import ladder as rungs
from mcugen import layout as layouts
from mcugen import plan, sources
from mcugen.ctext import identifier
from mcugen.emulate.host import HostMachine
from mcugen.emulate.machine import FirmwareFault, Machine, Regions
from mcugen.errors import MismatchError
from mcugen.ir import Config, Difference, Firmware, Graph, Linear, Project, VerificationReport
from mcugen.layout import Layout
from mcugen.packing import PACKINGS
from mcugen.simulate import simulate
from mcugen.verify import AFTER_THE_OPS, BEFORE_THE_OPS, mismatch, verify

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
    """How many integers the ops write for `count` tokens, and the ring, once per chunk of 50."""
    per_token = sum(
        int(np.prod(graph.buffers[name].shape)) // (graph.context if op.row else 1)
        for op in graph.ops
        for name in op.outputs
    )
    ring = sum(buffer.nbytes for buffer in graph.buffers.values() if buffer.state)
    return count * per_token + -(-count // 50) * ring


def rebasings(graph: Graph, count: int) -> int:
    return len(simulate(graph, [1] * count).rebased)


# ---------------------------------------------------------------- every shape, op by op


@pytest.mark.parametrize("machine", [ladder.host_machine, ladder.nucleo_machine], ids=["host", "nucleo"])
@zoo.shapes()
def test_every_op_and_every_byte_of_the_ring_are_equal(config: Config, machine: Callable[[Layout], Machine]) -> None:
    """Two and more re-basings, a dozen wraps of the ring, a context that is not the trained one, three chunks."""
    layout = ladder.laid_out(config, max(1, config.seq_len - 3))
    count = max(110, 4 * config.seq_len)
    assert rebasings(layout.graph, count) >= 2
    report = climb(machine(layout), layout, count)
    assert report.difference is None
    assert report.tokens == count
    assert report.ops == len(layout.graph.ops)
    assert report.values == all_values(layout.graph, count)


@pytest.mark.parametrize("context", [1, 8])
def test_a_ring_of_one_slot_and_one_of_the_trained_length(context: int) -> None:
    layout = ladder.laid_out(SMALL, context)
    assert climb(ladder.host_machine(layout), layout, 60).difference is None


@pytest.mark.slow
def test_gcc_makes_the_same_numbers_for_the_board() -> None:
    layout = ladder.laid_out(SMALL, CONTEXT)
    assert climb(ladder.nucleo_machine(layout, "gcc"), layout, 60).difference is None


@pytest.mark.slow
@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=zoo.configs(), seed=st.integers(0, 99), data=st.data())
def test_every_op_of_many_shapes_is_equal_on_the_host(config: Config, seed: int, data: st.DataObject) -> None:
    layout = ladder.laid_out(config, data.draw(st.integers(1, config.seq_len), "context"), seed=seed)
    count = 4 * config.seq_len + 3
    assert rebasings(layout.graph, count) >= 1
    assert climb(ladder.host_machine(layout), layout, count).difference is None


@pytest.mark.slow
@settings(max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=zoo.configs(), seed=st.integers(100, 199), data=st.data())
def test_every_op_of_many_shapes_is_equal_on_the_board(config: Config, seed: int, data: st.DataObject) -> None:
    layout = ladder.laid_out(config, data.draw(st.integers(1, config.seq_len), "context"), seed=seed)
    assert climb(ladder.nucleo_machine(layout), layout, 4 * config.seq_len + 3).difference is None


# ---------------------------------------------------------------- a trained model, every rung


def story_ladder(tokens: int) -> rungs.Ladder:
    quantized = sources.quantize_source(
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
    assert titles[:3] == ["host build", "nucleo-f446re in unicorn", "console of nucleo-f446re in unicorn"]
    assert [report.tokens for report in found.reports[:2]] == [tokens, tokens]
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
    layout = ladder.laid_out(SMALL, CONTEXT)
    graph, tokens = layout.graph, tokens_for(layout, 5)
    index = next(i for i, op in enumerate(graph.ops) if op.label == label)
    op = graph.ops[index]
    marked = np.zeros_like(op.parameters["w"].codes)
    marked[row, column] = 1
    (byte,) = np.flatnonzero(PACKINGS[op.variant.packing](marked))

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
    layout = ladder.laid_out(SMALL, CONTEXT)
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
    project = layouts.make_project(layout, ladder.COMMAND, ladder.HOST, observed=True)
    return ladder.host_machine(layout, changed(project, old, new, file), sanitize=False)


def portable() -> Layout:
    """SMALL with the portable kernels, which the faults below are planted in."""
    return ladder.laid_out(SMALL, CONTEXT, board="host")


KERNEL_FAULTS = [  # the op that must be named, the file, what it reads, what it reads then
    ("embed_s16", "embed.c", "multiplier[token]", "multiplier[0]"),
    ("rmsnorm_s16", "rmsnorm.c", "i < norm->dim; i++) {\n        total", "i < norm->dim - 1; i++) {\n        total"),
    ("block_s8", "block.c", "x[i] * reciprocal, 23", "x[i] * reciprocal - (1 << 22), 23"),
    ("linear_s16", "linear.c", "(int16_t)mg_saturate_s16(mg_requantize(acc[i],", "(int16_t)mg_saturate_s16(mg_requantize(acc[0],"),
    ("rope_s16", "rope.c", "turn_at(position,", "turn_at(position + 1,"),
    ("rope_s8", "rope.c", "turn_pair_s8(y, x[i], x[i + 1],", "turn_pair_s8(y, x[i + 1], x[i],"),
    ("linear_s8", "linear.c", "(int8_t)mg_saturate_s8(mg_requantize(acc[i],", "(int8_t)mg_saturate_s8(mg_requantize(acc[0],"),
    ("attention_s16", "attention.c", "t = 0; t < length; t++) {\n                even", "t = 1; t < length; t++) {\n                even"),
    ("attention_s16", "attention.c", "(head / group)", "((attention->n_heads - 1 - head) / group)"),
    ("linear_add_s16", "linear.c", "residual[row + i] + change", "residual[row + i] + change + 1"),
    ("swiglu_s16", "swiglu.c", "silu * up[i], shift", "silu * up[i] - ((1 << shift) >> 1), shift"),
    ("linear_s32", "linear.c", "mg_saturate_s32(mg_requantize(acc[i],", "mg_saturate_s32(mg_requantize(acc[0],"),
    ("rebase_s8", "rope.c", "turn_at(-delta,", "turn_at(1 - delta,"),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "file", "old", "new"), KERNEL_FAULTS, ids=[fault[0] for fault in KERNEL_FAULTS])
def test_a_broken_kernel_is_named(kernel: str, file: str, old: str, new: str) -> None:
    layout = portable()
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


def test_a_broken_kernel_is_named_on_the_board() -> None:
    layout = ladder.laid_out(SMALL, CONTEXT)
    kernel, file, old, new = next(fault for fault in KERNEL_FAULTS if fault[0] == "swiglu_s16")
    project = changed(layouts.make_project(layout, ladder.COMMAND), old, new, f"kernels/{file}")
    found = climb(ladder.nucleo_machine(layout, project=project), layout, 10).difference
    assert found is not None
    assert (found.kernel, found.label) == (kernel, "layers.0.swiglu")


def test_undefined_behaviour_ends_the_rung_and_is_named() -> None:
    """A shift out of an int's range, whose result nobody needs: the numbers stay right."""
    layout = portable()
    project = layouts.make_project(layout, ladder.COMMAND, ladder.HOST, observed=True)
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
        sum(graph.buffers[name].nbytes // (graph.context if op.row else 1) for name in op.outputs) for op in graph.ops
    ]


def test_an_op_that_is_left_out_is_found() -> None:
    """Its place holds what another op left there."""
    layout = portable()
    source = (
        layouts.make_project(layout, ladder.COMMAND, ladder.HOST, observed=True).files[f"{layout.name}.c"].decode()
    )
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
