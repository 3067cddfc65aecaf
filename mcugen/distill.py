"""Codes that were trained: a quantised student learns the float model's predictions (needs PyTorch).

What is rounded to nearest or by GPTQ forgets that the model could have moved a little: here it moves. Each matrix has
real weights in units of its steps, rounded in the forward pass and not in the backward one (Bengio et al. 2013), and
learns its group scales as well (Esser et al. 2020); so do the embedding and the norms' gains, which cost nothing on
the device. The loss is KL(float || student), over text that the float model samples itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mcugen.errors import InputError, UsageError
from mcugen.ir import Config, Model
from mcugen.quantize import Calibration, folded
from mcugen.reference import rope_angles
from mcugen.rounding import S8_MAX, Folded, Grid

BATCH, LENGTH = 16, 128  # windows of a step, and their tokens
SAMPLES = 4096  # sequences that the float model samples for all steps
SAMPLE_LENGTH = 256  # tokens of each, or the trained context
TOGETHER = 128  # sequences sampled at once, so that their keys and values stay in a processor's cache
WARM_UP, LAST_RATE = 20, 0.01  # steps; the rate at the end, as a share
CODE_RATE, SCALE_RATE, VECTOR_RATE = 3e-4, 3e-4, 2e-4  # per step: of codes; of scales, relative; of all else
EDGE, NEAR = 0.4, 0.499  # of a step: how far weights go beyond the outermost codes, and begin from their own

Progress = Callable[[int, int, float], None]  # done, total, loss in nats per token


def _ignore(done: int, total: int, loss: float) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """model: the float model with the norms' gains and the embedding that were learned, to be quantised by the same
    calibration, with grids: what its layers' matrices are rounded to. losses: nats per token of each step."""

    model: Model
    grids: Mapping[str, Grid]
    losses: tuple[float, ...]


def distill(
    model: Model,
    seen: Calibration,
    grids: Mapping[str, Grid],
    *,
    teacher: Model | None = None,
    steps: int,
    seed: int = 0,
    bos: int = 1,
    eos: int = 2,
    text: NDArray[np.integer] | None = None,
    progress: Progress = _ignore,
) -> Distilled:
    """Train the codes of a model's matrices, beginning with `grids` (of every label of quantize.folded).

    teacher: whose predictions are learned; None for the model itself in float. text: tokens that make up half of what
    is read; None for the teacher's own samples alone. The same arguments give the same result on one machine.
    """
    if model.config.n_experts:
        raise UsageError(
            f"{model.name} has a mixture of experts, which is not trained", where="--distill", hint="leave it out"
        )
    least = min(LENGTH, model.config.seq_len)
    if text is not None and len(text) < least:
        raise InputError(
            f"the text has {len(text)} tokens; at least {least} are needed",
            where="--distill-text",
            hint="give a longer text, or leave it out: the model's own samples do without",
        )
    with _one_thread():
        expected = _Decoder(teacher or model)
        student = _Student(model, folded(model, seen), grids)
        optimizer = torch.optim.Adam(student.rates(), betas=(0.9, 0.99))
        peaks = [group["lr"] for group in optimizer.param_groups]
        losses = []
        for step, tokens in enumerate(_windows(expected, steps, seed, (bos, eos), text)):
            decay = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * min(1.0, (step + 1) / WARM_UP) * decay
            with torch.no_grad():
                target = F.log_softmax(expected.forward(tokens), -1)
            found = F.log_softmax(student.forward(tokens), -1)
            loss = (target.exp() * (target - found)).sum(-1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            student.clamp()
            losses.append(loss.item())
            progress(step + 1, steps, losses[-1])
    return Distilled(student.model(), student.grids(), tuple(losses))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in another order are other sums: one thread repeats exactly, and these matrices gain little from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------- text


def _windows(
    teacher: _Decoder, steps: int, seed: int, ends: tuple[int, int], text: NDArray[np.integer] | None
) -> Iterator[Tensor]:
    """tokens int64[BATCH, <= LENGTH] of each step: windows that open with bos, wherever they were cut."""
    rng = np.random.default_rng(seed)
    context = teacher.config.seq_len
    length = min(LENGTH, context)
    count = min(SAMPLES, max(steps, 1) * BATCH)
    sizes = [min(TOGETHER, count - start) for start in range(0, count, TOGETHER)]
    own = np.concatenate([teacher.sample(size, min(SAMPLE_LENGTH, context), rng, *ends) for size in sizes])
    for _ in range(steps):
        rows = own[rng.integers(0, len(own), BATCH if text is None else BATCH // 2)]
        parts = [_cut(row, length, rng) for row in rows]
        if text is not None:
            parts += [_cut(text, length, rng) for _ in range(BATCH - len(rows))]
        tokens = np.stack(parts)
        tokens[:, 0] = ends[0]
        yield torch.from_numpy(tokens)


def _cut(tokens: NDArray[np.integer], length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    start = int(rng.integers(0, len(tokens) - length + 1))
    return tokens[start : start + length].astype(np.int64)


# ---------------------------------------------------------------- the decoder


class _Past:
    """keys, values: float32[n_layers, B, n_kv_heads, S, head_dim], of which `used` of the S positions are filled."""

    def __init__(self, config: Config, batch: int, length: int) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, length, config.head_dim)
        self.keys, self.values, self.used = torch.zeros(shape), torch.zeros(shape), 0


class _Decoder:
    """FloatDecoder in float32 tensors: forward(tokens[B, T]) -> logits[B, T, vocab]."""

    def __init__(self, model: Model) -> None:
        self.config = model.config
        self.weights = {name: torch.tensor(np.array(w, np.float32)) for name, w in model.weights.items()}

    def matrix(self, name: str, layer: int) -> Tensor:
        return self.weights[name][layer]

    def table(self, name: str) -> Tensor:
        """Embedding or classifier."""
        return self.weights[name]

    def block(self, x: Tensor, name: str, layer: int) -> Tensor:
        """What a matrix reads of x; name: of the matrix, "" of the classifier."""
        return x

    def forward(self, tokens: Tensor, past: _Past | None = None) -> Tensor:
        """past: of the tokens that went before; these are added."""
        config, w = self.config, self.weights
        x = self.table("token_embedding_table")[tokens] * config.embedding_scale
        for layer in range(config.n_layers):
            added = self._attention(self._norm(x, w["rms_att_weight"][layer]), layer, past)
            x = x + self._post_norm("post_att_weight", layer, added)
            added = self._feed_forward(self._norm(x, w["rms_ffn_weight"][layer]), layer)
            x = x + self._post_norm("post_ffn_weight", layer, added)
        if past is not None:
            past.used += tokens.shape[1]
        x = self._norm(x, w["rms_final_weight"])
        return self.block(x, "", 0) @ self.table("wcls").T * config.logit_scale

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.norm_eps) * weight

    def _post_norm(self, name: str, layer: int, x: Tensor) -> Tensor:
        return self._norm(x, self.weights[name][layer]) if name in self.weights else x

    def _linear(self, x: Tensor, name: str, layer: int, bias: str = "") -> Tensor:
        y = x @ self.matrix(name, layer).T
        return y + self.weights[bias][layer] if bias in self.weights else y

    def _attention(self, x: Tensor, layer: int, past: _Past | None) -> Tensor:
        config, (batch, length, _) = self.config, x.shape
        x = self.block(x, "wq", layer)
        q, k, v = (
            self._linear(x, f"w{part}", layer, f"b{part}").view(batch, length, -1, config.head_dim) for part in "qkv"
        )
        if config.qk_norm:
            q, k = self._norm(q, self.weights["q_norm"][layer]), self._norm(k, self.weights["k_norm"][layer])
        before = 0 if past is None else past.used
        angles = rope_angles(config, np.arange(before, before + length), layer)
        turn = torch.tensor(np.stack([np.cos(angles), np.sin(angles)]), dtype=torch.float32)[:, :, None]
        q, k, v = _rope(q, turn).transpose(1, 2), _rope(k, turn).transpose(1, 2), v.transpose(1, 2)
        if past is not None:
            past.keys[layer, :, :, before : before + length] = k
            past.values[layer, :, :, before : before + length] = v
            k, v = past.keys[layer, :, :, : before + length], past.values[layer, :, :, : before + length]
        mask = _visible(config.window(layer), before, length)
        if length == 1:  # a group's query heads read the same keys, as several positions would
            q = q.reshape(batch, config.n_kv_heads, config.group_size, config.head_dim)
        else:
            k, v = k.repeat_interleave(config.group_size, 1), v.repeat_interleave(config.group_size, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and length > 1)
        out = out.reshape(batch, config.n_heads, length, -1).transpose(1, 2).reshape(batch, length, -1)
        return self._linear(self.block(out, "wo", layer), "wo", layer, "bo")

    def _feed_forward(self, x: Tensor, layer: int) -> Tensor:
        x = self.block(x, "w1", layer)
        gate, up = self._linear(x, "w1", layer, "b1"), self._linear(x, "w3", layer, "b3")
        hidden = _ACTIVATION[self.config.activation](gate) * up
        return self._linear(self.block(hidden, "w2", layer), "w2", layer, "b2")

    def sample(self, count: int, length: int, rng: np.random.Generator, bos: int, eos: int) -> NDArray[np.int64]:
        """Sequences int64[count, length] at temperature 1, each opening with bos; after eos comes bos again."""
        tokens = torch.full((count, 1), bos)
        past = _Past(self.config, count, length)
        for _ in range(length - 1):
            last = tokens[:, -1:]
            with torch.no_grad():
                weight = torch.softmax(self.forward(last, past)[:, 0], -1).cumsum(-1)
            drawn = torch.tensor(rng.random((count, 1)), dtype=torch.float32) * weight[:, -1:]
            token = torch.searchsorted(weight, drawn, right=True).clamp(max=self.config.vocab_size - 1)
            tokens = torch.cat([tokens, torch.where(last == eos, bos, token)], 1)
        return tokens.numpy()


_ACTIVATION: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


def _rope(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x[batch, time, heads, head_dim] by (cosine, sine)[time, 1, head_dim / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cosine, sine = turn
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def _visible(window: int, before: int, length: int) -> Tensor | None:
    """bool[length, before + length]: what each of the latest positions sees; None where that is all up to itself."""
    if not window and (not before or length == 1):
        return None
    age = torch.arange(before, before + length)[:, None] - torch.arange(before + length)
    return (age >= 0) & (age < window) if window else age >= 0


# ---------------------------------------------------------------- the student


def _through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` in the forward pass, x in the backward one."""
    return x + (rounded - x).detach()


class _Codes:
    """A matrix of Grid's form with real weights behind it.

    codes: float32[rows, groups, group], in units of a step; scale: float32[rows, groups] in [-1, 1], of the row's
    largest step; top: float32[rows], its logarithm. All relative to `unit`, what a typical column is multiplied by.
    """

    def __init__(self, part: Folded, grid: Grid) -> None:
        self._unit = float(part.columns.mean())
        self._columns = torch.tensor(part.columns / self._unit, dtype=torch.float32)
        self.bits, self._group = grid.bits, grid.group
        low, high = self._range = (-8, 7) if grid.bits == 4 else (-S8_MAX, S8_MAX)
        rows, cols = part.w.shape
        group = grid.group or cols
        steps = np.ones((rows, 1)) if grid.group_scale is None else grid.group_scale / S8_MAX
        steps = np.where(steps == 0, 1 / S8_MAX, steps)
        row = grid.scale * (1 if grid.group_scale is None else S8_MAX)
        padding = ((0, 0), (0, steps.shape[1] * group - cols))
        step = (steps * row[:, None])[..., None]
        codes = np.pad(grid.codes, padding).reshape(rows, -1, group).astype(np.float64)
        # the real weight nearest to the model's own that is still rounded to the grid's code
        real = np.clip(np.pad(part.w, padding).reshape(codes.shape) / step, codes - NEAR, codes + NEAR)
        self.codes = torch.tensor(np.clip(real, low - EDGE, high + EDGE), dtype=torch.float32, requires_grad=True)
        self.scale = torch.tensor(steps, dtype=torch.float32, requires_grad=grid.group_scale is not None)
        self.top = torch.tensor(np.log(row / self._unit), dtype=torch.float32, requires_grad=True)

    def _whole_codes(self) -> Tensor:
        return self.codes.round().clamp(*self._range)

    def _whole_scale(self) -> Tensor:
        """In int8 steps; never 0, where a group would have no way back."""
        steps = (self.scale * S8_MAX).round().clamp(-S8_MAX, S8_MAX)
        return torch.where(steps == 0, torch.ones_like(steps), steps) / S8_MAX

    def values(self) -> Tensor:
        """What multiplies the float input: float32[rows, cols]."""
        codes = _through(self.codes, self._whole_codes())
        scale = _through(self.scale, self._whole_scale()) if self.scale.requires_grad else self.scale
        w = codes * (scale * self.top.exp()[:, None])[..., None]
        return w.flatten(1)[:, : len(self._columns)] / self._columns

    def clamp(self) -> None:
        self.codes.clamp_(self._range[0] - EDGE, self._range[1] + EDGE)
        self.scale.clamp_(-1, 1)

    def grid(self) -> Grid:
        codes = self._whole_codes().flatten(1)[:, : len(self._columns)].numpy().astype(np.int8)
        row = self.top.exp().numpy().astype(np.float64) * self._unit
        if not self.scale.requires_grad:
            return Grid(np.ascontiguousarray(codes), None, row, self.bits, self._group)
        steps = (self._whole_scale() * S8_MAX).round().numpy().astype(np.int8)
        return Grid(np.ascontiguousarray(codes), steps, row / S8_MAX, self.bits, self._group)


class _Student(_Decoder):
    """The model as its integers will be: matrices and embedding on their grids, blocks in int8 codes."""

    def __init__(self, model: Model, parts: Mapping[str, Folded], grids: Mapping[str, Grid]) -> None:
        super().__init__(model)
        self._model = model
        self._codes = {label: _Codes(part, grids[label]) for label, part in parts.items()}
        self._columns = {
            label: torch.tensor(part.columns / part.columns.mean(), dtype=torch.float32)
            for label, part in parts.items()
        }
        self._vectors = [
            name for name in self.weights if name.startswith(("rms_", "post_")) or name.endswith("_norm")
        ]
        self._tables = ["token_embedding_table"] + ([] if model.config.shared_classifier else ["wcls"])
        for name in (*self._vectors, *self._tables):
            self.weights[name].requires_grad_()

    def rates(self) -> list[dict[str, object]]:
        """Parameters and their learning rates, for the optimizer."""
        codes = list(self._codes.values())
        scales = [c.top for c in codes] + [c.scale for c in codes if c.scale.requires_grad]
        return [
            {"params": [c.codes for c in codes if c.bits == 4], "lr": CODE_RATE},
            {"params": [c.codes for c in codes if c.bits == 8], "lr": CODE_RATE * 16},  # of finer steps
            {"params": scales, "lr": SCALE_RATE},
            {"params": [self.weights[name] for name in (*self._vectors, *self._tables)], "lr": VECTOR_RATE},
        ]

    def matrix(self, name: str, layer: int) -> Tensor:
        return self._codes[f"layers.{layer}.{name}"].values()

    def table(self, name: str) -> Tensor:
        w = self.weights["token_embedding_table" if self.config.shared_classifier else name]
        step = w.detach().abs().amax(1, keepdim=True).clamp(min=1e-12) / S8_MAX
        return _through(w, (w.detach() / step).round() * step)

    def block(self, x: Tensor, name: str, layer: int) -> Tensor:
        """As kernels.block_s8 has it, in the units that x has there."""
        columns = self._columns[f"layers.{layer}.{name}"] if name else torch.ones(1)
        x = x / columns
        step = x.detach().abs().amax(-1, keepdim=True).clamp(min=1e-12) / S8_MAX
        return _through(x, (x.detach() / step).round() * step) * columns

    def clamp(self) -> None:
        with torch.no_grad():
            for codes in self._codes.values():
                codes.clamp()

    def grids(self) -> dict[str, Grid]:
        with torch.no_grad():
            return {label: codes.grid() for label, codes in self._codes.items()}

    def model(self) -> Model:
        weights = dict(self._model.weights)
        for name in (*self._vectors, *self._tables):
            weights[name] = self.weights[name].detach().numpy().copy()
            weights[name].setflags(write=False)
        if self.config.shared_classifier:
            weights["wcls"] = weights["token_embedding_table"]
        return replace(self._model, weights=MappingProxyType(weights))
