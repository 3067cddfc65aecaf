"""TfliteModel -> the arena that TFLite Micro asks for, to the byte, without running it.

TFLM's single-arena allocator grows from both ends: up from the start what is given back (what planning needs, then
the head: the activations), down from the end what stays (structs, tables, variables). It fails where the two meet.
AllocateTensors is followed here step by step: its peak may lie above what arena_used_bytes() tells after it.

Sources: tflite-micro, 2022 to 2026: micro_allocator.{h,cc}, micro_allocation_info.{h,cc}, micro_interpreter.cc,
single_arena_buffer_allocator.{h,cc}, greedy_memory_planner.{h,cc}, c/common.h, kernels/fully_connected.{h,cc}.
With pointers of 8 bytes the figures are those of TFLM itself (tests/test_tflm_arena.py). With 4 they follow from the
same structs, with enums of 4 bytes; arm-none-eabi makes some of them smaller.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass

from mcugen.tflm.model import ALIGNMENT, OFFLINE_PLAN, ONLINE, TfliteModel

# Fields of structs: p is a pointer or a size_t; i an int, an enum or a float; b a bool.
ALLOCATOR = "pp ppppp p i"  # SingleArenaBufferAllocator: two bases, each with its vtable
PLANNER = "p ii pppp ii p b"  # GreedyMemoryPlanner
MICRO_ALLOCATOR = "p pppp b p p p"
BUILTIN_DATA_ALLOCATOR = "p p"
SUBGRAPH = "p p p"  # SubgraphAllocations; the third in builds with compression
EVAL_TENSOR = "p p i"  # TfLiteEvalTensor
NODE = "pppppp i p"  # NodeAndRegistration: a TfLiteNode and a pointer
SCRATCH_REQUEST = "p i i"
ALLOCATION_INFO = "p p iii b"
TENSOR = "i p ii p p p i i b"  # TfLiteTensor
QUANTIZATION, ZERO_POINT = "p p i", "i i"  # TfLiteAffineQuantization, and a TfLiteIntArray of one
FULLY_CONNECTED = "iiii iiii i pp b ii"  # OpDataFullyConnected; the last two in builds with compression
# The interpreter of the Python package records its allocations, in larger objects.
RECORDING_ALLOCATOR = f"{ALLOCATOR} pppp"
RECORDING_MICRO_ALLOCATOR = f"{MICRO_ALLOCATOR} p {8 * 'ppp'}"
# Without TF_LITE_STATIC_MEMORY, as Zephyr's module is built, nodes and tensors have more fields.
FULL_NODE = "ppppppp i p b p"
FULL_TENSOR = "i p p ii i p p p p i bb i p p p"
CMSIS_NN_FULLY_CONNECTED = f"{FULLY_CONNECTED} ii p iii"

FULLY_CONNECTED_PARAMS = 32  # bytes; 12 or 16 in older versions
REQUESTS_PER_OP = 12  # scratch buffers that room is kept for
PLANNER_BYTES = 40  # of GreedyMemoryPlanner, per buffer of the head: ten ints
ROW_SUM = 4  # bytes per row of weights that CMSIS-NN keeps on cores with MVE
OTHER_VERSIONS = 256  # bytes of the margin for what exists once


@dataclass(frozen=True, slots=True)
class ArenaDemand:
    """Bytes of an arena that begins at a multiple of 16.

    head: the activations. persistent: what stays beside them. temporary: the most that AllocateTensors has in the
    head's place before the plan stands. total: the smallest arena, a multiple of 16, in which AllocateTensors and
    Invoke succeed with TFLM's reference kernels. margin: what other versions, builds and kernels may need on top.
    row_sums: what CMSIS-NN keeps of constant weights besides, on cores with MVE.
    """

    head: int
    persistent: int
    temporary: int
    total: int
    margin: int
    row_sums: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def recommended(demand: ArenaDemand, mve: bool = True) -> int:
    """Bytes of an arena in which other versions and builds of TFLM get along, too; a multiple of 16. mve: whether the
    core may have it."""
    return _aligned(demand.total + demand.margin + (demand.row_sums if mve else 0))


class _Arena:
    """low: bytes in use from the start, tail: from the end. need: the smallest arena that holds all so far."""

    def __init__(self, pointer_size: int) -> None:
        self.pointer_size = pointer_size
        self.low = self.tail = self.need = 0

    def peak(self, low: int) -> None:
        self.need = max(self.need, low + self.tail)

    def keep(self, size: int, alignment: int) -> None:
        self.tail = _aligned(self.tail + size, alignment)
        self.peak(self.low)

    def keep_structs(self, *structs: str, count: int = 1) -> None:
        for fields in structs:
            self.keep(count * _sizeof(fields, self.pointer_size), self.pointer_size)


def arena_demand(model: TfliteModel, pointer_size: int = 4, recording: bool = False) -> ArenaDemand:
    """pointer_size: bytes, 4 on microcontrollers. recording: in the interpreter of the Python package."""
    linears = sum(op.builtin for op in model.operators)
    arena = _Arena(pointer_size)
    # the constructor of the interpreter
    arena.keep_structs(RECORDING_ALLOCATOR if recording else ALLOCATOR, PLANNER)
    arena.keep_structs(RECORDING_MICRO_ALLOCATOR if recording else MICRO_ALLOCATOR)
    # AllocateTensors: room for requests of scratch buffers, the tables, then the builtin ops' parameters and data
    arena.keep_structs(BUILTIN_DATA_ALLOCATOR)
    arena.low = REQUESTS_PER_OP * _sizeof(SCRATCH_REQUEST, pointer_size)
    arena.keep_structs(SUBGRAPH)
    arena.keep_structs(EVAL_TENSOR, count=len(model.tensors))
    arena.keep_structs(NODE, count=len(model.operators))
    for _ in range(linears):
        arena.keep(FULLY_CONNECTED_PARAMS, 8)
    for _ in range(linears):
        arena.keep(_sizeof(FULLY_CONNECTED, pointer_size), ALIGNMENT)
    # Prepare of FULLY_CONNECTED: input, weights and output as full tensors
    tensor = sum(_sizeof(fields, pointer_size) for fields in (TENSOR, QUANTIZATION, ZERO_POINT))
    prepare = arena.low + (3 * tensor if linears else 0)
    arena.peak(prepare)
    # the plan: what is known of each tensor; the variables; the planner's tables
    info = arena.low + pointer_size + len(model.tensors) * _sizeof(ALLOCATION_INFO, pointer_size)
    for variable in (t for t in model.tensors if t.variable):
        arena.keep(variable.nbytes, ALIGNMENT)
    plan = _aligned(info) + PLANNER_BYTES * sum(t.data is None and not t.variable for t in model.tensors)
    arena.peak(plan + -arena.tail % ALIGNMENT)  # they end at a multiple of 16
    # the plan stands; inputs and outputs as full tensors
    arena.low = _head(model)
    for indices in (model.inputs, model.outputs):
        arena.keep(len(indices) * pointer_size, ALIGNMENT)
        for i in indices:
            quantised = model.tensors[i].scale is not None
            arena.keep_structs(TENSOR, *((QUANTIZATION, ZERO_POINT) if quantised else ()))
    rows = [model.tensors[op.outputs[0]].nbytes for op in model.operators if op.builtin]
    sums = sum(_aligned(ROW_SUM * count) for count in rows)
    total, margin = _aligned(arena.need), _margin(model, pointer_size)
    return ArenaDemand(arena.low, arena.tail, max(prepare, plan), total, margin, sums)


def _margin(model: TfliteModel, pointer_size: int) -> int:
    """Bytes that full nodes and tensors and CMSIS-NN's FULLY_CONNECTED are larger."""

    def more(fields: str, than: str) -> int:
        return _sizeof(fields, pointer_size) - _sizeof(than, pointer_size)

    margin = OTHER_VERSIONS + len(model.operators) * more(FULL_NODE, NODE)
    margin += len(model.inputs + model.outputs) * more(FULL_TENSOR, TENSOR)
    linears = sum(op.builtin for op in model.operators)
    return margin + linears * _aligned(more(CMSIS_NN_FULLY_CONNECTED, FULLY_CONNECTED))


def _head(model: TfliteModel) -> int:
    """Bytes of the activations as TFLM's greedy planner places them: those with an offset first, the others by
    falling size, each in the first gap; of equal ones the later first."""
    offsets = _offsets(model)
    buffers = [(offsets[i], _aligned(t.nbytes), *_lifetime(model, i)) for i, t in enumerate(model.tensors)
               if t.data is None and not t.variable]  # fmt: skip
    online = sorted((b for b in reversed(buffers) if b[0] == ONLINE), key=lambda b: -b[1])
    placed: list[tuple[int, int, int, int]] = []
    for offset, size, first, last in [b for b in buffers if b[0] != ONLINE] + online:
        if offset == ONLINE:
            offset = 0
            for start, nbytes, born, died in sorted(placed):
                if born <= last and first <= died:
                    if start - offset >= size:
                        break
                    offset = max(offset, start + nbytes)
        placed.append((offset, size, first, last))
    return max((offset + size for offset, size, _, _ in placed), default=0)


def _offsets(model: TfliteModel) -> tuple[int, ...]:
    """Per tensor, from the metadata; ONLINE where there is none."""
    for name, content in model.metadata:
        if name == OFFLINE_PLAN:
            return struct.unpack(f"<{len(model.tensors)}i", content[12:])  # behind version, subgraph and count
    return (ONLINE,) * len(model.tensors)


def _lifetime(model: TfliteModel, tensor: int) -> tuple[int, int]:
    """First and last node, counted from 1; inputs live from 0, outputs to the end; what no node touches: (-1, -1)."""
    writes = [n for n, op in enumerate(model.operators, 1) if tensor in op.outputs]
    uses = [n for n, op in enumerate(model.operators, 1) if tensor in op.inputs + op.outputs]
    ends = [0] * (tensor in model.inputs + model.outputs) + [len(model.operators)] * (tensor in model.outputs)
    return max(writes, default=0 if ends else -1), max(uses + ends, default=-1)


def _sizeof(fields: str, pointer_size: int) -> int:
    """Bytes of a C struct of these fields, padded as every ABI in question pads it."""
    sizes = {"p": pointer_size, "i": 4, "b": 1}
    end = 0
    for field in fields.replace(" ", ""):
        end = _aligned(end, sizes[field]) + sizes[field]
    return _aligned(end, pointer_size if "p" in fields else 4)


def _aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment
