"""The layers' matrices as grids, one after another, each against what the model so far makes of its inputs.

A matrix is rounded when all before it are, and aims at the float model's outputs for the inputs that these leave it,
so that it takes back some of their error. Measurements: DESIGN.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mcugen.ir import Model
from mcugen.recipes import Precision
from mcugen.reference import FloatDecoder
from mcugen.rounding import INPUTS, Floats, Folded, Grid, gptq, place

RETARGET_DAMPING = 0.1  # as rounding.DAMPING, of what takes back error: with 0.01 KL is 6 % larger
BATCH = 4  # sequences read at once

Progress = Callable[[int, int], None]


def round_in_order(
    model: Model,
    folded: Mapping[str, Folded],
    values: Mapping[tuple[str, int], Floats],
    sequences: Sequence[NDArray[np.int64]],
    precision: Callable[[str], Precision],
    progress: Progress = lambda done, total: None,
) -> dict[str, Grid]:
    """Round all matrices of `folded` by GPTQ. values: what the float model saw in `sequences` (quantize.Calibration).

    progress(matrices done, of how many).
    """
    grids: dict[str, Grid] = {}
    tokens = np.concatenate(sequences)
    residual = model.weights["token_embedding_table"][tokens].astype(np.float64) * model.config.embedding_scale
    lengths = [len(sequence) for sequence in sequences]
    for layer in range(model.config.n_layers):
        so_far = _layer(model, layer)
        for name in dict.fromkeys(INPUTS.values()):
            names = [matrix for matrix, source in INPUTS.items() if source == name]
            labels = [label for label in folded if place(label)[0] in names and place(label)[1][0] == layer]
            met = _values(so_far, residual, lengths, name)
            aligned = name != "swiglu" or not model.config.n_experts  # experts see other tokens than in float
            weights = {matrix: so_far.weights[matrix].copy() for matrix in names}
            for label in labels:
                part, chosen = folded[label], precision(label)
                observed = met / part.columns
                hessian = observed.T @ observed / len(observed)
                target = part.w
                if aligned:
                    target = _retargeted(part.w, values[name, layer] / part.columns - observed, observed, hessian)
                grids[label] = grid = gptq(target, hessian, chosen.bits, chosen.group)
                matrix, (_, *expert) = place(label)
                weights[matrix][0, *expert] = grid.values() / part.columns
                progress(len(grids), len(folded))
            so_far = replace(so_far, weights={**so_far.weights, **weights})
        residual = _values(so_far, residual, lengths, "residual")
    return grids


def _retargeted(w: Floats, missing: Floats, observed: Floats, hessian: Floats) -> Floats:
    """The matrix whose products with observed[samples, cols] come closest to those of w with observed + missing."""
    damping = RETARGET_DAMPING * max(float(np.diag(hessian).mean()), 1e-30)
    change = w @ (missing.T @ observed / len(observed))
    return w + np.linalg.solve(hessian + damping * np.eye(len(hessian)), change.T).T


def _layer(model: Model, layer: int) -> Model:
    """A model of one layer only, without a classifier."""
    config = replace(model.config, n_layers=1, layer_windows=model.config.layer_windows[layer : layer + 1])
    whole = ("token_embedding_table", "rms_final_weight", "wcls")
    weights = {name: tensor[layer : layer + 1] for name, tensor in model.weights.items() if name not in whole}
    nothing = np.zeros((1, config.dim), np.float32)
    return replace(model, config=config, weights={**weights, "rms_final_weight": nothing[0], "wcls": nothing})


def _values(layer: Model, residual: Floats, lengths: Sequence[int], name: str) -> Floats:
    """What a layer sees under a name, or leaves as "residual", where it reads residual[samples, dim] of sequences of
    these lengths: [samples, n]."""
    found: list[Floats] = []
    rows = {"token_embedding_table": residual.astype(np.float32)}  # so that a token is a row of it
    reader = replace(layer, config=replace(layer.config, embedding_scale=1.0), weights={**layer.weights, **rows})
    for tokens, inside in _batches(lengths):
        parts: list[Floats] = []
        tap = functools.partial(_keep, parts, name)
        FloatDecoder(reader, batch=len(tokens), tap=tap).forward(tokens)
        last = parts[-1:] if name == "residual" else parts
        # of an expert, values are those of its tokens only
        found += [part[inside] if part.shape[:2] == inside.shape else part[0] for part in last]
    return np.concatenate(found)


def _keep(parts: list[Floats], name: str, tapped: str, layer: int, values: Floats) -> None:
    if tapped == name:
        parts.append(values)


def _batches(lengths: Sequence[int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Samples of sequences in their order, BATCH sequences at once: indices [B, T], and which of them are real."""
    starts = np.cumsum([0, *lengths[:-1]])
    for first in range(0, len(lengths), BATCH):
        length = np.array(lengths[first : first + BATCH])[:, None]
        inside = np.arange(length.max()) < length
        yield np.where(inside, starts[first : first + BATCH, None] + np.arange(length.max()), 0), inside
