"""A forward pass as a list of ops: its order, its ranges, its gate, and what a kernel family changes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import NEAREST, SHAPES, configs, fc8, quantized, shapes, stories, stories_tokens

from mcugen import families
from mcugen import lower as lowering
from mcugen.errors import InputError, InternalError, UsageError
from mcugen.families import FAMILIES, LINEAR, LINEAR4, PORTABLE, Family, choose_family
from mcugen.fc8 import is_fc8
from mcugen.ir import FC_MATRICES, Buffer, Config, Graph, KernelVariant, Linear, Op
from mcugen.kernels import accumulator_bound
from mcugen.lower import MAX_BATCH, check_graph, lower, probability_drop
from mcugen.quantize import quantize, text_calibration

GRAPH = lower(quantized(SHAPES["mqa"]), 8)

# ---------------------------------------------------------------- the list


def test_one_layer_in_the_order_of_a_transformer():
    assert [f"{op.kernel} {' '.join(op.inputs)} -> {' '.join(op.outputs)}" for op in GRAPH.ops] == [
        "embed_s16  -> embedding",
        "rmsnorm_s16 embedding -> layers.0.att_norm",
        "block_s8 layers.0.att_norm -> layers.0.att_norm.codes layers.0.att_norm.scale",
        "linear_s16 layers.0.att_norm.codes layers.0.att_norm.scale -> layers.0.wq",
        "rope_s16 layers.0.wq -> layers.0.query",
        "linear_s16 layers.0.att_norm.codes layers.0.att_norm.scale -> layers.0.wk",
        "rope_s8 layers.0.wk -> layers.0.keys",
        "linear_s8 layers.0.att_norm.codes layers.0.att_norm.scale -> layers.0.values",
        "attention_s16 layers.0.query layers.0.keys layers.0.values -> layers.0.attention",
        "block_s8 layers.0.attention -> layers.0.attention.codes layers.0.attention.scale",
        "linear_add_s16 embedding layers.0.attention.codes layers.0.attention.scale -> layers.0.wo",
        "rmsnorm_s16 layers.0.wo -> layers.0.ffn_norm",
        "block_s8 layers.0.ffn_norm -> layers.0.ffn_norm.codes layers.0.ffn_norm.scale",
        "linear_s16 layers.0.ffn_norm.codes layers.0.ffn_norm.scale -> layers.0.w1",
        "linear_s16 layers.0.ffn_norm.codes layers.0.ffn_norm.scale -> layers.0.w3",
        "swiglu_s16 layers.0.w1 layers.0.w3 -> layers.0.swiglu",
        "block_s8 layers.0.swiglu -> layers.0.swiglu.codes layers.0.swiglu.scale",
        "linear_add_s16 layers.0.wo layers.0.swiglu.codes layers.0.swiglu.scale -> layers.0.w2",
        "rmsnorm_s16 layers.0.w2 -> final_norm",
        "block_s8 final_norm -> final_norm.codes final_norm.scale",
        "linear_s32 final_norm.codes final_norm.scale -> logits",
    ]
    assert [(op.kernel, op.inputs, op.outputs) for op in GRAPH.rebase] == [
        ("rebase_s8", ("layers.0.keys",), ("layers.0.keys",))
    ]
    assert GRAPH.rebase[0].parameters["delta"] == 2 * 8 - 8
    assert GRAPH.logits == "logits"
    assert [op.outputs[0] for op in GRAPH.ops if op.last] == ["final_norm", "final_norm.codes", "logits"]


def test_matrices_of_4_bits_have_kernels_of_their_own():
    """All but the embedding and the classifier, whose codes have 8; nothing else changes."""
    graph = lower(quantized(SHAPES["mqa"], bits=4), 8)
    assert graph.buffers == GRAPH.buffers
    linear = [op for op in graph.ops if op.kernel.startswith("linear")]
    assert {op.kernel for op in linear} == {*LINEAR4, "linear_s32"}
    assert [op.kernel.replace("linear4", "linear") for op in graph.ops] == [op.kernel for op in GRAPH.ops]
    for op in linear:
        w = op.parameters["w"]
        assert (w.bits, w.group) == ((8, 0) if op.kernel == "linear_s32" else (4, 32))
        assert op.variant == PORTABLE[op.kernel]


def test_matrices_for_fully_connected():
    """Six per layer, each with its codes as scratch; wv and the classifier stay as they are."""
    graph = lower(fc8(SHAPES["mqa"]), 8)
    found = {op.label: f"{op.kernel} {' '.join(op.inputs)} -> {' '.join(op.outputs)}" for op in graph.ops}
    assert found == {
        op.label: f"{op.kernel.replace('linear', 'fc')} {' '.join(op.inputs)} -> {' '.join(op.outputs)}"
        if op.label.rpartition(".")[2] in FC_MATRICES
        else f"{op.kernel} {' '.join(op.inputs)} -> {' '.join(op.outputs)}"
        for op in GRAPH.ops
    }
    scratch = {op.label: op.scratch for op in graph.ops if op.kernel.startswith("fc")}
    assert scratch == {f"layers.0.{name}": (f"layers.0.{name}.codes8",) for name in FC_MATRICES}
    for op, was in zip(graph.ops, GRAPH.ops, strict=True):
        assert (op.label, op.in_place, op.row, op.last) == (was.label, was.in_place, was.row, was.last)
        if op.kernel.startswith("fc"):
            assert op.variant == PORTABLE[op.kernel]
            rows = len(op.parameters["w"].codes)
            assert graph.buffers[op.scratch[0]] == Buffer(op.scratch[0], "int8", (rows,))
    check_in_place(graph)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_fully_connected_reads_plain_codes_and_wv_those_of_its_family(family):
    """Where the family's codes are not plain bytes, the block of wq and wk is, and wv has one of its own."""
    model = fc8(SHAPES["gqa"])
    graph, ours = (lower(m, 8, family.needs) for m in (model, quantized(SHAPES["gqa"])))
    packed = family.codes in ("words16", "unsigned8", "factors")
    added = [op.label for op in graph.ops if op.label not in {op.label for op in ours.ops}]
    assert added == ([f"layers.{i}.att_block_v" for i in range(2)] if packed else [])
    writer = {name: op for op in graph.ops for name in op.outputs}
    for op in graph.ops:
        if op.kernel.startswith(("linear", "fc")):
            codes, scale = op.inputs[-2:]
            plain = op.kernel.startswith("fc") and packed
            assert writer[codes] is writer[scale]
            assert writer[codes].variant == (PORTABLE if plain else family.kernels).get(
                "block_s8", PORTABLE["block_s8"]
            )
            assert graph.buffers[codes].layout == ("plain" if plain else family.codes)
    if packed:
        for i in range(2):
            block = next(op for op in graph.ops if op.label == f"layers.{i}.att_block_v")
            at = f"layers.{i}.att_norm"
            assert (block.inputs, block.outputs) == ((at,), (f"{at}_v.codes", f"{at}_v.scale"))
            wv = graph.ops[graph.ops.index(block) + 1]
            assert (wv.label, wv.inputs) == (f"layers.{i}.wv", block.outputs)


def test_fully_connected_takes_one_token_at_a_time():
    with pytest.raises(UsageError) as caught:
        lower(fc8(SHAPES["mqa"]), 8, batch=2)
    assert str(caught.value) == (
        "2 tokens at once are not for --fc builtin, whose FULLY_CONNECTED takes one\n"
        "  where: --prefill\n"
        "  try:   --prefill 1, or --fc custom"
    )


@settings(max_examples=25)
@given(configs(), st.data())
def test_buffers_are_what_the_kernels_take(config, data):
    """Types by the kernel's name, sizes by the config; and nothing is declared that no op uses."""
    context = data.draw(st.integers(1, config.seq_len))
    integers = data.draw(st.sampled_from([quantized(config, bits=8), quantized(config, bits=4), fc8(config)]))
    batch = 1 if is_fc8(integers) else data.draw(st.integers(1, MAX_BATCH))
    graph = lower(integers, context, batch=batch)
    assert graph.batch == batch
    used = {name for op in graph.ops for name in (*op.inputs, *op.outputs, *op.scratch)}
    assert used == set(graph.buffers)
    rows = {name for op in graph.ops if op.row for name in op.outputs}
    assert rows == {name for name, buffer in graph.buffers.items() if buffer.state}
    assert rows == {f"layers.{i}.{part}" for i in range(config.n_layers) for part in ("keys", "values")}
    for name in rows:
        assert (graph.buffers[name].dtype, graph.buffers[name].shape) == ("int8", (context, config.kv_dim))
    last = {name for op in graph.ops if op.last for name in op.outputs}
    scratch = {name for op in graph.ops for name in op.scratch}
    assert {name for name, buffer in graph.buffers.items() if buffer.tokens == 1} >= rows | last | scratch
    assert all(graph.buffers[name].tokens == batch for name in used - rows - last - scratch)
    for op in graph.ops:
        first = graph.buffers[op.outputs[0]]
        assert first.dtype == "int" + op.kernel.rpartition("_s")[2]
        if op.kernel == "attention_s16":
            (scores,) = (graph.buffers[name] for name in op.scratch)
            assert (scores.dtype, scores.shape) == ("int16", (context,))
        if op.kernel.startswith(("linear", "fc")):
            w = op.parameters["w"]
            assert isinstance(w, Linear)
            codes, scale = (graph.buffers[name] for name in op.inputs[-2:])
            assert (codes.dtype, codes.shape) == ("int8", w.codes.shape[1:])
            assert (scale.dtype, scale.shape) == ("int32", (2,))
            assert first.shape[-1] == len(w.codes)
    assert len({op.label for op in (*graph.ops, *graph.rebase)}) == len(graph.ops) + len(graph.rebase)


@shapes()
def test_in_place_ops_destroy_nothing_that_is_read_later(config):
    for bits, add in ((8, "linear_add_s16"), (4, "linear4_add_s16")):
        graph = lower(quantized(config, bits=bits), config.seq_len, batch=MAX_BATCH)
        # where kernels.h lets y be an input
        assert {op.kernel for op in graph.ops if op.in_place} == {add, "rope_s16", "swiglu_s16"}
        check_in_place(graph)


def check_in_place(graph: Graph) -> None:
    for index, op in enumerate(graph.ops):
        if op.in_place:
            source, target = graph.buffers[op.inputs[0]], graph.buffers[op.outputs[0]]
            assert dataclasses.replace(source, name=target.name) == target
            assert not source.state
            assert op.inputs.count(source.name) == 1
            assert all(source.name not in later.inputs for later in graph.ops[index + 1 :])


# ---------------------------------------------------------------- the ranges that kernels.h states


def check_linear(w: Linear) -> None:
    assert (w.codes.dtype, w.multiplier.dtype) == (np.int8, np.int16)
    assert w.multiplier.shape == w.codes.shape[:1]
    assert w.multiplier.min() >= 0
    if w.bits == 8:
        assert w.codes.min() >= -127
        assert (w.group, w.group_scale) == (0, None)
    else:
        assert w.bits == 4
        assert -8 <= w.codes.min() <= w.codes.max() <= 7
        assert w.group in (0, 32, 64)
    assert (w.group_scale is None) == (w.group == 0)
    if w.group_scale is not None:
        assert w.group_scale.dtype == np.int8
        assert w.group_scale.shape == (len(w.codes), -(-w.codes.shape[1] // w.group))
        assert w.group_scale.min() >= -127


def check_matrix(w: Linear) -> None:
    check_linear(w)
    weights = w.codes.astype(object)
    if w.group_scale is not None:
        for col in range(weights.shape[1]):
            weights[:, col] *= w.group_scale[:, col // w.group].astype(object)
    assert max(sum(map(abs, row)) for row in weights.tolist()) * 127 < 2 ** (w.shift - 1)
    assert 16 <= w.shift <= 32


def check_keys(parameters: Mapping[str, object], head_dim: int) -> None:
    step, zero, shift = parameters["rope_step"], parameters["zero"], parameters["shift"]
    assert (step.dtype, step.shape) == (np.uint32, (head_dim // 2,))
    assert zero.dtype == np.int32
    assert 0 <= shift <= 7
    assert np.abs(zero.astype(np.int64)).max() <= 127 << (15 + shift)


def check_ranges(graph: Graph) -> None:
    config = graph.model.config
    for op in (*graph.ops, *graph.rebase):
        p = op.parameters
        match op.kernel:
            case "embed_s16":
                check_linear(p["table"])
                assert p["table"].bits == 8
                assert 1 <= p["table"].shift <= 62
            case kernel if kernel in (*LINEAR, *LINEAR4):
                check_matrix(p["w"])
                assert p["w"].bits == (8 if kernel in LINEAR else 4)
            case "fc_s16" | "fc_add_s16":
                check_linear(p["w"])
                multiplier, shift = p["w"].fc
                assert 2**30 <= multiplier <= 2**31 - 2**7
                assert -31 <= shift <= 0
                assert 1 <= p["w"].shift <= 32
                assert p["w"].codes.shape[1] * 127 * 127 < 2**31
            case "rmsnorm_s16":
                assert p["norm"].gain.dtype == np.int16
                assert -14 <= p["norm"].gain_frac <= 15
                assert 1 <= p["eps"] < 2**46  # the numpy twin's bit_length is exact there
            case "rope_s16":
                assert (p["rope_step"].dtype, p["rope_step"].shape) == (np.uint32, (config.head_dim // 2,))
            case "rope_s8" | "rebase_s8":
                check_keys(p, config.head_dim)
            case "attention_s16":
                assert 1 <= p["score_shift"] <= 30
                assert graph.context * 2 ** (15 - p["drop"]) * 127 < 2**31
                assert config.n_heads % config.n_kv_heads == 0
                assert config.head_dim % 2 == 0
                assert config.head_dim <= 256
            case "swiglu_s16":
                assert 1 <= p["shift"] <= 30
                assert 4 <= p["gate_frac"] <= 11
            case "block_s8":
                assert not p
            case _:
                pytest.fail(f"no range is stated for {op.kernel}")


@settings(max_examples=40)
@given(configs(), st.integers(0, 3), st.sampled_from([8, 4]), st.data())
def test_ranges_in_any_shape(config, seed, bits, data):
    check_ranges(lower(quantized(config, seed, bits), data.draw(st.integers(1, config.seq_len))))


@pytest.mark.parametrize("integers", [quantized, functools.partial(quantized, bits=4), fc8], ids=["8", "4", "fc8"])
@shapes()
def test_ranges_on_the_zoo(config, integers):
    check_ranges(lower(integers(config), config.seq_len))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("context", [1, 256, 512])
def test_ranges_on_the_real_checkpoint(context, bits):
    check_ranges(
        lower(quantize(stories(), text_calibration(stories(), stories_tokens()[:300]), NEAREST[bits]), context)
    )


# ---------------------------------------------------------------- context


@pytest.mark.parametrize(("context", "nearest"), [(0, 1), (-5, 1), (9, 8), (4096, 8)])
def test_a_context_that_makes_no_sense(context, nearest):
    with pytest.raises(UsageError) as caught:
        lower(GRAPH.model, context)
    assert str(caught.value) == (
        f"a context of {context} tokens is outside 1 to 8, the trained context of random0\n"
        "  where: --context\n"
        f"  try:   --context {nearest}; generation goes on past it"
    )
    assert caught.value.exit_code == 2


def shape_of(op: Op) -> tuple[object, ...]:
    """An op without its C and its constants."""
    return op.kernel, op.label, op.inputs, op.outputs, op.scratch, op.in_place, op.row, op.last


@pytest.mark.parametrize(("batch", "nearest"), [(0, 1), (-1, 1), (9, 8), (100, 8)])
def test_a_batch_that_makes_no_sense(batch, nearest):
    with pytest.raises(UsageError) as caught:
        lower(GRAPH.model, 8, batch=batch)
    assert str(caught.value) == (
        f"{batch} tokens at once are outside 1 to 8\n  where: --prefill\n  try:   --prefill {nearest}"
    )
    assert caught.value.exit_code == 2


def test_a_batch_of_odd_vectors(monkeypatch):
    """The second of two vectors of 33 int16 would not lie on 4 bytes; only the portable kernels do not mind."""
    monkeypatch.setattr(families, "FAMILIES", (DSP, PLAIN))
    model = quantized(SHAPES["mha"])
    assert lower(model, 8, batch=2).batch == lower(model, 8, frozenset({"dsp"})).batch + 1 == 2
    with pytest.raises(UsageError) as caught:
        lower(model, 8, frozenset({"dsp"}), batch=2)
    assert str(caught.value) == (
        "2 tokens at once need a hidden_dim that is even, for kernels that read two values at a time; random0 has 33\n"
        "  where: --prefill\n"
        "  try:   --prefill 1"
    )
    assert lower(quantized(SHAPES["gqa"]), 8, frozenset({"dsp"}), batch=2).batch == 2


@settings(max_examples=15)
@given(configs(), st.integers(2, MAX_BATCH), st.sampled_from([family.needs for family in FAMILIES]))
def test_every_token_of_a_batch_lies_on_4_bytes(config, batch, features):
    config = dataclasses.replace(config, hidden_dim=config.hidden_dim // 2 * 2 + 2)
    graph = lower(quantized(config), config.seq_len, features, batch)
    if graph.family != "portable":
        assert all(buffer.token_bytes % 4 == 0 for buffer in graph.buffers.values() if buffer.tokens > 1)


def test_a_batch_multiplies_what_every_token_has():
    """... and nothing else: not the rings, the scores, or what only the last token needs."""
    batched = lower(GRAPH.model, 8, batch=5)
    assert list(map(shape_of, batched.ops)) == list(map(shape_of, GRAPH.ops))
    single = {name for name, buffer in batched.buffers.items() if buffer.tokens == 1}
    assert single == {
        "layers.0.keys", "layers.0.values", "layers.0.scores", "final_norm", "final_norm.codes", "final_norm.scale",
        "logits",
    }  # fmt: skip
    for name, buffer in batched.buffers.items():
        assert dataclasses.replace(buffer, tokens=1) == GRAPH.buffers[name]
        assert buffer.nbytes == GRAPH.buffers[name].nbytes * (1 if name in single else 5)


def test_the_widest_head():
    check_ranges(lower(quantized(Config(256, 4, 1, 1, 1, 5, 2, True)), 2))
    with pytest.raises(InputError) as caught:
        lower(quantized(Config(516, 4, 1, 2, 1, 5, 2, True)), 2)
    assert str(caught.value) == (
        "a head of 258 values is beyond 256, where a score fits int32\n"
        "  where: model random0, dim 516, n_heads 2\n"
        "  try:   train the model with at least 3 heads"
    )


@given(st.integers(1, 2**20))
def test_probability_drop_is_the_smallest_that_is_safe(context):
    drop = probability_drop(context)
    assert context * (2**15 >> drop) * 127 < 2**31
    assert drop == 0 or context * (2**15 >> (drop - 1)) * 127 >= 2**31


def test_probability_drop_at_its_first_steps():
    assert [probability_drop(context) for context in (1, 516, 517, 1032, 1033, 2064, 2065)] == [0, 0, 1, 1, 2, 2, 3]


# ---------------------------------------------------------------- families

FAST = KernelVariant("mg_linear_s16_dsp", ("kernels/dsp/linear.c", "kernels/dsp/gemv_s8.S"))
DSP = Family("dsp", frozenset({"dsp"}), "words16", "plain", "value_pairs", score_rows=2, score_step=16,
             kernels={"linear_s16": FAST})  # fmt: skip
MVE = Family("mve", frozenset({"mve", "dsp"}), "padded16", "key_quads", "value_columns")
PLAIN = Family("portable")


@pytest.mark.parametrize(
    ("features", "expected"),
    [((), PLAIN), (("fpu",), PLAIN), (("mve",), PLAIN), (("dsp", "fpu"), DSP), (("dsp", "mve"), MVE)],
)
def test_a_core_gets_the_first_family_it_can_run(monkeypatch, features, expected):
    monkeypatch.setattr(families, "FAMILIES", (MVE, DSP, PLAIN))
    assert choose_family(frozenset(features)) is expected
    graph = lower(GRAPH.model, 5, frozenset(features))
    assert (graph.family, graph.packing) == (expected.name, expected.packing)
    for op in (*graph.ops, *graph.rebase):
        assert op.variant == (FAST if expected is DSP and op.kernel == "linear_s16" else PORTABLE[op.kernel])


def test_every_core_can_run_a_family():
    assert FAMILIES[-1] == PLAIN
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        later = FAMILIES[FAMILIES.index(family) + 1 :]
        assert not any(other.needs > family.needs for other in later), "a later one would never be chosen"


def test_a_family_changes_how_buffers_lie_and_nothing_else(monkeypatch):
    """The same ops and parameters on every core: a family cannot change a number."""
    monkeypatch.setattr(families, "FAMILIES", (DSP, PLAIN))
    plain, rich = lower(GRAPH.model, 5, batch=3), lower(GRAPH.model, 5, frozenset({"dsp"}), batch=3)
    codes = {name for op in rich.ops if op.kernel == "block_s8" for name in op.outputs if name.endswith(".codes")}
    expected = {name: dataclasses.replace(plain.buffers[name], layout="words16") for name in codes}
    expected["layers.0.values"] = dataclasses.replace(plain.buffers["layers.0.values"], layout="value_pairs")
    expected["layers.0.scores"] = Buffer("layers.0.scores", "int16", (2, 16))
    assert rich.buffers == {**plain.buffers, **expected}
    assert rich.buffers["layers.0.values"].nbytes == 6 * 8  # 5 slots, two by two
    for one, other in zip((*plain.ops, *plain.rebase), (*rich.ops, *rich.rebase), strict=True):
        assert shape_of(one) == shape_of(other)
        for name, value in one.parameters.items():
            assert value is other.parameters[name] or value == other.parameters[name]


# ---------------------------------------------------------------- the gate


def broken(index: int, **changes: object) -> Graph:
    ops = list(GRAPH.ops)
    ops[index] = dataclasses.replace(ops[index], **changes)
    return dataclasses.replace(GRAPH, ops=tuple(ops))


def with_linear(index: int, w: Linear) -> Graph:
    return broken(index, parameters={"w": w})


def find(kernel: str) -> int:
    return next(i for i, op in enumerate(GRAPH.ops) if op.kernel == kernel)


DEFECT = "\n  try:   this is a defect of mcugen: please report it with the command line"


def refused(graph: Graph) -> str:
    with pytest.raises(InternalError) as caught:
        check_graph(graph)
    return str(caught.value)


def test_the_gate_lets_a_good_graph_pass():
    check_graph(GRAPH)


def test_a_read_before_the_write():
    assert refused(broken(1, inputs=("final_norm",))) == (
        "final_norm is read before it is written\n  where: graph, op 1 (rmsnorm_s16, layers.0.att_norm)" + DEFECT
    )


@pytest.mark.parametrize("index", range(len(GRAPH.ops) - 1))
def test_every_op_but_those_of_the_ring_is_missed(index):
    """Without it, its reader reads before the write. The rings are written before the first token."""
    graph = dataclasses.replace(GRAPH, ops=GRAPH.ops[:index] + GRAPH.ops[index + 1 :])
    if GRAPH.ops[index].row:
        check_graph(graph)
    else:
        assert "is read before it is written" in refused(graph)


def test_two_ops_in_the_wrong_order():
    ops: list[Op] = list(GRAPH.ops)
    ops[3], ops[4] = ops[4], ops[3]
    assert refused(dataclasses.replace(GRAPH, ops=tuple(ops))) == (
        "layers.0.wq is read before it is written\n  where: graph, op 3 (rope_s16, layers.0.query)" + DEFECT
    )


def test_logits_that_nobody_writes():
    assert refused(dataclasses.replace(GRAPH, ops=GRAPH.ops[:-1])) == (
        "the logits are never written\n  where: graph" + DEFECT
    )


@pytest.mark.parametrize("kernel", LINEAR)
@pytest.mark.parametrize("shift", [16, 25, 32])
def test_an_accumulator_beyond_its_shift(kernel, shift):
    """The first sum of |w| * 127 that is not below 2**(shift - 1), in the last row only."""
    most = (2 ** (shift - 1) - 1) // 127
    codes = np.zeros((3, most // 127 + 1), np.int8)
    codes[2, :-1] = -127
    codes[2, -1] = most % 127
    index = find(kernel)
    good = Linear(codes, np.ones(3, np.int16), shift)
    assert 2 ** (shift - 1) - 127 <= accumulator_bound(good) < 2 ** (shift - 1)
    check_graph(with_linear(index, good))
    bad = codes.copy()
    bad[2, -1] += 1
    assert refused(with_linear(index, Linear(bad, np.ones(3, np.int16), shift))) == (
        f"an accumulator can reach {(most + 1) * 127}, beyond 2**{shift - 1}\n"
        f"  where: graph, op {index} ({kernel}, {GRAPH.ops[index].label})" + DEFECT
    )


@pytest.mark.parametrize("kernel", LINEAR)
def test_an_accumulator_of_4_bits_beyond_its_shift(kernel):
    """Groups count by the magnitude of their scale; the last one is short."""
    codes, scales = np.full((2, 65), -8, np.int8), np.array([[0, 0, 0], [-127, 127, 1]], np.int8)
    weights = 8 * (64 * 127 + 1)  # 65,032
    index = find(kernel)

    def graph(shift: int, group_scale: np.ndarray | None = scales) -> Graph:
        group = 32 if group_scale is not None else 0
        return with_linear(index, Linear(codes, np.ones(2, np.int16), shift, 4, group, group_scale))

    assert 2**22 <= weights * 127 < 2**23
    check_graph(graph(24))
    where = f"\n  where: graph, op {index} ({kernel}, {GRAPH.ops[index].label})" + DEFECT
    assert refused(graph(23)) == f"an accumulator can reach {weights * 127}, beyond 2**22" + where
    check_graph(graph(18, None))
    assert refused(graph(17, None)) == f"an accumulator can reach {65 * 8 * 127}, beyond 2**16" + where


FC_GRAPH = lower(fc8(SHAPES["mqa"]), 8)


def with_fc(label: str, w: Linear, layout: str = "plain") -> Graph:
    ops, buffers = list(FC_GRAPH.ops), dict(FC_GRAPH.buffers)
    index = [op.label for op in ops].index(label)
    ops[index] = dataclasses.replace(ops[index], parameters={"w": w})
    codes = ops[index].inputs[-2]
    buffers[codes] = dataclasses.replace(buffers[codes], layout=layout)
    return dataclasses.replace(FC_GRAPH, ops=tuple(ops), buffers=buffers)


@pytest.mark.parametrize(("kernel", "label", "index"), [("fc_s16", "wk", 5), ("fc_add_s16", "wo", 10)])
def test_a_matrix_beyond_what_fully_connected_computes(kernel, label, index):
    where = f"\n  where: graph, op {index} ({kernel}, layers.0.{label})" + DEFECT
    rows = np.ones(2, np.int16)
    most = (2**31 - 1) // 127
    wide = np.full((2, most // 127 + 1), 127, np.int8)
    wide[:, -1] = most % 127
    good = Linear(wide, rows, 32, fc=(2**30, -31))
    check_graph(with_fc(f"layers.0.{label}", good))
    check_graph(with_fc(f"layers.0.{label}", dataclasses.replace(good, shift=16, fc=(2**31 - 2**7, 0))))
    wide = wide.copy()
    wide[1, -1] += 1
    for changes, what in (
        ({"codes": wide}, f"an accumulator can reach {127 * (most + 1)}, beyond 2**31"),
        ({"shift": 15}, "a shift of 15 is not in [16, 32]"),
        ({"shift": 33}, "a shift of 33 is not in [16, 32]"),
        ({"bits": 4}, f"int4 codes with an fc of ({2**30}, -31)"),
        ({"fc": (2**30, 1)}, f"int8 codes with an fc of ({2**30}, 1)"),
        ({"fc": (2**30, -32)}, f"int8 codes with an fc of ({2**30}, -32)"),
        ({"fc": (2**30 - 128, 0)}, f"int8 codes with an fc of ({2**30 - 128}, 0)"),
        ({"fc": (2**31, 0)}, f"int8 codes with an fc of ({2**31}, 0)"),
        ({"fc": (2**30 + 64, 0)}, f"an fc multiplier of {2**30 + 64} has more than 24 significant bits"),
    ):
        assert refused(with_fc(f"layers.0.{label}", dataclasses.replace(good, **changes))) == what + where


@pytest.mark.parametrize(("layout", "is_good"), [("padded16", True), ("words16", False), ("unsigned8", False)])
def test_codes_that_fully_connected_cannot_read(layout, is_good):
    graph = with_fc("layers.0.wo", FC_GRAPH.model.layers[0].wo, layout)
    if is_good:
        check_graph(graph)
    else:
        assert refused(graph) == (
            f"codes that are {layout} cannot be read\n  where: graph, op 10 (fc_add_s16, layers.0.wo)" + DEFECT
        )


def test_codes_that_our_kernel_cannot_read():
    """As wv found them, if it read a block made for FULLY_CONNECTED."""
    codes = GRAPH.ops[find("linear_s8")].inputs[-2]
    buffers = {**GRAPH.buffers, codes: dataclasses.replace(GRAPH.buffers[codes], layout="padded8")}
    assert refused(dataclasses.replace(GRAPH, buffers=buffers)) == (
        "codes that are padded8 cannot be read\n  where: graph, op 3 (linear_s16, layers.0.wq)" + DEFECT
    )


@pytest.mark.parametrize(("shift", "is_good"), [(15, False), (16, True), (32, True), (33, False)])
def test_a_shift_out_of_range(shift, is_good):
    index = find("linear_s32")
    graph = with_linear(index, Linear(np.ones((2, 2), np.int8), np.ones(2, np.int16), shift))
    if is_good:
        check_graph(graph)
    else:
        assert refused(graph) == (
            f"a shift of {shift} is not in [16, 32]\n  where: graph, op {index} (linear_s32, logits)" + DEFECT
        )


def test_an_embedding_may_have_any_shift():
    """It has no accumulators."""
    for shift in (1, 62):
        check_graph(broken(0, parameters={"table": dataclasses.replace(GRAPH.model.embedding, shift=shift)}))


def test_lower_runs_the_gate(monkeypatch):
    calls = []
    monkeypatch.setattr(lowering, "check_graph", calls.append)
    graph = lower(GRAPH.model, 8)
    assert calls == [graph]
