"""The decode step as a list of ops: its order, its ranges, its gate, and the choice of variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import SHAPES, configs, quantized, shapes, stories, stories_tokens

from mcugen import lower as lowering
from mcugen.errors import InputError, InternalError, UsageError
from mcugen.ir import Config, Graph, KernelVariant, Linear, Op
from mcugen.lower import VARIANTS, check_graph, choose_variant, lower, probability_drop
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


@settings(max_examples=25)
@given(configs(), st.data())
def test_buffers_are_what_the_kernels_take(config, data):
    """Types by the kernel's name, sizes by the config; and nothing is declared that no op uses."""
    context = data.draw(st.integers(1, config.seq_len))
    graph = lower(quantized(config), context)
    used = {name for op in graph.ops for name in (*op.inputs, *op.outputs, *op.scratch)}
    assert used == set(graph.buffers)
    rows = {name for op in graph.ops if op.row for name in op.outputs}
    assert rows == {name for name, buffer in graph.buffers.items() if buffer.state}
    assert rows == {f"layers.{i}.{part}" for i in range(config.n_layers) for part in ("keys", "values")}
    for name in rows:
        assert (graph.buffers[name].dtype, graph.buffers[name].shape) == ("int8", (context, config.kv_dim))
    for op in graph.ops:
        first = graph.buffers[op.outputs[0]]
        assert first.dtype == "int" + op.kernel.rpartition("_s")[2]
        if op.kernel == "attention_s16":
            (scores,) = (graph.buffers[name] for name in op.scratch)
            assert (scores.dtype, scores.shape) == ("int32", (context,))
        if op.kernel.startswith("linear"):
            w = op.parameters["w"]
            assert isinstance(w, Linear)
            codes, scale = (graph.buffers[name] for name in op.inputs[-2:])
            assert (codes.dtype, codes.shape) == ("int8", w.codes.shape[1:])
            assert (scale.dtype, scale.shape) == ("int32", (2,))
            assert first.shape[-1] == len(w.codes)
    assert len({op.label for op in (*graph.ops, *graph.rebase)}) == len(graph.ops) + len(graph.rebase)


@shapes()
def test_in_place_ops_destroy_nothing_that_is_read_later(config):
    graph = lower(quantized(config), config.seq_len)
    allowed = {"linear_add_s16", "rope_s16", "swiglu_s16"}  # where kernels.h lets y be an input
    assert {op.kernel for op in graph.ops if op.in_place} == allowed
    for index, op in enumerate(graph.ops):
        if op.in_place:
            source, target = graph.buffers[op.inputs[0]], graph.buffers[op.outputs[0]]
            assert (source.dtype, source.shape, source.state) == (target.dtype, target.shape, False)
            assert op.inputs.count(source.name) == 1
            assert all(source.name not in later.inputs for later in graph.ops[index + 1 :])


# ---------------------------------------------------------------- the ranges that kernels.h states


def check_linear(w: Linear, low: int, high: int) -> None:
    assert (w.codes.dtype, w.multiplier.dtype) == (np.int8, np.int16)
    assert w.multiplier.shape == w.codes.shape[:1]
    assert w.codes.min() >= -127
    assert np.abs(w.codes.astype(np.int64)).sum(1).max() * 127 < 2**31
    assert w.multiplier.min() >= 0
    assert low <= w.shift <= high


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
                check_linear(p["table"], 1, 62)
            case "linear_s8" | "linear_s16" | "linear_s32" | "linear_add_s16":
                check_linear(p["w"], 3, 49)
            case "rmsnorm_s16":
                assert p["norm"].gain.dtype == np.int16
                assert -14 <= p["norm"].gain_frac <= 15
                assert 1 <= p["eps"] < 2**46  # the numpy twin's bit_length is exact there
            case "rope_s16":
                assert (p["rope_step"].dtype, p["rope_step"].shape) == (np.uint32, (config.head_dim // 2,))
            case "rope_s8" | "rebase_s8":
                check_keys(p, config.head_dim)
            case "attention_s16":
                assert (p["score"].dtype, p["score"].shape) == (np.int16, (config.n_heads,))
                assert p["score"].min() >= 0
                assert 1 <= p["score_shift"] <= 62
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
@given(configs(), st.integers(0, 3), st.data())
def test_ranges_in_any_shape(config, seed, data):
    check_ranges(lower(quantized(config, seed), data.draw(st.integers(1, config.seq_len))))


@shapes()
def test_ranges_on_the_zoo(config):
    check_ranges(lower(quantized(config), config.seq_len))


@pytest.mark.parametrize("context", [1, 256, 512])
def test_ranges_on_the_real_checkpoint(context):
    check_ranges(lower(quantize(stories(), text_calibration(stories(), stories_tokens()[:300])), context))


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


# ---------------------------------------------------------------- variants


PORTABLE = KernelVariant("mg_linear_s16", "kernels/linear.c")
DSP = KernelVariant("mg_linear_s16_dsp", "kernels/linear_dsp.c", frozenset({"dsp"}), "nested_digits")
MVE = KernelVariant("mg_linear_s16_mve", "kernels/linear_mve.c", frozenset({"mve", "dsp"}), "rows16")


@pytest.mark.parametrize(
    ("features", "expected"),
    [((), PORTABLE), (("fpu",), PORTABLE), (("mve",), PORTABLE), (("dsp", "fpu"), DSP), (("dsp", "mve"), MVE)],
)
def test_a_core_gets_the_first_variant_it_can_run(monkeypatch, features, expected):
    monkeypatch.setitem(VARIANTS, "linear_s16", (MVE, DSP, PORTABLE))
    assert choose_variant("linear_s16", frozenset(features)) is expected
    graph = lower(GRAPH.model, 8, frozenset(features))
    assert {op.variant for op in graph.ops if op.kernel == "linear_s16"} == {expected}
    assert {op.variant.symbol for op in graph.ops if op.kernel == "linear_s8"} == {"mg_linear_s8"}


def test_variants_change_nothing_but_themselves():
    """The same ops, buffers and parameters on every core: a variant can not change a number."""
    plain, rich = lower(GRAPH.model, 8), lower(GRAPH.model, 8, frozenset({"dsp", "mve", "fpu"}))
    assert plain.buffers == rich.buffers
    for one, other in zip(plain.ops, rich.ops, strict=True):
        assert (one.kernel, one.label, one.inputs, one.outputs, one.scratch, one.in_place, one.row) == (
            other.kernel, other.label, other.inputs, other.outputs, other.scratch, other.in_place, other.row
        )  # fmt: skip
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


@pytest.mark.parametrize("kernel", ["linear_s8", "linear_s16", "linear_s32", "linear_add_s16"])
def test_an_accumulator_beyond_int32(kernel):
    """133,145 products of 127 by 127, in the last row only."""
    cols = (2**31 - 1) // 127**2
    codes = np.zeros((3, cols + 1), np.int8)
    codes[2, :cols] = -127
    good = Linear(codes, np.ones(3, np.int16), 20)
    index = find(kernel)
    check_graph(with_linear(index, good))
    bad = codes.copy()
    bad[2, cols] = 127
    assert refused(with_linear(index, Linear(bad, np.ones(3, np.int16), 20))) == (
        f"an accumulator can reach {(cols + 1) * 127**2}, beyond int32\n"
        f"  where: graph, op {index} ({kernel}, {GRAPH.ops[index].label})" + DEFECT
    )


@pytest.mark.parametrize(("shift", "is_good"), [(2, False), (3, True), (49, True), (50, False)])
def test_a_shift_out_of_range(shift, is_good):
    """The block's exponent, in [-13, 2], is taken off: 1 to 62 must remain."""
    index = find("linear_s32")
    graph = with_linear(index, Linear(np.ones((2, 2), np.int8), np.ones(2, np.int16), shift))
    if is_good:
        check_graph(graph)
    else:
        assert refused(graph) == (
            f"a shift of {shift} is not in [3, 49]\n  where: graph, op {index} (linear_s32, logits)" + DEFECT
        )


def test_lower_runs_the_gate(monkeypatch):
    calls = []
    monkeypatch.setattr(lowering, "check_graph", calls.append)
    graph = lower(GRAPH.model, 8)
    assert calls == [graph]
