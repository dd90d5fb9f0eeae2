"""Intervals cover the truth as often as they claim, and verdicts follow from them."""

import numpy as np
import pytest

from gemlora.evaluation.statistics import Bootstrap, Interval, Verdict, binomial_interval, compare, sign_test

FEW = Bootstrap(resamples=400)
TRUTH = 0.1


def ones(count: int) -> np.ndarray:
    return np.ones(count)


def test_the_intervals_of_paired_differences_cover_the_truth_as_often_as_they_claim() -> None:
    random = np.random.default_rng(11)
    covered, shown, tries = 0, 0, 200
    for _ in range(tries):
        base = random.random(60)
        values = base + random.exponential(0.3, 60) - 0.3 + TRUTH
        mean = compare(FEW, values, base, ones(60)).mean
        covered += mean.low <= TRUTH <= mean.high
        equal = compare(FEW, values - TRUTH, base, ones(60))
        shown += equal.verdict is not Verdict.NOT_SHOWN

    assert 0.91 <= covered / tries <= 0.97
    assert 0.03 <= shown / tries <= 0.09


def test_pairs_are_compared_not_averages() -> None:
    base = np.random.default_rng(0).normal(0, 100, 40)

    difference = compare(FEW, base + 0.1, base, ones(40))

    assert difference.verdict is Verdict.BETTER
    assert (difference.won, difference.tied, difference.lost) == (40, 0, 0)
    assert difference.mean.low == pytest.approx(0.1)


def test_weighted_means_are_those_of_the_cases_tokens() -> None:
    values, weights = np.array([1.0, 4.0]), np.array([3.0, 1.0])

    mean = Bootstrap().mean(values, weights)

    assert mean.value == (3 * 1 + 4) / 4
    assert (mean.low, mean.high) == (1, 4)


def test_lower_is_better_turns_the_verdict_and_not_the_number() -> None:
    base, values = np.full(10, 3.0), np.full(10, 2.0)

    assert compare(FEW, values, base, ones(10)).verdict is Verdict.WORSE
    better = compare(FEW, values, base, ones(10), lower_is_better=True)
    assert (better.verdict, better.won, better.mean) == (Verdict.BETTER, 10, Interval(-1, -1, -1))


@pytest.mark.parametrize(("decided", "verdict"), [(5, Verdict.NOT_SHOWN), (6, Verdict.BETTER)])
def test_too_few_decided_cases_show_nothing(decided: int, verdict: Verdict) -> None:
    values = np.array([1.0] * decided)

    assert compare(FEW, values, np.zeros(decided), ones(decided)).verdict is verdict


def test_the_same_seed_draws_the_same_cases() -> None:
    values = np.random.default_rng(3).random(30)

    assert Bootstrap(seed=1).mean(values, ones(30)) == Bootstrap(seed=1).mean(values, ones(30))
    assert Bootstrap(seed=1).mean(values, ones(30)) != Bootstrap(seed=2).mean(values, ones(30))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0, 0.308497), (10, 10, 0.691503, 1), (14, 18, 0.523627, 0.935907), (1, 2, 0.012579, 0.987421)],
)
def test_binomial_intervals_are_those_of_the_tables(successes: int, trials: int, low: float, high: float) -> None:
    interval = binomial_interval(successes, trials)

    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-5)
    assert interval.value == successes / trials


def test_the_sign_test_is_exact_and_two_sided() -> None:
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(0, 6) == pytest.approx(2 / 64)
    assert sign_test(14, 4) == pytest.approx(0.030884, abs=1e-6)
    assert sign_test(3, 3) == sign_test(0, 0) == 1
    assert sign_test(5200, 4800) == pytest.approx(6.5e-5, rel=0.05)
