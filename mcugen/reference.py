"""The plain transformer in float: what the integers are measured against (rung 1 and 2 of the ladder).

Written after llama2.c's forward() (karpathy/llama2.c, run.c), batched over sequences and positions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mcugen.ir import Config, Model

Floats = NDArray[np.float64]
Tap = Callable[[str, int, Floats], None]


def rmsnorm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / rms(x) * weight over the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rope_angles(config: Config, positions: NDArray[np.int64]) -> Floats:
    """Angle of each pair at each position: [len(positions), head_dim / 2] radians."""
    frequency = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    return positions[:, None] * frequency


def rope(x: Floats, angles: Floats) -> Floats:
    """Rotate neighbouring pairs of x[..., T, heads, head_dim] by angles[T, head_dim / 2]."""
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = even * cosine - odd * sine
    out[..., 1::2] = even * sine + odd * cosine
    return out


def softmax(scores: Floats) -> Floats:
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-np.clip(x, -60, None)))


class FloatDecoder:
    """A KV-cached float decoder over a batch of sequences of equal length.

    forward(tokens[B, T]) appends T tokens and returns logits[B, T, vocab] in nats. window: how many of the latest
    positions a token sees (itself included), None for all. tap(name, layer, values) sees intermediate values.
    """

    def __init__(self, model: Model, batch: int = 1, window: int | None = None, tap: Tap | None = None) -> None:
        self._weights = {name: w.astype(np.float64) for name, w in model.weights.items()}
        self._config = config = model.config
        self._window = window
        self._tap = tap or (lambda name, layer, values: None)
        shape = (config.n_layers, batch, 0, config.n_kv_heads, config.head_dim)
        self._keys, self._values = list(np.zeros(shape)), list(np.zeros(shape))
        self._position = 0

    def forward(self, tokens: NDArray[np.integer]) -> Floats:
        config, w, tap = self._config, self._weights, self._tap
        length = tokens.shape[1]
        positions = np.arange(self._position, self._position + length)
        self._position += length
        angles = rope_angles(config, positions)
        x = w["token_embedding_table"][tokens]
        tap("residual", 0, x)
        for layer in range(config.n_layers):
            x = x + self._attention(layer, rmsnorm(x, w["rms_att_weight"][layer], config.norm_eps), angles)
            tap("residual", layer, x)
            x = x + self._feed_forward(layer, rmsnorm(x, w["rms_ffn_weight"][layer], config.norm_eps))
            tap("residual", layer, x)
        x = rmsnorm(x, w["rms_final_weight"], config.norm_eps)
        tap("final_norm", 0, x)
        return x @ w["wcls"].T

    def _attention(self, layer: int, h: Floats, angles: Floats) -> Floats:
        config, w, tap = self._config, self._weights, self._tap
        batch, length, _ = h.shape
        tap("att_norm", layer, h)
        q = (h @ w["wq"][layer].T).reshape(batch, length, config.n_heads, config.head_dim)
        k = (h @ w["wk"][layer].T).reshape(batch, length, config.n_kv_heads, config.head_dim)
        v = (h @ w["wv"][layer].T).reshape(batch, length, config.n_kv_heads, config.head_dim)
        tap("query", layer, q)
        tap("key", layer, k)
        tap("value", layer, v)
        q, k = rope(q, angles), rope(k, angles)
        keys = self._keys[layer] = np.concatenate([self._keys[layer], k], 1)
        values = self._values[layer] = np.concatenate([self._values[layer], v], 1)

        newest = np.arange(keys.shape[1] - length, keys.shape[1])[:, None]
        age = newest - np.arange(keys.shape[1])
        visible = age >= 0 if self._window is None else (age >= 0) & (age < self._window)
        grouped = q.reshape(batch, length, config.n_kv_heads, config.group_size, config.head_dim)
        scores = np.einsum("btgrd,bsgd->bgrts", grouped, keys, optimize=True) / np.sqrt(config.head_dim)
        weight = softmax(np.where(visible, scores, -np.inf))
        out = np.einsum("bgrts,bsgd->btgrd", weight, values, optimize=True).reshape(batch, length, config.dim)
        tap("attention", layer, out)
        return out @ w["wo"][layer].T

    def _feed_forward(self, layer: int, h: Floats) -> Floats:
        w, tap = self._weights, self._tap
        tap("ffn_norm", layer, h)
        gate, up = h @ w["w1"][layer].T, h @ w["w3"][layer].T
        tap("gate", layer, gate)
        tap("up", layer, up)
        hidden = silu(gate) * up
        tap("swiglu", layer, hidden)
        return hidden @ w["w2"][layer].T


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
