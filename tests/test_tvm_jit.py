"""TVM's LLVM backend on the same TIR: every op of every token, over wraps of the ring and re-basings."""

from __future__ import annotations

import dataclasses

import microtvm
import numpy as np
import pytest
import zoo

from mcugen.boards import load_board
from mcugen.families import TVM_FAMILIES
from mcugen.ir import Config, Graph, Plan
from mcugen.lower import lower
from mcugen.microtvm.jit import JitMachine
from mcugen.plan import plan_memory
from mcugen.simulate import simulate
from mcugen.verify import mismatch, verify, verify_prompt

SMALL = zoo.SHAPES["mqa"]


def planned(config: Config, context: int, bits: int = 8) -> tuple[Graph, Plan]:
    """A model whose keys are turned back soon after its ring has wrapped."""
    model = dataclasses.replace(zoo.quantized(config, bits=bits), max_position=config.seq_len + 3)
    graph = lower(model, context, families=TVM_FAMILIES)
    return graph, plan_memory(graph, load_board("host"))


@pytest.fixture(scope="module", autouse=True)
def _tvm() -> None:
    microtvm.require_tvm()


@pytest.mark.parametrize("bits", [8, 4])
@zoo.shapes()
def test_every_shape_is_equal_op_by_op(config: Config, bits: int) -> None:
    graph, plan = planned(config, max(1, config.seq_len - 3), bits)
    tokens = zoo.random_tokens(config, max(4 * graph.context, 2 * graph.model.max_position) + 3).tolist()
    assert len(simulate(graph, tokens).rebased) > 1
    machine = JitMachine(graph, plan)
    try:
        report = verify(machine, graph, plan, tokens, rung="rung 3", title=JitMachine.title)
        assert report.difference is None, mismatch(report)
        assert report.tokens == len(tokens)
        prompt = verify_prompt(machine, graph, plan, tokens[: graph.context], rung="rung 3", title=JitMachine.title)
        assert prompt.difference is None, mismatch(prompt)
    finally:
        machine.close()


@pytest.mark.parametrize("changed", ["wk", "key_zero"])
def test_another_constant_is_found(changed: str) -> None:
    graph, plan = planned(SMALL, 6)
    layer = graph.model.layers[0]
    other = (
        dataclasses.replace(layer, key_zero=layer.key_zero + (1 << 20))
        if changed == "key_zero"
        else dataclasses.replace(layer, wk=dataclasses.replace(layer.wk, multiplier=layer.wk.multiplier // 2))
    )
    model = dataclasses.replace(graph.model, layers=(other, *graph.model.layers[1:]))
    machine = JitMachine(lower(model, 6, families=TVM_FAMILIES), plan)
    try:
        found = verify(machine, graph, plan, [1, 2, 3], rung="", title="").difference
    finally:
        machine.close()
    assert found is not None
    assert found.label == {"wk": "layers.0.wk", "key_zero": "layers.0.keys"}[changed]


def test_a_machine_starts_anew() -> None:
    graph, plan = planned(SMALL, 6)
    machine = JitMachine(graph, plan)
    try:
        left = []
        for _ in range(2):
            machine.call("random0_init")
            for token in (3, 1, 2):
                machine.call("random0_step", token)
            left.append(machine.read(plan.offsets[graph.logits], 4 * graph.model.config.vocab_size))
        assert left[0] == left[1]
        np.testing.assert_array_equal(np.frombuffer(left[0], "<i4"), simulate(graph, [3, 1, 2]).outputs[-1][0][-1])
    finally:
        machine.close()
