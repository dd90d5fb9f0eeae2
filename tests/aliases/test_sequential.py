"""The sequential test on simulated outcomes: how often it errs, and how often it finds what it shall find in time."""

import numpy as np
import pytest

from gemlora.aliases.sequential import Arm, Design, Evidence, Verdict

RUNS = 400
ARMS = (Arm.CONTROL, Arm.CANDIDATE)


def simulated(design: Design, control: float, candidate: float, seed: int, share: float) -> tuple[Verdict, int]:
    """The verdict and how many outcomes it took, until each version has had the planned sample."""
    random = np.random.default_rng(seed)
    limit = int(design.planned_sample / min(share, 1 - share) * 1.5)
    arms = (random.random(limit) < share).astype(int)
    values = random.random(limit) < np.where(arms, candidate, control)
    evidence, seen, sample = Evidence(), [0, 0], design.planned_sample
    for number, (arm, value) in enumerate(zip(arms.tolist(), values.tolist(), strict=True), 1):
        before = evidence.blocks
        evidence.add(ARMS[arm], float(value), design)
        seen[arm] += 1
        verdict = evidence.verdict(design) if evidence.blocks > before else Verdict.RUNNING
        if verdict is not Verdict.RUNNING:
            return verdict, number
        if min(seen) >= sample:
            return Verdict.NO_DIFFERENCE, number
    return Verdict.RUNNING, limit


CASES = [(0.2, 0.5, 0.5), (0.2, 0.9, 0.5), (0.3, 0.6, 0.2), (0.5, 0.75, 0.5)]
"""Effect, mean of the control, share of the candidate."""


@pytest.mark.parametrize(("effect", "mean", "share"), CASES)
def test_a_candidate_that_is_as_good_seldom_gets_a_verdict(effect: float, mean: float, share: float) -> None:
    design = Design(effect)
    verdicts = [simulated(design, mean, mean, seed, share)[0] for seed in range(RUNS)]
    alarms = sum(verdict in (Verdict.WORSE, Verdict.BETTER) for verdict in verdicts) / RUNS
    print(f"effect {effect}, mean {mean}, share {share}: {alarms:.1%} false alarms in {RUNS} runs")

    assert alarms <= design.alpha


@pytest.mark.parametrize(("effect", "mean", "share"), CASES)
def test_a_candidate_that_is_worse_by_the_effect_is_found_within_the_sample(
    effect: float, mean: float, share: float
) -> None:
    design = Design(effect)
    found = [simulated(design, mean, mean - effect, seed, share) for seed in range(RUNS)]
    worse = [number for verdict, number in found if verdict is Verdict.WORSE]
    print(
        f"effect {effect}, mean {mean}, share {share}: {len(worse) / RUNS:.1%} found within {design.planned_sample} "
        f"of each, {np.median(worse):.0f} outcomes of both in the median"
    )

    assert len(worse) / RUNS >= design.power
    assert all(verdict is not Verdict.BETTER for verdict, _ in found)
