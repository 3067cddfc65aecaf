"""QuantizedModel -> Graph: a forward pass as a flat list of kernel calls.

The only place that knows the order of a transformer's operations; the kernels, the planner, the renderers and the
simulator take the list as it is. Kernels and layouts of a core are data (mcugen.families).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError, InternalError, UsageError
from mcugen.families import PORTABLE, Family, choose_family, family_named
from mcugen.ir import Bank, Buffer, Config, Graph, KernelVariant, Linear, Norm, Op, QuantizedLayer, QuantizedModel
from mcugen.kernels import FC_SHIFT_MAX, FC_SHIFT_MIN, SHIFT_MAX, SHIFT_MIN, accumulator_bound, values4_bytes
from mcugen.layouts import LAYOUTS

MAX_HEAD_DIM = 256  # |q . k| <= 256 * 2**15 * 127 < 2**30, so that half of the largest shift may be added
MAX_BATCH = 8  # tokens of a prompt in one forward pass
MAX_SINKS = 8  # slots of a ring that the first tokens keep


@dataclass(slots=True)
class _Builder:
    """Collects buffers and ops while the step is written down."""

    family: Family
    batch: int
    buffers: dict[str, Buffer] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    def buffer(self, name: str, dtype: str, *shape: int, layout: str = "plain") -> str:
        self.buffers[name] = Buffer(name, dtype, shape, layout=layout, tokens=self.batch)
        return name

    def single(self, name: str, dtype: str, *shape: int, state: bool = False, layout: str = "plain") -> str:
        """A buffer that is there once, however many tokens a pass takes."""
        self.buffers[name] = Buffer(name, dtype, shape, state, layout)
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
        last: bool = False,
        slots: int = 0,
        variant: KernelVariant | None = None,
        **parameters: Any,
    ) -> None:
        variant = variant or self.family.variant(kernel)
        operands = tuple(inputs), tuple(outputs), tuple(scratch)
        self.ops.append(Op(kernel, label, variant, *operands, in_place, row, last, parameters, slots))

    def block(
        self, label: str, source: str, *, fc: bool = False, name: str = "", last: bool = False
    ) -> tuple[str, str]:
        """An int16 vector as int8 codes and their scale, as the family's matrices read it.

        fc: as FULLY_CONNECTED reads it. name: of the block, if it is not the source's.
        """
        make = self.single if last else self.buffer
        plain = fc and not self._fc_reads_codes
        layout, variant = ("plain", PORTABLE["block_s8"]) if plain else (self.family.codes, None)
        codes = make(f"{name or source}.codes", "int8", *self.buffers[source].shape, layout=layout)
        scale = make(f"{name or source}.scale", "int32", 2)
        self.op("block_s8", label, [source], [codes, scale], last=last, variant=variant)
        return codes, scale

    @property
    def _fc_reads_codes(self) -> bool:
        """Whether FULLY_CONNECTED, which wants plain bytes, can read the family's codes."""
        return LAYOUTS[self.family.codes].begins_plain

    def value_block(self, at: str, source: str, block: tuple[str, str], layer: QuantizedLayer) -> tuple[str, str]:
        """What wv, always our own kernel, reads: the block of wq and wk, or one of its own where they are fc."""
        if layer.wq.fc is None or self._fc_reads_codes:
            return block
        return self.block(f"{at}.att_block_v", source, name=f"{source}_v")

    def linear(
        self, label: str, x: tuple[str, str], w: Linear | Bank, residual: str | None = None, choice: str | None = None
    ) -> str:
        """residual: what the product is added to, in place. choice: of the experts whose matrices are in a bank."""
        one = w.matrices[0] if isinstance(w, Bank) else w
        y = self.buffer(label, "int16", len(one.codes))
        kernel = _linear_kernel("s16" if residual is None else "add_s16", one)
        scratch = [] if one.fc is None else [self.buffer(f"{label}.codes8", "int8", len(one.codes))]
        given = [name for name in (residual, choice, *x) if name is not None]
        self.op(kernel, label, given, [y], scratch=scratch, in_place=residual is not None, w=w)
        return y

    def norm(self, label: str, x: str, norm: Norm, heads: int = 0) -> str:
        """heads: of x, each of which is a vector of its own; 0: x is one."""
        y = self.buffer(label, *_vector(self.buffers[x]))
        if heads:
            self.op("headnorm_s16", label, [x], [y], norm=norm, heads=heads)
        else:
            self.op("rmsnorm_s16", label, [x], [y], norm=norm)
        return y

    def biased(self, label: str, x: str, bias: NDArray[np.int16] | None) -> str:
        """x plus a bias, if there is one, in place."""
        if bias is None:
            return x
        y = self.buffer(label, *_vector(self.buffers[x]))
        self.op("add_s16", label, [x], [y], in_place=True, bias=bias)
        return y

    def joined(
        self, at: str, residual: str, added: str, bias: NDArray[np.int16] | None, norm: Norm | None, bias_label: str
    ) -> str:
        """The residual behind a part of a layer. added: that residual already, without the bias; or, where a norm
        follows, what it is of."""
        added = self.biased(bias_label, added, bias)
        if norm is None:
            return added
        normed = self.norm(f"{at}_post_norm", added, norm)
        y = self.buffer(f"{at}_sum", *_vector(self.buffers[residual]))
        self.op("add_s16", y, [residual, normed], [y], in_place=True)
        return y


def _vector(buffer: Buffer) -> tuple[str, int]:
    return buffer.dtype, buffer.shape[0]


def _linear_kernel(output: str, w: Linear) -> str:
    return f"fc_{output}" if w.fc is not None else f"linear{'4' if w.bits == 4 else ''}_{output}"


def probability_drop(context: int) -> int:
    """Bits to drop from the Q15 softmax weights so that sum(p * v) < 2**31 for |v| <= 127 (0 up to 516 slots)."""
    drop = 0
    while context * (2**15 >> drop) * 127 >= 2**31:
        drop += 1
    return drop


# The kernel of an activation, and whether it meets a table and must know the gate's format.
GATES = {
    "silu": ("swiglu_s16", True), "gelu": ("geglu_s16", True), "gelu_tanh": ("geglu_tanh_s16", True),
    "relu": ("reglu_s16", False), "relu2": ("relu2glu_s16", False),
}  # fmt: skip


def ring_slots(config: Config, context: int) -> list[int]:
    """Of each layer's KV ring: no more than its tokens see."""
    return [min(context, config.window(layer) or context) for layer in range(config.n_layers)]


def _layer(b: _Builder, model: QuantizedModel, index: int, residual: str) -> str:
    """Append one decoder layer; returns the name of its output residual."""
    config, layer = model.config, model.layers[index]
    at = f"layers.{index}"
    attended = _attention(b, model, index, residual)

    normed = b.norm(f"{at}.ffn_norm", attended, layer.ffn_norm)
    h = b.block(f"{at}.ffn_block", normed, fc=layer.wq.fc is not None)
    norm, bias = layer.post_ffn_norm, layer.down_bias
    if layer.router is None:
        assert layer.w1 is not None and layer.w3 is not None and layer.w2 is not None
        gate = b.biased(f"{at}.gate_bias", b.linear(f"{at}.w1", h, layer.w1), layer.gate_bias)
        up = b.biased(f"{at}.up_bias", b.linear(f"{at}.w3", h, layer.w3), layer.up_bias)
        h = b.block(f"{at}.hidden_block", _gate(b, at, config, layer, gate, up), fc=layer.wq.fc is not None)
        added = b.linear(f"{at}.w2", h, layer.w2, attended if norm is None else None)
    else:
        added = _experts(b, at, config, layer, h, attended if norm is None else None)
    return b.joined(f"{at}.ffn", attended, added, bias, norm, f"{at}.down_bias")


def _attention(b: _Builder, model: QuantizedModel, index: int, residual: str) -> str:
    """Append attention; returns the name of the residual behind it."""
    config, layer = model.config, model.layers[index]
    at = f"layers.{index}"
    keys, values = f"{at}.keys", f"{at}.values"
    ring_size = b.buffers[keys].shape[0]

    normed = b.norm(f"{at}.att_norm", residual, layer.att_norm)
    h = b.block(f"{at}.att_block", normed, fc=layer.wq.fc is not None)
    q = b.biased(f"{at}.query_bias", b.linear(f"{at}.wq", h, layer.wq), layer.query_bias)
    if layer.query_norm is not None:
        q = b.norm(f"{at}.query_norm", q, layer.query_norm, config.n_heads)
    turned = b.buffer(f"{at}.query", "int16", config.query_dim)
    b.op("rope_s16", turned, [q], [turned], in_place=True, rope_step=model.layer_rope_step(index))
    k = b.biased(f"{at}.key_bias", b.linear(f"{at}.wk", h, layer.wk), layer.key_bias)
    if layer.key_norm is not None:
        k = b.norm(f"{at}.key_norm", k, layer.key_norm, config.n_kv_heads)
    sinks = f"{at}.sink_keys"
    if sinks in b.buffers:  # before RoPE: they are turned anew as the window moves on, and never lose a bit
        b.op("keep_s16", sinks, [k], [sinks])
    b.op("rope_s8", keys, [k], [keys], row=True, **_key_parameters(model, index))
    if sinks in b.buffers:
        slots = b.buffers[sinks].shape[0]
        b.op("rope_s8", f"{at}.sinks", [sinks], [keys], slots=slots, **_key_parameters(model, index))
    h = b.value_block(at, normed, h, layer)
    if model.value_bits == 4:
        b.op("values4_s16", values, [b.linear(f"{at}.wv", h, layer.wv)], [values], row=True)
    else:
        b.op(_linear_kernel("s8", layer.wv), f"{at}.wv", h, [values], row=True, w=layer.wv)

    out = b.buffer(f"{at}.attention", "int16", config.query_dim)
    slots = -(-ring_size // b.family.score_step) * b.family.score_step
    scores = b.single(f"{at}.scores", "int16", *([b.family.score_rows] if b.family.score_rows > 1 else []), slots)
    kernel = "attention4_s16" if model.value_bits == 4 else "attention_s16"
    form = "singles" if config.group_size == 1 else "" if config.group_size % 2 else "pairs"
    b.op(
        kernel, out, [turned, keys, values], [out], scratch=[scores], variant=b.family.variant(kernel, form),
        score_shift=layer.score_shift, drop=probability_drop(ring_size),
    )  # fmt: skip
    h = b.block(f"{at}.out_block", out, fc=layer.wo.fc is not None)
    norm = layer.post_att_norm
    added = b.linear(f"{at}.wo", h, layer.wo, residual if norm is None else None)
    return b.joined(f"{at}.att", residual, added, layer.out_bias, norm, f"{at}.out_bias")


def _gate(b: _Builder, at: str, config: Config, layer: QuantizedLayer, gate: str, up: str) -> str:
    """activation(gate) * up, in the gate's bytes."""
    kernel, has_table = GATES[config.activation]
    hidden = b.buffer(f"{at}.{kernel.removesuffix('_s16')}", "int16", config.hidden_dim)
    frac: dict[str, Any] = {"gate_frac": layer.gate_frac} if has_table else {}
    b.op(kernel, hidden, [gate, up], [hidden], in_place=True, **frac, shift=layer.swiglu_shift)
    return hidden


def _experts(
    b: _Builder, at: str, config: Config, layer: QuantizedLayer, h: tuple[str, str], residual: str | None
) -> str:
    """The chosen experts one after the other; each adds to the residual or, without one, to the first output."""
    assert layer.router is not None
    logits = b.buffer(f"{at}.router", "int32", config.n_experts)
    b.op("linear_s32", logits, h, [logits], w=layer.router)
    choice = b.buffer(f"{at}.choice", "int32", config.experts_per_token)
    weight = b.buffer(f"{at}.weight", "int16", config.experts_per_token)
    b.op("route_s32", choice, [logits], [choice, weight])
    matrices = {name: tuple(getattr(expert, name) for expert in layer.experts) for name in ("w1", "w3", "w2")}
    added = residual
    for rank in range(config.experts_per_token):
        here = f"{at}.rank{rank}"
        w1, w3, w2 = (Bank(f"{at}.{name}", matrices[name], rank) for name in matrices)
        gate = b.linear(f"{here}.w1", h, w1, choice=choice)
        up = b.linear(f"{here}.w3", h, w3, choice=choice)
        hidden = _gate(b, here, config, layer, gate, up)
        if config.experts_per_token > 1:  # else its weight is 1
            scaled = b.buffer(f"{here}.scaled", "int16", config.hidden_dim)
            b.op("scale_s16", scaled, [hidden, weight], [scaled], in_place=True, rank=rank)
            hidden = scaled
        added = b.linear(f"{here}.w2", b.block(f"{here}.hidden_block", hidden), w2, added, choice)
    assert added is not None
    return added


def _with_values4(family: Family) -> Family:
    """The family with the portable attention over int4 values, whose rings lie as they are counted."""
    kernels = {name: variant for name, variant in family.kernels.items() if name not in ("rope_s8", "rebase_s8")}
    return replace(family, keys="plain", values="plain", score_rows=1, score_step=1, kernels=kernels)


def _key_parameters(model: QuantizedModel, index: int) -> dict[str, Any]:
    layer = model.layers[index]
    return {"rope_step": model.layer_rope_step(index), "zero": layer.key_zero, "shift": layer.key_shift}


def lower(
    model: QuantizedModel,
    context: int,
    features: frozenset[str] = frozenset(),
    batch: int = 1,
    families: tuple[Family, ...] | None = None,
    sinks: int = 0,
) -> Graph:
    """Write down a forward pass for a KV ring of `context` slots on a core with `features`.

    batch: tokens of a prompt that a pass takes at once, at most. families: of kernels, to choose from. sinks: first
    tokens of a sequence that stay in the rings of `context` slots; a layer with a smaller window was trained without
    them. Where a matrix has an fc, its op is FULLY_CONNECTED and what follows it (kernels.fc_s16). Raises UsageError
    where the context is not in [1, trained context], the batch not in [1, MAX_BATCH] or not for this core and model,
    or sinks are not for this context and model; InputError where a head is too wide.
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
    if not 1 <= batch <= MAX_BATCH:
        raise UsageError(
            f"{batch} tokens at once are outside 1 to {MAX_BATCH}",
            where="--prefill",
            hint=f"--prefill {min(max(batch, 1), MAX_BATCH)}",
        )
    if batch > 1 and model.layers[0].wq.fc is not None:
        raise UsageError(
            f"{batch} tokens at once are not for --fc builtin, whose FULLY_CONNECTED takes one",
            where="--prefill",
            hint="--prefill 1, or --fc custom",
        )
    family = choose_family(features, families)
    odd = [name for name in ("hidden_dim", "dim") if getattr(config, name) % 2]  # heads have an even length
    if batch > 1 and odd and family.kernels:
        raise UsageError(
            f"{batch} tokens at once need a {odd[0]} that is even, for kernels that read two values at a time; "
            f"{model.name} has {getattr(config, odd[0])}",
            where="--prefill",
            hint="--prefill 1",
        )
    check_sinks(model, context, sinks)
    value_bytes = config.kv_dim
    if model.value_bits == 4:
        family, value_bytes = _with_values4(family), values4_bytes(config.kv_dim)
    b = _Builder(family, batch)
    for i, slots in enumerate(ring_slots(config, context)):
        b.single(f"layers.{i}.keys", "int8", slots, config.kv_dim, state=True, layout=b.family.keys)
        b.single(f"layers.{i}.values", "int8", slots, value_bytes, state=True, layout=b.family.values)
        if sinks and slots == context:
            b.single(f"layers.{i}.sink_keys", "int16", sinks, config.kv_dim, state=True)
    residual = b.buffer("embedding", "int16", config.dim)
    b.op("embed_s16", "embedding", [], [residual], table=model.embedding)
    for i in range(config.n_layers):
        residual = _layer(b, model, i, residual)
    normed = b.single("final_norm", "int16", config.dim)
    b.op("rmsnorm_s16", normed, [residual], [normed], last=True, norm=model.final_norm)
    logits = b.single("logits", "int32", config.vocab_size)
    x = b.block("final_block", normed, last=True)
    b.op("linear_s32", "logits", x, [logits], last=True, w=model.classifier)
    step, b.ops = tuple(b.ops), []

    delta = model.max_position - context
    for i in range(config.n_layers):
        keys = f"layers.{i}.keys"
        b.op("rebase_s8", f"layers.{i}.rebase", [keys], [keys], delta=delta, **_key_parameters(model, i))
    rebase, names = tuple(b.ops), (b.family.name, b.family.packing)
    graph = Graph(model, context, b.buffers, step, rebase, logits, batch, *names, sinks)
    check_graph(graph)
    return graph


def check_sinks(model: QuantizedModel, context: int, sinks: int) -> None:
    """Raise UsageError where so many sinks are not for this context and model."""
    most = min(MAX_SINKS, context - 1)
    if not 0 <= sinks <= most:
        raise UsageError(
            f"{sinks} sinks are outside 0 to {most}, for a context of {context} tokens",
            where="--sinks",
            hint=f"--sinks {min(max(sinks, 0), most)}",
        )
    if sinks and context not in ring_slots(model.config, context):
        largest = max(model.config.layer_windows)
        raise UsageError(
            f"sinks are for layers that see all of the context, and those of {model.name} see {largest} of its "
            f"{context} tokens at most",
            where="--sinks",
            hint=f"leave --sinks out, or --context {largest}",
        )


def check_graph(graph: Graph) -> None:
    """Gate: every buffer is written before it is read, every accumulator fits int32 by its own weights, and every
    matrix finds its codes in the layout that its kernel reads."""
    written = {name for name, buffer in graph.buffers.items() if buffer.state}
    for index, op in enumerate(graph.ops):
        where = f"graph, op {index} ({op.kernel}, {op.label})"
        for name in op.inputs:
            if name not in written:
                raise InternalError(f"{name} is read before it is written", where=where)
        written |= set(op.outputs)
        if op.kernel.startswith(("linear", "fc")):
            w = op.parameters["w"]
            for matrix in w.matrices if isinstance(w, Bank) else [w]:
                (_check_accumulators if matrix.fc is None else _check_fc)(matrix, where)
            if isinstance(w, Bank):
                _check_bank(w, where)
            _check_layout(graph, op, where)
    if graph.logits not in written:
        raise InternalError("the logits are never written", where="graph")


def _check_bank(bank: Bank, where: str) -> None:
    """One call and one buffer serve all experts."""
    kinds = {(w.codes.shape, w.bits) for w in bank.matrices}
    if len(kinds) > 1:
        raise InternalError(f"the experts' matrices {bank.label} are not alike", where=where)


def _check_layout(graph: Graph, op: Op, where: str) -> None:
    found, own = graph.buffers[op.inputs[-2]].layout, family_named(graph.family).codes
    if not LAYOUTS[found].begins_plain if op.kernel.startswith("fc") else found != own:
        raise InternalError(f"codes that are {found} cannot be read", where=where)


def _check_fc(w: Linear, where: str) -> None:
    """|acc| fits int32, as FULLY_CONNECTED adds it up; |code| <= 2**7 by a shift of at least 16, so that a kernel may
    take the upper word of one product; no left shift of acc, so that its bound is all there is to know."""
    assert w.fc is not None
    multiplier, shift = w.fc
    if w.bits != 8 or not (FC_SHIFT_MIN <= shift <= FC_SHIFT_MAX and 2**30 <= multiplier < 2**31):
        raise InternalError(f"int{w.bits} codes with an fc of ({multiplier}, {shift})", where=where)
    if multiplier % 2**7:
        raise InternalError(f"an fc multiplier of {multiplier} has more than 24 significant bits", where=where)
    if not SHIFT_MIN <= w.shift <= SHIFT_MAX:
        raise InternalError(f"a shift of {w.shift} is not in [{SHIFT_MIN}, {SHIFT_MAX}]", where=where)
    if accumulator_bound(w) >= 2**31:
        raise InternalError(f"an accumulator can reach {accumulator_bound(w)}, beyond 2**31", where=where)


def _check_accumulators(w: Linear, where: str) -> None:
    """|acc| <= sum|w| * 127 < 2**(shift - 1) for codes of x in [-127, 127], whatever the order of summation, so that
    acc * 2**(32 - shift) fits int32 and a kernel may take the upper word of one product."""
    if not SHIFT_MIN <= w.shift <= SHIFT_MAX:
        raise InternalError(f"a shift of {w.shift} is not in [{SHIFT_MIN}, {SHIFT_MAX}]", where=where)
    if accumulator_bound(w) >= 2 ** (w.shift - 1):
        raise InternalError(f"an accumulator can reach {accumulator_bound(w)}, beyond 2**{w.shift - 1}", where=where)
