"""What an evaluation found: every answer with its scores, what they show, and the same as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlora.evaluation.asking import Answer, Asked, Contender
from gemlora.evaluation.cases import Cases
from gemlora.evaluation.judgements import Judged
from gemlora.evaluation.scorers import Scorer
from gemlora.evaluation.statistics import Bootstrap, Difference, Interval, Numbers, Verdict, compare

JSON_VERSION = 1
NATS = "nats per token"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number for each case and contender.

    `values` [case, contender] are NaN where there is no answer; `weights` [case] say how much each case counts in a
    mean.
    """

    name: str
    values: Numbers
    weights: Numbers
    unit: str = ""
    lower_is_better: bool = False

    def complete(self, *columns: int) -> NDArray[np.intp]:
        """The cases that have a number in all these columns."""
        return np.flatnonzero(np.isfinite(self.values[:, list(columns)]).all(axis=1))


@dataclass(frozen=True, slots=True)
class Finding:
    """What one measure shows of one contender. `scored` counts its cases that have a number.

    `difference` is that to the first contender, over the cases that both have; None for the first one itself and
    where there are no such cases. So is `mean` without any number.
    """

    measure: Measure
    contender: Contender
    reference: Contender
    scored: int
    mean: Interval | None
    difference: Difference | None

    @property
    def perplexity(self) -> Interval | None:
        """e to the mean, for likelihoods."""
        if self.mean is None or self.measure.unit != NATS:
            return None
        return Interval(*(exp(number) for number in (self.mean.value, self.mean.low, self.mean.high)))

    @property
    def sentence(self) -> str:
        """The verdict, for people; empty where nothing is compared."""
        if self.difference is None:
            return ""
        name, other, measure = self.contender.label, self.reference.label, self.measure.name
        mean = shown_interval(self.difference.mean, signed=True)
        counts = f"{self.difference.won} won, {self.difference.tied} tied, {self.difference.lost} lost"
        if self.difference.verdict is Verdict.NOT_SHOWN:
            return f"{name} and {other}: no difference shown in {measure}: {mean}; {counts}."
        return f"{name} is {self.difference.verdict} than {other} in {measure}: {mean}; {counts}."


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was asked, answered and found. `facts` say how, in the order in which they are shown."""

    cases: Cases
    contenders: tuple[Contender, ...]
    asked: Asked
    measures: tuple[Measure, ...]
    findings: tuple[Finding, ...]
    facts: Mapping[str, str]


def score_answers(cases: Cases, answers: Sequence[Sequence[Answer]], scorers: Sequence[Scorer]) -> list[Measure]:
    """Every answer by every scorer. Answers that are missing have no score."""
    return [
        Measure(
            scorer.name,
            np.array(
                [
                    [np.nan if answer.failure else scorer.score(case, answer.text) for answer in row]
                    for case, row in zip(cases.cases, answers, strict=True)
                ],
                np.float64,
            ),
            np.ones(len(cases.cases)),
        )
        for scorer in scorers
    ]


def find(measures: Sequence[Measure], contenders: Sequence[Contender], bootstrap: Bootstrap) -> tuple[Finding, ...]:
    """What each measure shows of each contender; the first one is what the others are compared with."""
    return tuple(
        _finding(measure, contenders, column, bootstrap) for measure in measures for column in range(len(contenders))
    )


def _finding(measure: Measure, contenders: Sequence[Contender], column: int, bootstrap: Bootstrap) -> Finding:
    own, both = measure.complete(column), measure.complete(0, column)
    mean = bootstrap.mean(measure.values[own, column], measure.weights[own]) if len(own) else None
    difference = None
    if column and len(both):
        values, base, weights = measure.values[both, column], measure.values[both, 0], measure.weights[both]
        difference = compare(bootstrap, values, base, weights, lower_is_better=measure.lower_is_better)
    return Finding(measure, contenders[column], contenders[0], len(own), mean, difference)


def as_json(evaluation: Evaluation | None, judgements: Sequence[Judged]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "version": JSON_VERSION,
        **(_evaluation_json(evaluation) if evaluation is not None else {}),
        **({"judgements": [_judged_json(judged) for judged in judgements]} if judgements else {}),
    }


def shown_number(number: float, *, signed: bool = False) -> str:
    """With three decimals, or four digits if they are more; nothing has a sign where nothing is left to see."""
    places = max(0, min(3, 3 - floor(log10(abs(number))))) if number else 3
    text = f"{number:+.{places}f}" if signed else f"{number:.{places}f}"
    return text if float(text) else text.lstrip("+-")


def shown_interval(interval: Interval, *, signed: bool = False) -> str:
    """An estimate with its interval in brackets."""
    low, value, high = (shown_number(one, signed=signed) for one in (interval.low, interval.value, interval.high))
    return f"{value} ({low} to {high})"


def _evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "facts": dict(evaluation.facts),
        "contenders": [{"label": contender.label, "adapter": contender.adapter} for contender in evaluation.contenders],
        "findings": [_finding_json(finding) for finding in evaluation.findings],
        "failed": len(evaluation.asked.failures),
        "cases": [
            {
                "id": case.id,
                "question": case.question,
                "expected": list(case.accepted),
                "answers": [asdict(answer) for answer in answers],
                "scores": {measure.name: _numbers(measure.values[row]) for measure in evaluation.measures},
            }
            for row, (case, answers) in enumerate(zip(evaluation.cases.cases, evaluation.asked.answers, strict=True))
        ],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "measure": finding.measure.name,
        "unit": finding.measure.unit,
        "lower_is_better": finding.measure.lower_is_better,
        "contender": finding.contender.label,
        "scored": finding.scored,
        "mean": finding.mean and asdict(finding.mean),
        "perplexity": finding.perplexity and asdict(finding.perplexity),
        "difference": finding.difference and asdict(finding.difference),
    }


def _judged_json(judged: Judged) -> dict[str, Any]:
    share = judged.share
    return {**asdict(judged), "share": share and asdict(share), "p": judged.p, "verdict": judged.verdict}


def _numbers(values: Numbers) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
