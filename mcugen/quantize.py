"""Model -> QuantizedModel: scales from calibration, then integers only (profiles W8A8KV8 and W4A8KV8).

The float/integer boundary of mcugen is this file. Every scale is a real number "one code is worth"; what leaves are
int8 codes, int16 multipliers and shifts. Design and measurements: DESIGN.md D2 to D7.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.gptq import round_in_order
from mcugen.ir import Linear, Model, Norm, QuantizedLayer, QuantizedModel
from mcugen.kernels import (
    ATTENTION_FRAC,
    GATE_FRAC_MAX,
    GATE_FRAC_MIN,
    SCORE_FRAC,
    SHIFT_MAX,
    SHIFT_MIN,
    accumulator_bound,
)
from mcugen.mixed import Choice, choose
from mcugen.recipes import W8, Recipe
from mcugen.reference import FloatDecoder, Floats, rope, rope_angles, sample_sequences
from mcugen.rounding import S8_MAX, Folded, Grid, nearest, round_rows

S16_MAX = 32767
LOGIT_FRAC = 16  # logits are Q16 nats
RESIDUAL_HEADROOM = 2.0  # over the calibrated maximum; 12 of the 16 bits are already lossless
BLOCK_HEADROOM = 2.0  # of int16 values that become a block: its codes use the whole range all the same
CALIBRATION_TOKENS = 4096
CALIBRATION_LENGTH = 256

Progress = Callable[[int, int], None]


def ignore(done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the float model saw while it read the calibration tokens, sequences of int64[T].

    values: [samples, ...] by (name, layer); samples are all tokens of all sequences.
    """

    values: dict[tuple[str, int], Floats]
    description: str
    sequences: tuple[NDArray[np.int64], ...]

    def peak(self, name: str, layer: int = 0) -> float:
        """Largest magnitude of a value, > 0."""
        return max(float(np.abs(self.values[name, layer]).max()), 1e-6)


def self_calibration(model: Model, seed: int = 0, eos: int = 2) -> Calibration:
    """Calibrate on the model's own samples (no data needed; as good as real text from 12 sequences on)."""
    length = min(CALIBRATION_LENGTH, model.config.seq_len)
    sequences: list[NDArray[np.int64]] = []
    for batch in range(16):
        sequences += sample_sequences(model, count=16, length=length, seed=seed + batch, eos=eos)
        if sum(map(len, sequences)) >= CALIBRATION_TOKENS:
            break
    return calibrate(model, sequences, f"own samples, seed {seed}")


def text_calibration(model: Model, tokens: NDArray[np.int64], bos: int = 1) -> Calibration:
    """Calibrate on the first CALIBRATION_TOKENS tokens of a text, in sequences that each open with bos."""
    if len(tokens) < 64:
        raise InputError(
            f"the calibration text has {len(tokens)} tokens; at least 64 are needed",
            where="calibration",
            hint="give a longer text, or leave --calibrate out to use the model's own samples",
        )
    length = max(1, min(CALIBRATION_LENGTH, model.config.seq_len) - 1)
    cut = [tokens[i : i + length] for i in range(0, min(len(tokens), CALIBRATION_TOKENS), length)]
    return calibrate(model, [np.concatenate([[bos], part]) for part in cut], "text")


def calibrate(model: Model, sequences: Iterable[NDArray[np.int64]], description: str) -> Calibration:
    """Run the float model over token sequences and keep what every quantised value was."""
    seen: dict[tuple[str, int], list[Floats]] = defaultdict(list)
    read = tuple(sequences)
    for sequence in read:

        def tap(name: str, layer: int, values: Floats) -> None:
            seen[name, layer].append(values[0])

        decoder = FloatDecoder(model, tap=tap)
        decoder.forward(sequence[None])
    return Calibration({key: np.concatenate(parts) for key, parts in seen.items()}, description, read)


def to_multiplier(ratio: Floats, where: str, largest_shift: int = 62) -> tuple[NDArray[np.int16], int]:
    """Real ratios > 0 as int16 multipliers with one common shift: ratio ~ multiplier / 2**shift.

    The largest ratio gets all 15 bits unless that takes more than `largest_shift`; three bits fewer make no
    measurable difference.
    """
    largest = float(ratio.max())
    shift = 15 - int(np.frexp(largest)[1])  # largest = f * 2**exponent, f in [0.5, 1)
    if not 1 <= shift <= 62:
        raise out_of_range(f"a scale ratio of {largest:g} needs a shift of {shift}, not in [1, 62]", where)
    shift = min(shift, largest_shift)
    return np.minimum(np.round(ratio * 2.0**shift), S16_MAX).astype(np.int16), shift


def out_of_range(what: str, where: str) -> InputError:
    return InputError(
        f"the weights leave the range of the integer arithmetic: {what}",
        where=f"quantisation, {where}",
        hint="look at the checkpoint: a tensor there, or before it, is zero or thousands of times larger than usual",
    )


_ToLinear = Callable[[Floats, Floats | float, Floats | float, str], Linear]


def _fold(w: Floats, columns: Floats | float, out_scale: Floats | float) -> Folded:
    rows, cols = w.shape
    return Folded(w * columns, np.broadcast_to(columns, cols), np.broadcast_to(out_scale, rows))


def _linear(grid: Grid, out_scale: Floats, where: str) -> Linear:
    """A folded matrix in integers, towards `out_scale` per output code.

    A block's codes are worth peak / 127; its peak enters the row's multiplier (kernels.linear_s16).
    """
    multiplier, shift = to_multiplier(grid.scale / out_scale / S8_MAX, where, SHIFT_MAX)
    linear = Linear(grid.codes, multiplier, shift, grid.bits, grid.group, grid.group_scale)
    if shift < SHIFT_MIN or accumulator_bound(linear) >= 2 ** (shift - 1):
        raise out_of_range(f"a shift of {shift} leaves no room for the accumulators", where)
    return linear


def _norm(weight: Floats, scale: float, where: str) -> Norm:
    """RMSNorm to int16 with `scale` per code: the gain times sqrt(dim) / scale in Q(gain_frac)."""
    gain = weight * np.sqrt(len(weight)) / scale
    gain_frac = int(np.floor(np.log2(S16_MAX / max(float(np.abs(gain).max()), 1e-12))))
    if gain_frac < -14:
        raise out_of_range(f"a norm gain of {np.abs(gain).max():g} does not fit int16", where)
    gain_frac = min(gain_frac, 15)
    return Norm(np.round(gain * 2.0**gain_frac).astype(np.int16), gain_frac)


@dataclass(frozen=True, slots=True, eq=False)
class _KeyScale:
    scale: Floats  # [n_kv_heads, 1]: value of a key code, per KV head
    zero: Floats  # [n_kv_heads, head_dim]: centre of each channel, in key units


def _key_scale(keys: Floats, angles: Floats) -> _KeyScale:
    """Centre and spread of rotated keys over all positions below max_position.

    keys: [samples, n_kv_heads, head_dim] before RoPE; angles: [positions, head_dim / 2]. RoPE is relative, so a key
    seen at one position may stand at any other: every sample is rotated to a spread of positions.
    """
    low = np.full(keys.shape[1:], np.inf)
    high = -low
    for shift in range(0, len(angles), max(1, len(angles) // 16)):
        rotated = rope(keys, angles[(np.arange(len(keys)) + shift) % len(angles)])
        low, high = np.minimum(low, rotated.min(0)), np.maximum(high, rotated.max(0))
    zero = (low + high) / 2
    # |zero| <= 127 codes keeps rope_s8 and rebase_s8 within int32 and int16
    spread = np.maximum((high - low) / 2, np.abs(zero)).max(-1, keepdims=True)
    return _KeyScale(np.maximum(spread, 1e-6) / S8_MAX, zero)


def _quantize_layer(
    model: Model, index: int, seen: Calibration, residual: float, angles: Floats, linear: _ToLinear
) -> QuantizedLayer:
    config = model.config
    w = {name: tensor[index].astype(np.float64) for name, tensor in model.weights.items() if tensor.ndim >= 2}
    label = f"layers.{index}"

    norm_scale = seen.peak("att_norm", index) * BLOCK_HEADROOM / S16_MAX
    key = _key_scale(seen.values["key", index], angles)
    key_codes = seen.peak("key", index) / float(key.scale.min())
    key_shift = int(np.clip(np.floor(np.log2(S16_MAX / (1.25 * key_codes))), 0, 7))
    key_per_head = np.repeat(key.scale[:, 0], config.head_dim)  # [kv_dim]

    # Queries absorb the key's scale and the softmax's unit, so that scores are a dot product and a shift. All heads
    # share the shift: what counts is the error of a score, and that is then the same in each.
    key_for_query = np.repeat(key.scale[:, 0], config.group_size)  # [n_heads]
    query = seen.values["query", index]  # [samples, n_heads, head_dim], before RoPE
    radius = np.sqrt(query[..., 0::2] ** 2 + query[..., 1::2] ** 2).max((0, 2))  # RoPE keeps a pair's radius
    unit = np.sqrt(config.head_dim) / (np.log2(np.e) * 2.0**SCORE_FRAC)  # q . k of one score step
    needed = float((radius * key_for_query).max()) * 1.25 / S16_MAX / unit
    score_shift = int(np.floor(-np.log2(max(needed, 1e-12))))
    if score_shift < 1:
        raise out_of_range(f"scores of {needed * 2.0**15:g} octaves do not fit int16", f"{label}.attention")
    score_shift = min(score_shift, 30)
    query_code = np.repeat(unit * 2.0**-score_shift / key_for_query, config.head_dim)

    value = np.abs(seen.values["value", index]).max(0).reshape(-1)  # [kv_dim]
    value_scale = np.maximum(value, value.max() / 1024 + 1e-6) / S8_MAX
    out_scale = np.repeat(value_scale.reshape(config.n_kv_heads, -1), config.group_size, 0).reshape(-1)

    gate_frac = int(np.floor(np.log2(S16_MAX / (1.25 * seen.peak("gate", index)))))
    if gate_frac < GATE_FRAC_MIN:
        raise out_of_range(f"a gate of {seen.peak('gate', index):g} does not fit int16", f"{label}.swiglu")
    gate_frac = min(gate_frac, GATE_FRAC_MAX)
    gate_step = 2.0**-gate_frac

    # silu(gate) times up: channel scales even out w2's columns (migration strength 1/2), a shift remains.
    hidden = np.abs(seen.values["swiglu", index]).max(0) + 1e-6
    column = np.abs(w["w2"]).max(0) + 1e-6
    smooth = np.sqrt(hidden / column)
    smooth /= np.exp(np.log(smooth).mean())
    hidden_scale = smooth * float((hidden / smooth).max()) * BLOCK_HEADROOM / S16_MAX
    up = np.abs(seen.values["up", index]).max(0) + 1e-6
    # no finer than one step of the gate resolves, so that a shift remains where a gate hardly opens
    hidden_scale = np.maximum(hidden_scale, 3 * up * gate_step / S16_MAX)
    swiglu_shift = int(np.floor(np.log2((S16_MAX / 1.25) / (up * gate_step / hidden_scale).max())))
    if not 1 <= swiglu_shift <= 30:
        raise out_of_range(f"a SwiGLU shift of {swiglu_shift} is not in [1, 30]", f"{label}.swiglu")
    up_scale = hidden_scale / gate_step * 2.0**-swiglu_shift
    ffn_scale = seen.peak("ffn_norm", index) * BLOCK_HEADROOM / S16_MAX

    return QuantizedLayer(
        att_norm=_norm(w["rms_att_weight"], norm_scale, f"{label}.att_norm"),
        wq=linear(w["wq"], norm_scale, query_code, f"{label}.wq"),
        wk=linear(w["wk"], norm_scale, key_per_head * 2.0**-key_shift, f"{label}.wk"),
        wv=linear(w["wv"], norm_scale, value_scale, f"{label}.wv"),
        key_zero=-np.round((key.zero / key.scale).reshape(-1) * 2.0 ** (15 + key_shift)).astype(np.int32),
        key_shift=key_shift,
        score_shift=score_shift,
        wo=linear(w["wo"], out_scale * 2.0**-ATTENTION_FRAC, residual, f"{label}.wo"),
        ffn_norm=_norm(w["rms_ffn_weight"], ffn_scale, f"{label}.ffn_norm"),
        w1=linear(w["w1"], ffn_scale, gate_step, f"{label}.w1"),
        w3=linear(w["w3"], ffn_scale, up_scale, f"{label}.w3"),
        gate_frac=gate_frac,
        swiglu_shift=swiglu_shift,
        w2=linear(w["w2"], hidden_scale, residual, f"{label}.w2"),
    )


def _layers(model: Model, seen: Calibration, linear: _ToLinear) -> tuple[float, tuple[QuantizedLayer, ...]]:
    """The residual's scale, and the layers with the matrices that linear(w, columns, out_scale, label) makes."""
    config = model.config
    residual = max(seen.peak("residual", layer) for layer in range(config.n_layers)) * RESIDUAL_HEADROOM / S16_MAX
    angles = rope_angles(config, np.arange(2 * config.seq_len))
    return residual, tuple(_quantize_layer(model, i, seen, residual, angles, linear) for i in range(config.n_layers))


def folded(model: Model, seen: Calibration) -> dict[str, Folded]:
    """The layers' matrices as `quantize` rounds them, by label: "layers.0.wq". Raises InputError as quantize does."""
    found: dict[str, Folded] = {}

    def keep(w: Floats, columns: Floats | float, out_scale: Floats | float, where: str) -> Linear:
        found[where] = part = _fold(w, columns, out_scale)
        return _linear(round_rows(part.w), part.out_scale, where)

    _layers(model, seen, keep)
    return found


def chosen(model: Model, seen: Calibration, recipe: Recipe, progress: Progress = ignore) -> Choice:
    """The precisions of a recipe with a budget. progress(matrices measured, of how many). Raises as mixed.choose."""
    matrices = folded(model, seen)
    recipe.check(matrices)
    return choose(model, matrices, seen.values, seen.sequences, recipe, progress)


def rounded(model: Model, seen: Calibration, recipe: Recipe, progress: Progress = ignore) -> dict[str, Grid]:
    """The layers' matrices by a recipe, by label: what quantize takes as grids.

    progress(matrices done, of how many). Raises InputError as quantize does.
    """
    if recipe.budget:
        recipe = chosen(model, seen, recipe).recipe
    matrices = folded(model, seen)
    recipe.check(matrices)
    found: dict[str, Grid] = {}
    if recipe.rounding == "gptq":
        found = round_in_order(model, matrices, seen.values, seen.sequences, recipe.precision, progress)
    for label in matrices.keys() - found.keys():
        precision = recipe.precision(label)
        found[label] = nearest(matrices[label].w, precision.bits, precision.group)
    return found


def quantize(
    model: Model, seen: Calibration, recipe: Recipe = W8, grids: Mapping[str, Grid] | None = None
) -> QuantizedModel:
    """Quantise a model to int8 activations and KV cache, by the values `seen` in calibration.

    recipe: of the layers' matrices; embedding and classifier are int8. grids: a matrix whose label is in there is
    taken as it is (of what `folded` gives); the recipe rounds the others. Raises InputError where a scale leaves the
    range of the integer arithmetic, or a pattern of the recipe matches nothing.
    """
    config, given = model.config, grids or {}
    made = given if set(folded(model, seen)) <= set(given) else {**rounded(model, seen, recipe), **given}

    def linear(w: Floats, columns: Floats | float, out_scale: Floats | float, where: str) -> Linear:
        return _linear(made[where], _fold(w, columns, out_scale).out_scale, where)

    residual, layers = _layers(model, seen, linear)
    max_position = 2 * config.seq_len

    table = round_rows(model.weights["token_embedding_table"].astype(np.float64))
    embedding = Linear(table.codes, *to_multiplier(table.scale / residual, "token_embedding_table"))
    final_scale = seen.peak("final_norm") * BLOCK_HEADROOM / S16_MAX
    classes = _fold(model.weights["wcls"].astype(np.float64), final_scale, 2.0**-LOGIT_FRAC)
    classifier = _linear(round_rows(classes.w), classes.out_scale, "wcls")
    if config.shared_classifier:
        classifier = Linear(table.codes, classifier.multiplier, classifier.shift)  # one copy of the codes in flash
    frequency = rope_angles(config, np.arange(2))[1]  # radians per position

    return QuantizedModel(
        name=model.name,
        config=config,
        embedding=embedding,
        layers=layers,
        final_norm=_norm(model.weights["rms_final_weight"].astype(np.float64), final_scale, "final_norm"),
        classifier=classifier,
        eps=max(1, round(config.dim * config.norm_eps / residual**2)),
        rope_step=np.round(frequency / (2 * np.pi) * 2.0**32).astype(np.uint32),
        max_position=max_position,
        sha256=model.sha256,
        recipe=f"{recipe.describe()}, calibrated on {seen.description}",
    )
