"""A test of two versions whose verdict may be looked at after every outcome. Pure arithmetic; knows no aliases.

It bets on the difference of two bounded means (Waudby-Smith and Ramdas, "Estimating means of bounded random variables
by betting", 2024; Shekhar and Ramdas, "Nonparametric two-sample testing by betting", 2023). Outcomes are gathered in
blocks of at least `Design.block` of each version. D, a block's mean of the candidate less that of the control, lies in
[-1, 1] and has mean 0 if nothing differs, whatever the outcomes' distribution. Two players bet a share b of their money
on each block, one on D > 0, one on D < 0: money is multiplied by 1 + b D or by 1 - b D. b is fixed before the block is
seen, so that with no difference the money is a martingale and exceeds 2 / alpha with probability alpha / 2 at most,
ever (Ville's inequality). b = effect / E[D²] makes money grow fastest if the difference is the effect of interest.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil, comb, log, log1p, sqrt
from statistics import NormalDist

HIGHEST_BET = 0.75
"""Of the money, so that no single block can ruin a player."""
PRIOR_BLOCKS = 10
"""How many blocks' worth the guess at E[D²] counts, beside what was seen."""
WORST_VARIANCE = 0.5
"""Of a difference of two outcomes in [0, 1]: that of two fair coins."""


class Arm(StrEnum):
    """Whose outcome it is."""

    CONTROL = "control"
    CANDIDATE = "candidate"


class Verdict(StrEnum):
    """What a test says of the candidate. All but the first are final."""

    RUNNING = "running"
    WORSE = "worse"
    BETTER = "better"
    NO_DIFFERENCE = "no_difference"


@dataclass(frozen=True, slots=True)
class Design:
    """What a test shall find out: a difference of means of at least `effect`, 0 < effect < 1.

    With no difference it errs with probability `alpha` at most, however long it runs and whenever it is looked at. A
    difference of `effect` is found within `planned_sample` outcomes of each version with probability `power`.
    """

    effect: float
    alpha: float = 0.05
    power: float = 0.95

    @property
    def block(self) -> int:
        """How many outcomes of each version a block has at least: so many that the best bet stays below the highest."""
        return max(1, int(WORST_VARIANCE / 2 / self.effect))

    @property
    def guessed_square(self) -> float:
        """E[D²] as far as it is known beforehand."""
        return WORST_VARIANCE / self.block + self.effect**2

    @property
    def goal(self) -> float:
        """The logarithm of the money that decides."""
        return log(2 / self.alpha)

    @property
    def planned_sample(self) -> int:
        """Outcomes of each version that suffice, whatever their distribution, if both come equally often.

        The logarithm of the money is a random walk: per block its mean is about half its variance, effect² / (2 E[D²])
        at the best bet. It shall exceed the goal with probability `power`.
        """
        bet = min(HIGHEST_BET, self.effect / self.guessed_square)
        growth = bet * self.effect - bet**2 * self.guessed_square / 2
        quantile = NormalDist().inv_cdf(self.power) * bet * sqrt(self.guessed_square)
        root = (quantile + sqrt(max(0.0, quantile**2 + 4 * growth * self.goal))) / (2 * growth)
        # Two versions by a fair coin: when both have enough for a block, one has some more (Banach's match boxes).
        surplus = 1 + comb(2 * self.block, self.block) / 4.0**self.block
        return ceil(root**2 * self.block * surplus)


@dataclass(slots=True)
class Evidence:
    """What a test has seen: the open block, the blocks before it, and the logarithms of both players' money."""

    control_count: int = 0
    control_sum: float = 0.0
    candidate_count: int = 0
    candidate_sum: float = 0.0
    blocks: int = 0
    squares: float = 0.0
    better: float = 0.0
    worse: float = 0.0

    def add(self, arm: Arm, value: float, design: Design) -> None:
        """Take an outcome in [0, 1]; higher is better."""
        if arm is Arm.CONTROL:
            self.control_count += 1
            self.control_sum += value
        else:
            self.candidate_count += 1
            self.candidate_sum += value
        if min(self.control_count, self.candidate_count) >= design.block:
            self._bet(self.candidate_sum / self.candidate_count - self.control_sum / self.control_count, design)
            self.control_count = self.candidate_count = 0
            self.control_sum = self.candidate_sum = 0.0

    def verdict(self, design: Design) -> Verdict:
        """What the money says by now."""
        if self.worse >= design.goal:
            return Verdict.WORSE
        return Verdict.BETTER if self.better >= design.goal else Verdict.RUNNING

    def _bet(self, difference: float, design: Design) -> None:
        square = (PRIOR_BLOCKS * design.guessed_square + self.squares) / (PRIOR_BLOCKS + self.blocks)
        bet = min(HIGHEST_BET, design.effect / square)
        self.better += log1p(bet * difference)
        self.worse += log1p(-bet * difference)
        self.blocks += 1
        self.squares += difference**2
