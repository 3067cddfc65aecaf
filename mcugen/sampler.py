"""The next token from integer logits: greedy, temperature, top-k, top-p. Twin of firmware/runtime/sampler.c.

A token's distance says how much less likely than the best one it is, in 1/64 octaves of probability; its weight
is 2**(-distance / 64) in Q15, from the table that softmax uses too. Floats end at make_sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mcugen.errors import UsageError
from mcugen.tables import EXP2_Q15

MIN_TEMPERATURE = 0.05  # below, distances would need more than 32 bits; the best token has practically all weight
MAX_TEMPERATURE = 100.0
FAR_AWAY = 16 * 64  # a distance of 16 octaves: less than half a unit of weight, hence none
_ALL = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Sampler:
    """The fields of mg_sampler_t, in its order.

    multiplier, shift: distance = ((best - logit) >> shift) * multiplier / 2**20, rounded. multiplier is in
    [2**14, 2**15), or 0 for greedy; shift is at most 31.
    top_k: 0 keeps all. top_p: Q16 in [1, 65536]; 65536 keeps all. state: of xorshift32, not 0.
    """

    multiplier: int
    shift: int
    top_k: int
    top_p: int
    state: int


def make_sampler(temperature: float, top_k: int, top_p: float, seed: int) -> Sampler:
    """Turn a user's wishes into the integers of a Sampler.

    temperature: 0 is greedy. top_k: 0 keeps every token. top_p: 1 keeps every token. seed: any uint32.
    Raises UsageError.
    """
    where = "sampler settings"
    if temperature != 0 and not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise UsageError(
            f"a temperature of {temperature:g} is out of range",
            where=where,
            hint=f"use 0 (always the likeliest token) or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}",
        )
    if not 0 <= top_k <= _ALL:
        raise UsageError(
            f"top-k {top_k} is out of range", where=where, hint="use 0 to keep every token, or 1 and more"
        )
    if not 0 < top_p <= 1:
        raise UsageError(
            f"top-p {top_p:g} is out of range", where=where, hint="use a share above 0, up to 1 to keep every token"
        )
    if not 0 <= seed <= _ALL:
        raise UsageError(f"seed {seed} is out of range", where=where, hint=f"use 0 to {_ALL}")
    multiplier, shift = (0, 0) if temperature == 0 else _distance_scale(temperature)
    return Sampler(multiplier, shift, top_k, max(1, round(top_p * 65536)), seed_state(seed))


def _distance_scale(temperature: float) -> tuple[int, int]:
    """Return multiplier in [2**14, 2**15) and shift, so that multiplier * 2**-(shift + 20) is the scale.

    The scale brings Q16 nats to 1/64 octaves. Then every distance below FAR_AWAY has (best - logit) >> shift below
    2**16: 1024 * 2**20 / 2**14.
    """
    scale = 64 * math.log2(math.e) / 65536 / temperature
    mantissa, exponent = math.frexp(scale)  # mantissa in [0.5, 1)
    multiplier = min(round(mantissa * 2**15), 2**15 - 1)
    return multiplier, 15 - exponent - 20


def seed_state(seed: int) -> int:
    """Return the first state of a seed; neighbouring seeds start far apart. Twin: mg_sampler_seed."""
    state = seed
    state = (state ^ (state >> 16)) * 0x85EBCA6B & _ALL
    state = (state ^ (state >> 13)) * 0xC2B2AE35 & _ALL
    state ^= state >> 16
    return state or 1


def sample(sampler: Sampler, logits: NDArray[np.int32]) -> tuple[int, Sampler]:
    """Return the next token and the sampler to draw the one after it.

    logits: int32[vocab], Q16 nats, any values; vocab <= 65536.
    The same results by other means than the C twin: sorting and sums per distance instead of binary search.
    """
    if sampler.multiplier == 0:
        return int(np.argmax(logits)), sampler
    weights = token_weights(sampler, logits)
    state = xorshift32(sampler.state)
    share = (state * int(weights.sum())) >> 32
    token = int(np.searchsorted(np.cumsum(weights), share, side="right"))
    return token, replace(sampler, state=state)


def token_weights(sampler: Sampler, logits: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return how likely each token is to be drawn: int64[vocab], each at most 32767; the sum is below 2**31."""
    steps = (int(logits.max()) - logits.astype(np.int64)) >> sampler.shift
    distance = np.minimum((steps * sampler.multiplier + (1 << 19)) >> 20, FAR_AWAY)
    weights = np.append(EXP2_Q15.astype(np.int64), 0)[distance]
    if 0 < sampler.top_k < len(logits):
        weights[np.argsort(distance, kind="stable")[sampler.top_k :]] = 0  # stable: ties keep the lowest indices
    if sampler.top_p < 65536:
        within = np.zeros(FAR_AWAY + 1, np.int64)
        np.add.at(within, distance, weights)
        wanted = (int(weights.sum()) * sampler.top_p + 0xFFFF) >> 16
        cut = int(np.searchsorted(np.cumsum(within), wanted))  # the smallest distance that holds the share
        weights[distance > cut] = 0
    return weights


def xorshift32(state: int) -> int:
    """Return the next state (Marsaglia, Xorshift RNGs, 2003, section 3)."""
    state ^= state << 13 & _ALL
    state ^= state >> 17
    state ^= state << 5 & _ALL
    return state
