"""QuantizedModel -> Graph: one decode step as a flat list of kernel calls.

The only place that knows the order of a transformer's operations; the kernels, the planner, the renderers and the
simulator take the list as it is. Kernel variants and their weight packing are data (VARIANTS).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcugen.errors import InputError, InternalError, UsageError
from mcugen.ir import Buffer, Graph, KernelVariant, Linear, Op, QuantizedLayer, QuantizedModel
from mcugen.kernels import EXPONENT_MAX, EXPONENT_MIN

MAX_HEAD_DIM = 256  # |q . k| <= 256 * 2**15 * 127, so that the distance of two scores fits int32

# Per kernel the C implementations, the most specialised first; the first whose needs a core meets is taken.
VARIANTS: dict[str, tuple[KernelVariant, ...]] = {
    "embed_s16": (KernelVariant("mg_embed_s16", "kernels/embed.c"),),
    "rmsnorm_s16": (KernelVariant("mg_rmsnorm_s16", "kernels/rmsnorm.c"),),
    "block_s8": (KernelVariant("mg_block_s8", "kernels/block.c"),),
    "linear_s8": (KernelVariant("mg_linear_s8", "kernels/linear.c"),),
    "linear_s16": (KernelVariant("mg_linear_s16", "kernels/linear.c"),),
    "linear_s32": (KernelVariant("mg_linear_s32", "kernels/linear.c"),),
    "linear_add_s16": (KernelVariant("mg_linear_add_s16", "kernels/linear.c"),),
    "rope_s16": (KernelVariant("mg_rope_s16", "kernels/rope.c"),),
    "rope_s8": (KernelVariant("mg_rope_s8", "kernels/rope.c"),),
    "rebase_s8": (KernelVariant("mg_rebase_s8", "kernels/rope.c"),),
    "attention_s16": (KernelVariant("mg_attention_s16", "kernels/attention.c"),),
    "swiglu_s16": (KernelVariant("mg_swiglu_s16", "kernels/swiglu.c"),),
}


def choose_variant(kernel: str, features: frozenset[str]) -> KernelVariant:
    """The first variant of `kernel` whose needs are among the core's features."""
    return next(variant for variant in VARIANTS[kernel] if variant.needs <= features)


@dataclass(slots=True)
class _Builder:
    """Collects buffers and ops while the step is written down."""

    features: frozenset[str]
    buffers: dict[str, Buffer] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    def buffer(self, name: str, dtype: str, *shape: int, state: bool = False) -> str:
        self.buffers[name] = Buffer(name, dtype, shape, state)
        return name

    def op(
        self,
        kernel: str,
        label: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        *,
        scratch: Iterable[str] = (),
        in_place: bool = False,
        row: bool = False,
        **parameters: Any,
    ) -> None:
        variant = choose_variant(kernel, self.features)
        self.ops.append(
            Op(kernel, label, variant, tuple(inputs), tuple(outputs), tuple(scratch), in_place, row, parameters)
        )

    def block(self, label: str, source: str) -> tuple[str, str]:
        """An int16 vector as int8 codes and their scale."""
        codes = self.buffer(f"{source}.codes", "int8", *self.buffers[source].shape)
        scale = self.buffer(f"{source}.scale", "int32", 2)
        self.op("block_s8", label, [source], [codes, scale])
        return codes, scale

    def linear(self, label: str, x: tuple[str, str], w: Linear) -> str:
        y = self.buffer(label, "int16", len(w.codes))
        self.op("linear_s16", label, x, [y], w=w)
        return y


def probability_drop(context: int) -> int:
    """Bits to drop from the Q15 softmax weights so that sum(p * v) < 2**31 for |v| <= 127 (0 up to 516 slots)."""
    drop = 0
    while context * (2**15 >> drop) * 127 >= 2**31:
        drop += 1
    return drop


def _layer(b: _Builder, model: QuantizedModel, index: int, context: int, residual: str) -> str:
    """Append one decoder layer; returns the name of its output residual."""
    config, layer = model.config, model.layers[index]
    at = f"layers.{index}"
    keys, values = f"{at}.keys", f"{at}.values"

    normed = b.buffer(f"{at}.att_norm", "int16", config.dim)
    b.op("rmsnorm_s16", normed, [residual], [normed], norm=layer.att_norm, eps=model.eps)
    h = b.block(f"{at}.att_block", normed)
    q = b.linear(f"{at}.wq", h, layer.wq)
    turned = b.buffer(f"{at}.query", "int16", config.dim)
    b.op("rope_s16", turned, [q], [turned], in_place=True, rope_step=model.rope_step)
    k = b.linear(f"{at}.wk", h, layer.wk)
    b.op("rope_s8", keys, [k], [keys], row=True, **_key_parameters(model, layer))
    b.op("linear_s8", f"{at}.wv", h, [values], row=True, w=layer.wv)

    out = b.buffer(f"{at}.attention", "int16", config.dim)
    scores = b.buffer(f"{at}.scores", "int32", context)
    b.op(
        "attention_s16", out, [turned, keys, values], [out], scratch=[scores],
        score=layer.score, score_shift=layer.score_shift, drop=probability_drop(context),
    )  # fmt: skip
    attended = b.buffer(f"{at}.wo", "int16", config.dim)
    b.op("linear_add_s16", attended, [residual, *b.block(f"{at}.out_block", out)], [attended], in_place=True,
         w=layer.wo)  # fmt: skip

    normed = b.buffer(f"{at}.ffn_norm", "int16", config.dim)
    b.op("rmsnorm_s16", normed, [attended], [normed], norm=layer.ffn_norm, eps=model.eps)
    h = b.block(f"{at}.ffn_block", normed)
    gate, up = b.linear(f"{at}.w1", h, layer.w1), b.linear(f"{at}.w3", h, layer.w3)
    hidden = b.buffer(f"{at}.swiglu", "int16", config.hidden_dim)
    b.op(
        "swiglu_s16", hidden, [gate, up], [hidden], in_place=True, gate_frac=layer.gate_frac, shift=layer.swiglu_shift
    )
    final = b.buffer(f"{at}.w2", "int16", config.dim)
    b.op("linear_add_s16", final, [attended, *b.block(f"{at}.hidden_block", hidden)], [final], in_place=True,
         w=layer.w2)  # fmt: skip
    return final


def _key_parameters(model: QuantizedModel, layer: QuantizedLayer) -> dict[str, Any]:
    return {"rope_step": model.rope_step, "zero": layer.key_zero, "shift": layer.key_shift}


def lower(model: QuantizedModel, context: int, features: frozenset[str] = frozenset()) -> Graph:
    """Write down one decode step for a KV ring of `context` slots on a core with `features`.

    Raises UsageError where the context is not in [1, trained context], InputError where a head is too wide.
    """
    config = model.config
    if config.head_dim > MAX_HEAD_DIM:
        raise InputError(
            f"a head of {config.head_dim} values is beyond {MAX_HEAD_DIM}, where a score fits int32",
            where=f"model {model.name}, dim {config.dim}, n_heads {config.n_heads}",
            hint=f"train the model with at least {-(-config.dim // MAX_HEAD_DIM)} heads",
        )
    if not 1 <= context <= config.seq_len:
        raise UsageError(
            f"a context of {context} tokens is outside 1 to {config.seq_len}, the trained context of {model.name}",
            where="--context",
            hint=f"--context {min(max(context, 1), config.seq_len)}; generation goes on past it",
        )
    b = _Builder(features)
    for i in range(config.n_layers):
        for part in ("keys", "values"):
            b.buffer(f"layers.{i}.{part}", "int8", context, config.kv_dim, state=True)
    residual = b.buffer("embedding", "int16", config.dim)
    b.op("embed_s16", "embedding", [], [residual], table=model.embedding)
    for i in range(config.n_layers):
        residual = _layer(b, model, i, context, residual)
    normed = b.buffer("final_norm", "int16", config.dim)
    b.op("rmsnorm_s16", normed, [residual], [normed], norm=model.final_norm, eps=model.eps)
    logits = b.buffer("logits", "int32", config.vocab_size)
    b.op("linear_s32", "logits", b.block("final_block", normed), [logits], w=model.classifier)
    step, b.ops = tuple(b.ops), []

    delta = model.max_position - context
    for i, layer in enumerate(model.layers):
        keys = f"layers.{i}.keys"
        b.op("rebase_s8", f"layers.{i}.rebase", [keys], [keys], delta=delta, **_key_parameters(model, layer))
    graph = Graph(model, context, b.buffers, step, tuple(b.ops), logits)
    check_graph(graph)
    return graph


def check_graph(graph: Graph) -> None:
    """Gate: every buffer is written before it is read, and every accumulator fits int32 by its own weights."""
    written = {name for name, buffer in graph.buffers.items() if buffer.state}
    for index, op in enumerate(graph.ops):
        where = f"graph, op {index} ({op.kernel}, {op.label})"
        for name in op.inputs:
            if name not in written:
                raise InternalError(f"{name} is read before it is written", where=where)
        written |= set(op.outputs)
        for parameter in op.parameters.values():
            if isinstance(parameter, Linear) and op.kernel.startswith("linear"):
                _check_accumulators(parameter, where)
    if graph.logits not in written:
        raise InternalError("the logits are never written", where="graph")


def _check_accumulators(w: Linear, where: str) -> None:
    """|sum(w x)| <= sum|w| * 127 < 2**31 for int8 codes in [-127, 127], whatever the order of summation."""
    bound = np.abs(w.codes.astype(np.int64)).sum(1).max() * 127
    if bound >= 2**31:
        raise InternalError(f"an accumulator can reach {bound}, beyond int32", where=where)
    if not EXPONENT_MAX < w.shift <= 62 + EXPONENT_MIN:
        raise InternalError(f"a shift of {w.shift} is not in [{EXPONENT_MAX + 1}, {62 + EXPONENT_MIN}]", where=where)
