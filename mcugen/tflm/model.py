"""A TFLite model as data: what mcugen.tflm.lowering makes and mcugen.tflm.flatbuffer writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcugen.errors import InternalError

# TensorType of TFLite's schema.fbs, and bytes per element.
DTYPES: Mapping[str, tuple[int, int]] = {"int32": (2, 4), "uint8": (3, 1), "int16": (7, 2), "int8": (9, 1)}

ALIGNMENT = 16  # bytes, of tensors in the arena and of constants in the file: MicroArenaBufferAlignment() of TFLM
OFFLINE_PLAN = "OfflineMemoryAllocation"  # name of the metadata that TFLM's planner takes offsets from
ONLINE = -1  # an offset that TFLM's planner chooses; of constants and variables, none at all


@dataclass(frozen=True, slots=True)
class Tensor:
    """data: of a constant, little-endian. variable: kept from one invocation to the next. scale: of one code, with
    zero point 0; None where there is no quantisation."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | None = None
    variable: bool = False
    scale: float | None = None

    @property
    def nbytes(self) -> int:
        size = DTYPES[self.dtype][1]
        for count in self.shape:
            size *= count
        return size


@dataclass(frozen=True, slots=True)
class Operator:
    """code: FULLY_CONNECTED, or the name of a custom op. inputs, outputs: tensor indices; an input of -1 is left out.
    options: custom_options, as the op's C++ reads them."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes = b""

    @property
    def builtin(self) -> bool:
        return self.code == "FULLY_CONNECTED"


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """One subgraph. inputs, outputs: tensor indices. metadata: (name, content), in order."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: tuple[tuple[str, bytes], ...]
    description: str


def check_model(model: TfliteModel) -> None:
    """Gate: indices exist, constants have the bytes of their shape, nothing is read before it is written, nothing
    constant is written, and FULLY_CONNECTED gets what TFLM computes correctly (it accepts more)."""
    tensors = model.tensors
    written = {i for i, t in enumerate(tensors) if t.data is not None or t.variable} | set(model.inputs)
    for t in tensors:
        if t.data is not None and len(t.data) != t.nbytes:
            raise InternalError(f"{t.name} has {len(t.data)} bytes, not {t.nbytes}", where="TFLite model")
    for number, op in enumerate(model.operators):
        where = f"TFLite model, node {number} ({op.code})"
        for i in op.inputs:
            if not (0 <= i < len(tensors) or (i == -1 and op.builtin)):
                raise InternalError(f"there is no tensor {i}", where=where)
            if i >= 0 and i not in written:
                raise InternalError(f"{tensors[i].name} is read before it is written", where=where)
        for i in op.outputs:
            if not 0 <= i < len(tensors) or tensors[i].data is not None or tensors[i].variable:
                raise InternalError(f"tensor {i} cannot be written", where=where)
        written |= set(op.outputs)
        if op.builtin:
            _check_fully_connected(tensors, op, where)
    for i in model.outputs:
        if i not in written:
            raise InternalError(f"the output {tensors[i].name} is never written", where="TFLite model")


def _check_fully_connected(tensors: tuple[Tensor, ...], op: Operator, where: str) -> None:
    x, w, y = (tensors[i] for i in (op.inputs[0], op.inputs[1], op.outputs[0]))
    fits = len(op.inputs) == 3 and op.inputs[2] == -1 and len(op.outputs) == 1
    fits &= all(len(t.shape) == 2 and t.dtype == "int8" and t.scale is not None for t in (x, w, y))
    if not fits or x.shape[0] != 1 or w.shape[1] != x.shape[1] or y.shape != (1, w.shape[0]):
        raise InternalError(f"{x.name} {x.shape}, {w.name} {w.shape} and {y.name} {y.shape} do not fit", where=where)
