"""Plots show where the numbers are."""

from dataclasses import replace

import numpy as np
import pytest
from tests.evaluation.made import CONTENDERS, evaluation

from gemlora.evaluation.report.plots import Scale, differences_plot, means_plot
from gemlora.evaluation.results import Measure, find
from gemlora.evaluation.statistics import Bootstrap


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.5, 1]),
        (-0.27, 0.31, [-0.2, 0, 0.2]),
        (97, 203, [100, 150, 200]),
        (-1.1, 1.1, [-1, 0, 1]),
        (2.000, 2.004, [2, 2.001, 2.002, 2.003, 2.004]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert Scale(low, high).ticks == pytest.approx(ticks)


def test_means_stand_at_their_places() -> None:
    findings = [one for one in evaluation().findings if one.measure.name == "exact"]

    plot = means_plot(findings)

    assert [circle.get("cx") for circle in plot.iter("circle")] == ["14.0", "326.0", "326.0"]
    assert [circle.get("class") for circle in plot.iter("circle")] == ["c0", "c1", "c2"]


def test_means_outside_of_0_to_1_get_a_scale_of_their_own() -> None:
    findings = [one for one in evaluation().findings if one.measure.name == "nll"]
    same = [replace(one, mean=replace(one.mean, value=3, low=3, high=3)) for one in findings if one.mean]

    for plot in (means_plot(findings), means_plot(same)):
        assert all(14 <= float(circle.get("cx", "")) <= 326 for circle in plot.iter("circle"))


@pytest.mark.parametrize(
    ("differences", "lower_is_better", "kinds", "counts"),
    [
        ([-1, 0, 0, 1, 1, 1], False, ["lost", "tied", "won"], ["1", "2", "3"]),
        ([-1, 0, 0, 1, 1, 1], True, ["won", "tied", "lost"], ["1", "2", "3"]),
        ([-1, -0.01, 0.01, 0.01], False, ["lost", "lost", "won"], ["1", "1", "2"]),
        ([0, 0], False, ["tied"], ["2"]),
        ([np.nan, 2], False, ["won"], ["1"]),
    ],
)
def test_bars_are_coloured_by_who_won(
    differences: list[float], lower_is_better: bool, kinds: list[str], counts: list[str]
) -> None:
    values = np.array([[0.0, one] for one in differences])
    measure = Measure("m", values, np.ones(len(values)), lower_is_better=lower_is_better)

    plot = differences_plot(measure, 1, "pirate")

    assert [bar.get("class") for bar in plot.iter("rect")] == kinds
    assert [text.text for text in plot.iter("text") if text.get("class") == "number"] == counts


def test_no_answer_at_all_gives_no_difference() -> None:
    measure = Measure("m", np.array([[1.0, np.nan, 1.0]]), np.ones(1))

    _, pirate, _ = find([measure], CONTENDERS, Bootstrap(100))

    assert (pirate.scored, pirate.mean, pirate.difference) == (0, None, None)
