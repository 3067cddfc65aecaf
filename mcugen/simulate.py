"""Graph + tokens -> Trace: the integer simulator, the specification of what the firmware computes.

A run of tokens is computed at once (prefill) wherever the ring and the positions allow; because every sum is exact
integer arithmetic, that equals the one-token path bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mcugen import kernels
from mcugen.ir import Bank, Graph, Op, Ring, Trace

MATRICES = (
    "linear_s8", "linear_s16", "linear_s32", "linear_add_s16", "linear4_s8", "linear4_s16", "linear4_add_s16",
    "fc_s16", "fc_add_s16",
)  # fmt: skip
GATES = ("swiglu_s16", "geglu_s16", "geglu_tanh_s16", "reglu_s16", "relu2glu_s16")
CHUNK = 128  # tokens computed at once; bounds the memory of the score matrix

IntArray = NDArray[np.integer]
Recorder = Callable[[int, tuple[IntArray, ...]], None]


class Simulator:
    """A decoder in integers with the state the firmware keeps: the KV rings and the position.

    feed(tokens) -> logits int32[T, vocab], Q16 nats. reset() forgets everything.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._kernels: dict[str, Callable[[Op, dict[str, IntArray]], tuple[IntArray, ...]]] = {
            "embed_s16": self._embed_s16,
            "rmsnorm_s16": self._rmsnorm_s16,
            "block_s8": lambda op, b: kernels.block_s8(b[op.inputs[0]]),
            **dict.fromkeys(MATRICES, self._matrix),
            "rope_s16": lambda op, b: (
                kernels.rope_s16(b[op.inputs[0]], self._positions, op.parameters["rope_step"]),
            ),
            "rope_s8": self._rope_s8,
            "keep_s16": lambda op, b: (kernels.keep_s16(b[op.outputs[0]], self.count, b[op.inputs[0]]),),
            "attention_s16": self._attention,
            "values4_s16": lambda op, b: (kernels.values4_s16(b[op.inputs[0]]),),
            "attention4_s16": self._attention,
            **dict.fromkeys(GATES, self._gate),
            "headnorm_s16": self._headnorm_s16,
            "add_s16": self._add_s16,
            "scale_s16": lambda op, b: (
                kernels.scale_s16(b[op.inputs[0]], b[op.inputs[1]][..., op.parameters["rank"]]),
            ),
            "route_s32": lambda op, b: kernels.route_s32(b[op.inputs[0]], self.graph.model.config.experts_per_token),
        }
        self._rings = {op.outputs[0]: graph.ring(op.outputs[0]) for op in graph.ops if op.row}
        self.reset()

    def reset(self) -> None:
        self.count = 0  # tokens fed
        self.position = 0  # of the next token, after re-basing
        self.state = {
            name: np.zeros(buffer.shape, buffer.dtype) for name, buffer in self.graph.buffers.items() if buffer.state
        }

    def feed(
        self,
        tokens: Sequence[int] | IntArray,
        record: Recorder | None = None,
        rebased: Callable[[int], None] | None = None,
    ) -> NDArray[np.int32]:
        """Compute tokens and return their logits. record(op index, outputs) sees each run of tokens op by op;
        rebased(token index) is called after the key rings were turned back, before that token is computed."""
        logits = [np.zeros((0, self.graph.model.config.vocab_size), np.int32)]
        ids = np.asarray(tokens, np.int64)
        start = 0
        while start < len(ids):
            if self.position == self.graph.model.max_position:
                self._rebase()
                if rebased is not None:
                    rebased(start)
            room = min(self.graph.model.max_position - self.position, self.graph.context, CHUNK)
            logits.append(self._run(ids[start : start + room], record))
            start += room
        return np.concatenate(logits)

    def _run(self, tokens: NDArray[np.int64], record: Recorder | None) -> NDArray[np.int32]:
        """A run of at most `context` tokens that no re-basing interrupts."""
        self._tokens = tokens
        self._positions = self.position + np.arange(len(tokens))
        self._turned: dict[str, IntArray] = {}
        self._spans = {ring: _Span(ring, self.count, len(tokens)) for ring in set(self._rings.values())}

        values: dict[str, IntArray] = {name: kept for name, kept in self.state.items() if name not in self._rings}
        for name, ring in self._rings.items():
            values[name] = self.state[name][ring.slot(self._spans[ring].history)]
        for index, op in enumerate(self.graph.ops):
            outputs = self._kernels[op.kernel](op, values)
            if record is not None:
                record(index, outputs)
            for name, output in zip(op.outputs, outputs, strict=True):
                if op.slots:
                    self.state[name][: op.slots] = output[-1]
                    self._turned[name] = output
                    continue
                if op.row:
                    self._spans[self._rings[name]].store(self.state[name], output)
                    output = np.concatenate([values[name], output])
                elif name in self.state:
                    self.state[name] = output = output[-1]
                values[name] = output
        self.count += len(tokens)
        self.position += len(tokens)
        return cast(NDArray[np.int32], values[self.graph.logits])

    def _rebase(self) -> None:
        for op in self.graph.rebase:
            p = op.parameters
            ring = self.state[op.outputs[0]]
            ring[:] = kernels.rebase_s8(ring, p["delta"], p["rope_step"], p["zero"], p["shift"])
        self.position = self.graph.context

    def _embed_s16(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        return (kernels.embed_s16(self._tokens, op.parameters["table"]),)

    def _rmsnorm_s16(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        norm = op.parameters["norm"]
        return (kernels.rmsnorm_s16(values[op.inputs[0]], norm.gain, norm.gain_frac, norm.eps),)

    def _headnorm_s16(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        norm, heads = op.parameters["norm"], op.parameters["heads"]
        return (kernels.headnorm_s16(values[op.inputs[0]], norm.gain, norm.gain_frac, norm.eps, heads),)

    def _matrix(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        """A product with one matrix, or with the one that each token's choice names."""
        kernel, w = getattr(kernels, op.kernel), op.parameters["w"]
        given = [values[name] for name in (*op.inputs[:1], *op.inputs[-2:])][0 if "_add_" in op.kernel else 1 :]
        if not isinstance(w, Bank):
            return (kernel(*given, w),)
        choice = values[op.inputs[-3]][:, w.rank]
        y = np.zeros((len(choice), len(w.matrices[0].codes)), np.int16)
        for expert in np.unique(choice):
            rows = choice == expert
            y[rows] = kernel(*(array[rows] for array in given), w.matrices[expert])
        return (y,)

    def _add_s16(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        added = op.parameters["bias"] if "bias" in op.parameters else values[op.inputs[1]]
        return (kernels.add_s16(values[op.inputs[0]], added),)

    def _gate(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        gate, up = (values[name] for name in op.inputs)
        return (getattr(kernels, op.kernel)(gate, up, **op.parameters),)

    def _rope_s8(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        p = op.parameters
        if op.slots:
            return (self._sinks(op, values),)
        return (kernels.rope_s8(values[op.inputs[0]], self._positions, p["rope_step"], p["zero"], p["shift"]),)

    def _sinks(self, op: Op, values: dict[str, IntArray]) -> IntArray:
        """The first keys, for each token where they directly precede its window: int8[T, slots, kv_dim].

        Zero where a token comes before one of them, whose slot is then still to be written.
        """
        p, sink = op.parameters, np.arange(op.slots)
        span = self._spans[self._rings[op.outputs[0]]]
        behind = np.maximum(self._positions - (span.ring.slots - 1), 0)[:, None]  # nothing while the ring has room
        kept = np.broadcast_to(values[op.inputs[0]], (len(behind), *values[op.inputs[0]].shape))
        turned = kernels.rope_s8(kept, behind + sink, p["rope_step"], p["zero"], p["shift"])
        return np.where((sink <= span.tokens[:, None])[..., None], turned, 0).astype(np.int8)

    def _attention(self, op: Op, values: dict[str, IntArray]) -> tuple[IntArray, ...]:
        config, p = self.graph.model.config, op.parameters
        q, k, v = (values[name] for name in op.inputs)
        span, sinks = self._spans[self._rings[op.inputs[1]]], self._turned.get(op.inputs[1])
        out = getattr(kernels, op.kernel)(
            q, k, v, span.visible, config.n_heads, config.n_kv_heads,
            p["score_shift"], p["drop"], None if sinks is None else sinks[:, : len(k)],
        )  # fmt: skip
        return (out,)


class _Span:
    """A run of tokens and a ring: what is in it before them, oldest first, and what each of them sees of both."""

    def __init__(self, ring: Ring, count: int, length: int) -> None:
        self.ring = ring
        self.tokens = count + np.arange(length)
        oldest = max(ring.sinks, count - (ring.slots - ring.sinks))
        self.history = np.concatenate([np.arange(min(ring.sinks, count)), np.arange(oldest, count)])
        self.visible = ring.sees(self.tokens[:, None], np.concatenate([self.history, self.tokens]))

    def store(self, slots: IntArray, rows: IntArray) -> None:
        """Write the run's rows [T, n] as far as no later one takes their slots."""
        stay = self.ring.sees(self.tokens[-1:], self.tokens)
        slots[self.ring.slot(self.tokens[stay])] = rows[stay]


def simulate(graph: Graph, tokens: Sequence[int]) -> Trace:
    """Feed `tokens` from a fresh state and keep what every op wrote."""
    return record(Simulator(graph), tokens)


def record(simulator: Simulator, tokens: Sequence[int]) -> Trace:
    """Feed tokens to a simulator, wherever it stands, and keep what every op wrote."""
    kept: list[list[tuple[IntArray, ...]]] = [[] for _ in simulator.graph.ops]
    rebased: dict[int, tuple[NDArray[np.int8], ...]] = {}

    def turned(index: int) -> None:
        rebased[index] = tuple(simulator.state[op.outputs[0]].astype(np.int8) for op in simulator.graph.rebase)

    simulator.feed(tokens, lambda index, outputs: kept[index].append(outputs), turned)
    outputs = tuple(tuple(np.concatenate(parts) for parts in zip(*runs, strict=True)) for runs in kept)
    return Trace(tuple(tokens), outputs, rebased, {name: ring.copy() for name, ring in simulator.state.items()})


def greedy(graph: Graph, prompt: Sequence[int]) -> Iterator[int]:
    """Endless greedy continuation of a prompt: the token of the largest logit, the lowest id on ties."""
    simulator = Simulator(graph)
    logits = simulator.feed(prompt)
    while True:
        token = int(logits[-1].argmax())
        yield token
        logits = simulator.feed([token])
