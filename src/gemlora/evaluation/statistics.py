"""What scores show: means with intervals, paired differences with a verdict, and shares of judged pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import exp, lgamma, log, log1p
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]

CONFIDENCE = 0.95
FEWEST_DECIDED = 6
"""Cases won or lost without which there is no verdict: five that all point one way still happen by chance in one of
sixteen tries (sign test, two-sided), six in one of thirty-two.
"""

RESAMPLED_NUMBERS = 1 << 22
"""Drawn at a time; bounds the memory."""

BISECTIONS = 50
"""Halvings of the interval from 0 to 1: as many as a float keeps apart from 1."""


class Verdict(StrEnum):
    """What a difference shows."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What a paired comparison found: the mean difference, and how many cases were won, tied and lost."""

    mean: Interval
    won: int
    tied: int
    lost: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Percentile bootstrap over cases (Efron and Tibshirani 1993, chapter 13). The same seed draws the same cases."""

    resamples: int = 10_000
    seed: int = 1

    def mean(self, values: Numbers, weights: Numbers) -> Interval:
        """Of values [N] with weights [N], N > 0: cases are drawn with replacement, weights and all."""
        means = self._resampled_means(values, weights)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(means, (tail, 1 - tail))
        return Interval(float(values @ weights / weights.sum()), float(low), float(high))

    def _resampled_means(self, values: Numbers, weights: Numbers) -> Numbers:
        """[resamples]; every mean of the same number of cases is of the same draws."""
        random = np.random.default_rng(self.seed)
        weighted = values * weights
        means = np.empty(self.resamples)
        rows = max(1, RESAMPLED_NUMBERS // len(values))
        for start in range(0, self.resamples, rows):
            picks = random.integers(0, len(values), (min(rows, self.resamples - start), len(values)))
            means[start : start + len(picks)] = weighted[picks].sum(axis=1) / weights[picks].sum(axis=1)
        return means


def compare(
    bootstrap: Bootstrap, values: Numbers, base: Numbers, weights: Numbers, *, lower_is_better: bool = False
) -> Difference:
    """Values [N] against those of the base [N] for the same cases, N > 0.

    There is a verdict if the interval of the mean difference lies on one side of 0 and enough cases were decided.
    """
    differences = values - base
    mean = bootstrap.mean(differences, weights)
    gains = -differences if lower_is_better else differences
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    verdict = Verdict.NOT_SHOWN
    if won + lost >= FEWEST_DECIDED and (mean.low > 0 or mean.high < 0):
        verdict = Verdict.BETTER if (mean.low > 0) != lower_is_better else Verdict.WORSE
    return Difference(mean, won, len(differences) - won - lost, lost, verdict)


def binomial_interval(successes: int, trials: int) -> Interval:
    """The exact interval of a share (Clopper and Pearson 1934), `trials` > 0."""
    tail = (1 - CONFIDENCE) / 2
    low = _bisect(lambda share: at_least(successes, trials, share) < tail) if successes else 0.0
    high = _bisect(lambda share: at_most(successes, trials, share) > tail) if successes < trials else 1.0
    return Interval(successes / trials, low, high)


def sign_test(won: int, lost: int) -> float:
    """The two-sided p-value of won against lost if both were equally likely."""
    if won + lost == 0:
        return 1.0
    return min(1.0, 2 * at_most(min(won, lost), won + lost, 0.5))


def at_most(successes: int, trials: int, share: float) -> float:
    """P(X ≤ successes) for X binomial with 0 < share < 1."""
    return min(1.0, sum(_probability(count, trials, share) for count in range(successes + 1)))


def at_least(successes: int, trials: int, share: float) -> float:
    """P(X ≥ successes), likewise."""
    return min(1.0, sum(_probability(count, trials, share) for count in range(successes, trials + 1)))


def _probability(count: int, trials: int, share: float) -> float:
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    return exp(ways + count * log(share) + (trials - count) * log1p(-share))


def _bisect(is_below: Callable[[float], bool]) -> float:
    """The share between 0 and 1 up to which `is_below` holds."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return low
