"""Pairs that somebody judged in the playground: its export, JSON or CSV, and what it shows."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlora.errors import EvaluationInvalid
from gemlora.evaluation.statistics import CONFIDENCE, Interval, Verdict, binomial_interval, sign_test

VERDICTS = ("better", "same", "worse")
FORMULA_MARKS = ("'=", "'+", "'-", "'@")
"""How names begin in a CSV that a spreadsheet would take for a formula without the apostrophe."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How often `right` was judged better than, the same as and worse than `left`; `open` pairs were not judged."""

    left: str
    right: str
    better: int
    same: int
    worse: int
    open: int

    @property
    def share(self) -> Interval | None:
        """The share judged better among those judged better or worse; None if there are none."""
        return binomial_interval(self.better, self.better + self.worse) if self.better + self.worse else None

    @property
    def p(self) -> float:
        """The sign test's p-value."""
        return sign_test(self.better, self.worse)

    @property
    def verdict(self) -> Verdict:
        """What the judgements show."""
        if self.p > 1 - CONFIDENCE:
            return Verdict.NOT_SHOWN
        return Verdict.BETTER if self.better > self.worse else Verdict.WORSE


def read_judgements(path: Path) -> tuple[Judged, ...]:
    """What the playground's export says of each pair. Raises `EvaluationInvalid`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationInvalid(f"Could not read {path}: {error}") from None
    counts: dict[tuple[str, str], Counter[str | None]] = defaultdict(Counter)
    try:
        for pair in _from_json(text) if text.lstrip()[:1] == "[" else _from_csv(text):
            left, right, verdict = str(pair["left"]), str(pair["right"]), pair["verdict"] or None
            if verdict not in (*VERDICTS, None):
                raise ValueError(f"a verdict {verdict!r}")
            counts[left, right][verdict] += 1
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise EvaluationInvalid(
            f"{path} is no export of the playground's comparisons: {type(error).__name__}: {error}"
        ) from None
    if not counts:
        raise EvaluationInvalid(f"{path} has no comparisons")
    return tuple(
        Judged(left, right, count["better"], count["same"], count["worse"], count[None])
        for (left, right), count in counts.items()
    )


def _from_json(text: str) -> Iterator[Mapping[str, Any]]:
    for comparison in json.loads(text):
        yield from comparison["pairs"]


def _from_csv(text: str) -> Iterator[Mapping[str, Any]]:
    for row in csv.DictReader(io.StringIO(text, newline="")):
        yield {key: _plain(row[key]) for key in ("left", "right", "verdict")}


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith(FORMULA_MARKS) else cell
