"""What the training scripts of the bundled models share: the model in PyTorch, its optimizers, the loop.

Needs PyTorch (pip install "mcugen[train]"). Weights repeat exactly only with the same version of PyTorch and
number of threads, so the trained files ship with the package.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcugen.checkpoints import write_checkpoint
from mcugen.ir import Config, Model, Tokenizer
from mcugen.tokenizer import write_tokenizer

LEARNING_RATE: Final = 4e-3
MUON_RATE: Final = 0.02
WARMUP: Final = 100  # steps

Row = tuple[list[int], list[float]]
"""The tokens of an example, and the weight in the loss of each but the first."""


class Decoder(nn.Module):  # type: ignore[misc]
    """llama2.c's transformer; parameters carry its names, with the layers stacked in front."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers, dim, hidden, kv = config.n_layers, config.dim, config.hidden_dim, config.kv_dim

        def matrix(rows: int, cols: int, gain: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(layers, rows, cols) * gain / math.sqrt(cols))

        into_residual = 1 / math.sqrt(2 * layers)
        self.token_embedding_table = nn.Parameter(torch.randn(config.vocab_size, dim) * 0.05)
        self.wq, self.wk, self.wv = matrix(dim, dim), matrix(kv, dim), matrix(kv, dim)
        self.wo = matrix(dim, dim, into_residual)
        self.w1, self.w3, self.w2 = matrix(hidden, dim), matrix(hidden, dim), matrix(dim, hidden, into_residual)
        self.rms_att_weight = nn.Parameter(torch.ones(layers, dim))
        self.rms_ffn_weight = nn.Parameter(torch.ones(layers, dim))
        self.rms_final_weight = nn.Parameter(torch.ones(dim))
        frequency = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        angles = torch.outer(torch.arange(config.seq_len).float(), frequency)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.norm_eps) * weight

    def _rope(self, x: Tensor) -> Tensor:
        """Rotate neighbouring pairs of x[batch, time, heads, head_dim]."""
        cosine, sine = self.cosine[: x.shape[1], None], self.sine[: x.shape[1], None]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)

    def _attention(self, h: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, wo: Tensor) -> Tensor:
        config, (batch, length, dim) = self.config, h.shape
        q = self._rope((h @ wq.T).view(batch, length, config.n_heads, config.head_dim))
        k = self._rope((h @ wk.T).view(batch, length, config.n_kv_heads, config.head_dim))
        v = (h @ wv.T).view(batch, length, config.n_kv_heads, config.head_dim)
        k, v = k.repeat_interleave(config.group_size, 2), v.repeat_interleave(config.group_size, 2)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return out.transpose(1, 2).reshape(batch, length, dim) @ wo.T

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens[batch, time] -> logits[batch, time, vocab]."""
        x = self.token_embedding_table[tokens]
        stacks = (
            self.rms_att_weight,
            self.wq,
            self.wk,
            self.wv,
            self.wo,
            self.rms_ffn_weight,
            self.w1,
            self.w3,
            self.w2,
        )
        for att, wq, wk, wv, wo, ffn, w1, w3, w2 in zip(*(stack.unbind() for stack in stacks), strict=True):
            x = x + self._attention(self._norm(x, att), wq, wk, wv, wo)
            h = self._norm(x, ffn)
            x = x + (F.silu(h @ w1.T) * (h @ w3.T)) @ w2.T
        return self._norm(x, self.rms_final_weight) @ self.token_embedding_table.T


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Momentum, orthogonalised: for the stacks of matrices between the norms.

    Method and Newton-Schulz coefficients: K. Jordan et al., "Muon: an optimizer for hidden layers in neural
    networks", 2024.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure: None = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    self._update(p, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, p: nn.Parameter, lr: float, momentum: float, weight_decay: float) -> None:
        average = self.state[p].setdefault("average", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - momentum)
        update = _orthogonal(p.grad.lerp(average, momentum)) * math.sqrt(max(1.0, p.shape[-2] / p.shape[-1]))
        p.mul_(1 - lr * weight_decay)
        p.sub_(update, alpha=lr)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices[layer, rows, cols] near 1 with five Newton-Schulz steps."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


def batches(rows: Iterator[Row], batch: int, pool: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tokens[batch, time] and the weights of all but the first, without end.

    pool: batches that are drawn together and sorted by length, so that little is padding.
    """
    order = torch.Generator().manual_seed(seed)
    while True:
        drawn = sorted((next(rows) for _ in range(batch * pool)), key=lambda row: len(row[0]))
        for i in torch.randperm(pool, generator=order).tolist():
            yield _tensors(drawn[i * batch : (i + 1) * batch])


def _tensors(rows: list[Row]) -> tuple[Tensor, Tensor]:
    length = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([(row + [0] * length)[:length] for row, _ in rows])
    weights = torch.tensor([(row + [0.0] * length)[: length - 1] for _, row in rows])
    return tokens, weights


def loss_of(model: Decoder, tokens: Tensor, weights: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def optimizers(model: Decoder) -> list[torch.optim.Optimizer]:
    stacks = [p for p in model.parameters() if p.ndim == 3]
    vectors = [p for name, p in model.named_parameters() if name.startswith("rms_")]
    adam = torch.optim.AdamW(
        [
            {"params": [model.token_embedding_table], "weight_decay": 0.02},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    return [adam, Muon(stacks, lr=MUON_RATE, momentum=0.95, weight_decay=0.05)]


def train(
    model: Decoder,
    data: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    save: Callable[[int], None],
    progress: Callable[[str], None],
    rate: float = 1.0,
) -> None:
    """Train, calling save(step) every 500 steps and at the end. rate: of the highest learning rates."""
    each_optimizer = optimizers(model)
    peaks = [[rate * group["lr"] for group in optimizer.param_groups] for optimizer in each_optimizer]
    started, seen = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        share = min(1.0, step / WARMUP) * min(1.0, (steps - step + 1) / (0.6 * steps))  # flat, then down to 0
        for optimizer, peak in zip(each_optimizer, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * share
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, *next(data))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in each_optimizer:
            optimizer.step()
        seen += (loss.item() - seen) / min(step, 100)
        if step % 100 == 0:
            progress(f"step {step:5}  loss {seen:.4f}  {time.monotonic() - started:5.0f} s")
        if step % 500 == 0 or step == steps:
            save(step)


def write_model(model: Decoder, tokenizer: Tokenizer, out: Path) -> None:
    """Write model.bin and tokenizer.bin."""
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    exported = Model(name=out.name, config=model.config, weights=MappingProxyType(weights), sha256="")
    write(out / "model.bin", write_checkpoint(exported))
    write(out / "tokenizer.bin", write_tokenizer(tokenizer))


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole, so that an interrupted run leaves the last complete one."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, path)
