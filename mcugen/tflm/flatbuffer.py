"""TfliteModel -> the bytes of a .tflite: the same model gives the same bytes, and constants lie at multiples of 16.

Field numbers are those of TFLite's schema.fbs, version 3; its evolution only appends fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import flatbuffers
import numpy as np

from mcugen.tflm.model import ALIGNMENT, DTYPES, Operator, Tensor, TfliteModel, check_model

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
CUSTOM, FULLY_CONNECTED = 32, 9  # BuiltinOperator
FULLY_CONNECTED_OPTIONS = 8  # BuiltinOptions
FULLY_CONNECTED_VERSION = 4  # of the operator: the first with int8


class _Model(IntEnum):
    VERSION, OPERATOR_CODES, SUBGRAPHS, DESCRIPTION, BUFFERS, METADATA_BUFFER, METADATA = range(7)


class _SubGraph(IntEnum):
    TENSORS, INPUTS, OUTPUTS, OPERATORS, NAME = range(5)


class _Tensor(IntEnum):
    SHAPE, TYPE, BUFFER, NAME, QUANTIZATION, IS_VARIABLE = range(6)


class _Quantization(IntEnum):
    MIN, MAX, SCALE, ZERO_POINT = range(4)


class _Operator(IntEnum):
    OPCODE_INDEX, INPUTS, OUTPUTS, BUILTIN_OPTIONS_TYPE, BUILTIN_OPTIONS, CUSTOM_OPTIONS = range(6)


class _OperatorCode(IntEnum):
    DEPRECATED_BUILTIN_CODE, CUSTOM_CODE, VERSION, BUILTIN_CODE = range(4)


class _Buffer(IntEnum):
    (DATA,) = range(1)


class _Metadata(IntEnum):
    NAME, BUFFER = range(2)


_PREPEND = {
    "offset": flatbuffers.Builder.PrependUOffsetTRelativeSlot,
    "int32": flatbuffers.Builder.PrependInt32Slot,
    "uint32": flatbuffers.Builder.PrependUint32Slot,
    "int8": flatbuffers.Builder.PrependInt8Slot,
    "bool": flatbuffers.Builder.PrependBoolSlot,
}


class _Writer:
    """Objects are written back to front: what a table refers to comes first."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1 << 16)
        self.buffers = [self.table(len(_Buffer))]  # 0: of tensors without content

    def table(self, fields: int, *values: tuple[IntEnum, str, int | None]) -> int:
        """values: (field, kind, value); a value of None is left out."""
        self.builder.StartObject(fields)
        for field, kind, value in values:
            if value is not None:
                _PREPEND[kind](self.builder, int(field), value, 0)
        return int(self.builder.EndObject())

    def offsets(self, tables: Sequence[int]) -> int:
        self.builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self.builder.PrependUOffsetTRelative(table)
        return int(self.builder.EndVector())

    def numbers(self, values: Sequence[int] | Sequence[float], dtype: str) -> int:
        return int(self.builder.CreateNumpyVector(np.array(values, dtype)))

    def content(self, data: bytes) -> int:
        """A vector of bytes that begins at a multiple of 16."""
        builder = self.builder
        builder.StartVector(1, len(data), ALIGNMENT)
        builder.head = builder.Head() - len(data)
        builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
        return int(builder.EndVector())

    def buffer(self, data: bytes) -> int:
        """The index of a new buffer."""
        self.buffers.append(self.table(len(_Buffer), (_Buffer.DATA, "offset", self.content(data))))
        return len(self.buffers) - 1

    def tensor(self, tensor: Tensor) -> int:
        quantization = None
        if tensor.scale is not None:
            scale, zero = self.numbers([tensor.scale], "<f4"), self.numbers([0], "<i8")
            quantization = self.table(
                len(_Quantization), (_Quantization.SCALE, "offset", scale), (_Quantization.ZERO_POINT, "offset", zero)
            )
        name, shape = self.builder.CreateString(tensor.name), self.numbers(tensor.shape, "<i4")
        return self.table(
            len(_Tensor),
            (_Tensor.SHAPE, "offset", shape),
            (_Tensor.TYPE, "int8", DTYPES[tensor.dtype][0]),
            (_Tensor.BUFFER, "uint32", 0 if tensor.data is None else self.buffer(tensor.data)),
            (_Tensor.NAME, "offset", name),
            (_Tensor.QUANTIZATION, "offset", quantization),
            (_Tensor.IS_VARIABLE, "bool", tensor.variable),
        )

    def operator_code(self, op: Operator) -> int:
        code, version = (FULLY_CONNECTED, FULLY_CONNECTED_VERSION) if op.builtin else (CUSTOM, 1)
        name = None if op.builtin else self.builder.CreateString(op.code)
        return self.table(
            len(_OperatorCode),
            (_OperatorCode.DEPRECATED_BUILTIN_CODE, "int8", code),
            (_OperatorCode.CUSTOM_CODE, "offset", name),
            (_OperatorCode.VERSION, "int32", version),
            (_OperatorCode.BUILTIN_CODE, "int32", code),
        )

    def operator(self, op: Operator, code_index: int) -> int:
        inputs, outputs = self.numbers(op.inputs, "<i4"), self.numbers(op.outputs, "<i4")
        return self.table(
            len(_Operator),
            (_Operator.OPCODE_INDEX, "uint32", code_index),
            (_Operator.INPUTS, "offset", inputs),
            (_Operator.OUTPUTS, "offset", outputs),
            (_Operator.BUILTIN_OPTIONS_TYPE, "int8", FULLY_CONNECTED_OPTIONS if op.builtin else None),
            (_Operator.BUILTIN_OPTIONS, "offset", self.table(0) if op.builtin else None),
            (_Operator.CUSTOM_OPTIONS, "offset", self.content(op.options) if op.options else None),
        )


def write(model: TfliteModel) -> bytes:
    """The .tflite, deterministic. Raises InternalError where the model does not hold together."""
    check_model(model)
    w = _Writer()
    tensors = [w.tensor(tensor) for tensor in model.tensors]
    kinds = {op.code: op for op in model.operators}  # in order of first use
    index = {code: i for i, code in enumerate(kinds)}
    codes = [w.operator_code(op) for op in kinds.values()]
    operators = [w.operator(op, index[op.code]) for op in model.operators]
    subgraph = w.table(
        len(_SubGraph),
        (_SubGraph.TENSORS, "offset", w.offsets(tensors)),
        (_SubGraph.INPUTS, "offset", w.numbers(model.inputs, "<i4")),
        (_SubGraph.OUTPUTS, "offset", w.numbers(model.outputs, "<i4")),
        (_SubGraph.OPERATORS, "offset", w.offsets(operators)),
        (_SubGraph.NAME, "offset", w.builder.CreateString("main")),
    )
    metadata = [
        w.table(
            len(_Metadata),
            (_Metadata.NAME, "offset", w.builder.CreateString(name)),
            (_Metadata.BUFFER, "uint32", w.buffer(content)),
        )
        for name, content in model.metadata
    ]
    root = w.table(
        len(_Model),
        (_Model.VERSION, "uint32", SCHEMA_VERSION),
        (_Model.OPERATOR_CODES, "offset", w.offsets(codes)),
        (_Model.SUBGRAPHS, "offset", w.offsets([subgraph])),
        (_Model.DESCRIPTION, "offset", w.builder.CreateString(model.description)),
        (_Model.BUFFERS, "offset", w.offsets(w.buffers)),
        (_Model.METADATA, "offset", w.offsets(metadata)),
    )
    w.builder.Finish(root, FILE_IDENTIFIER)
    return bytes(w.builder.Output())
