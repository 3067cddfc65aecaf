"""How sure a figure is: intervals of means over clusters, and of shares."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

NORMAL_95 = 1.959964  # of the normal distribution, two-sided
# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
STUDENT_95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def student_95(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; beyond the table by the first two terms of its expansion in
    1 / freedom (Abramowitz and Stegun 26.7.5), right to four digits."""
    if freedom <= len(STUDENT_95):
        return STUDENT_95[freedom - 1]
    z = NORMAL_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A mean over items that come in `clusters` clusters, and its standard error (0 for a single cluster)."""

    mean: float
    error: float
    items: int
    clusters: int

    def interval(self) -> Interval:
        """95 %, by Student's t with clusters - 1 degrees of freedom (Cameron and Miller 2015). With few clusters it
        covers what it says, where a bootstrap over them does not."""
        half = student_95(self.clusters - 1) * self.error
        return self.mean - half, self.mean + half

    def share_interval(self) -> Interval:
        """The same for a share of items: Wilson's, for as many independent items as have this error (Dean and Pagano
        2015, section 2), so that it stays in [0, 1] and has a width at both ends."""
        alone = self.mean * (1 - self.mean) / self.items
        effect = max(1.0, self.error**2 / alone) if alone > 0 else 1.0
        z = student_95(self.clusters - 1)
        return wilson(self.mean * self.items / effect, self.items / effect, z)


def ratio_of(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> Ratio:
    """sum(sums) / sum(counts), of clusters that hold counts[i] items with the sum sums[i]: a ratio estimator
    (Cochran, Sampling Techniques, section 2.11)."""
    clusters, items = len(sums), int(counts.sum())
    mean = float(sums.sum() / items)
    spread = float(((sums - mean * counts) ** 2).sum())
    error = math.sqrt(clusters / (clusters - 1) * spread) / items if clusters > 1 else 0.0
    return Ratio(mean, error, items, clusters)


def wilson(right: float, total: float, z: float = NORMAL_95) -> Interval:
    """Wilson's interval for a share of right in total > 0 (Wilson 1927)."""
    share, square = right / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / total + square / total / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def sign_test(one: int, other: int) -> float:
    """Two-sided probability that of one + other pairs that differ so few or fewer fall on the smaller side, were both
    sides equally likely (exact McNemar test); 1 where none differ."""
    total = one + other
    tail = sum(math.comb(total, k) for k in range(min(one, other) + 1))
    return min(1.0, 2 * tail / 2**total)
