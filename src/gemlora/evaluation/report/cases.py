"""Every case of a report: what was asked and expected, and each answer with its scores."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import numpy as np

from gemlora.evaluation.asking import Answer
from gemlora.evaluation.cases import Case
from gemlora.evaluation.report.elements import element
from gemlora.evaluation.results import Evaluation

SHORT = 90
"""Characters of a question that stand in a case's first line."""

MOST_OPEN = 20
"""Reports with more cases show their first lines until one is opened."""


def cases_section(evaluation: Evaluation) -> Element:
    """All cases, in the order of the file."""
    rows = zip(evaluation.cases.cases, evaluation.asked.answers, strict=True)
    cases = [_case(evaluation, row, case, answers) for row, (case, answers) in enumerate(rows)]
    return element("section", element("h2", f"{len(cases)} cases"), *cases)


def _case(evaluation: Evaluation, row: int, case: Case, answers: list[Answer]) -> Element:
    question = " ".join(case.question.split())
    short = question if len(question) <= SHORT else f"{question[:SHORT]}…"
    is_open = {"open": ""} if len(evaluation.cases.cases) <= MOST_OPEN else {}
    return element(
        "details",
        element(
            "summary", element("span", case.id, class_="id"), " ", element("span", short), *_marks(evaluation, row)
        ),
        _block("Prompt", case.question),
        *(_block("Expected" if not place else "or", text) for place, text in enumerate(case.accepted)),
        element(
            "div",
            *(_answer(evaluation, row, column, answer) for column, answer in enumerate(answers)),
            class_="answers",
        ),
        class_="case",
        **is_open,
    )


def _marks(evaluation: Evaluation, row: int) -> Iterator[Element]:
    """Which adapters won or lost the case, by the first measure."""
    if not evaluation.measures:
        return
    measure = evaluation.measures[0]
    for column, contender in enumerate(evaluation.contenders[1:], 1):
        gain = measure.values[row, column] - measure.values[row, 0]
        gain = -gain if measure.lower_is_better else gain
        outcome = "no score" if np.isnan(gain) else "won" if gain > 0 else "lost" if gain < 0 else "tied"
        yield element("span", f"{contender.label} {outcome}", class_=f"mark {outcome.replace(' ', '-')}")


def _answer(evaluation: Evaluation, row: int, column: int, answer: Answer) -> Element:
    scores = [
        f"{measure.name} {measure.values[row, column]:.4g}"
        for measure in evaluation.measures
        if not np.isnan(measure.values[row, column])
    ]
    cut = ["cut at the most tokens"] if answer.cut else []
    return element(
        "article",
        element("h3", evaluation.contenders[column].label, class_=f"c{column % 6}"),
        element("pre", answer.text)
        if answer.failure is None
        else element("p", f"No answer: {answer.failure}", class_="failure"),
        element("p", " · ".join([*scores, *cut]), class_="scores"),
    )


def _block(title: str, text: str) -> Element:
    return element("div", element("h3", title), element("pre", text), class_="block")
