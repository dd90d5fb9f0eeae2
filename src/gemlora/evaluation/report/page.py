"""The page: what was found in words, in a table and in plots, then every case, and how it was all done."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import groupby
from xml.etree.ElementTree import Element

from gemlora.evaluation.judgements import Judged
from gemlora.evaluation.report.cases import cases_section
from gemlora.evaluation.report.elements import Child, document, element
from gemlora.evaluation.report.plots import differences_plot, means_plot
from gemlora.evaluation.results import Evaluation, Finding, Measure, shown_interval
from gemlora.evaluation.statistics import FEWEST_DECIDED, Interval, Verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page holds answers of models: nothing in it may run or load anything."""

HEADS = ("", "Cases", "Mean (95 % interval)", "Difference (95 % interval)", "Won · tied · lost", "Shown")
JUDGED_HEADS = ("Pair", "Better", "Same", "Worse", "Not judged", "Share better (95 % interval)", "p", "Shown")

MARKS = {Verdict.BETTER: "won", Verdict.WORSE: "lost", Verdict.NOT_SHOWN: "tied"}


def report_page(evaluation: Evaluation | None, judgements: Sequence[Judged] = ()) -> str:
    """The whole report as HTML."""
    style = files("gemlora.evaluation.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="content-security-policy", content=POLICY),
        element("title", _title(evaluation)),
        element("style", style),
    )
    sections = [*_evaluation_sections(evaluation), *([_judgements_section(judgements)] if judgements else [])]
    if evaluation is not None:
        sections += [cases_section(evaluation), _facts_section(evaluation)]
    body = element("body", element("main", element("h1", _title(evaluation)), *sections))
    return document(element("html", head, body, lang="en"))


def _title(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Judgements"
    return f"{' and '.join(contender.label for contender in evaluation.contenders)} on {evaluation.cases.name}"


def _evaluation_sections(evaluation: Evaluation | None) -> Iterator[Element]:
    if evaluation is None:
        return
    yield _failures(evaluation)
    yield _verdicts(evaluation)
    if evaluation.findings:
        yield element("section", element("h2", "Scores"), *_tables(evaluation))
        yield element("section", element("h2", "Plots"), element("div", *_plots(evaluation), class_="plots"))


def _failures(evaluation: Evaluation) -> Element:
    failures = evaluation.asked.failures
    total = len(evaluation.cases.cases) * len(evaluation.contenders)
    if not failures:
        return element("p", f"All {total} answers came.", class_="soft")
    return element(
        "p",
        f"{len(failures)} of {total} answers are missing and have no score; the means are of the others. "
        f"The first reason: {failures[0]}",
        class_="failure",
    )


def _verdicts(evaluation: Evaluation) -> Element:
    items = [
        element("li", finding.sentence, class_=f"verdict {MARKS[finding.difference.verdict]}")
        for finding in evaluation.findings
        if finding.difference is not None
    ]
    return element(
        "section",
        element("h2", "What it shows"),
        element("ul", *items) if items else element("p", "There is nothing to compare.", class_="soft"),
        element(
            "p",
            "A difference is shown if its 95 % interval, from a paired bootstrap over the cases, lies on one side of 0 "
            f"and at least {FEWEST_DECIDED} cases were won or lost. Each line is one test: of twenty that compare "
            "equals, one shows a difference by chance.",
            class_="soft",
        ),
    )


def _tables(evaluation: Evaluation) -> Iterator[Element]:
    for measure, findings in _by_measure(evaluation):
        better = ", lower is better" if measure.lower_is_better else ""
        yield element("h3", f"{measure.name}{f' ({measure.unit}{better})' if measure.unit else ''}")
        yield _table(HEADS, [_row(finding) for finding in findings])


def _row(finding: Finding) -> list[Child]:
    difference = finding.difference
    perplexity = finding.perplexity
    return [
        finding.contender.label,
        str(finding.scored),
        element(
            "span",
            _shown(finding.mean),
            None if perplexity is None else element("small", f"perplexity {shown_interval(perplexity)}"),
        ),
        "" if difference is None else shown_interval(difference.mean, signed=True),
        "" if difference is None else f"{difference.won} · {difference.tied} · {difference.lost}",
        None if difference is None else _mark(difference.verdict),
    ]


def _plots(evaluation: Evaluation) -> Iterator[Element]:
    for measure, findings in _by_measure(evaluation):
        if any(finding.mean for finding in findings):
            yield _figure(f"{measure.name}: means with 95 % intervals", means_plot(findings))
        for column, finding in enumerate(findings):
            if finding.difference is not None:
                label = finding.contender.label
                title = f"{measure.name}: {label} less {finding.reference.label}, cases by difference"
                yield _figure(title, differences_plot(measure, column, label))


def _by_measure(evaluation: Evaluation) -> Iterator[tuple[Measure, list[Finding]]]:
    for _, group in groupby(evaluation.findings, key=lambda finding: id(finding.measure)):
        findings = list(group)
        yield findings[0].measure, findings


def _figure(title: str, plot: Element) -> Element:
    return element("figure", element("figcaption", title), plot)


def _judgements_section(judgements: Sequence[Judged]) -> Element:
    rows: list[list[Child]] = [
        [
            f"{judged.right} beside {judged.left}",
            *map(str, (judged.better, judged.same, judged.worse, judged.open)),
            _shown(judged.share),
            f"{judged.p:.3f}",
            _mark(judged.verdict),
        ]
        for judged in judgements
    ]
    return element(
        "section",
        element("h2", "Judged by hand"),
        _table(JUDGED_HEADS, rows),
        element(
            "p",
            "The share is that of better among better and worse, with the exact (Clopper-Pearson) interval; p is that "
            "of the two-sided sign test. Judgements know which side was which: they are not blind.",
            class_="soft",
        ),
    )


def _facts_section(evaluation: Evaluation) -> Element:
    facts = [part for name, value in evaluation.facts.items() for part in (element("dt", name), element("dd", value))]
    return element("section", element("h2", "How it was done"), element("dl", *facts))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Child]]) -> Element:
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = [
        element("tr", element("th", cells[0], scope="row"), *(element("td", cell) for cell in cells[1:]))
        for cells in rows
    ]
    return element(
        "div", element("table", element("thead", head), element("tbody", *body)), class_="wide", tabindex="0"
    )


def _mark(verdict: Verdict) -> Element:
    return element("span", verdict.value, class_=f"mark {MARKS[verdict]}")


def _shown(interval: Interval | None) -> str:
    return "–" if interval is None else shown_interval(interval)
