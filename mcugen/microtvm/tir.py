"""The kernels of mcugen.kernels in TIR, bit for bit: all but those that read a matrix, which tir_linear has.

Loops are written as they run: what is short and known is unrolled here, four or eight values at a time, so that the
C compiler can keep them in registers. Only imported where Apache TVM is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm

from mcugen.layouts import LAYOUTS
from mcugen.microtvm import tir_linear
from mcugen.microtvm.builder import (
    Array,
    Expr,
    absolute,
    bit_and,
    bit_length,
    bit_or,
    call_pure,
    cast,
    choose,
    computed,
    divide,
    let,
    local,
    loop,
    maximum,
    minimum,
    prim_func,
    raise_to,
    round_shift,
    saturate_s8,
    saturate_s16,
    shift_left,
    shift_right,
    unrolled,
    upper_word,
    variable,
    when,
)
from mcugen.microtvm.functions import Function
from mcugen.tables import EXP2_Q15

_Body = Callable[..., None]  # of a function: called with its parameters by name


def module_of(functions: Sequence[Function], prefix: str) -> Any:
    """The functions as a tvm.IRModule, each under its name behind the prefix."""
    return tvm.IRModule({f"{prefix}{f.name}": _prim_func(f, f"{prefix}{f.name}") for f in functions})


def _prim_func(function: Function, symbol: str) -> Any:
    if function.kernel in tir_linear.KERNELS:
        return tir_linear.prim_func(function).with_attr("global_symbol", symbol)
    return prim_func(function, symbol, _KERNELS[function.kernel](function))


# ---------------------------------------------------------------- normalisation


def _rmsnorm(f: Function) -> _Body:
    dim = f["dim"]

    def body(y: Array, x: Array, gain: Array, gain_frac: Expr, eps: Expr) -> None:
        total = variable("total", eps, "int64")  # each square is at most 2**30: no dim overflows 64 bits

        def add_square(i: Expr) -> None:
            value = let("value", x[i])
            total[0] = total[0] + cast("int64", value) * cast("int64", value)

        unrolled("i", dim, 4, add_square)

        # Normalised by an even shift to [2**30, 2**32), so that the root has 16 bits.
        word, room = variable("word", total[0], "uint32"), variable("room", 32)
        with when(shift_right(total[0], cast("int64", 32)) != 0):
            word[0] = shift_right(total[0], cast("int64", 32))
            room[0] = 0
        even = variable("even", bit_and(room[0] - bit_length(word[0]), ~1))  # may be negative
        with when(even[0] >= 0):
            total[0] = shift_left(total[0], cast("int64", even[0]))
        with when(even[0] < 0):
            total[0] = shift_right(total[0], cast("int64", 0 - even[0]))
        root = _square_root(let("normal", total[0], "uint32"))
        reciprocal = let("reciprocal", divide(cast("uint32", 1 << 31), root))  # (2**15, 2**16]
        shift = computed("shift", 31 + gain_frac - shift_right(even[0], 1))  # at least 31 - 14 - 15 = 2

        with when(shift >= 18):
            # reciprocal / 2**shift = factor / 2**(32 + more), factor <= 2**16 * 2**14
            more = computed("more", choose(shift <= 32, 0, choose(shift <= 46, 14, 28)))  # shift <= 31 + 15 + 8
            factor = let("factor", shift_left(reciprocal, 32 + more - shift))
            half = let("half", shift_left(cast("int64", 1), cast("int64", 31 + more)), "int64")

            def scale(i: Expr) -> None:
                # |x * gain| <= 2**30, times factor 2**60; half <= 2**59
                value = upper_word(let("product", x[i] * gain[i]), factor, half)
                y[i] = saturate_s16(shift_right(value, more), f.intrinsics)

            unrolled("j", dim, 2, scale)
        with when(shift < 18), loop("k", dim) as k:
            product = cast("int64", let("product", x[k] * gain[k])) * cast("int64", reciprocal)  # below 2**47
            y[k] = saturate_s16(round_shift(product, shift))

    return body


def _square_root(x: Expr) -> Expr:
    """floor(sqrt(x)) of a uint32 from 2**30 on, by Newton's method.

    The first guess is at most 25 % too large; a step makes a relative error of e one below e**2 / 2, and never comes
    out below the root's floor. Three steps leave less than 2**-22: too large by 1 at most.
    """
    root = let("guess", shift_right(x, 17) + cast("uint32", 1 << 15), "uint32")
    for _ in range(3):
        root = let("root", shift_right(root + divide(x, root), 1), "uint32")
    return let("root", root - choose(divide(x, root) < root, cast("uint32", 1), cast("uint32", 0)), "uint32")


def _block(f: Function) -> _Body:
    n = f["n"]
    layout = {"": "plain", "dsp": "words16", "mve": "padded16"}[f.intrinsics]
    stored = -(-n // LAYOUTS[layout].columns) * LAYOUTS[layout].columns

    def body(codes: Array, scale: Array, x: Array) -> None:
        peak = variable("peak", 1)  # <= 2**15
        seen = _raise_to_pairs(peak, x, n) if f.intrinsics == "dsp" else 0

        def look(i: Expr) -> None:
            raise_to(peak, let("size", absolute(x[i])))

        unrolled("i", n - seen, 4, lambda i: look(i + seen))
        # |x * reciprocal| <= 127 * 2**23, so that codes stay in [-127, 127], and half of 2**23 can be added
        reciprocal = let("reciprocal", divide(127 << 23, peak[0]))
        total = variable("total", 0)  # of the codes: |total| <= 127 * n

        def encode(j: Expr) -> None:
            code = let("code", round_shift(x[j] * reciprocal, 23))
            codes[j] = code
            total[0] = total[0] + code

        unrolled("j", n, 4, encode)
        for j in range(n, stored):
            codes[j] = 0
        scale[0] = peak[0]
        scale[1] = total[0]

    return body


def _raise_to_pairs(peak: Array, x: Array, n: int) -> int:
    """peak = the largest |x|, as far as x comes in pairs; how far that is."""
    pairs = x.viewed("int32")
    high, low = variable("high", 0), variable("low", 0)

    def compare(i: Expr) -> None:
        pair = let("pair", pairs[i])
        high[0] = call_pure("int32", "tvm_larger_s16", pair, high[0])
        low[0] = call_pure("int32", "tvm_smaller_s16", pair, low[0])

    unrolled("pairs", n // 2, 4, compare)
    for extreme in (high, low):
        both = let("both", extreme[0])
        raise_to(peak, computed("size", absolute(cast("int32", cast("int16", both)))))
        raise_to(peak, computed("size", absolute(shift_right(both, 16))))
    return n // 2 * 2


# ---------------------------------------------------------------- rotary position embedding
#
# int32 is enough: table and interpolation keep cosine**2 + sine**2 <= 2**30, so that by Cauchy and Schwarz
# |a * cosine - b * sine| <= sqrt(2) * 2**15 * 2**15 < 1518600000. A zero point adds less than 127 * 2**22 + 1, the
# rounding 2**21: the sum stays below 2053500000. So do parts of it, in whatever order TVM adds: one product with zero
# point and rounding is below 1608600000.


def _sine(table: Array, phase: Expr) -> Expr:
    """sin(2 pi phase / 2**32) in Q15, linear between 512 steps. phase: uint32."""
    index = let("index", shift_right(phase, 23))
    fraction = let("fraction", bit_and(shift_right(phase, 8), 0x7FFF))  # Q15
    low = let("low", table[index])
    rise = let("rise", table[index + 1] - low)  # |rise| <= 403: its product is below 2**24
    return low + round_shift(rise * fraction, 15)


def _turn(sine: Array, position: Expr, step: Expr) -> tuple[Expr, Expr]:
    """cosine and sine, Q15, of a turn by position * step / 2**32, of which whole turns wrap away."""
    phase = let("phase", cast("uint32", position) * step, "uint32")
    quarter = let("quarter", phase + cast("uint32", 1 << 30), "uint32")
    return let("cosine", _sine(sine, quarter)), let("sine", _sine(sine, phase))


def _rope_s16(f: Function) -> _Body:
    def body(y: Array, x: Array, position: Expr, step: Array, sine: Array) -> None:
        with loop("pair", f["head_dim"] // 2) as pair:
            cosine, sin = _turn(sine, position, step[pair])
            with loop("head", f["heads"]) as head:
                i = let("i", head * f["head_dim"] + pair * 2)
                a, b = let("a", x[i]), let("b", x[i + 1])
                y[i] = saturate_s16(round_shift(a * cosine - b * sin, 15), f.intrinsics)
                y[i + 1] = saturate_s16(round_shift(a * sin + b * cosine, 15), f.intrinsics)

    return body


def _rope_s8(f: Function) -> _Body:
    def body(
        ring: Array, slot: Expr, x: Array, position: Expr, step: Array, zero: Array, shift: Expr, sine: Array
    ) -> None:
        row = let("row", slot * (f["heads"] * f["head_dim"]))
        with loop("pair", f["head_dim"] // 2) as pair:
            turn = _turn(sine, position, step[pair])
            with loop("head", f["heads"]) as head:
                i = let("i", head * f["head_dim"] + pair * 2)
                _write_key(ring, row + i, let("a", x[i]), let("b", x[i + 1]), turn, zero, i, shift)

    return body


def _write_key(
    ring: Array, at: Expr, a: Expr, b: Expr, turn: tuple[Expr, Expr], zero: Array, i: Expr, shift: Expr
) -> None:
    """Turn the pair of channels from i on, and code it in int8."""
    cosine, sin = turn
    ring[at] = saturate_s8(round_shift(a * cosine - b * sin + zero[i], shift + 15))
    ring[at + 1] = saturate_s8(round_shift(a * sin + b * cosine + zero[i + 1], shift + 15))


def _rebase(f: Function) -> _Body:
    size = f["heads"] * f["head_dim"]

    def body(ring: Array, delta: Expr, step: Array, zero: Array, shift: Expr, sine: Array) -> None:
        def plain_key(at: Expr, i: Expr) -> Expr:
            """A code without its zero point, 2**shift finer: |code * 2**7| + 127 * 2**7 fits int16."""
            return let("plain", ring[at] * shift_left(1, shift) - round_shift(zero[i], 15))

        with loop("pair", f["head_dim"] // 2) as pair:
            turn = _turn(sine, 0 - delta, step[pair])
            with loop("row", f["rows"]) as row, loop("head", f["heads"]) as head:
                i = let("i", head * f["head_dim"] + pair * 2)
                at = let("at", row * size + i)
                _write_key(ring, at, plain_key(at, i), plain_key(at + 1, i + 1), turn, zero, i, shift)

    return body


# ---------------------------------------------------------------- attention

SLOTS = 4  # that share the loads of a query
CHANNELS = 8  # that share the loads of a weight
FACTOR_DROP = 4  # the most bits dropped for which the last product is exact in one upper word


def _attention(f: Function) -> _Body:
    head_dim, stride = f["head_dim"], f["kv_heads"] * f["head_dim"]
    group = f["heads"] // f["kv_heads"]
    in_words = f.intrinsics == "dsp" and head_dim % 4 == 0

    def body(
        y: Array, q: Array, keys: Array, values: Array, scores: Array, length: Expr, score_shift: Expr, exp2: Array
    ) -> None:
        with loop("head", f["heads"]) as head:
            at = let("at", head * head_dim)
            kv = let("kv", divide(head, group) * head_dim)
            multiply = _by_words(q, at, keys, kv, f) if in_words else _by_values(q, at, keys, kv, f)
            best = _score(scores, multiply, length, score_shift, f.intrinsics)
            total = _weigh(scores, best, length, exp2, f["drop"])
            _average(y, at, scores, values, kv, stride, length, total, f)

    return body


_Products = Callable[
    [Array, Expr], None
]  # (acc, t): adds to acc[s] the product of the query and the key in slot t + s


def _by_values(q: Array, at: Expr, keys: Array, kv: Expr, f: Function) -> _Products:
    """Channel by channel, which the slots of acc share."""
    head_dim, stride = f["head_dim"], f["kv_heads"] * f["head_dim"]

    def products(acc: Array, t: Expr) -> None:
        def multiply(i: Expr) -> None:
            query = let("query", q[at + i])
            for s in range(acc.size):
                acc[s] = acc[s] + query * keys[(t + s) * stride + kv + i]

        unrolled("i", head_dim, 8 if head_dim % 8 == 0 else 2, multiply)

    return products


def _by_words(q: Array, at: Expr, keys: Array, kv: Expr, f: Function) -> _Products:
    """Four channels at a time, as the two pairs that SMLAD takes: 0 and 2, 1 and 3."""
    head_dim, stride = f["head_dim"], f["kv_heads"] * f["head_dim"]
    words, by = keys.viewed("uint32"), next(by for by in (8, 4, 2, 1) if head_dim // 4 % by == 0)
    pairs = local("pairs", "uint32", head_dim // 2)

    def gather(i: Expr) -> None:
        for odd in range(2):
            low, high = (cast("uint32", q[at + i * 4 + odd + channel]) for channel in (0, 2))
            pairs[i * 2 + odd] = bit_or(bit_and(low, cast("uint32", 0xFFFF)), shift_left(high, cast("uint32", 16)))

    unrolled("w", head_dim // 4, by, gather)

    def products(acc: Array, t: Expr) -> None:
        def multiply(i: Expr) -> None:
            for s in range(acc.size):
                word = let("word", words[(t + s) * (stride // 4) + shift_right(kv, 2) + i], "uint32")
                for odd, half in enumerate(("tvm_even_bytes", "tvm_odd_bytes")):
                    acc[s] = call_pure(
                        "int32", "tvm_smlad", call_pure("uint32", half, word), pairs[i * 2 + odd], acc[s]
                    )

        unrolled("w", head_dim // 4, by, multiply)

    return products


def _score(scores: Array, products: _Products, length: Expr, shift: Expr, intrinsics: str) -> Expr:
    """scores [length] = q . keys in 1/64 octaves; the largest.

    |q . k| <= head_dim * 2**15 * 127 <= 2**30 for head_dim <= 256, so that half of 2**30 can be added.
    """
    best = variable("best", -(2**15))

    def some(t: Expr, slots: int) -> None:
        acc = local("acc", "int32", slots)
        for s in range(slots):
            acc[s] = 0
        products(acc, t)
        for s in range(slots):
            score = computed("score", saturate_s16(round_shift(let("product", acc[s]), shift), intrinsics))
            scores[t + s] = score
            raise_to(best, score)

    with loop("quad", shift_right(length, 2)) as quad:
        some(let("t", quad * SLOTS), SLOTS)
    with loop("rest", bit_and(length, SLOTS - 1)) as rest:
        some(let("t", bit_and(length, -SLOTS) + rest), 1)
    return best[0]


def _weigh(scores: Array, best: Expr, length: Expr, exp2: Array, drop: int) -> Expr:
    """Replace scores [length] by weights 2**-(distance / 64) in Q(15 - drop); their sum, below 2**25
    (lower.probability_drop)."""
    total = variable("weights", 0)
    with loop("t", length) as t:
        distance = let("distance", best - scores[t])  # [0, 2**16)
        weight = variable("weight", 0)
        with when(distance < len(EXP2_Q15)):
            weight[0] = round_shift(exp2[distance], drop)
        scores[t] = weight[0]
        total[0] = total[0] + weight[0]
    return total[0]


def _average(
    y: Array,
    at: Expr,
    scores: Array,
    values: Array,
    kv: Expr,
    stride: int,
    length: Expr,
    total: Expr,
    f: Function,
) -> None:
    """y [head_dim] = sum(weight * value) / total in Q8 of a value's code."""
    head_dim, drop = f["head_dim"], f["drop"]
    bits = bit_length(cast("uint32", total))  # [15 - drop, 25]
    aligned = let("aligned", shift_left(cast("uint32", total), cast("uint32", 32 - bits)), "uint32")
    mantissa = shift_right(aligned, cast("uint32", 16))  # [2**15, 2**16)
    reciprocal = let("reciprocal", divide(cast("uint32", 1 << 31), mantissa))  # (2**15, 2**16]
    # reciprocal / 2**(7 + bits) = factor / 2**32, factor <= 2**16 * 2**(10 + drop)
    factor = let("factor", shift_left(reciprocal, 25 - bits)) if drop <= FACTOR_DROP else None
    width = next(width for width in (CHANNELS, 4, 2) if head_dim % width == 0)

    with loop("part", head_dim // width) as part:
        acc = local("sum", "int32", width)  # |sum| <= total * 127 < 2**31, by the choice of drop
        for j in range(width):
            acc[j] = 0
        with loop("t", length) as t:
            weight = let("weight", scores[t])
            for j in range(width):
                acc[j] = acc[j] + weight * values[t * stride + kv + part * width + j]
        for j in range(width):
            result = let("result", acc[j])
            if factor is None:
                value = round_shift(cast("int64", result) * cast("int64", reciprocal), bits + 7)
            else:
                value = upper_word(result, factor, 1 << 31)  # |value| <= 127 * 2**8 and a little
            y[at + part * width + j] = saturate_s16(value, f.intrinsics if factor is not None else "")


# ---------------------------------------------------------------- feed-forward


def _swiglu(f: Function) -> _Body:
    def body(y: Array, gate: Array, up: Array, gate_frac: Expr, shift: Expr, sigmoid: Array) -> None:
        limit = let("limit", shift_left(8, gate_frac))  # <= 2**14
        bits = let("bits", gate_frac - 2)  # of a table step, [2, 9]
        mask = let("mask", shift_left(1, bits) - 1)

        def compute(i: Expr) -> None:
            g = let("g", gate[i])
            z = let("z", maximum(minimum(g, limit - 1), 0 - limit) + limit)  # [0, 2**15)
            index = let("index", shift_right(z, bits))
            low = let("low", sigmoid[index])
            rise = let("rise", sigmoid[index + 1] - low)  # [0, 2**11]: its product is below 2**20
            sigma = let("sigma", low + round_shift(rise * bit_and(z, mask), bits))  # Q15
            silu = let("silu", round_shift(g * sigma, 15))  # Q(gate_frac), |silu| <= 2**15
            # |silu * up| <= 2**30, plus half of 2**30: below 2**31
            y[i] = saturate_s16(round_shift(silu * up[i], shift), f.intrinsics)

        unrolled("i", f["n"], 2, compute)

    return body


_KERNELS: dict[str, Callable[[Function], _Body]] = {
    "rmsnorm_s16": _rmsnorm,
    "block_s8": _block,
    "rope_s16": _rope_s16,
    "rope_s8": _rope_s8,
    "rebase_s8": _rebase,
    "attention_s16": _attention,
    "swiglu_s16": _swiglu,
}
