"""The plain transformer in float: what the integers are measured against (rung 1 and 2 of the ladder).

Written after llama2.c's forward() (karpathy/llama2.c, run.c), batched over sequences and positions, with what close
relatives of Llama add (ir.Config).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mcugen.ir import Config, Model, Ring

_NO_END = 2**62  # tokens: a window that no sequence reaches the end of

Floats = NDArray[np.float64]
Tap = Callable[[str, int, Floats], None]


def rmsnorm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / rms(x) * weight over the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rope_frequencies(config: Config, layer: int = 0) -> Floats:
    """Radians per position of each pair of a layer's heads: [head_dim / 2]."""
    local = bool(config.window(layer))
    theta = config.local_rope_theta if local and config.local_rope_theta else config.rope_theta
    frequency: Floats = theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    return frequency / np.array(config.rope_factors) if config.rope_factors and not local else frequency


def rope_angles(config: Config, positions: NDArray[np.int64], layer: int = 0) -> Floats:
    """Angle of each pair at each position: [len(positions), head_dim / 2] radians."""
    return positions[:, None] * rope_frequencies(config, layer)


def rope(x: Floats, angles: Floats) -> Floats:
    """Rotate neighbouring pairs of x[..., T, heads, head_dim] by angles[T, head_dim / 2]."""
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cosine - odd * sine
    out[..., 1::2] = even * sine + odd * cosine
    return out


def softmax(scores: Floats) -> Floats:
    weight = np.array(scores, order="C")  # einsum's results have strides that make sums over the last axis slow
    weight -= weight.max(-1, keepdims=True)
    np.exp(weight, out=weight)
    weight /= weight.sum(-1, keepdims=True)
    return weight


def log_softmax(logits: Floats) -> Floats:
    """Log probabilities [..., vocab]."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-np.clip(x, -60, None)))


def gelu(x: Floats) -> Floats:
    """x Phi(x) (Hendrycks and Gimpel 2016), Phi the normal distribution."""
    return x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))) / 2


def gelu_tanh(x: Floats) -> Floats:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def relu(x: Floats) -> Floats:
    return np.maximum(x, 0)


def relu2(x: Floats) -> Floats:
    """ReLU squared (So et al. 2021)."""
    return relu(x) ** 2


ACTIVATION = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu, "relu2": relu2}


class FloatDecoder:
    """A KV-cached float decoder over a batch of sequences of equal length.

    forward(tokens[B, T]) appends T tokens and returns logits[B, T, vocab] in nats. window: how many of the latest
    positions a token sees (itself included), None for all; what no token can see any more is forgotten. sinks: how
    many of them are the first of the sequence instead, where no layer's own window is smaller (StreamingLLM, Xiao et
    al. 2023): they stand as if they directly preceded the others. tap(name, layer, values) sees intermediate values.
    """

    def __init__(
        self, model: Model, batch: int = 1, window: int | None = None, tap: Tap | None = None, sinks: int = 0
    ) -> None:
        self._weights = {name: w.astype(np.float64) for name, w in model.weights.items()}
        self._config = config = model.config
        context = window or _NO_END
        slots = [min(context, config.window(layer) or _NO_END) for layer in range(config.n_layers)]
        self._rings = [Ring(n, sinks if n == context else 0) for n in slots]
        self._tap = tap or (lambda name, layer, values: None)
        shape = (config.n_layers, batch, 0, config.n_kv_heads, config.head_dim)
        self._keys, self._values = list(np.zeros(shape)), list(np.zeros(shape))
        self._sink_keys = list(np.zeros(shape))  # before RoPE
        self._cached = [np.zeros(0, np.int64)] * config.n_layers  # their positions
        self._position = 0

    def forward(self, tokens: NDArray[np.integer]) -> Floats:
        config, w, tap = self._config, self._weights, self._tap
        length = tokens.shape[1]
        positions = np.arange(self._position, self._position + length)
        self._position += length
        x = w["token_embedding_table"][tokens] * config.embedding_scale
        tap("residual", 0, x)
        for layer in range(config.n_layers):
            h = rmsnorm(x, w["rms_att_weight"][layer], config.norm_eps)
            x = x + self._attention(layer, h, positions)
            tap("residual", layer, x)
            h = rmsnorm(x, w["rms_ffn_weight"][layer], config.norm_eps)
            x = x + self._feed_forward(layer, h)
            tap("residual", layer, x)
        x = rmsnorm(x, w["rms_final_weight"], config.norm_eps)
        tap("final_norm", 0, x)
        return x @ w["wcls"].T * config.logit_scale

    def _attention(self, layer: int, h: Floats, positions: NDArray[np.int64]) -> Floats:
        config, w, tap = self._config, self._weights, self._tap
        batch, length, _ = h.shape
        tap("att_norm", layer, h)
        q = self._linear("wq", layer, h, "bq").reshape(batch, length, config.n_heads, config.head_dim)
        k = self._linear("wk", layer, h, "bk").reshape(batch, length, config.n_kv_heads, config.head_dim)
        v = self._linear("wv", layer, h).reshape(batch, length, config.n_kv_heads, config.head_dim)
        if config.qk_norm:
            tap("query_raw", layer, q)
            tap("key_raw", layer, k)
            q = rmsnorm(q, w["q_norm"][layer], config.norm_eps)
            k = rmsnorm(k, w["k_norm"][layer], config.norm_eps)
        tap("query", layer, q)
        tap("key", layer, k)
        tap("value", layer, v)
        angles, ring = rope_angles(config, positions, layer), self._rings[layer]
        room = ring.sinks - self._sink_keys[layer].shape[1]
        self._sink_keys[layer] = np.concatenate([self._sink_keys[layer], k[:, :room]], 1)
        q, k = rope(q, angles), rope(k, angles)
        keys = np.concatenate([self._keys[layer], k], 1)
        values = np.concatenate([self._values[layer], v], 1)
        cached = np.concatenate([self._cached[layer], positions])
        visible = ring.sees(positions[:, None], cached)
        stay = ring.sees(positions[-1:] + 1, cached)  # what the next token sees
        self._keys[layer], self._values[layer], self._cached[layer] = keys[:, stay], values[:, stay], cached[stay]

        grouped = q.reshape(batch, length, config.n_kv_heads, config.group_size, config.head_dim)
        scores = np.einsum("btgrd,bsgd->bgrts", grouped, keys, optimize=True) / np.sqrt(config.head_dim)
        for sink in range(ring.sinks and self._sink_keys[layer].shape[1]):
            scores[..., sink] = self._sink_scores(layer, sink, grouped, positions)
        weight = softmax(np.where(visible, np.ascontiguousarray(scores), -np.inf))
        out = np.einsum("bgrts,bsgd->btgrd", weight, values, optimize=True)
        tap("attention", layer, out.reshape(batch, length, config.query_dim))
        if config.attention_bias:  # weights sum to 1, so that bv may come after them, and stay out of the taps
            out = out + w["bv"][layer].reshape(config.n_kv_heads, 1, config.head_dim)
        added = self._linear("wo", layer, out.reshape(batch, length, config.query_dim), "bo")
        return self._post_norm("post_att", layer, added)

    def _sink_scores(self, layer: int, sink: int, grouped: Floats, positions: NDArray[np.int64]) -> Floats:
        """Scores of one sink: [batch, n_kv_heads, group_size, T]; grouped: queries [batch, T, n_kv_heads, group_size,
        head_dim].

        Once the window has left the first tokens behind, the first sink stands slots - 1 positions before the token.
        """
        config, slots = self._config, self._rings[layer].slots
        at = np.maximum(positions - (slots - 1), 0) + sink
        key = np.repeat(self._sink_keys[layer][:, sink : sink + 1], len(positions), 1)
        turned = rope(key, rope_angles(config, at, layer))
        scores: Floats = np.einsum("btgrd,btgd->bgrt", grouped, turned) / np.sqrt(config.head_dim)
        return scores

    def _linear(self, name: str, layer: int, h: Floats, bias: str = "") -> Floats:
        y = h @ self._weights[name][layer].T
        return y + self._weights[bias][layer] if bias in self._weights else y

    def _post_norm(self, name: str, layer: int, added: Floats) -> Floats:
        if not self._config.post_norms:
            return added
        self._tap(f"{name}_raw", layer, added)
        return rmsnorm(added, self._weights[f"{name}_weight"][layer], self._config.norm_eps)

    def _feed_forward(self, layer: int, h: Floats) -> Floats:
        self._tap("ffn_norm", layer, h)
        if self._config.n_experts:
            return self._post_norm("post_ffn", layer, self._experts(layer, h))
        gate, up = self._linear("w1", layer, h, "b1"), self._linear("w3", layer, h, "b3")
        hidden = self._gated(layer, gate, up)
        return self._post_norm("post_ffn", layer, self._linear("w2", layer, hidden, "b2"))

    def _gated(self, layer: int, gate: Floats, up: Floats) -> Floats:
        self._tap("gate", layer, gate)
        self._tap("up", layer, up)
        hidden = ACTIVATION[self._config.activation](gate) * up
        self._tap("swiglu", layer, hidden)
        return hidden

    def _experts(self, layer: int, h: Floats) -> Floats:
        """Mixture of experts (Shazeer et al. 2017), weighted as by Mixtral (Jiang et al. 2024)."""
        config, w = self._config, self._weights
        logits = h @ w["router"][layer].T
        self._tap("router", layer, logits)
        best = np.argsort(-logits, -1, kind="stable")[..., : config.experts_per_token]  # the lowest id on ties
        weight = np.zeros(logits.shape)
        np.put_along_axis(weight, best, softmax(np.take_along_axis(logits, best, -1)), -1)
        out = np.zeros(h.shape)
        for expert in range(config.n_experts):
            chosen = weight[..., expert] > 0
            rows = h[chosen]  # [tokens, dim]
            if not len(rows):
                continue
            gate, up = rows @ w["w1"][layer, expert].T, rows @ w["w3"][layer, expert].T
            hidden = self._gated(layer, gate[None], up[None])[0]
            out[chosen] += weight[chosen][:, expert, None] * (hidden @ w["w2"][layer, expert].T)
        return out


def sample_sequences(
    model: Model, count: int, length: int, seed: int, bos: int = 1, eos: int = 2
) -> list[NDArray[np.int64]]:
    """Sample `count` sequences from the model itself at temperature 1, each opening with bos and cut after eos.

    Calibration without data: the model's own samples stand in for text. Each is int64[<= length].
    """
    rng = np.random.default_rng(seed)
    decoder = FloatDecoder(model, batch=count)
    tokens = np.full((count, length), bos, np.int64)
    for position in range(length - 1):
        weight = softmax(decoder.forward(tokens[:, position : position + 1])[:, 0])
        draw = (weight.cumsum(-1) < rng.random((count, 1))).sum(-1)
        tokens[:, position + 1] = np.minimum(draw, model.config.vocab_size - 1)
        if (tokens == eos).any(1).all():
            break
    ends = [np.flatnonzero(row == eos) for row in tokens]
    return [row[: end[0] + 1] if len(end) else row for row, end in zip(tokens, ends, strict=True)]
