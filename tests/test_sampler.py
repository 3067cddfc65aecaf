"""The sampler: settings to integers, its distribution, and the C twin draw by draw."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from pathlib import Path

import native
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcugen.errors import UsageError
from mcugen.sampler import Sampler, make_sampler, sample, seed_state, token_weights, xorshift32
from mcugen.tables import EXP2_Q15

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
SOURCES = [FIRMWARE / "runtime" / "sampler.c", FIRMWARE / "kernels" / "tables.c"]
INCLUDE_DIRS = [FIRMWARE / "runtime", FIRMWARE / "kernels"]

TEMPERATURES = st.sampled_from([0.0, 0.05, 0.3, 0.8, 1.0, 1.5, 100.0])
SAMPLERS = st.builds(
    make_sampler, TEMPERATURES, st.integers(0, 12), st.floats(1e-6, 1.0) | st.just(1.0), st.integers(0, 2**32 - 1)
)
EXTREMES = st.sampled_from([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1])
NATS = st.integers(-20 * 65536, 20 * 65536) | st.integers(-1000 * 65536, 0)
LOGITS = st.one_of(
    st.lists(NATS, min_size=1, max_size=40),
    st.lists(st.sampled_from([0, 65536, 65600, 100000]), min_size=1, max_size=40),  # many ties
    st.lists(NATS | EXTREMES, min_size=1, max_size=40),
).map(lambda values: np.array(values, np.int32))


def float_probabilities(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The textbook's distribution, in float64; logits without ties."""
    p = np.exp((logits - logits.max()) / 65536 / temperature)
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    p[order[np.cumsum(p[order]) - p[order] >= top_p]] = 0
    return p / p.sum()


def draws(sampler: Sampler, logits: np.ndarray, count: int) -> list[int]:
    tokens = []
    for _ in range(count):
        token, sampler = sample(sampler, logits)
        tokens.append(token)
    return tokens


# ---------------------------------------------------------------- Python


def test_greedy_takes_the_lowest_index_and_no_random_number():
    sampler = make_sampler(0.0, 0, 1.0, 1)
    assert sample(sampler, np.array([3, 9, 9, -5], np.int32)) == (1, sampler)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 0.8, 1.0, 1.5, 4.0, 100.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.8), (40, 0.9)])
def test_weights_are_the_softmax(temperature, top_k, top_p):
    """Every probability is right to half a step of distance (2**(1/128): 0.55 %) and half a unit in Q15."""
    logits = np.random.default_rng(1).normal(0, 3 * 65536 * temperature, 512).astype(np.int32)
    logits[7] = logits.max() + round(0.5 * 65536 * temperature)
    expected = float_probabilities(logits, temperature, top_k, top_p)
    weights = token_weights(make_sampler(temperature, top_k, top_p, 0), logits)
    np.testing.assert_array_equal(weights[expected == 0], 0)
    np.testing.assert_allclose(weights / weights[7], expected / expected[7], rtol=0.006, atol=2 / 32768)


def test_a_weight_is_an_entry_of_the_table_or_nothing():
    """Every distance to the end of the table and beyond; half a step of 1/64 octave rounds up."""
    sampler = dataclasses.replace(make_sampler(1.0, 0, 1.0, 0), multiplier=2**14, shift=0)  # 64 logit units a step
    distance = np.arange(1100)
    expected = np.append(EXP2_Q15, np.zeros(76, int))
    for off, further in ((0, 0), (31, 0), (32, 1)):
        weights = token_weights(sampler, -(64 * distance + off).astype(np.int32) + off * (distance == 0))
        np.testing.assert_array_equal(weights[1:-1], expected[1 + further : 1099 + further])
        assert weights[0] == 32767


def test_draws_follow_the_weights():
    logits = np.array([0, 40000, 90000, 100000, -(10**9), 65536], np.int32)
    sampler = make_sampler(0.9, 0, 1.0, 7)
    weights = token_weights(sampler, logits)
    counts = np.bincount(draws(sampler, logits, 20000), minlength=6)
    assert counts[4] == weights[4] == 0
    kept = weights > 0
    expected = 20000 * weights[kept] / weights.sum()
    chi_square = float(((counts[kept] - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 4 degrees of freedom, one chance in a thousand; the seed is fixed


def test_top_k_keeps_the_lowest_indices_of_ties():
    logits = np.tile(np.array([5, 0, 4, 5, 4], np.int32) * 65536, 100)
    assert np.flatnonzero(token_weights(make_sampler(1.0, 2, 1.0, 0), logits)).tolist() == [0, 3]
    expected = [*range(0, 500, 5), 2, *range(3, 500, 5)]
    assert np.flatnonzero(token_weights(make_sampler(1.0, 201, 1.0, 0), logits)).tolist() == sorted(expected)


def test_top_p_keeps_ties_and_at_least_the_best():
    logits = np.array([0, 9, 9, 1], np.int32) * 65536
    assert np.flatnonzero(token_weights(make_sampler(1.0, 0, 1e-6, 0), logits)).tolist() == [1, 2]
    assert np.flatnonzero(token_weights(make_sampler(1.0, 1, 1e-6, 0), logits)).tolist() == [1]


@given(st.floats(0.05, 100.0))
def test_scale_of_every_temperature_fits_32_bits(temperature):
    sampler = make_sampler(temperature, 0, 1.0, 0)
    assert 2**14 <= sampler.multiplier < 2**15
    assert 0 <= sampler.shift <= 31
    scale = 64 / np.log(2) / 65536 / temperature
    assert sampler.multiplier * 2.0 ** -(sampler.shift + 20) == pytest.approx(scale, rel=2**-14)


def test_xorshift32_is_that_of_the_paper():
    # The first numbers from the paper's seed, as Wikipedia and many test suites give them.
    state = 2463534242
    assert (state := xorshift32(state)) == 723471715
    assert xorshift32(state) == 2497366906


def test_no_seed_gives_state_zero():
    states = [seed_state(seed) for seed in range(1000)]
    assert 0 not in states
    assert len(set(states)) == 1000


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            (0.01, 0, 1.0, 0),
            "a temperature of 0.01 is out of range\n"
            "  where: sampler settings\n"
            "  try:   use 0 (always the likeliest token) or 0.05 to 100",
        ),
        (
            (float("nan"), 0, 1.0, 0),
            "a temperature of nan is out of range\n"
            "  where: sampler settings\n"
            "  try:   use 0 (always the likeliest token) or 0.05 to 100",
        ),
        (
            (1.0, -3, 1.0, 0),
            "top-k -3 is out of range\n  where: sampler settings\n  try:   use 0 to keep every token, or 1 and more",
        ),
        (
            (1.0, 0, 0.0, 0),
            "top-p 0 is out of range\n"
            "  where: sampler settings\n"
            "  try:   use a share above 0, up to 1 to keep every token",
        ),
        (
            (1.0, 0, float("nan"), 0),
            "top-p nan is out of range\n"
            "  where: sampler settings\n"
            "  try:   use a share above 0, up to 1 to keep every token",
        ),
        ((1.0, 0, 1.0, -1), "seed -1 is out of range\n  where: sampler settings\n  try:   use 0 to 4294967295"),
    ],
)
def test_impossible_settings(settings, text):
    with pytest.raises(UsageError) as caught:
        make_sampler(*settings)
    assert str(caught.value) == text


# ---------------------------------------------------------------- C twin


class CSampler(ctypes.Structure):
    """mg_sampler_t."""

    _fields_ = [(field.name, ctypes.c_uint32) for field in dataclasses.fields(Sampler)]


@functools.cache
def library() -> ctypes.CDLL:
    return native.load(SOURCES, INCLUDE_DIRS)


def c_sample(sampler: Sampler, logits: np.ndarray) -> tuple[int, Sampler]:
    struct = CSampler(*dataclasses.astuple(sampler))
    before = logits.copy()
    token = library().mg_sample(ctypes.byref(struct), ctypes.c_void_p(logits.ctypes.data), len(logits))
    np.testing.assert_array_equal(logits, before)  # only read
    return token, Sampler(*(getattr(struct, name) for name, _ in CSampler._fields_))


@given(SAMPLERS, LOGITS)
@example(make_sampler(0.05, 0, 1.0, 0), np.array([-(2**31), 2**31 - 1], np.int32))  # the largest distance
@example(make_sampler(100.0, 1, 1.0, 0), np.array([-(2**31)] * 3, np.int32))
@example(make_sampler(1.0, 3, 0.5, 9), np.array([0, 0, 0, 0], np.int32))
@example(make_sampler(1.0, 0, 1.0, 0), np.array([-2907280] * 16 + [0], np.int32))  # 2**32 in 64 bits, 0 in 32
def test_c_draws_alike(sampler, logits):
    for _ in range(4):
        drawn, advanced = sample(sampler, logits)
        assert c_sample(sampler, logits) == (drawn, advanced)
        sampler = advanced


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (50, 0.95)])
def test_c_draws_alike_from_the_largest_vocabulary(top_k, top_p):
    """65,536 equal logits: the largest sum of weights, 65536 * 32767."""
    sampler = make_sampler(1.0, top_k, top_p, 3)
    logits = np.zeros(65536, np.int32)
    assert token_weights(sampler, logits).sum() <= 65536 * 32767 < 2**31
    assert c_sample(sampler, logits) == sample(sampler, logits)


def test_c_rounds_the_share_of_top_p_up():
    """A share that the best token misses by less than one unit of weight keeps the second one too."""
    logits = np.array([65536, 0], np.int32)
    best, second = token_weights(make_sampler(1.0, 0, 1.0, 0), logits).tolist()
    just_more = best * 65536 // (best + second) + 1
    for top_p, kept in ((just_more, 2), (just_more - 1, 1)):
        sampler = dataclasses.replace(make_sampler(1.0, 0, 1.0, 0), top_p=top_p)
        assert np.count_nonzero(token_weights(sampler, logits)) == kept
        tokens = set()
        for _ in range(50):
            token, sampler = c_sample(sampler, logits)
            tokens.add(token)
        assert len(tokens) == kept


@pytest.mark.parametrize(("share", "token"), [(0, 0), (32766, 0), (32767, 1), (65533, 1)])
def test_c_draws_on_the_boundary(share, token):
    """Two equal tokens of weight 32767: shares below 32767 are the first one's."""
    sampler = make_sampler(1.0, 0, 1.0, 0)
    while (xorshift32(sampler.state) * 65534) >> 32 != share:
        sampler = dataclasses.replace(sampler, state=xorshift32(sampler.state))
    logits = np.zeros(2, np.int32)
    assert c_sample(sampler, logits)[0] == sample(sampler, logits)[0] == token


@pytest.mark.parametrize("distance", [0, 1, 63, 64, 511, 1022, 1023, 1024, 5000])
def test_c_weighs_alike_at_every_distance(distance):
    """The last share is the second token's down to a weight of 1; then there is none."""
    sampler = dataclasses.replace(make_sampler(1.0, 0, 1.0, 0), multiplier=2**14, shift=0)  # 64 logit units a step
    logits = np.array([0, -64 * distance], np.int32)
    total = int(token_weights(sampler, logits).sum())
    while (xorshift32(sampler.state) * total) >> 32 != total - 1:
        sampler = dataclasses.replace(sampler, state=xorshift32(sampler.state))
    drawn, _ = sample(sampler, logits)
    assert drawn == (distance < 1024)
    assert c_sample(sampler, logits)[0] == drawn


@given(st.integers(0, 2**32 - 1))
@example(0)
def test_c_seeds_alike(seed):
    struct = CSampler()
    library().mg_sampler_seed(ctypes.byref(struct), ctypes.c_uint32(seed))
    assert struct.state == seed_state(seed)


def test_c_compiles_without_a_warning():
    native.compile_clean(SOURCES[:1], INCLUDE_DIRS)
