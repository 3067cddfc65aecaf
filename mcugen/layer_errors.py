"""Where quality is lost: how far the integers of every op are from the float model's values at the same point."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from mcugen.ir import Config, Graph, Op
from mcugen.reference import Floats, rope, rope_angles
from mcugen.simulate import IntArray


@dataclass(frozen=True, slots=True)
class OpError:
    """What an op's output lacks, in real units, over `tokens` tokens of the same text.

    layer, op: "layers.3.wq" is 3, "wq"; layer None outside of the layers. error: RMS of the difference to float over
    the RMS of the float values, 0.01 is 1 %; it holds all that was lost on the way to this op.
    """

    layer: int | None
    op: str
    kernel: str
    tokens: int
    error: float

    @property
    def snr_db(self) -> float:
        """The same as a signal-to-noise ratio."""
        return float(-20 * np.log10(max(self.error, 1e-12)))


@dataclass(slots=True, eq=False)
class _Sums:
    """Sums over tokens per channel of integers x and float values y."""

    tokens: int = 0
    x: Floats = field(default_factory=lambda: np.zeros(1))
    y: Floats = field(default_factory=lambda: np.zeros(1))
    xx: Floats = field(default_factory=lambda: np.zeros(1))
    xy: Floats = field(default_factory=lambda: np.zeros(1))
    yy: Floats = field(default_factory=lambda: np.zeros(1))

    def add(self, x: Floats, y: Floats) -> None:
        self.tokens += len(x)
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.xx, self.xy, self.yy = self.xx + (x * x).sum(0), self.xy + (x * y).sum(0), self.yy + (y * y).sum(0)


@dataclass(frozen=True, slots=True)
class _Point:
    """Where an op's output is met in the float model.

    tap: its name there. rotated: once RoPE has turned it. unit: what shares a scale: the whole "tensor", each
    "channel", or each channel with a "zero" point of its own.
    """

    tap: str
    unit: str = "tensor"
    rotated: bool = False


# The residual is tapped as it enters the first layer, behind each attention and behind each feed-forward.
_ENTERED, _ATTENDED, _FED = "residual 0", "residual 1", "residual 2"


def _points(config: Config) -> dict[str, _Point]:
    """Points by an op's label in its layer (mcugen.lower). Where a bias is still missing, channels have offsets."""
    query, key = ("query_raw", "key_raw") if config.qk_norm else ("query", "key")
    attended, fed = ("post_att_raw", "post_ffn_raw") if config.post_norms else (_ATTENDED, _FED)
    without = "zero" if config.attention_bias else "channel"
    points = {
        "embedding": _Point(_ENTERED),
        "att_norm": _Point("att_norm"),
        "att_block": _Point("att_norm"),
        "att_block_v": _Point("att_norm"),
        "wq": _Point(query, without),
        "query_bias": _Point(query, "channel"),
        "query_norm": _Point("query", "channel"),
        "query": _Point("query", "channel", rotated=True),
        "wk": _Point(key, without),
        "key_bias": _Point(key, "channel"),
        "key_norm": _Point("key", "channel"),
        "keys": _Point("key", "zero", rotated=True),
        "wv": _Point("value", "channel"),
        "attention": _Point("attention", "channel"),
        "out_block": _Point("attention", "channel"),
        "wo": _Point(attended, "zero" if config.attention_bias else "tensor"),
        "out_bias": _Point(attended),
        "att_sum": _Point(_ATTENDED),
        "ffn_norm": _Point("ffn_norm"),
        "ffn_block": _Point("ffn_norm"),
        "router": _Point("router"),
        f"rank{config.experts_per_token - 1}.w2": _Point(fed),
        "ffn_sum": _Point(_FED),
        "final_norm": _Point("final_norm"),
        "final_block": _Point("final_norm"),
        "logits": _Point("logits"),
    }
    if config.n_experts:  # each of which sees some tokens only
        return points
    gates = ("swiglu", "geglu", "geglu_tanh", "reglu", "relu2glu", "hidden_block")
    return (
        points
        | dict.fromkeys(gates, _Point("swiglu", "channel"))
        | {
            "w1": _Point("gate", "zero" if config.mlp_bias else "tensor"),
            "gate_bias": _Point("gate"),
            "w3": _Point("up", "zero" if config.mlp_bias else "channel"),
            "up_bias": _Point("up", "channel"),
            "w2": _Point(fed, "zero" if config.mlp_bias else "tensor"),
            "down_bias": _Point(fed),
        }
    )


class LayerErrors:
    """An evaluate.Meter. errors() has one entry for each op that has a counterpart in float, in the graph's order.

    What an integer is worth in real units is found, not carried along: the factor with the least squared difference
    to float, one for the tensor or, where channels have scales of their own, one per channel (keys: with an offset,
    their zero point). So an op whose output is wrong by one and the same factor shows up where that output is used:
    wq in attention, w1 in swiglu, wo in the residual that it adds to.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._points = _points(graph.model.config)
        self._sums = {index: _Sums() for index, op in enumerate(graph.ops) if _place(op)[1] in self._points}
        self.begin()

    def begin(self) -> None:
        self._taps: dict[tuple[str, int], Floats] = {}
        self._residuals: list[Floats] = []
        self._fed = dict.fromkeys(self._sums, 0)

    def floats(self, name: str, layer: int, values: Floats) -> None:
        if name == "residual":
            self._residuals.append(values[0])
        else:
            self._taps[name, layer] = values[0]

    def integers(self, position: int, op: int, outputs: tuple[IntArray, ...]) -> None:
        if op not in self._sums:
            return
        x = _values(outputs)
        start = self._fed[op]
        self._fed[op] += len(x)
        layer, kind = _place(self._graph.ops[op])
        point = self._points[kind]
        y = self._counterpart(layer or 0, point.tap)[start : start + len(x)]
        if point.rotated:  # to where the integers stand: their positions are turned back (D4)
            angles = rope_angles(self._graph.model.config, position + np.arange(len(x)), layer or 0)
            y = rope(y, angles)
        y = y.reshape(len(x), -1)
        if y.shape == x.shape:
            self._sums[op].add(x, y)
        else:  # of a pruned model: the whole one has other channels here
            del self._sums[op]

    def _counterpart(self, layer: int, tap: str) -> Floats:
        if tap.startswith("residual "):
            return self._residuals[2 * layer + int(tap[-1])]
        return self._taps[tap, layer]

    def errors(self) -> tuple[OpError, ...]:
        found = []
        for index, sums in self._sums.items():
            op = self._graph.ops[index]
            layer, kind = _place(op)
            found.append(OpError(layer, kind, op.kernel, sums.tokens, _error(sums, self._points[kind].unit)))
        return tuple(found)


def _place(op: Op) -> tuple[int | None, str]:
    """ "layers.3.wq" -> (3, "wq"); "logits" -> (None, "logits")."""
    found = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)", op.label)
    assert found is not None
    return (int(found[1]) if found[1] else None), found[2]


def _values(outputs: tuple[IntArray, ...]) -> Floats:
    """An op's output as one float64[T, n]; codes of a block times its peak."""
    if len(outputs) == 1:
        return outputs[0].astype(np.float64)
    codes, scale = outputs
    return codes.astype(np.float64) * scale[:, :1]


def _error(sums: _Sums, unit: str) -> float:
    """RMS of y - a x (- b) over the RMS of y, with the best a (and b)."""
    xx, xy, yy = sums.xx, sums.xy, sums.yy
    if unit == "tensor":
        xx, xy, yy = xx.sum(keepdims=True), xy.sum(keepdims=True), yy.sum(keepdims=True)
    elif unit == "zero":
        xx, xy = xx - sums.x**2 / sums.tokens, xy - sums.x * sums.y / sums.tokens
        yy = yy - sums.y**2 / sums.tokens
    explained = np.divide(xy**2, xx, out=np.zeros_like(xx), where=xx > 0)
    total = float(sums.yy.sum())
    return float(np.sqrt(max(float((yy - explained).sum()), 0.0) / total)) if total > 0 else 0.0
