"""A cache of int4 values, on every rung."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import ladder
import numpy as np
import pytest
import zoo
from test_verify import broken_machine, climb, prompted

from mcugen import kernels as k
from mcugen.boards import load_board
from mcugen.errors import InputError
from mcugen.ir import QuantizedModel
from mcugen.layout import Layout, lay_out
from mcugen.lower import lower
from mcugen.quantize import calibrate, quantize
from mcugen.quantized_file import load_quantized, save_quantized
from mcugen.recipes import W8, read_recipe
from mcugen.simulate import simulate

GQA = zoo.SHAPES["gqa"]
BOARDS = ("nucleo", "mps2-an383", "mps3-an547", "qemu-virt-rv32")  # each with another family


def model_of(name: str) -> QuantizedModel:
    config = {**zoo.SHAPES, **zoo.ARCHITECTURES, **zoo.LOCAL}[name]
    return dataclasses.replace(zoo.quantized(config), value_bits=4, name="random")


@functools.cache
def laid_out(name: str, context: int, board: str = "host", batch: int = 1, sinks: int = 0) -> Layout:
    model = model_of(name)
    tokenizer = zoo.random_tokenizer(model.config.vocab_size)
    return lay_out(model, tokenizer, load_board(board), context, batch, sinks)


def test_a_recipe_says_so() -> None:
    model = zoo.model_of(GQA)
    seen = calibrate(model, [zoo.random_tokens(GQA, 16)], "random tokens")
    recipe = dataclasses.replace(W8, value_bits=4)
    made = quantize(model, seen, recipe)
    assert made.value_bits == 4
    assert made.recipe == "w8a8k8v4, calibrated on random tokens"
    assert load_quantized(save_quantized(made))[0].value_bits == 4


def test_a_recipe_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('[weights]\ndefault = "int8"\nrounding = "nearest"\n[cache]\nvalues = "int4"\n')
    assert read_recipe(path) == dataclasses.replace(W8, name="small", value_bits=4)
    path.write_text('[weights]\ndefault = "int8"\n[cache]\nvalues = "int2"\n')
    with pytest.raises(InputError, match=r"cache\.values is 'int2'"):
        read_recipe(path)
    path.write_text('[weights]\ndefault = "int8"\n[cache]\nkeys = "int4"\n')
    with pytest.raises(InputError, match=r"the key cache\.keys is unknown"):
        read_recipe(path)


def test_a_slot_of_values_takes_half_a_byte_each_and_a_step_for_sixteen() -> None:
    graph = lower(model_of("gqa"), 12)
    assert graph.buffers["layers.1.keys"].nbytes == 12 * 16
    assert graph.buffers["layers.1.values"].nbytes == 12 * (8 + 1)
    assert k.values4_bytes(34) == 17 + 3


def test_attention_reads_what_was_packed() -> None:
    """Of each token of a trace, int8 attention over the values that the ring then stands for."""
    config, tokens = GQA, zoo.random_tokens(GQA, 12)
    graph = lower(model_of("gqa"), 12)
    trace = simulate(graph, tokens.tolist())
    found = {op.label: outputs for op, outputs in zip(graph.ops, trace.outputs, strict=True)}
    made = {op.label: op for op in graph.ops}
    for at in ("layers.0", "layers.1"):
        [v], [slots] = found[f"{at}.wv"], found[f"{at}.values"]
        np.testing.assert_array_equal(slots, k.values4_s16(v))
        p = made[f"{at}.attention"].parameters
        expected = k.attention_s16(
            found[f"{at}.query"][0], found[f"{at}.keys"][0], k.unpack_values4(slots, config.kv_dim),
            np.tri(12, dtype=bool), config.n_heads, config.n_kv_heads, p["score_shift"], p["drop"],
        )  # fmt: skip
        np.testing.assert_array_equal(found[f"{at}.attention"][0], expected)


@pytest.mark.parametrize(
    ("name", "context", "sinks"), [("gqa", 5, 0), ("mqa", 8, 2), ("wide", 32, 0), ("all", 12, 0), ("local", 8, 1)]
)
def test_every_op_is_equal_on_the_host(name: str, context: int, sinks: int) -> None:
    """Past a re-basing, and with prompts of three tokens at once."""
    layout = laid_out(name, context, batch=3, sinks=sinks)
    tokens = 2 * layout.graph.model.config.seq_len + 5
    assert climb(ladder.host_machine(layout), layout, tokens).difference is None
    assert prompted(ladder.host_machine(layout), layout, 11).difference is None


@pytest.mark.parametrize("board", BOARDS)
def test_every_op_is_equal_on_the_boards(board: str) -> None:
    layout = laid_out("gqa", 12, board, 2)
    assert climb(ladder.board_machine(layout), layout, 20).difference is None
    assert prompted(ladder.board_machine(layout), layout, 11).difference is None


@pytest.mark.slow
@pytest.mark.parametrize("board", [*BOARDS, "mps2-an385", "mps2-an500"])
def test_every_op_is_equal_with_gcc(board: str) -> None:
    layout = laid_out("gqa", 12, board)
    assert climb(ladder.board_machine(layout, "gcc"), layout, 37).difference is None


@pytest.mark.parametrize(
    ("label", "old", "new"),
    [
        ("layers.0.values", "even & 15", "even & 7"),
        ("layers.0.attention", "(*v >> 4)", "(*v >> 5)"),
    ],
)
def test_a_planted_fault_is_named(label: str, old: str, new: str) -> None:
    layout = laid_out("gqa", 12)
    difference = climb(broken_machine(layout, old, new, "kernels/attention4.c"), layout, 20).difference
    assert difference is not None
    assert difference.label == label
