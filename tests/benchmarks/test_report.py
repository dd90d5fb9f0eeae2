"""The page on performance is made from results."""

import pytest
from benchmarks.judged import GOALS, Goal
from benchmarks.report import PAGE, read, render

from benchmarks import results

OFFLINE = {
    "date": "2026-01-01",
    "figures": {"gemlora_prefill": 3000.0, "llama_cpp_prefill": 750.0, "prefill_over_llama_cpp": 4.0},
    "rounds": [
        {"limits": [{"int8_gmacs_per_second": 220.0, "read_gigabytes_per_second": 25.0}] * number, "figures": {}}
        for number in (1, 2)
    ],
}


def block(name: str) -> str:
    return render(f"before\n<!-- figures: {name} -->\nold\n<!-- end -->\nafter", {"offline": OFFLINE})


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = block("offline")

    assert page.startswith("before\n<!-- figures: offline -->\n")
    assert page.endswith("\n<!-- end -->\nafter")
    assert "old" not in page
    assert "| prefill of 512 tokens | 3000 | 750 | 4 |" in page


def test_goals_that_were_not_measured_have_no_row() -> None:
    rows = [line for line in block("judged").splitlines() if line.startswith("| a ")]

    assert rows == ["| a | prefill of 512 tokens ÷ llama.cpp's | 4 | ≥ 3 | yes |"]


@pytest.mark.parametrize(("bound", "measured", "reached"), [("≥", 3.0, True), ("≥", 2.9, False), ("≤", 3.1, False)])
def test_a_goal_is_a_bound(bound: str, measured: float, reached: bool) -> None:
    assert Goal("a", "", "offline", "figures/x", bound, 3).reached(measured) is reached  # type: ignore[arg-type]


def test_every_row_from_a_to_l_has_a_figure() -> None:
    assert sorted({goal.row for goal in GOALS}) == list("abcdefghijkl")


def test_the_page_says_what_the_results_say() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert render(page, read(results.FOLDER)) == page
