"""The TFLite model and its file: checked on the way out, the same bytes every time, read by an independent reader."""

from __future__ import annotations

import dataclasses
import importlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tflm
import zoo

from mcugen.errors import InternalError
from mcugen.layouts import LAYOUTS
from mcugen.plan import check_plan
from mcugen.tflm.flatbuffer import write
from mcugen.tflm.lowering import head_bytes, state_bytes
from mcugen.tflm.model import DTYPES, OFFLINE_PLAN, ONLINE, Operator, Tensor, TfliteModel

X = Tensor("x", "int8", (1, 4), scale=1.0)
W = Tensor("w", "int8", (2, 4), bytes(8), scale=0.5)
Y = Tensor("y", "int8", (1, 2), scale=1.0)
KEPT = Tensor("kept", "int32", (3,), variable=True)
LINEAR = Operator("FULLY_CONNECTED", (0, 1, -1), (2,))
MODEL = TfliteModel((X, W, Y, KEPT), (LINEAR, Operator("OP", (2, 3), (), b"abcd")), (0,), (2,), (), "a model")


def with_tensor(index: int, **changes: object) -> TfliteModel:
    tensors = list(MODEL.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(MODEL, tensors=tuple(tensors))


def with_node(**changes: object) -> TfliteModel:
    return dataclasses.replace(MODEL, operators=(dataclasses.replace(LINEAR, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (with_tensor(1, data=bytes(7)), "w has 7 bytes, not 8\n  where: TFLite model"),
        (with_node(inputs=(0, 9, -1)), "there is no tensor 9\n  where: TFLite model, node 0 (FULLY_CONNECTED)"),
        (with_node(code="OP", inputs=(-1,)), "there is no tensor -1\n  where: TFLite model, node 0 (OP)"),
        (with_node(inputs=(2, 1, -1)), "y is read before it is written"),
        (with_node(outputs=(1,)), "tensor 1 cannot be written"),
        (with_node(outputs=(3,)), "tensor 3 cannot be written"),
        (with_node(outputs=(4,)), "tensor 4 cannot be written"),
        (dataclasses.replace(MODEL, operators=()), "the output y is never written"),
        (with_tensor(0, dtype="int16"), "x (1, 4), w (2, 4) and y (1, 2) do not fit"),
        (with_tensor(0, scale=None), "do not fit"),
        (with_tensor(0, shape=(1, 3)), "do not fit"),
        (with_tensor(0, shape=(4,)), "do not fit"),
        (with_tensor(0, shape=(2, 4)), "do not fit"),
        (with_tensor(2, shape=(1, 3)), "do not fit"),
        (with_tensor(2, dtype="int16"), "do not fit"),
        (with_node(inputs=(0, 1)), "do not fit"),
        (with_node(inputs=(0, 1, 1)), "do not fit"),
    ],
)
def test_a_model_that_does_not_hold_together_is_not_written(model: TfliteModel, what: str) -> None:
    with pytest.raises(InternalError) as found:
        write(model)
    assert what in str(found.value)


# ---------------------------------------------------------------- the file


def reader() -> Any:
    """The classes that TensorFlow generates from schema.fbs, in the interpreter's package."""
    tflm.require_interpreter()
    return importlib.import_module("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")


def parsed(model: TfliteModel) -> Any:
    schema = reader()
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(write(model)), 0))


MODELS: dict[str, Callable[[], TfliteModel]] = {
    "small": lambda: MODEL,
    "int8": lambda: tflm.laid_out(zoo.SHAPES["gqa"], 5).model,
    "int4": lambda: tflm.laid_out(zoo.SHAPES["mha"], 5, board="qemu-virt-rv32", kind="int4").model,
    "fc8": lambda: tflm.laid_out(zoo.SHAPES["wide"], 5, kind="fc8").model,
}


@pytest.mark.parametrize("name", MODELS)
def test_an_independent_reader_finds_what_was_written(name: str) -> None:
    model = MODELS[name]()
    found = parsed(model)
    assert (found.version, found.description.decode()) == (3, model.description)
    (graph,) = found.subgraphs
    assert (list(graph.inputs), list(graph.outputs)) == (list(model.inputs), list(model.outputs))

    def content(index: int) -> bytes | None:
        data = found.buffers[index].data
        return None if data is None else bytes(data)

    for tensor, read in zip(model.tensors, graph.tensors, strict=True):
        assert read.name.decode() == tensor.name
        assert (read.type, tuple(read.shape)) == (DTYPES[tensor.dtype][0], tensor.shape)
        assert bool(read.isVariable) == tensor.variable
        assert content(read.buffer) == tensor.data
        if tensor.scale is None:
            assert read.quantization is None
        else:
            assert list(read.quantization.scale) == [np.float32(tensor.scale)]
            assert list(read.quantization.zeroPoint) == [0]
    for op, read in zip(model.operators, graph.operators, strict=True):
        code = found.operatorCodes[read.opcodeIndex]
        assert code.builtinCode == code.deprecatedBuiltinCode == (9 if op.builtin else 32)
        assert (code.customCode is None) if op.builtin else (code.customCode.decode() == op.code)
        assert (list(read.inputs), list(read.outputs)) == (list(op.inputs), list(op.outputs))
        assert bytes(read.customOptions if read.customOptions is not None else b"") == op.options
        assert read.builtinOptionsType == (8 if op.builtin else 0)
    metadata = [(m.name.decode(), content(m.buffer)) for m in found.metadata or ()]
    assert metadata == list(model.metadata)


@pytest.mark.parametrize("name", MODELS)
def test_constants_and_options_begin_at_multiples_of_16(name: str) -> None:
    """Each content is made unique, so that its place in the file is certain."""
    model = MODELS[name]()
    marks = iter(range(1, 10_000))

    def marked(content: bytes) -> bytes:
        return (struct.pack("<I", 0xA5000000 + next(marks)) * (len(content) // 4 + 2))[: max(len(content), 0)]

    tensors = tuple(
        dataclasses.replace(t, data=marked(t.data)) if t.data is not None and t.nbytes >= 16 else t
        for t in model.tensors
    )
    operators = tuple(dataclasses.replace(op, options=marked(op.options)) for op in model.operators)
    file = write(dataclasses.replace(model, tensors=tensors, operators=operators))
    contents = [t.data for t in tensors if t.data is not None and t.nbytes >= 16]
    contents += [op.options for op in operators if len(op.options) >= 8]
    if name != "small":
        assert len(contents) > 20
    for data in contents:
        assert file.index(data) % 16 == 0
    assert file[4:8] == b"TFL3"
    assert len(file) % 16 == 0


def test_the_same_model_gives_the_same_bytes() -> None:
    first = tflm.laid_out(zoo.SHAPES["gqa"], 5)
    again = tflm.lay_out(zoo.quantized(zoo.SHAPES["gqa"]), 5)
    assert again.model == first.model
    assert again.tflite == first.tflite == write(first.model)


# ---------------------------------------------------------------- lowering


@pytest.mark.parametrize("board", ["nucleo", "mps2-an385", "mps2-an383", "mps3-an547", "qemu-virt-rv32", "host"])
@pytest.mark.parametrize("kind", ["int8", "fc8"])
def test_the_file_carries_the_plan(board: str, kind: str) -> None:
    """Offsets of all that passes, 16-byte aligned and apart from the head's end; none of constants and variables."""
    layout = tflm.laid_out(zoo.SHAPES["gqa"], 5, board=board, kind=kind)
    graph, plan, model = layout.layout.graph, layout.layout.plan, layout.model
    check_plan(graph, plan)
    ((name, content),) = model.metadata
    version, subgraph, count, *offsets = struct.unpack(f"<{len(content) // 4}i", content)
    assert (name, version, subgraph, count) == (OFFLINE_PLAN, 1, 0, len(model.tensors))
    rings = state_bytes(graph, plan)
    assert rings == sum(-(-b.nbytes // 16) * 16 for b in graph.buffers.values() if b.state)
    for tensor, offset in zip(model.tensors, offsets, strict=True):
        if tensor.variable or tensor.data is not None:
            assert offset == ONLINE
        elif tensor.name in graph.buffers:
            buffer = graph.buffers[tensor.name]
            assert offset == plan.offsets[tensor.name] - rings
            assert offset % 16 == 0
            assert tensor.nbytes <= buffer.nbytes  # TFLM knows nothing of what pads a vector
            assert tensor.nbytes == buffer.nbytes or LAYOUTS[buffer.layout].begins_plain
    last = {t.name: offset for t, offset in zip(model.tensors, offsets, strict=True)}
    end = plan.arena_bytes - rings
    assert [last[name] for name in ("token", "slot", "next_token")] == [end, end + 16, end + 32]
    assert head_bytes(graph, plan) == end + 48 == layout.arena.head


def test_what_two_ops_share_lies_in_the_file_once() -> None:
    layout = tflm.laid_out(zoo.SHAPES["mqa"], 5)  # its classifier is the embedding table
    names = [t.name for t in layout.model.tensors]
    assert "embedding.codes" in names
    assert "logits.codes" not in names
    assert names.count("rope_step") == 1


def test_ops_are_named_after_their_kernels() -> None:
    """So that a file made for one core finds no op on another."""

    def codes(board: str, kind: str) -> list[str]:
        model = tflm.laid_out(zoo.SHAPES["gqa"], 5, board=board, kind=kind).model
        return list(dict.fromkeys(op.code for op in model.operators))

    assert codes("host", "int8") == [
        "MCUGEN_NEXT_SLOT", "MCUGEN_EMBED_S16", "MCUGEN_RMSNORM_S16", "MCUGEN_BLOCK_S8", "MCUGEN_LINEAR_S16",
        "MCUGEN_ROPE_S16", "MCUGEN_ROPE_S8", "MCUGEN_LINEAR_S8", "MCUGEN_ATTENTION_S16", "MCUGEN_LINEAR_ADD_S16",
        "MCUGEN_SWIGLU_S16", "MCUGEN_LINEAR_S32", "MCUGEN_NEXT_TOKEN",
    ]  # fmt: skip
    assert "MCUGEN_LINEAR_S16_DSP" in codes("nucleo", "int8")
    assert "MCUGEN_NEXT_SLOT_V6M" in codes("mps2-an385", "int8") + codes("mps2-an383", "int8")
    builtin = codes("nucleo", "fc8")
    assert {"MCUGEN_BLOCK_S8", "MCUGEN_BLOCK_S8_DSP", "FULLY_CONNECTED", "MCUGEN_RESCALE_ADD_S16"} <= set(builtin)
    assert "MCUGEN_LINEAR_S16_DSP" not in builtin
