"""Train the model that ships with mcugen and write it to its folder.

    python -m mcugen.models.home.train [--steps N] [--out FOLDER]

Needs PyTorch (pip install "mcugen[train]"). The weights repeat exactly only with the same version of PyTorch
and number of threads, so the trained files ship with the package.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcugen.checkpoints import write_checkpoint
from mcugen.ir import Config, Model, Tokenizer
from mcugen.tokenizer import write_tokenizer

from .evaluate import FOLDER, Score, evaluate_all, float_generate, load, report
from .grammar import stream
from .vocabulary import PROMPT_SUFFIX, VOCAB_SIZE, WordEncoder, learn

SEED: Final = 20_250
VOCABULARY_SEED: Final = 7
STEPS: Final = 7_000  # about 17 minutes of one core
THREADS: Final = 1  # threads of a model this small mostly wait for one another
BATCH: Final = 128
POOL: Final = 32  # batches that are drawn together and sorted by length, so that little is padding
LONGEST: Final = 110  # tokens; longer examples are dropped
LEARNING_RATE: Final = 4e-3
MUON_RATE: Final = 0.02
WARMUP: Final = 100  # steps
PROMPT_WEIGHT: Final = 0.1  # of a prompt's token in the loss; an action's token weighs 1
EVALUATION_SIZE: Final = 1_500

CONFIG: Final = Config(
    dim=64,
    hidden_dim=176,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    vocab_size=VOCAB_SIZE,
    seq_len=256,
    shared_classifier=True,
)


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

    def _attention(self, layer: int, h: Tensor) -> Tensor:
        config, (batch, length, dim) = self.config, h.shape
        q = self._rope((h @ self.wq[layer].T).view(batch, length, config.n_heads, config.head_dim))
        k = self._rope((h @ self.wk[layer].T).view(batch, length, config.n_kv_heads, config.head_dim))
        v = (h @ self.wv[layer].T).view(batch, length, config.n_kv_heads, config.head_dim)
        k, v = k.repeat_interleave(config.group_size, 2), v.repeat_interleave(config.group_size, 2)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return out.transpose(1, 2).reshape(batch, length, dim) @ self.wo[layer].T

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens[batch, time] -> logits[batch, time, vocab]."""
        x = self.token_embedding_table[tokens]
        for layer in range(self.config.n_layers):
            x = x + self._attention(layer, self._norm(x, self.rms_att_weight[layer]))
            h = self._norm(x, self.rms_ffn_weight[layer])
            x = x + (F.silu(h @ self.w1[layer].T) * (h @ self.w3[layer].T)) @ self.w2[layer].T
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


def batches(encoder: WordEncoder, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tokens[BATCH, time] and the weight in the loss of each token but the first, without end."""
    order = torch.Generator().manual_seed(seed)
    examples = stream(seed)
    while True:
        pool: list[tuple[list[int], list[int]]] = []
        while len(pool) < BATCH * POOL:
            text, action = next(examples)
            row = encoder.prompt(text), encoder.action(action)
            if len(row[0]) + len(row[1]) <= LONGEST:
                pool.append(row)
        pool.sort(key=lambda row: len(row[0]) + len(row[1]))
        for i in torch.randperm(POOL, generator=order).tolist():
            yield _tensors(pool[i * BATCH : (i + 1) * BATCH])


def _tensors(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    length = max(len(prompt) + len(action) for prompt, action in rows)
    tokens = torch.tensor([(p + a + [0] * length)[:length] for p, a in rows])
    weights = torch.tensor(
        [([PROMPT_WEIGHT] * (len(p) - 1) + [1.0] * len(a) + [0.0] * length)[: length - 1] for p, a in rows]
    )
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


def train(steps: int, tokenizer: Tokenizer, out: Path, progress: Callable[[str], None]) -> None:
    """Train, saving to `out` every 500 steps and at the end."""
    torch.manual_seed(SEED)
    model = Decoder(CONFIG)
    each_optimizer = optimizers(model)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in each_optimizer]
    data = batches(WordEncoder(tokenizer), SEED)
    started, seen = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        rate = min(1.0, step / WARMUP) * min(1.0, (steps - step + 1) / (0.6 * steps))  # flat, then down to 0
        for optimizer, peak in zip(each_optimizer, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * rate
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
            save(model, tokenizer, out, step)


def save(model: Decoder, tokenizer: Tokenizer, out: Path, steps: int) -> None:
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    exported = Model(name="home", config=CONFIG, weights=MappingProxyType(weights), sha256="")
    write(out / "model.bin", write_checkpoint(exported))
    write(out / "tokenizer.bin", write_tokenizer(tokenizer))
    write_facts(out, steps, {})


def write_facts(out: Path, steps: int, accuracy: Mapping[str, Score]) -> None:
    facts = {
        "name": "home",
        "description": "Commands in plain English to the actions of a small house.",
        "lowercase": True,
        "prompt_suffix": PROMPT_SUFFIX,
        "data": "synthetic, drawn from mcugen/models/home; licence MIT, as the project",
        "training": {
            "steps": steps,
            "batch": BATCH,
            "seed": SEED,
            "vocabulary_seed": VOCABULARY_SEED,
            "threads": THREADS,
        },
        "accuracy": {
            name: {"right": s.right, "total": s.total, "share": round(s.share, 4)} for name, s in accuracy.items()
        },
    }
    write(out / "model.json", (json.dumps(facts, indent=2) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole, so that an interrupted run leaves the last complete one."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train mcugen's default model.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments.steps, learn(VOCABULARY_SEED), arguments.out, partial(print, flush=True))
    scores = evaluate_all(float_generate(*load(arguments.out)), EVALUATION_SIZE)
    write_facts(arguments.out, arguments.steps, scores)
    print(report(scores))


if __name__ == "__main__":
    main()
