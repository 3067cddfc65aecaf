"""Graph + Plan -> TfliteModel: one node per op of the graph, between one that opens a slot of the ring and one that
picks the likeliest token.

Parameters lie in custom_options, as the structures of firmware/tflm/mcugen_ops.h; constants in tensors; the KV rings
and the counter are variables, which ops change in place.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mcugen.ir import Buffer, Graph, Linear, Op, Plan
from mcugen.layouts import LAYOUTS
from mcugen.packing import pack
from mcugen.tflm.model import ALIGNMENT, OFFLINE_PLAN, ONLINE, Operator, Tensor, TfliteModel

NEXT_TOKEN = "MCUGEN_NEXT_TOKEN"
COUNTERS = 3  # int32: the next token's position and slot, and how many slots are in use
PASSING = ("token", "slot", "next_token")  # tensors beside the graph's buffers; each takes ALIGNMENT bytes


def custom_code(op: Op) -> str:
    """mg_linear_s16_dsp -> MCUGEN_LINEAR_S16_DSP: the C kernel's name, so that a model meets the layouts it was made
    for, or no op at all."""
    return f"MCUGEN_{op.variant.symbol.removeprefix('mg_').upper()}"


def next_slot_code(graph: Graph) -> str:
    """The node that opens a slot, by the C kernel that it turns the keys back with."""
    return custom_code(graph.rebase[0]).replace("REBASE_S8", "NEXT_SLOT")


def state_bytes(graph: Graph, plan: Plan) -> int:
    """Bytes of the KV rings in a plan, which lie before everything else there."""
    return min((at for name, at in plan.offsets.items() if not graph.buffers[name].state), default=plan.arena_bytes)


def head_bytes(graph: Graph, plan: Plan) -> int:
    """What the plan takes of TFLM's arena for everything that passes: the "head"."""
    return plan.arena_bytes - state_bytes(graph, plan) + len(PASSING) * ALIGNMENT


@dataclass(slots=True)
class _Builder:
    """Collects tensors and nodes."""

    graph: Graph
    plan: Plan
    base: int  # where the head begins in the plan
    tensors: list[Tensor] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    _named: dict[str, int] = field(default_factory=dict)
    _constants: dict[int, int] = field(default_factory=dict)

    def add(self, tensor: Tensor, offset: int = ONLINE) -> int:
        self.tensors.append(tensor)
        self.offsets.append(offset)
        self._named[tensor.name] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def buffer(self, name: str) -> int:
        """The tensor of a buffer of the graph."""
        if name not in self._named:
            buffer = self.graph.buffers[name]
            dtype, shape = _stored(buffer)
            scale = 1.0 if dtype == "int8" else None  # TFLM reads the zero point of variables when it resets them
            offset = ONLINE if buffer.state else self.plan.offsets[name] - self.base
            self.add(Tensor(name, dtype, shape, variable=buffer.state, scale=scale), offset)
        return self._named[name]

    def named(self, name: str) -> int:
        return self._named[name]

    def constant(self, name: str, values: NDArray[np.integer], key: object | None = None) -> int:
        """The tensor of a constant; one for all that share it. key: the object that stands for it."""
        owner = id(values if key is None else key)
        if owner not in self._constants:
            stored = np.ascontiguousarray(values)
            if stored.dtype == np.uint32:
                stored = stored.view(np.int32)
            content = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
            scale = 1.0 if stored.dtype == np.int8 else None
            self._constants[owner] = self.add(Tensor(name, stored.dtype.name, stored.shape, content, scale=scale))
        return self._constants[owner]

    def node(self, code: str, inputs: list[int], outputs: list[int], *options: int, eps: int | None = None) -> None:
        content = struct.pack(f"<{len(options)}i", *options)
        if eps is not None:
            content += struct.pack("<q", eps)
        self.operators.append(Operator(code, tuple(inputs), tuple(outputs), content))


def _stored(buffer: Buffer) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of a buffer's tensor: of what lies in memory."""
    layout = LAYOUTS[buffer.layout]
    dtype = layout.dtype or buffer.dtype
    if len(buffer.shape) == 1 and layout.begins_plain:
        return dtype, (1, *buffer.shape)  # what pads it lies behind, in the room that the plan keeps
    if buffer.layout == "plain":
        return dtype, buffer.shape
    return dtype, (1, buffer.nbytes // np.dtype(dtype).itemsize)


def to_tflite(graph: Graph, plan: Plan, description: str) -> TfliteModel:
    """Write the forward pass down as a TFLite model.

    plan: of a graph of one token per pass, with offsets aligned to ALIGNMENT. Inputs: token int32[1]. Outputs: logits
    int32[1, vocab], Q16 nats, and next_token int32[1], the likeliest.
    """
    b = _Builder(graph, plan, state_bytes(graph, plan))
    for name, buffer in graph.buffers.items():
        if buffer.state:
            b.buffer(name)
    b.add(Tensor("counter", "int32", (COUNTERS,), variable=True))
    behind = plan.arena_bytes - b.base
    for i, name in enumerate(PASSING):
        b.add(Tensor(name, "int32", (COUNTERS,) if name == "slot" else (1,)), behind + i * ALIGNMENT)

    _next_slot(b)
    for index, op in enumerate(graph.ops):
        _node(b, index, op)
    vocab_size = graph.model.config.vocab_size
    b.node(NEXT_TOKEN, [b.named(graph.logits)], [b.named("next_token")], len(graph.ops), vocab_size)

    offline = struct.pack(f"<3i{len(b.offsets)}i", 1, 0, len(b.offsets), *b.offsets)
    return TfliteModel(
        tuple(b.tensors),
        tuple(b.operators),
        (b.named("token"),),
        (b.named(graph.logits), b.named("next_token")),
        ((OFFLINE_PLAN, offline),),
        description,
    )


def _rope(b: _Builder, op: Op) -> int:
    return b.constant("rope_step", op.parameters["rope_step"])


def _key_zero(b: _Builder, op: Op) -> int:
    return b.constant(f"{op.label.rsplit('.', 1)[0]}.key_zero", op.parameters["zero"])


def _next_slot(b: _Builder) -> None:
    """The node that counts tokens, and turns the cached keys back where the positions run out."""
    graph, config = b.graph, b.graph.model.config
    inputs = [b.named("counter"), _rope(b, graph.rebase[0])]
    for op in graph.rebase:
        inputs += [b.buffer(op.inputs[0]), _key_zero(b, op)]
    shifts = [op.parameters["shift"] for op in graph.rebase]
    b.node(
        next_slot_code(graph), inputs, [b.named("slot")],
        len(graph.ops), graph.context, graph.model.max_position, graph.rebase[0].parameters["delta"],
        config.n_kv_heads, config.head_dim, config.n_layers, *shifts,
    )  # fmt: skip


def _matrix(b: _Builder, label: str, w: Linear) -> tuple[list[int], list[int]]:
    """Tensors of a matrix and its row multipliers; its shape and how it is stored, as options."""
    packed = pack(w, b.graph.packing)
    plain = b.graph.packing == "row_major" and w.bits == 8
    codes: NDArray[np.integer] = packed.stream.reshape(w.codes.shape if plain else -1)
    tensors = [b.constant(f"{label}.codes", codes, w.codes), b.constant(f"{label}.multiplier", w.multiplier)]
    return tensors, [*w.codes.shape, w.shift, packed.chunk, w.group]


def _node(b: _Builder, index: int, op: Op) -> None:
    """The node of one op, or the two of a FULLY_CONNECTED and what scales its codes.

    A ring that the op writes, and the slot it goes to, are inputs: variables are changed in place.
    """
    config, p = b.graph.model.config, op.parameters
    given = [b.buffer(name) for name in op.inputs]
    made = [b.buffer(name) for name in (*op.outputs, *op.scratch)]
    slot = b.named("slot")
    code = custom_code(op)
    match op.kernel:
        case "embed_s16":
            tensors, options = _matrix(b, op.label, p["table"])
            b.node(code, [b.named("token"), *tensors], made, index, *options)
        case "rmsnorm_s16":
            norm = p["norm"]
            gain = b.constant(f"{op.label}.gain", norm.gain)
            b.node(code, [*given, gain], made, index, len(norm.gain), norm.gain_frac, 0, eps=norm.eps)
        case "block_s8":
            b.node(code, given, made, index, b.graph.buffers[op.inputs[0]].shape[0])
        case "fc_s16" | "fc_add_s16":
            _fully_connected(b, index, op, given)
        case kernel if kernel.startswith("linear"):
            tensors, options = _matrix(b, op.label, p["w"])
            ring, made = ([slot, *made], []) if op.row else ([], made)
            b.node(code, [*given, *tensors, *ring], made, index, *options)
        case "rope_s16":
            b.node(code, [*given, slot, _rope(b, op)], made, index, config.n_heads, config.head_dim)
        case "rope_s8":
            inputs = [*given, slot, _rope(b, op), _key_zero(b, op), *made]
            b.node(code, inputs, [], index, config.n_kv_heads, config.head_dim, p["shift"])
        case "attention_s16":
            heads = config.n_heads, config.n_kv_heads, config.head_dim
            b.node(code, [*given, slot], made, index, *heads, p["score_shift"], p["drop"])
        case "swiglu_s16":
            n = b.graph.buffers[op.inputs[0]].shape[0]
            b.node(code, given, made, index, n, p["gate_frac"], p["shift"])
        case _:
            raise AssertionError(f"no TFLite node is known for {op.kernel}")


def _fully_connected(b: _Builder, index: int, op: Op, given: list[int]) -> None:
    """TFLM multiplies the accumulators by the filter's scale alone: input and output codes are worth 1.0."""
    w: Linear = op.parameters["w"]
    assert w.fc is not None
    multiplier, shift = w.fc
    filter_scale = multiplier * 2.0 ** (shift - 31)  # a float32, exactly (ir.Linear)
    codes = b.add(Tensor(f"{op.label}.codes", "int8", w.codes.shape, w.codes.tobytes(), scale=filter_scale))
    *residual, x, scale = given
    sums = b.buffer(op.scratch[0])
    b.node("FULLY_CONNECTED", [x, codes, -1], [sums])
    row_multiplier = b.constant(f"{op.label}.multiplier", w.multiplier)
    made = [b.buffer(name) for name in op.outputs]
    b.node(custom_code(op), [*residual, sums, scale, row_multiplier], made, index, len(w.codes), w.shift)
