"""The integer kernels in numpy: the specification that every C kernel is compared with, bit for bit.

Each function has a C twin `mg_<name>` in firmware/kernels/<family>.c. Arrays carry any number of leading axes
(tokens of a prefill); the C twins work on one token. Intermediate values are int64, where nothing here can
overflow; the bounds that let C use int32 stand with each C kernel.

Arithmetic conventions (design: one rounding, half up, arithmetic shifts):
    requantize(a; m, s) = (a * m + 2**(s - 1)) >> s,   m >= 0 per row, one s per tensor
    saturation to int8 is symmetric, [-127, 127]; to int16 and int32 it is two's complement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcugen.ir import Linear
from mcugen.tables import EXP2_Q15, PHI_Q15, PHI_TANH_Q15, SIGMOID_Q15, SINE_Q15

Ints = NDArray[np.int64]
AnyInts = NDArray[np.integer]

SHIFT_MIN, SHIFT_MAX = 16, 32  # of a linear layer: a product's upper word is one instruction on most cores
FC_SHIFT_MIN, FC_SHIFT_MAX = -31, 0  # of FULLY_CONNECTED (ir.Linear.fc): a division by a power of two
ROPE_SHIFT = 15  # sine and cosine are Q15
GATE_FRAC_MIN, GATE_FRAC_MAX = 4, 11  # of a gate: [-2048, 2048) to [-16, 16)
RELU_FRAC_MAX = 24  # of a gate that meets no table
MAX_EXPERTS = 64
SCORE_FRAC = 6  # scores are in 1/64 of an octave
ATTENTION_FRAC = 8  # attention output: V codes in Q8, |o| <= 127 * 2**8 < 2**15


def saturate_s8(x: Ints) -> NDArray[np.int8]:
    return np.clip(x, -127, 127).astype(np.int8)


def saturate_s16(x: Ints) -> NDArray[np.int16]:
    return np.clip(x, -(2**15), 2**15 - 1).astype(np.int16)


def saturate_s32(x: Ints) -> NDArray[np.int32]:
    return np.clip(x, -(2**31), 2**31 - 1).astype(np.int32)


def round_shift(x: Ints, shift: Ints | int) -> Ints:
    """x / 2**shift, rounded half up; shift 0 leaves x alone. shift: int or broadcastable int64[...], >= 0."""
    return (x + ((np.int64(1) << shift) >> 1)) >> shift


def requantize(acc: Ints, multiplier: AnyInts, shift: Ints | int) -> Ints:
    """Scale accumulators: round(acc * multiplier / 2**shift). acc fits int32 and multiplier < 2**30: exact."""
    return round_shift(acc * multiplier.astype(np.int64), shift)


def bit_length(x: Ints) -> Ints:
    """Bits needed for x >= 0; exact below 2**53."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def matmul(x: AnyInts, w: AnyInts) -> Ints:
    """x[..., cols] times w[rows, cols] transposed; exact in float64 because every sum stays below 2**53."""
    return np.matmul(x.astype(np.float64), w.astype(np.float64).T).astype(np.int64)


# ---------------------------------------------------------------- embedding and linear layers


def embed_s16(token: AnyInts, table: Linear) -> NDArray[np.int16]:
    """The embedding row of each token, in residual units. token int[...]; table: [vocab, dim]."""
    row = table.codes[token].astype(np.int64)
    return saturate_s16(requantize(row, table.multiplier[token][..., None], table.shift))


def block_s8(x: AnyInts) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """int16[..., n] as int8 codes that use the whole range, with one scale per vector: x ~ codes * peak / 127.

    Returns codes int8[..., n] and scale int32[..., 2]: the peak |x| in [1, 2**15], and the sum of the codes, which
    kernels with offset-binary weights take off again. One 32-bit division per vector.
    """
    wide = x.astype(np.int64)
    peak = np.maximum(np.abs(wide).max(-1, keepdims=True), 1)
    codes = round_shift(wide * ((127 << 23) // peak), 23)  # |product| <= 127 * 2**23: no saturation needed
    return codes.astype(np.int8), np.concatenate([peak, codes.sum(-1, keepdims=True)], -1).astype(np.int32)


def accumulate(x: AnyInts, w: Linear) -> Ints:
    """The products of x int8[..., cols] with the rows of w: int64[..., rows], which fit int32 (lower.check_graph).

    With group scales, each group of w.group columns counts group_scale times.
    """
    if w.group_scale is None:
        return matmul(x, w.codes)
    scale = np.repeat(w.group_scale, w.group, axis=1)[:, : w.codes.shape[1]]
    return matmul(x, w.codes.astype(np.int64) * scale)


def accumulator_bound(w: Linear) -> int:
    """What no accumulator of a matrix exceeds, for any codes in [-127, 127]: the largest sum |w| * 127 of a row.

    Holds for every partial sum and every order of summation; with group scales, for the sum of the scaled groups,
    and each group's own sum is at most cols * 8 * 127.
    """
    weights = np.abs(w.codes.astype(np.int64))
    if w.group_scale is not None:
        weights *= np.repeat(np.abs(w.group_scale.astype(np.int64)), w.group, axis=1)[:, : w.codes.shape[1]]
    return int(weights.sum(1).max()) * 127


def _scaled(acc: Ints, scale: AnyInts, w: Linear) -> Ints:
    """The block's peak goes into the row's multiplier, so that the accumulator meets one multiplication."""
    multiplier = w.multiplier.astype(np.int64) * scale[..., :1].astype(np.int64)  # <= 2**30
    return requantize(acc, multiplier, w.shift)


def _linear(x: AnyInts, scale: AnyInts, w: Linear) -> Ints:
    return _scaled(accumulate(x, w), scale, w)


def linear_s8(x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int8]:
    """requantize(w x) to int8. x int8[..., cols] with its scale int32[..., 2]; w: [rows, cols]."""
    return saturate_s8(_linear(x, scale, w))


def linear_s16(x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """requantize(w x) to int16; arguments as linear_s8."""
    return saturate_s16(_linear(x, scale, w))


def linear_s32(x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int32]:
    """requantize(w x) to int32 (logits, Q16 nats); arguments as linear_s8."""
    return saturate_s32(_linear(x, scale, w))


def linear_add_s16(residual: AnyInts, x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """residual + requantize(w x), saturated once; residual int16[..., rows], the rest as linear_s8."""
    return saturate_s16(residual.astype(np.int64) + _linear(x, scale, w))


# int4 weights: the same arithmetic on codes in [-8, 7]; kernels of their own in C, where two codes share a byte.


def linear4_s8(x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int8]:
    """linear_s8 with int4 weights."""
    return linear_s8(x, scale, w)


def linear4_s16(x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """linear_s16 with int4 weights."""
    return linear_s16(x, scale, w)


def linear4_add_s16(residual: AnyInts, x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """linear_add_s16 with int4 weights."""
    return linear_add_s16(residual, x, scale, w)


# ---------------------------------------------------------------- linear layers by TFLite Micro
#
# The product is TFLite Micro's own FULLY_CONNECTED (int8, one scale per tensor, zero points 0, no bias; reference
# kernel and CMSIS-NN agree); our C begins at its codes. Arithmetic: tensorflow/lite/kernels/internal/common.h,
# MultiplyByQuantizedMultiplier on int32, after gemmlowp/fixedpoint/fixedpoint.h.


def saturating_rounding_doubling_high_mul(a: Ints, b: int) -> Ints:
    """a * b / 2**31, ties towards +infinity. a fits int32, b in [2**30, 2**31): nothing saturates."""
    return round_shift(a * b, 31)


def rounding_divide_by_pot(x: Ints, exponent: int) -> Ints:
    """x / 2**exponent, ties away from zero; exponent in [0, 31]."""
    return np.sign(x) * round_shift(np.abs(x), exponent)


def multiply_by_quantized_multiplier(acc: Ints, multiplier: int, shift: int) -> Ints:
    """acc * multiplier * 2**(shift - 31), rounded twice where shift < 0.

    multiplier in [2**30, 2**31), shift in [-31, 30]; acc, times 2**shift where shift > 0, fits int32. The result then
    fits it too: it is no larger than that.
    """
    product = saturating_rounding_doubling_high_mul(acc << max(shift, 0), multiplier)
    return rounding_divide_by_pot(product, max(-shift, 0))


def fc_codes(x: AnyInts, w: Linear) -> NDArray[np.int8]:
    """What FULLY_CONNECTED makes of x int8[..., cols] and w with an fc: int8[..., rows], in [-128, 127]."""
    assert w.fc is not None
    return np.clip(multiply_by_quantized_multiplier(accumulate(x, w), *w.fc), -128, 127).astype(np.int8)


def rescale_s16(codes: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """requantize(codes) to int16. codes int8[..., rows]: of fc_codes, for a block with this scale int32[..., 2]."""
    return saturate_s16(_scaled(codes.astype(np.int64), scale, w))


def rescale_add_s16(residual: AnyInts, codes: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """residual + requantize(codes), saturated once; residual int16[..., rows], the rest as rescale_s16."""
    return saturate_s16(residual.astype(np.int64) + _scaled(codes.astype(np.int64), scale, w))


def fc_s16(x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """FULLY_CONNECTED, then rescale_s16; arguments as linear_s16."""
    return rescale_s16(fc_codes(x, w), scale, w)


def fc_add_s16(residual: AnyInts, x: AnyInts, scale: AnyInts, w: Linear) -> NDArray[np.int16]:
    """FULLY_CONNECTED, then rescale_add_s16; arguments as linear_add_s16."""
    return rescale_add_s16(residual, fc_codes(x, w), scale, w)


# ---------------------------------------------------------------- normalisation


def isqrt32(x: Ints) -> Ints:
    """floor(sqrt(x)) for 0 <= x < 2**32."""
    root = np.floor(np.sqrt(x.astype(np.float64))).astype(np.int64)
    root -= root * root > x
    root += (root + 1) * (root + 1) <= x
    return root


def rmsnorm_s16(x: AnyInts, gain: AnyInts, gain_frac: int, eps: int) -> NDArray[np.int16]:
    """x * gain / sqrt(sum(x**2) + eps) (Zhang and Sennrich 2019; sqrt(dim) lies in the gain).

    x int16[..., dim]; gain int16[dim] in Q(gain_frac); eps int64 in squared units of x, >= 1.
    The sum is normalised to [2**30, 2**32) by an even shift, so that root has 16 bits and 2**31 / root 17.
    """
    wide = x.astype(np.int64)
    total = (wide * wide).sum(-1, keepdims=True) + eps
    even = 32 - bit_length(total)
    even -= even & 1
    normal = np.where(even >= 0, total << np.maximum(even, 0), total >> np.maximum(-even, 0))
    reciprocal = np.int64(2**31) // isqrt32(normal)
    return saturate_s16(round_shift(wide * gain.astype(np.int64) * reciprocal, 31 + gain_frac - (even >> 1)))


def headnorm_s16(x: AnyInts, gain: AnyInts, gain_frac: int, eps: int, heads: int) -> NDArray[np.int16]:
    """rmsnorm_s16 of each head of x int16[..., heads * head_dim]; gain likewise."""
    by_head = x.reshape(*x.shape[:-1], heads, -1)
    return rmsnorm_s16(by_head, gain.reshape(heads, -1), gain_frac, eps).reshape(x.shape)


# ---------------------------------------------------------------- elementwise


def add_s16(x: AnyInts, b: AnyInts) -> NDArray[np.int16]:
    """x + b, saturated; int16[..., n], b of the same units, or int16[n]: a bias."""
    return saturate_s16(x.astype(np.int64) + b)


def scale_s16(x: AnyInts, weight: AnyInts) -> NDArray[np.int16]:
    """x * weight. x int16[..., n]; weight int16[...] in Q15, >= 0."""
    return saturate_s16(round_shift(x.astype(np.int64) * weight[..., None], 15))


# ---------------------------------------------------------------- rotary position embedding


def sine_q15(phase: Ints) -> Ints:
    """sin(2 pi phase / 2**32) in Q15, linearly interpolated in a table of 512 steps."""
    phase = phase & 0xFFFFFFFF
    index, fraction = phase >> 23, (phase >> 8) & 0x7FFF
    low = SINE_Q15[index].astype(np.int64)
    high = SINE_Q15[index + 1].astype(np.int64)
    return low + round_shift((high - low) * fraction, 15)


def _rotate(x: AnyInts, position: AnyInts, step: AnyInts, zero: AnyInts | int, shift: int) -> Ints:
    """Rotate neighbouring pairs of x[..., heads * head_dim] by position * step turns / 2**32 and shift right."""
    pairs = x.astype(np.int64).reshape(*x.shape[:-1], -1, len(step), 2)
    phase = np.asarray(position, np.int64)[..., None, None] * step.astype(np.int64)
    cosine, sine = sine_q15(phase + 2**30), sine_q15(phase)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned: Ints = np.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).reshape(x.shape)
    return round_shift(turned + zero, shift)


def rope_s16(x: AnyInts, position: AnyInts, step: AnyInts) -> NDArray[np.int16]:
    """Rotary embedding (Su et al. 2021, interleaved pairs). x int16[..., heads * head_dim], position int[...],
    step uint32[head_dim / 2]: turns per position in Q32."""
    return saturate_s16(_rotate(x, position, step, 0, ROPE_SHIFT))


def rope_s8(x: AnyInts, position: AnyInts, step: AnyInts, zero: AnyInts, shift: int) -> NDArray[np.int8]:
    """rope_s16, plus a zero point, to int8 key codes; x is 2**shift finer than a code.

    zero int32[kv_dim] in Q(15 + shift) of a code, |zero| <= 127 * 2**(15 + shift). Adding a constant to every key
    changes all scores of a query alike, which softmax ignores: the zero point costs nothing afterwards.
    """
    return saturate_s8(_rotate(x, position, step, zero.astype(np.int64), ROPE_SHIFT + shift))


def keep_s16(kept: AnyInts, first: int, x: AnyInts) -> NDArray[np.int16]:
    """Keep the first tokens of a sequence: kept int16[rows, n], as it is after each of the tokens x int16[T, n].

    first: the number of x[0] in its sequence; token i becomes row i, if there is one. Returns int16[T, rows, n].
    """
    token = first + np.arange(len(x))[:, None]
    row = np.arange(len(kept))
    written = (first <= row) & (row <= token)  # [T, rows]
    taken = x[np.clip(row - first, 0, len(x) - 1)]
    return np.where(written[..., None], taken, kept).astype(np.int16)


def rebase_s8(keys: AnyInts, delta: int, step: AnyInts, zero: AnyInts, shift: int) -> NDArray[np.int8]:
    """Turn cached keys int8[rows, kv_dim] back by `delta` positions: undo the zero point, rotate, code again."""
    plain = (keys.astype(np.int64) << shift) - round_shift(zero.astype(np.int64), ROPE_SHIFT)
    return rope_s8(plain.astype(np.int16), np.full(len(keys), -delta), step, zero, shift)


# ---------------------------------------------------------------- attention


def softmax_weight(distance: Ints, drop: int) -> Ints:
    """2**-(distance / 64) in Q(15 - drop), for distances >= 0 below the largest score; nothing beyond the table."""
    inside = np.minimum(distance, len(EXP2_Q15) - 1)
    weight = round_shift(EXP2_Q15[inside].astype(np.int64), drop)
    return np.where(distance < len(EXP2_Q15), weight, 0)


def attention_s16(
    q: AnyInts,
    keys: AnyInts,
    values: AnyInts,
    visible: NDArray[np.bool_],
    n_heads: int,
    n_kv_heads: int,
    shift: int,
    drop: int,
    sinks: AnyInts | None = None,
) -> NDArray[np.int16]:
    """Grouped-query attention over cached int8 keys and values, with the softmax division deferred.

    q int16[T, n_heads * head_dim]; keys, values int8[S, n_kv_heads * head_dim]; visible bool[T, S];
    shift: q . k to scores in 1/64 octaves, int16; drop: bits dropped from the Q15 weights so that sum(p * v) fits
    int32 for the context in use. sinks: int8[T, <= S, n_kv_heads * head_dim], what each token finds in place of the
    first keys. Returns int16[T, n_heads * head_dim]: V codes in Q8.
    """
    tokens, dim = q.shape
    head_dim = dim // n_heads
    group = n_heads // n_kv_heads
    by_group = q.reshape(tokens, n_kv_heads, group, head_dim).transpose(1, 2, 0, 3)
    k = keys.reshape(-1, n_kv_heads, head_dim).transpose(1, 2, 0)[:, None]
    v = values.reshape(-1, n_kv_heads, head_dim).transpose(1, 0, 2)[:, None]

    product = np.matmul(by_group.astype(np.float64), k.astype(np.float64)).astype(np.int64)  # [kv, group, T, S]
    if sinks is not None:
        own = sinks.reshape(tokens, -1, n_kv_heads, head_dim).transpose(2, 0, 3, 1)  # [kv, T, head_dim, sinks]
        turned = np.matmul(by_group.transpose(0, 2, 1, 3).astype(np.float64), own.astype(np.float64))
        product[..., : sinks.shape[1]] = turned.transpose(0, 2, 1, 3)
    scores = np.where(visible, saturate_s16(round_shift(product, shift)).astype(np.int64), -(2**62))
    best = scores.max(-1, keepdims=True)
    weight = np.where(visible, softmax_weight(best - scores, drop), 0)

    total = weight.sum(-1, keepdims=True)
    acc = np.matmul(weight.astype(np.float64), v.astype(np.float64)).astype(np.int64)
    bits = bit_length(total)
    mantissa = np.where(bits <= 16, total << np.maximum(16 - bits, 0), total >> np.maximum(bits - 16, 0))
    reciprocal = np.int64(2**31) // mantissa
    out = round_shift(acc * reciprocal, 15 + bits - ATTENTION_FRAC)
    return saturate_s16(out.transpose(2, 0, 1, 3).reshape(tokens, dim))


# Values in 4 bits: the same attention on a smaller ring.

VALUES4_GROUP = 16  # channels that share a step


def values4_bytes(n: int) -> int:
    """Bytes of a slot of n int4 values, n even: two codes in each, then one step per VALUES4_GROUP channels."""
    return n // 2 + -(-n // VALUES4_GROUP)


def values4_s16(x: AnyInts) -> NDArray[np.int8]:
    """Values in 4 bits: x ~ code * step, code in [-7, 7], step in [1, 18] per VALUES4_GROUP channels, saturated.

    x int16[..., n] in units of an int8 code, n even. Returns int8[..., values4_bytes(n)]: codes, the even channel in
    the lower half of a byte, then steps.
    """
    wide = x.astype(np.int64)
    starts = np.arange(0, x.shape[-1], VALUES4_GROUP)
    peak = np.maximum.reduceat(np.abs(wide), starts, axis=-1)
    step = np.clip((peak + 6) // 7, 1, 18)
    each = np.repeat(step, VALUES4_GROUP, axis=-1)[..., : x.shape[-1]]
    inside = np.clip(wide, -7 * each, 7 * each)
    code = (2 * (inside + 7 * each) + each) // (2 * each) - 7
    packed = (code[..., 0::2] & 15) | (code[..., 1::2] * 16)
    return np.concatenate([packed, step], -1).astype(np.int8)


def unpack_values4(slots: AnyInts, n: int) -> Ints:
    """The values of slots int8[..., values4_bytes(n)]: int64[..., n], each at most 126 in magnitude."""
    packed = slots[..., : n // 2].astype(np.int64)
    code = np.stack([((packed & 15) ^ 8) - 8, packed >> 4], -1).reshape(*slots.shape[:-1], n)
    step = slots[..., n // 2 :].astype(np.int64)
    return code * np.repeat(step, VALUES4_GROUP, axis=-1)[..., :n]


def attention4_s16(
    q: AnyInts,
    keys: AnyInts,
    values: AnyInts,
    visible: NDArray[np.bool_],
    n_heads: int,
    n_kv_heads: int,
    shift: int,
    drop: int,
    sinks: AnyInts | None = None,
) -> NDArray[np.int16]:
    """attention_s16 over int4 values, int8[S, values4_bytes(kv_dim)] as values4_s16 makes them."""
    unpacked = unpack_values4(values, keys.shape[-1])
    return attention_s16(q, keys, unpacked, visible, n_heads, n_kv_heads, shift, drop, sinks)


# ---------------------------------------------------------------- feed-forward


def gate_q15(table: NDArray[np.generic], gate: Ints, frac: int) -> Ints:
    """A table of 64 steps on [-8, 8] at a Q(frac) gate, in Q15: interpolated, and flat beyond."""
    limit = 8 << frac
    z = np.clip(gate, -limit, limit - 1) + limit  # 64 steps of 2**(frac - 2)
    index, fraction = z >> (frac - 2), z & ((1 << (frac - 2)) - 1)
    low = table[index].astype(np.int64)
    high = table[index + 1].astype(np.int64)
    return low + round_shift((high - low) * fraction, frac - 2)


def _gated(table: NDArray[np.generic], gate: AnyInts, up: AnyInts, gate_frac: int, shift: int) -> NDArray[np.int16]:
    g = gate.astype(np.int64)
    activated = round_shift(g * gate_q15(table, g, gate_frac), 15)
    return saturate_s16(round_shift(activated * up.astype(np.int64), shift))


def swiglu_s16(gate: AnyInts, up: AnyInts, gate_frac: int, shift: int) -> NDArray[np.int16]:
    """silu(gate) * up (Shazeer 2020). gate int16[..., hidden] in Q(gate_frac), GATE_FRAC_MIN to GATE_FRAC_MAX; the
    product is shifted right by `shift`."""
    return _gated(SIGMOID_Q15, gate, up, gate_frac, shift)


def geglu_s16(gate: AnyInts, up: AnyInts, gate_frac: int, shift: int) -> NDArray[np.int16]:
    """gelu(gate) * up; arguments as swiglu_s16."""
    return _gated(PHI_Q15, gate, up, gate_frac, shift)


def geglu_tanh_s16(gate: AnyInts, up: AnyInts, gate_frac: int, shift: int) -> NDArray[np.int16]:
    """The same with GELU's tanh approximation."""
    return _gated(PHI_TANH_Q15, gate, up, gate_frac, shift)


def reglu_s16(gate: AnyInts, up: AnyInts, shift: int) -> NDArray[np.int16]:
    """max(gate, 0) * up; the product is shifted right by `shift`. int16[..., hidden]."""
    return saturate_s16(round_shift(np.maximum(gate.astype(np.int64), 0) * up.astype(np.int64), shift))


def relu2glu_s16(gate: AnyInts, up: AnyInts, shift: int) -> NDArray[np.int16]:
    """max(gate, 0)**2 * up. The square of a Q(frac) gate is Q(2 * frac - 15), at most 32766; else as reglu_s16."""
    opened = np.maximum(gate.astype(np.int64), 0)
    return saturate_s16(round_shift(round_shift(opened * opened, 15) * up.astype(np.int64), shift))


def route_s32(logits: AnyInts, count: int) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """The experts of the `count` largest logits, the lowest id on ties, and the softmax of these logits alone.

    logits int32[..., experts], Q16 nats. Returns choice int32[..., count] and weight int16[..., count] in Q15.
    """
    wide = logits.astype(np.int64)
    choice = np.argsort(-wide, -1, kind="stable")[..., :count]
    chosen = np.take_along_axis(wide, choice, -1)
    distance = np.minimum(chosen[..., :1] - chosen, 2**20)  # 16 nats: a weight of nothing
    part = softmax_weight(round_shift(distance * 1477, 20), 0)  # 64 log2(e) / 2**16 = 1477.3 / 2**20
    total = part.sum(-1, keepdims=True)
    weight = np.minimum((part * 2**15 + total // 2) // total, 32767)
    return choice.astype(np.int32), weight.astype(np.int16)
