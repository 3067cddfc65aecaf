"""Model -> QuantizedModel: scales from calibration, then integers only (profiles W8A8KV8 and W4A8KV8).

The float/integer boundary of mcugen is this file. Every scale is a real number "one code is worth"; what leaves are
int8 codes, int16 multipliers and shifts. Design and measurements: DESIGN.md D2 to D7.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import InputError
from mcugen.gptq import round_in_order
from mcugen.ir import Config, Expert, Linear, Model, Norm, QuantizedLayer, QuantizedModel
from mcugen.kernels import (
    ATTENTION_FRAC,
    GATE_FRAC_MAX,
    GATE_FRAC_MIN,
    RELU_FRAC_MAX,
    SCORE_FRAC,
    SHIFT_MAX,
    SHIFT_MIN,
    accumulator_bound,
)
from mcugen.mixed import Choice, choose
from mcugen.recipes import W8, Recipe
from mcugen.reference import FloatDecoder, Floats, rope, rope_angles, rope_frequencies, sample_sequences
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


def self_calibration(model: Model, seed: int = 0, eos: int = 2, bos: int = 1) -> Calibration:
    """Calibrate on the model's own samples (no data needed; as good as real text from 12 sequences on)."""
    length = min(CALIBRATION_LENGTH, model.config.seq_len)
    sequences: list[NDArray[np.int64]] = []
    for batch in range(16):
        sequences += sample_sequences(model, count=16, length=length, seed=seed + batch, bos=bos, eos=eos)
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


def _norm(weight: Floats, scale: Floats | float, in_scale: float, eps: float, where: str) -> Norm:
    """RMSNorm to int16 with `scale` per code: the gain times sqrt(dim) / scale in Q(gain_frac).

    weight: float[dim] or, of heads, [heads, dim]. in_scale: of a code of the norm's input; eps: in real units.
    """
    dim = weight.shape[-1]
    gain = weight * np.sqrt(dim) / scale
    gain_frac = int(np.floor(np.log2(S16_MAX / max(float(np.abs(gain).max()), 1e-12))))
    if gain_frac < -14:
        raise out_of_range(f"a norm gain of {np.abs(gain).max():g} does not fit int16", where)
    gain_frac = min(gain_frac, 15)
    codes = np.round(gain * 2.0**gain_frac).astype(np.int16).reshape(-1)
    return Norm(codes, gain_frac, max(1, round(dim * eps / in_scale**2)))


def _raw_scale(magnitude: Floats, dim: int, eps: float) -> float:
    """The value of a code of what a norm of `dim` values reads; coarse enough that its epsilon stays below 2**45."""
    return max(float(magnitude.max()) * BLOCK_HEADROOM / S16_MAX, float(np.sqrt(dim * eps)) * 2.0**-22)


def _magnitude(values: Floats, bias: Floats | None) -> Floats:
    """|values| or, where a bias was the last that they got, the largest of what their int16 holds on the way."""
    if bias is None:
        return np.abs(values)
    bias = bias.reshape(values.shape[-2:] if values.ndim > 2 else -1)
    return np.maximum(np.maximum(np.abs(values), np.abs(values - bias)), np.abs(bias))


def _bias(bias: Floats | None, scale: Floats | float) -> NDArray[np.int16] | None:
    """A bias in codes, or None where there is nothing to add."""
    if bias is None:
        return None
    codes = np.clip(np.round(bias / scale), -S16_MAX, S16_MAX).astype(np.int16)
    return codes if codes.any() else None


@dataclass(frozen=True, slots=True, eq=False)
class _GateScale:
    """Of activation(gate) * up: codes of up and hidden, [hidden], and how they multiply."""

    frac: int
    shift: int
    step: float  # of a gate's code
    up: Floats
    hidden: Floats


def _gate_scale(activation: str, gate: Floats, up: Floats, hidden: Floats, column: Floats, label: str) -> _GateScale:
    """gate, up, hidden: the largest magnitudes of each, [hidden]; column: of w2's weights.

    Channel scales even out w2's columns (migration strength 1/2), a shift remains.
    """
    peak = max(float(gate.max()), 1e-6)
    frac = int(np.floor(np.log2(S16_MAX / (1.25 * peak))))
    if frac < GATE_FRAC_MIN:
        raise out_of_range(f"a gate of {peak:g} does not fit int16", f"{label}.swiglu")
    frac = min(frac, RELU_FRAC_MAX if activation.startswith("relu") else GATE_FRAC_MAX)
    step = 2.0**-frac
    active = 2.0 ** (15 - 2 * frac) if activation == "relu2" else step  # of a code of activation(gate)

    hidden, column, up = hidden + 1e-6, column + 1e-6, up + 1e-6
    smooth = np.sqrt(hidden / column)
    smooth /= np.exp(np.log(smooth).mean())
    scale = smooth * float((hidden / smooth).max()) * BLOCK_HEADROOM / S16_MAX
    # no finer than one step of the gate resolves, so that a shift remains where a gate hardly opens
    scale = np.maximum(scale, 3 * up * active / S16_MAX)
    # all channels share the shift: one whose gate stays shut shall not take more than five bits of the others' up
    scale = np.maximum(scale, up * active / (32 * (up * active / scale).min()))
    shift = int(np.floor(np.log2((S16_MAX / 1.25) / (up * active / scale).max())))
    if not 1 <= shift <= 30:
        raise out_of_range(f"a SwiGLU shift of {shift} is not in [1, 30]", f"{label}.swiglu")
    return _GateScale(frac, shift, step, scale / active * 2.0**-shift, scale)


@dataclass(frozen=True, slots=True, eq=False)
class _KeyScale:
    scale: Floats  # [n_kv_heads, 1]: value of a key code, per KV head
    zero: Floats  # [n_kv_heads, head_dim]: centre of each channel, in key units


def _rope_step(config: Config, layer: int = 0) -> NDArray[np.uint32]:
    """Turns per position in Q32 of each pair of a layer's heads: [head_dim / 2]."""
    return np.round(rope_frequencies(config, layer) / (2 * np.pi) * 2.0**32).astype(np.uint32)


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

    def norm(name: str, weight: Floats, scale: Floats | float, in_scale: float) -> Norm:
        return _norm(weight, scale, in_scale, config.norm_eps, f"{label}.{name}")

    def raw(name: str, bias: Floats | None, dim: int) -> float:
        return _raw_scale(_magnitude(seen.values[name, index], bias), dim, config.norm_eps)

    norm_scale = seen.peak("att_norm", index) * BLOCK_HEADROOM / S16_MAX
    query_bias, key_bias = (None, None) if config.qk_norm else (w.get("bq"), w.get("bk"))  # of the tapped values
    key = _key_scale(seen.values["key", index], angles)
    key_codes = max(float(_magnitude(seen.values["key", index], key_bias).max()), 1e-6) / float(key.scale.min())
    key_shift = int(np.clip(np.floor(np.log2(S16_MAX / (1.25 * key_codes))), 0, 7))
    key_code = np.repeat(key.scale[:, 0], config.head_dim) * 2.0**-key_shift  # [kv_dim]

    # Queries absorb the key's scale and the softmax's unit, so that scores are a dot product and a shift. All heads
    # share the shift: what counts is the error of a score, and that is then the same in each.
    key_for_query = np.repeat(key.scale[:, 0], config.group_size)  # [n_heads]
    query = _magnitude(seen.values["query", index], query_bias)  # [samples, n_heads, head_dim], before RoPE
    radius = np.sqrt(query[..., 0::2] ** 2 + query[..., 1::2] ** 2).max((0, 2))  # RoPE keeps a pair's radius
    unit = np.sqrt(config.head_dim) / (np.log2(np.e) * 2.0**SCORE_FRAC)  # q . k of one score step
    needed = float((radius * key_for_query).max()) * 1.25 / S16_MAX / unit
    score_shift = int(np.floor(-np.log2(max(needed, 1e-12))))
    if score_shift < 1:
        raise out_of_range(f"scores of {needed * 2.0**15:g} octaves do not fit int16", f"{label}.attention")
    score_shift = min(score_shift, 30)
    query_code = np.repeat(unit * 2.0**-score_shift / key_for_query, config.head_dim)

    # Where a norm follows, queries and keys have units of their own until then.
    query_norm = key_norm = None
    wq_scale: Floats | float = query_code
    wk_scale: Floats | float = key_code
    if config.qk_norm:
        wq_scale = raw("query_raw", w.get("bq"), config.head_dim)
        wk_scale = raw("key_raw", w.get("bk"), config.head_dim)
        query_norm = norm("query_norm", w["q_norm"], query_code.reshape(config.n_heads, -1), wq_scale)
        key_norm = norm("key_norm", w["k_norm"], key_code.reshape(config.n_kv_heads, -1), wk_scale)

    value = np.abs(seen.values["value", index]).max(0).reshape(-1)  # [kv_dim]
    value_scale = np.maximum(value, value.max() / 1024 + 1e-6) / S8_MAX
    out_scale = np.repeat(value_scale.reshape(config.n_kv_heads, -1), config.group_size, 0).reshape(-1)
    att_bias, ffn_bias = _residual_biases(model, index)
    att_scale = ffn_out_scale = residual
    post_att_norm = post_ffn_norm = None
    if config.post_norms:
        att_scale = raw("post_att_raw", att_bias, config.dim)
        ffn_out_scale = raw("post_ffn_raw", ffn_bias, config.dim)
        post_att_norm = norm("post_att_norm", w["post_att_weight"], residual, att_scale)
        post_ffn_norm = norm("post_ffn_norm", w["post_ffn_weight"], residual, ffn_out_scale)

    gate = _gate_scale(
        config.activation,
        _magnitude(seen.values["gate", index], w.get("b1")).max(0),
        _magnitude(seen.values["up", index], w.get("b3")).max(0),
        np.abs(seen.values["swiglu", index]).max(0),
        np.abs(w["w2"]).max((0, 1) if config.n_experts else 0),
        label,
    )
    ffn_scale = seen.peak("ffn_norm", index) * BLOCK_HEADROOM / S16_MAX

    def feed_forward(at: str, w1: Floats, w3: Floats, w2: Floats) -> Expert:
        return Expert(
            w1=linear(w1, ffn_scale, gate.step, f"{at}.w1"),
            w3=linear(w3, ffn_scale, gate.up, f"{at}.w3"),
            w2=linear(w2, gate.hidden, ffn_out_scale, f"{at}.w2"),
        )

    router: Linear | None = None
    experts: tuple[Expert, ...] = ()
    if config.n_experts:
        logits = _fold(w["router"], ffn_scale, 2.0**-LOGIT_FRAC)
        router = _linear(round_rows(logits.w), logits.out_scale, f"{label}.router")
        matrices = enumerate(zip(w["w1"], w["w3"], w["w2"], strict=True))
        experts = tuple(feed_forward(f"{label}.experts.{i}", *ws) for i, ws in matrices)
    plain = None if config.n_experts else feed_forward(label, w["w1"], w["w3"], w["w2"])

    return QuantizedLayer(
        att_norm=norm("att_norm", w["rms_att_weight"], norm_scale, residual),
        wq=linear(w["wq"], norm_scale, wq_scale, f"{label}.wq"),
        wk=linear(w["wk"], norm_scale, wk_scale, f"{label}.wk"),
        wv=linear(w["wv"], norm_scale, value_scale, f"{label}.wv"),
        key_zero=-np.round((key.zero / key.scale).reshape(-1) * 2.0 ** (15 + key_shift)).astype(np.int32),
        key_shift=key_shift,
        score_shift=score_shift,
        wo=linear(w["wo"], out_scale * 2.0**-ATTENTION_FRAC, att_scale, f"{label}.wo"),
        ffn_norm=norm("ffn_norm", w["rms_ffn_weight"], ffn_scale, residual),
        w1=plain.w1 if plain else None,
        w3=plain.w3 if plain else None,
        gate_frac=gate.frac,
        swiglu_shift=gate.shift,
        w2=plain.w2 if plain else None,
        query_bias=_bias(w.get("bq"), wq_scale),
        key_bias=_bias(w.get("bk"), wk_scale),
        out_bias=_bias(att_bias, att_scale),
        gate_bias=_bias(w.get("b1"), gate.step),
        up_bias=_bias(w.get("b3"), gate.up),
        down_bias=_bias(ffn_bias, ffn_out_scale),
        query_norm=query_norm,
        key_norm=key_norm,
        post_att_norm=post_att_norm,
        post_ffn_norm=post_ffn_norm,
        router=router,
        experts=experts,
    )


def _residual_biases(model: Model, index: int) -> tuple[Floats | None, Floats | None]:
    """What is added behind wo and behind w2. Softmax weights sum to 1: bv passes attention as it is, and wo takes it
    along."""
    config = model.config
    w = {
        name: model.weights[name][index].astype(np.float64)
        for name in ("wo", "bv", "bo", "b2")
        if name in model.weights
    }
    behind_wo = None
    if config.attention_bias:
        bv = np.repeat(w["bv"].reshape(config.n_kv_heads, -1), config.group_size, 0).reshape(-1)
        behind_wo = w["wo"] @ bv + w["bo"]
    return behind_wo, w.get("b2")


def _residual_scale(model: Model, seen: Calibration) -> float:
    """Of the residual, which is without the biases for a moment."""
    config = model.config
    peak = max(seen.peak("residual", layer) for layer in range(config.n_layers))
    if not config.post_norms:
        biases = (bias for layer in range(config.n_layers) for bias in _residual_biases(model, layer))
        peak = max([peak, *(float(np.abs(bias).max()) for bias in biases if bias is not None)])
    return peak * RESIDUAL_HEADROOM / S16_MAX


def _layers(model: Model, seen: Calibration, linear: _ToLinear) -> tuple[float, tuple[QuantizedLayer, ...]]:
    """The residual's scale, and the layers with the matrices that linear(w, columns, out_scale, label) makes."""
    config = model.config
    if config.mlp_bias and config.n_experts:
        raise InputError(
            "biases of experts are not known here",
            where=f"model {model.name}, mlp_bias with n_experts {config.n_experts}",
            hint="take a mixture of experts without them, as Mixtral is",
        )
    residual = _residual_scale(model, seen)
    positions = np.arange(2 * config.seq_len)
    return residual, tuple(
        _quantize_layer(model, i, seen, residual, rope_angles(config, positions, i), linear)
        for i in range(config.n_layers)
    )


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
    embedding = Linear(
        table.codes, *to_multiplier(table.scale * config.embedding_scale / residual, "token_embedding_table")
    )
    final_scale = seen.peak("final_norm") * BLOCK_HEADROOM / S16_MAX
    classes = _fold(model.weights["wcls"].astype(np.float64), final_scale, 2.0**-LOGIT_FRAC / config.logit_scale)
    classifier = _linear(round_rows(classes.w), classes.out_scale, "wcls")
    if config.shared_classifier:
        classifier = Linear(table.codes, classifier.multiplier, classifier.shift)  # one copy of the codes in flash
    final_weight = model.weights["rms_final_weight"].astype(np.float64)
    windows = [bool(config.window(i)) for i in range(config.n_layers)]

    return QuantizedModel(
        name=model.name,
        config=config,
        embedding=embedding,
        layers=layers,
        final_norm=_norm(final_weight, final_scale, residual, config.norm_eps, "final_norm"),
        classifier=classifier,
        rope_step=_rope_step(replace(config, layer_windows=())),
        local_rope_step=_rope_step(config, windows.index(True)) if config.has_local_rope else None,
        max_position=max_position,
        value_bits=recipe.value_bits,
        sha256=model.sha256,
        recipe=f"{recipe.describe()}, calibrated on {seen.description}",
    )
