"""Structured pruning: hidden channels, and KV heads with their query heads, as many in each layer.

What is left is a smaller ir.Model that no later pass tells from any other. Which columns of w2 and wo go, and what
the others take over from them, is least squares on the values seen in calibration: the optimal brain surgeon on
whole columns (Hassibi and Stork 1993; Frantar and Alistarh 2022), a head's columns together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import UsageError
from mcugen.ir import Config, Model, weight_shapes
from mcugen.quantize import Calibration
from mcugen.recipes import PruneBudget
from mcugen.reference import FloatDecoder, Floats, log_softmax, sample_sequences

DAMPING = 1e-6  # of the mean squared value of a column, so that columns that are never used can be solved for
JUDGE_SEED = 101  # of the text that judges a perplexity; calibration has others


def _refused(what: str, hint: str) -> UsageError:
    return UsageError(what, where="--prune", hint=hint)


def prune(model: Model, seen: Calibration, budget: PruneBudget, *, bos: int = 1, eos: int = 2) -> Model:
    """The model with what `budget` allows pruned, by the values `seen` in calibration; sha256 becomes another.

    bos, eos: of the text that judges budget.perplexity. Raises UsageError where there is no such pruning.
    """
    config = model.config
    if config.n_experts:
        raise _refused(f"{model.name} has a mixture of experts", "prune models with one feed-forward per layer")
    if budget.kv_heads > config.n_kv_heads:
        raise _refused(f"kv_heads = {budget.kv_heads}, and {model.name} has {config.n_kv_heads}", "leave fewer")
    pruned = model
    if 0 < budget.kv_heads < config.n_kv_heads:
        pruned = _prune_heads(pruned, seen, budget.kv_heads)
    if budget.hidden:
        pruned = _prune_hidden(pruned, seen, even(budget.hidden * config.hidden_dim, config))
    if budget.flash_bytes:
        pruned = _prune_hidden(pruned, seen, _fitting(pruned.config, budget.flash_bytes))
    if budget.perplexity:
        pruned = _cheapest(model, pruned, seen, budget.perplexity, bos, eos)
    if pruned is model:
        return model
    digest = hashlib.sha256(f"{model.sha256} pruned to {budget}, {seen.description}".encode())
    return replace(pruned, sha256=digest.hexdigest())


def even(channels: float, config: Config) -> int:
    """The nearest even number of hidden channels, which every kernel takes; all of them from there on."""
    return min(max(2 * round(channels / 2), 2), config.hidden_dim)


def weight_bytes(config: Config) -> int:
    """Bytes in flash of all matrices in int8: codes and multipliers."""
    shapes = weight_shapes(config)
    matrices = ("token_embedding_table", "wq", "wk", "wv", "wo", "w1", "w2", "w3", "wcls")
    found = 2 * config.vocab_size if config.shared_classifier else 0  # the classifier's own multipliers
    for name in matrices:
        if name in shapes:
            *rows, cols = shapes[name]
            found += int(np.prod(rows)) * (cols + 2)
    return found


def _fitting(config: Config, flash_bytes: int) -> int:
    """The most hidden channels with which weight_bytes fits."""
    least = even(2, config)
    for channels in (config.hidden_dim, *range(even(config.hidden_dim - 1, config), least - 1, -2)):
        if weight_bytes(replace(config, hidden_dim=channels)) <= flash_bytes:
            return channels
    smallest = weight_bytes(replace(config, hidden_dim=least))
    raise _refused(
        f"{least} hidden channels still take {smallest:,} B, more than flash_bytes = {flash_bytes:,}",
        "prune kv_heads as well, or take a smaller model",
    )


def _cheapest(model: Model, pruned: Model, seen: Calibration, growth: float, bos: int, eos: int) -> Model:
    """`pruned` with the fewest hidden channels that keep the perplexity's growth over the model's, by bisection."""
    text = sample_sequences(model, 16, min(model.config.seq_len, 256), JUDGE_SEED, bos, eos)
    allowed = _loss(model, text) + float(np.log1p(growth))
    if _loss(pruned, text) > allowed:
        raise _refused("the pruned heads alone cost more than perplexity allows", "leave more of them")
    best, low, high = pruned, 0, -(-model.config.hidden_dim // 2)  # pairs of channels: high is good, low is not
    while high - low > 1:
        middle = (low + high) // 2
        trial = _prune_hidden(pruned, seen, 2 * middle)
        if _loss(trial, text) <= allowed:
            best, high = trial, middle
        else:
            low = middle
    return best


def _loss(model: Model, text: Sequence[NDArray[np.int64]]) -> float:
    """Nats per token."""
    lost, count = 0.0, 0
    for sequence in text:
        logits = FloatDecoder(model).forward(sequence[None, :-1])[0]
        lost -= float(log_softmax(logits)[np.arange(len(logits)), sequence[1:]].sum())
        count += len(logits)
    return lost / max(count, 1)


# ---------------------------------------------------------------- what goes


def _prune_hidden(model: Model, seen: Calibration, channels: int) -> Model:
    config = model.config
    if channels == config.hidden_dim:
        return model
    kept, outputs = [], []
    for layer in range(config.n_layers):
        w2 = model.weights["w2"][layer].astype(np.float64)
        keep, repaired = keep_columns(w2, seen.values["swiglu", layer], channels)
        kept.append(keep)
        outputs.append(repaired)
    weights = _rows_of(model, ("w1", "w3", "b1", "b3"), kept) | {"w2": np.stack(outputs)}
    return _changed(model, weights, replace(config, hidden_dim=channels))


def _prune_heads(model: Model, seen: Calibration, kv_heads: int) -> Model:
    config = model.config
    size, group = config.head_dim, config.group_size * config.head_dim
    queries, keys, outputs = [], [], []
    for layer in range(config.n_layers):
        inputs = seen.values["attention", layer]
        if config.attention_bias:  # the tap comes before values get their bias
            bias = model.weights["bv"][layer].astype(np.float64).reshape(-1, 1, size)
            inputs = inputs + np.repeat(bias, config.group_size, 1).reshape(-1)
        wo = model.weights["wo"][layer].astype(np.float64)
        keep, repaired = keep_columns(wo, inputs, kv_heads * group, group)
        heads = keep[::group] // group
        queries.append(keep)
        keys.append((heads[:, None] * size + np.arange(size)).reshape(-1))
        outputs.append(repaired)
    weights = _rows_of(model, ("wq", "bq"), queries) | _rows_of(model, ("wk", "wv", "bk", "bv"), keys)
    smaller = replace(config, n_heads=kv_heads * config.group_size, n_kv_heads=kv_heads, head_size=size)
    return _changed(model, weights | {"wo": np.stack(outputs)}, smaller)


def _rows_of(model: Model, names: Sequence[str], kept: Sequence[NDArray[np.intp]]) -> dict[str, Floats]:
    return {
        name: np.stack([model.weights[name][layer][keep] for layer, keep in enumerate(kept)])
        for name in names
        if name in model.weights
    }


def _changed(model: Model, changed: dict[str, Floats], config: Config) -> Model:
    weights = dict(model.weights)
    for name, values in changed.items():
        weights[name] = values.astype(np.float32)
        weights[name].setflags(write=False)
    return replace(model, config=config, weights=MappingProxyType(weights))


# ---------------------------------------------------------------- columns


def keep_columns(w: Floats, x: Floats, count: int, block: int = 1) -> tuple[NDArray[np.intp], Floats]:
    """Choose `count` columns of w[rows, cols], and let them take over what the others do for inputs x[samples, cols].

    block: neighbouring columns that go together; it divides cols and count. Returns the columns in order, and
    w[rows, count]: of all such matrices the one whose products with x are nearest to those of w, drawn ever so
    slightly to w's own columns, so that it is never further from them than those are.
    """
    h = x.T @ x
    damping = DAMPING * max(float(np.trace(h)) / len(h), 1e-12)
    dropped = _least_useful(w, h + damping * np.eye(len(h)), (len(h) - count) // block, block)
    keep = np.setdiff1d(np.arange(len(h)), dropped)
    inside = h[np.ix_(keep, keep)] + damping * np.eye(count)
    taken_over = np.linalg.solve(inside, h[np.ix_(keep, dropped)] @ w[:, dropped].T)
    return keep, w[:, keep] + taken_over.T


def _least_useful(w: Floats, h: Floats, count: int, block: int) -> NDArray[np.intp]:
    """The columns of `count` blocks, chosen one by one as the one whose loss the columns still there repair best."""
    w, inverse = w.copy(), np.linalg.inv(h)
    blocks = np.arange(len(h)).reshape(-1, block)
    dropped = []
    for _ in range(count):
        own = np.linalg.inv(inverse[blocks[:, :, None], blocks[:, None, :]])  # [blocks, block, block]
        columns = w[:, blocks]  # [rows, blocks, block]
        least = int(np.argmin(np.einsum("rni,nij,rnj->n", columns, own, columns, optimize=True)))
        gone, blocks = blocks[least], np.delete(blocks, least, 0)
        step = own[least] @ inverse[gone]  # [block, cols]
        w -= w[:, gone] @ step
        inverse -= inverse[:, gone] @ step
        dropped.append(gone)
    return np.concatenate(dropped) if dropped else np.zeros(0, np.intp)
