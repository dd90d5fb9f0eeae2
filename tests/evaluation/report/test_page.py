"""The report is one page that holds everything, runs nothing and loads nothing, whatever the answers say."""

import re
from html.parser import HTMLParser

from tests.evaluation.made import HOSTILE, evaluation

from gemlora.evaluation.judgements import Judged
from gemlora.evaluation.report import report_page

TAGS = {
    *[
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "h2",
        "h3",
        "p",
        "small",
        "span",
        "section",
        "ul",
        "li",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    ],
    *[
        "figure",
        "figcaption",
        "svg",
        "line",
        "text",
        "circle",
        "rect",
        "details",
        "summary",
        "pre",
        "article",
        "dl",
        "dt",
        "dd",
    ],
}
ATTRIBUTES = {
    *[
        "charset",
        "name",
        "content",
        "http-equiv",
        "lang",
        "class",
        "scope",
        "tabindex",
        "open",
        "role",
        "aria-label",
        "viewbox",
    ],
    *["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "width", "height", "text-anchor"],
}


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        self.labels += [value or "" for name, value in attributes if name == "aria-label"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def shows(self, text: str) -> bool:
        return text in "".join(self.texts)


def test_nothing_that_answers_say_becomes_markup() -> None:
    text = report_page(evaluation(), [Judged("base model", HOSTILE, 1, 0, 0, 0)])
    page = Page(text)

    assert set(page.tags) <= TAGS
    assert page.attributes <= ATTRIBUTES
    assert page.shows("</pre><script>alert(1)</script>\ufffd<img src=http://elsewhere/x onerror=alert(1)>\ufffd")
    text.encode()
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    style = re.search("<style>(.*)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search("url|import|expression", style[1])


def test_everything_is_there() -> None:
    made = evaluation()
    page = Page(report_page(made))

    assert page.shows("1 of 24 answers are missing and have no score")
    assert page.shows("No answer: 500, code 3043: <b>broken</b>")
    assert page.shows("pirate is better than base model in exact: +1.000 (+1.000 to +1.000); 8 won, 0 tied, 0 lost.")
    assert page.shows("perplexity ")
    assert page.shows("<i>question</i> 8")
    assert page.shows("exact 1 · f1 1 · nll 2 · cut at the most tokens")
    assert page.shows("pirate won")
    assert page.tags.count("details") == 8
    assert page.tags.count("article") == 24
    assert page.tags.count("svg") == 3 + 2 * 3
    assert "Means in exact: base model 0.000 (0.000 to 0.000); pirate 1.000 (1.000 to 1.000)" in page.labels[0]
    assert "pirate: differences of 8 cases in nll, 8 better, 0 worse" in page.labels
    assert not page.shows("Judged by hand")


def test_judgements_alone_are_a_report_too() -> None:
    page = Page(report_page(None, [Judged("base model", "pirate", 14, 3, 4, 2)]))

    assert page.shows("Judged by hand")
    assert page.shows("pirate beside base model")
    assert page.shows("0.778 (0.524 to 0.936)")
    assert "details" not in page.tags
