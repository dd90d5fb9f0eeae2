"""The files that benchmarks leave behind: named figures, what they come from, the machine and the version measured."""

import json
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

FOLDER = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parents[1]

Figures = dict[str, float]
Round = Mapping[str, Any]


def write(path: Path, figures: Figures, rounds: Sequence[Round], **settings: Any) -> None:
    """Write a result: figures that pages quote, the settings that made them, and every round as it was measured."""
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine.facts(),
        "settings": settings,
        "figures": figures,
        "rounds": rounds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def commit() -> str:
    """The measured version: the commit's hash, with a plus where files differ from it; empty outside a checkout."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()


def medians(rounds: Iterable[Mapping[str, float]]) -> Figures:
    """The median of each name over the rounds that have it."""
    values: dict[str, list[float]] = {}
    for each in rounds:
        for name, value in each.items():
            values.setdefault(name, []).append(value)
    return {name: statistics.median(found) for name, found in values.items()}


def median_ratio(rounds: Iterable[Mapping[str, float]], numerator: str, denominator: str) -> float | None:
    """The median over rounds of one figure ÷ another of the same round; None if no round has both."""
    ratios = [each[numerator] / each[denominator] for each in rounds if numerator in each and denominator in each]
    return statistics.median(ratios) if ratios else None
