"""Ops as calls of TIR functions: which function with which sizes, its parameters, and what each call passes.

One function serves every op of its kernel and sizes; what differs from layer to layer is passed. Nothing here needs
Apache TVM: the emitter makes the functions, and the renderer the calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen.ctext import C_TYPES, identifier, wrapped
from mcugen.ir import Graph, Linear, Op
from mcugen.packing import pack
from mcugen.tables import EXP2_Q15, SIGMOID_Q15, SINE_Q15


@dataclass(frozen=True, slots=True)
class Parameter:
    """A C parameter, or, with pointer, where an array of `dtype` begins; const: the array is only read."""

    name: str
    dtype: str  # "int8", "int16", "int32", "int64", "uint8", "uint16" or "uint32"
    pointer: bool = False
    const: bool = False

    @property
    def declaration(self) -> str:
        """The parameter in C: "const int8_t *codes"."""
        kind = C_TYPES.get(self.dtype, f"{self.dtype}_t")
        return f"{'const ' if self.const else ''}{kind} {'*' if self.pointer else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class Function:
    """A TIR function. kernel: its name in mcugen.kernels; sizes: (name, value), which are baked in.

    intrinsics: "dsp" or "mve", or "" for none: how codes and matrices lie, and which C the function may call.
    """

    kernel: str
    sizes: tuple[tuple[str, int], ...]
    intrinsics: str = ""

    def __getitem__(self, size: str) -> int:
        return dict(self.sizes)[size]

    @property
    def name(self) -> str:
        """The C name behind the prefix: "linear_s16_64x172", "attention_s16_8x4x8_drop1"."""
        shape = "x".join(str(value) for name, value in self.sizes if name not in _NAMED)
        named = "".join(f"_{name}{value}" for name, value in self.sizes if name in _NAMED and value)
        return f"{self.kernel}_{shape}{named}"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Outputs first, then inputs, constants and integers; an output may be the input it is made from."""
        return _PARAMETERS[self.kernel](self)

    def prototype(self, prefix: str) -> str:
        """The C declaration without its semicolon. prefix: of the name."""
        head = f"void {prefix}{self.name}("
        return head + wrapped((parameter.declaration for parameter in self.parameters), len(head)) + ")"


@dataclass(frozen=True, slots=True)
class Emitted:
    """C of functions, and which Apache TVM made it."""

    source: str
    tvm_version: str


_NAMED = ("drop", "group", "chunk")  # sizes that are no shape: behind it, and only where they are not 0


# ---------------------------------------------------------------- parameters

CODES = {"": "int8", "dsp": "int16", "mve": "int8"}  # what an int8 code of a block is kept in


def _codes(f: Function) -> Parameter:
    """The stream that the codes of a matrix are packed in (mcugen.packing)."""
    plain = "uint8" if f.kernel.startswith("linear4") else "int8"
    return _in("codes", {"": plain, "dsp": "uint32", "mve": "int8"}[f.intrinsics])


def _out(name: str, dtype: str) -> Parameter:
    return Parameter(name, dtype, pointer=True)


def _in(name: str, dtype: str) -> Parameter:
    return Parameter(name, dtype, pointer=True, const=True)


def _int(*names: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name, "int32") for name in names)


def _embed(f: Function) -> tuple[Parameter, ...]:
    return (_out("y", "int16"), *_int("token"), _codes(f), _in("multiplier", "int16"), *_int("shift"))


def _rmsnorm(_: Function) -> tuple[Parameter, ...]:
    arrays = (_out("y", "int16"), _in("x", "int16"), _in("gain", "int16"))
    return (*arrays, *_int("gain_frac"), Parameter("eps", "int64"))


def _block(f: Function) -> tuple[Parameter, ...]:
    return (_out("codes", CODES[f.intrinsics]), _out("scale", "int32"), _in("x", "int16"))


def _linear(f: Function) -> tuple[Parameter, ...]:
    given = (_in("x", CODES[f.intrinsics]), _in("scale", "int32"), _codes(f))
    weighed = (*given, _in("multiplier", "int16"), *_int("shift"))
    match f.kernel.rsplit("_", 1)[1] if "add" not in f.kernel else "add":
        case "add":
            return (_out("y", "int16"), _in("residual", "int16"), *weighed)
        case "s8":
            return (_out("ring", "int8"), *_int("slot"), *weighed)
        case "s16":
            return (_out("y", "int16"), *weighed)
    return (_out("y", "int32"), *weighed)


def _rope_s16(_: Function) -> tuple[Parameter, ...]:
    return (_out("y", "int16"), _in("x", "int16"), *_int("position"), _in("step", "uint32"), _in("sine", "int16"))


def _rope_s8(_: Function) -> tuple[Parameter, ...]:
    where = (_out("ring", "int8"), *_int("slot"), _in("x", "int16"), *_int("position"))
    return (*where, _in("step", "uint32"), _in("zero", "int32"), *_int("shift"), _in("sine", "int16"))


def _rebase_s8(_: Function) -> tuple[Parameter, ...]:
    where = (_out("ring", "int8"), *_int("delta"))
    return (*where, _in("step", "uint32"), _in("zero", "int32"), *_int("shift"), _in("sine", "int16"))


def _attention(_: Function) -> tuple[Parameter, ...]:
    given = (_in("q", "int16"), _in("keys", "int8"), _in("values", "int8"), _out("scores", "int16"))
    return (_out("y", "int16"), *given, *_int("length", "score_shift"), _in("exp2", "uint16"))


def _swiglu(_: Function) -> tuple[Parameter, ...]:
    given = (_in("gate", "int16"), _in("up", "int16"))
    return (_out("y", "int16"), *given, *_int("gate_frac", "shift"), _in("sigmoid", "int16"))


LINEAR = ("linear_s8", "linear_s16", "linear_s32", "linear_add_s16", "linear4_s8", "linear4_s16", "linear4_add_s16")

_PARAMETERS = {
    "embed_s16": _embed,
    "rmsnorm_s16": _rmsnorm,
    "block_s8": _block,
    **dict.fromkeys(LINEAR, _linear),
    "rope_s16": _rope_s16,
    "rope_s8": _rope_s8,
    "rebase_s8": _rebase_s8,
    "attention_s16": _attention,
    "swiglu_s16": _swiglu,
}


# ---------------------------------------------------------------- arguments


@dataclass(frozen=True, slots=True)
class Buffer:
    """Where a buffer of the graph begins in the arena."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """An array in flash. name: for its C name, behind the model's; owner: the same for ops that share the array."""

    name: str
    values: NDArray[np.integer]
    owner: object
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Integer:
    """A number, the same for every token."""

    value: int


@dataclass(frozen=True, slots=True)
class Counter:
    """What changes from token to token: "token", or of the KV ring "position", "slot" or "length"."""

    name: str


TABLES = {"sine": SINE_Q15, "exp2": EXP2_Q15, "sigmoid": SIGMOID_Q15}  # mg_<name>_q15 in kernels/tables.c


@dataclass(frozen=True, slots=True)
class Table:
    """One of TABLES."""

    name: str


Argument = Buffer | Constant | Integer | Counter | Table


def function_of(op: Op, graph: Graph) -> Function:
    """The TIR function that computes an op of graph.ops or graph.rebase."""
    config, p = graph.model.config, op.parameters
    match op.kernel:
        case "embed_s16":
            sizes = _matrix(p["table"], graph.packing)
        case kernel if kernel in LINEAR:
            sizes = _matrix(p["w"], graph.packing)
        case "rmsnorm_s16":
            sizes = {"dim": len(p["norm"].gain)}
        case "block_s8" | "swiglu_s16":
            sizes = {"n": graph.buffers[op.inputs[0]].shape[0]}
        case "rope_s16":
            sizes = {"heads": config.n_heads, "head_dim": config.head_dim}
        case "rope_s8":
            sizes = {"heads": config.n_kv_heads, "head_dim": config.head_dim}
        case "rebase_s8":
            sizes = {"rows": graph.context, "heads": config.n_kv_heads, "head_dim": config.head_dim}
        case "attention_s16":
            heads = {"heads": config.n_heads, "kv_heads": config.n_kv_heads}
            sizes = {**heads, "head_dim": config.head_dim, "drop": p["drop"]}
        case _:
            raise AssertionError(f"no TIR function is known for {op.kernel}")
    return Function(op.kernel, tuple(sizes.items()), "" if graph.packing == "row_major" else graph.packing)


def functions_of(graph: Graph) -> tuple[Function, ...]:
    """Every function that a graph's ops and rebase ops call, in the order of their first calls."""
    return tuple(dict.fromkeys(function_of(op, graph) for op in (*graph.ops, *graph.rebase)))


def _matrix(w: Linear, packing: str) -> dict[str, int]:
    """chunk: columns that the packing keeps together, where that is fewer than all; group: under one group scale."""
    rows, cols = w.codes.shape
    chunk = pack(w, packing).chunk
    return {"rows": rows, "cols": cols, "chunk": chunk if chunk < cols else 0, "group": w.group}


def arguments(op: Op, graph: Graph) -> tuple[Argument, ...]:
    """What a call of function_of(op, graph) passes, in the order of its parameters."""
    p = op.parameters
    out, given, scratch = ([Buffer(name) for name in names] for names in (op.outputs, op.inputs, op.scratch))
    name = identifier(op.label)
    slot = [Counter("slot")] if op.row else []

    def matrix(w: Linear) -> tuple[Argument, ...]:
        rows, cols = w.codes.shape
        groups = f", groups of {w.group}" if w.group else ""
        shape = f"int{w.bits} [{rows}][{cols}]{groups}, {graph.packing.replace('_', '-')}"
        codes = Constant(f"{name}_codes", pack(w, graph.packing).stream, w.codes, shape)
        return codes, Constant(f"{name}_multiplier", w.multiplier, w.multiplier), Integer(w.shift)

    def turn() -> tuple[Argument, ...]:
        step = Constant("rope_step", p["rope_step"], p["rope_step"])
        if "zero" not in p:
            return (step,)
        zero = Constant(f"{identifier(op.label.rsplit('.', 1)[0])}_key_zero", p["zero"], p["zero"])
        return step, zero, Integer(p["shift"])

    match op.kernel:
        case "embed_s16":
            return (*out, Counter("token"), *matrix(p["table"]))
        case kernel if kernel in LINEAR:
            return (*out, *slot, *given, *matrix(p["w"]))
        case "rmsnorm_s16":
            norm = p["norm"]
            gain = Constant(f"{name}_gain", norm.gain, norm.gain)
            return (*out, *given, gain, Integer(norm.gain_frac), Integer(norm.eps))
        case "block_s8":
            return (*out, *given)
        case "rope_s16" | "rope_s8":
            return (*out, *slot, *given, Counter("position"), *turn(), Table("sine"))
        case "rebase_s8":
            return (*out, Integer(p["delta"]), *turn(), Table("sine"))
        case "attention_s16":
            return (*out, *given, *scratch, Counter("length"), Integer(p["score_shift"]), Table("exp2"))
        case "swiglu_s16":
            return (*out, *given, Integer(p["gate_frac"]), Integer(p["shift"]), Table("sigmoid"))
    raise AssertionError(f"no TIR function is known for {op.kernel}")
