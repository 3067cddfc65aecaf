"""Intervals, against tables and against what was worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mcugen.statistics import Ratio, ratio_of, sign_test, student_95, wilson


@pytest.mark.parametrize(
    ("freedom", "point"),
    # Fisher and Yates, table III
    [(1, 12.706), (2, 4.303), (10, 2.228), (30, 2.042), (31, 2.0395), (40, 2.021), (60, 2.000), (120, 1.980)],
)
def test_students_t(freedom: int, point: float) -> None:
    assert student_95(freedom) == pytest.approx(point, abs=6e-4)


def test_students_t_shrinks_to_the_normal_distributions() -> None:
    points = [student_95(freedom) for freedom in range(1, 200)]
    assert points == sorted(points, reverse=True) and student_95(10**6) == pytest.approx(1.959966, abs=1e-6)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # z**2 = 3.841459: (0.8 + 0.192073) / 1.3841459 -/+ 0.2265777
        (0, 10, 0.0, 0.2775328),  # z**2 / (n + z**2)
        (10, 10, 0.7224672, 1.0),
        (163, 167, 0.9400405, 0.9906470),
    ],
)
def test_wilson(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "chance"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (6, 0, 2 / 64), (1, 7, 2 * (1 + 8) / 256), (7, 1, 2 * (1 + 8) / 256)],
)
def test_sign_test(one: int, other: int, chance: float) -> None:
    assert sign_test(one, other) == pytest.approx(chance)


def test_a_ratio_of_clusters_by_hand() -> None:
    """Sums 2, 4, 9 of 2, 2, 4 items: 15 / 8; residuals -1.75, 0.25, 1.5 have squares of 5.375 in all."""
    found = ratio_of(np.array([2.0, 4.0, 9.0]), np.array([2, 2, 4]))
    assert (found.mean, found.items, found.clusters) == (1.875, 8, 3)
    assert found.error == pytest.approx(math.sqrt(3 / 2 * 5.375) / 8)
    half = 4.3027 * found.error
    assert found.interval() == pytest.approx((1.875 - half, 1.875 + half))


def test_a_share_of_dependent_items_counts_fewer() -> None:
    """0.8 of 100 items with twice the error of independent ones (0.04): as 25 of them."""
    assert Ratio(0.8, 0.08, 100, 10**6).share_interval() == pytest.approx(wilson(20, 25), abs=1e-5)
    assert Ratio(0.8, 0.01, 100, 10**6).share_interval() == pytest.approx(wilson(80, 100), abs=1e-5)  # never as more


def test_a_share_of_all_has_a_width() -> None:
    assert Ratio(1.0, 0.0, 10, 10**6).share_interval() == pytest.approx((0.7224672, 1.0), abs=1e-5)


def test_few_clusters_are_covered_as_stated() -> None:
    """5 sequences with 95 % claimed: the interval holds the truth in 93 % of 2,000 draws or more (skewed sums, as losses
    are); 1.96 standard errors would in 85 %."""
    rng = np.random.default_rng(3)
    counts = np.full(5, 50)
    covered = narrow = 0
    for _ in range(2000):
        found = ratio_of(rng.gamma(8.0, 1.0, 5) * 50 / 8, counts)
        low, high = found.interval()
        covered += low <= 1 <= high
        narrow += abs(found.mean - 1) <= 1.96 * found.error
    assert covered > 0.92 * 2000 > 0.88 * 2000 > narrow
