"""Two plots as SVG: means with their intervals, and how the differences to the base are distributed.

They are drawn for a phone's width and take their colours from the page's style. The numbers stand in the page's table
too, so that nobody needs the picture.
"""

from dataclasses import dataclass
from math import ceil, floor, log10
from xml.etree.ElementTree import Element

import numpy as np

from gemlora.evaluation.report.elements import element
from gemlora.evaluation.results import Finding, Measure, shown_interval, shown_number
from gemlora.evaluation.statistics import Interval, Numbers

WIDTH = 340
MARGIN = 14
ROW = 40
AXIS = 26
BARS = 10
"""And one more in the middle, at 0, if there are ties."""
BARS_HEIGHT = 110
LONGEST_LABEL = 26
COLOURS = 6
STEPS = (1, 2, 5, 10)
TICKS = 4


@dataclass(frozen=True, slots=True)
class Scale:
    """From numbers to places on the page, with numbers that are good to read."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a number stands."""
        return round(MARGIN + (value - self.low) / (self.high - self.low) * (WIDTH - 2 * MARGIN), 1)

    @property
    def ticks(self) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        step = _step((self.high - self.low) / TICKS)
        first, last = ceil(round(self.low / step, 6)), floor(round(self.high / step, 6))
        return [number * step for number in range(first, last + 1)]


def means_plot(findings: list[Finding]) -> Element:
    """A row for each contender: its mean as a dot and the interval as a line."""
    means = [(finding, finding.mean) for finding in findings if finding.mean is not None]
    scale = _means_scale([mean for _, mean in means])
    bottom = ROW * len(means) + 4
    rows = [part for row, (finding, mean) in enumerate(means) for part in _mean_row(row, finding, mean, scale)]
    name = findings[0].measure.name
    described = "; ".join(f"{finding.contender.label} {shown_interval(mean)}" for finding, mean in means)
    return _plot(f"Means in {name}: {described}", bottom + AXIS, [*_axis(scale, bottom), *rows])


def differences_plot(measure: Measure, column: int, label: str) -> Element:
    """How many cases differ from the first contender by how much; what is better and worse has its own colour."""
    both = measure.complete(0, column)
    differences = measure.values[both, column] - measure.values[both, 0]
    largest = float(np.abs(differences).max()) or 1.0
    bars = BARS + 1 if (differences == 0).any() else BARS
    half = largest * bars / BARS
    counts, edges = np.histogram(differences, bars, (-half, half))
    scale = Scale(-half, half)
    highest = int(counts.max())
    drawn = [
        part
        for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
        for part in _bar(count, highest, scale, float(left), float(right), measure.lower_is_better)
    ]
    described = f"{label}: differences of {len(both)} cases in {measure.name}, {_outcome(differences, measure)}"
    return _plot(described, BARS_HEIGHT + AXIS + 14, [*_axis(scale, BARS_HEIGHT + 14), *drawn])


def _mean_row(row: int, finding: Finding, mean: Interval, scale: Scale) -> list[Element]:
    top = ROW * row
    middle = top + 28
    colour = f"c{row % COLOURS}"
    label = finding.contender.label
    short = label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
    return [
        element("text", short, x=MARGIN, y=top + 14),
        element("text", shown_number(mean.value), x=WIDTH - MARGIN, y=top + 14, text_anchor="end", class_="number"),
        element("line", x1=scale.place(mean.low), x2=scale.place(mean.high), y1=middle, y2=middle, class_=colour),
        *(
            element("line", x1=scale.place(end), x2=scale.place(end), y1=middle - 5, y2=middle + 5, class_=colour)
            for end in (mean.low, mean.high)
        ),
        element("circle", cx=scale.place(mean.value), cy=middle, r=5, class_=colour),
    ]


def _bar(count: int, highest: int, scale: Scale, left: float, right: float, lower_is_better: bool) -> list[Element]:
    if not count:
        return []
    nothing = (right - left) / 4
    kind = "tied" if left < -nothing and right > nothing else "won" if (right > nothing) != lower_is_better else "lost"
    height = max(2.0, round(BARS_HEIGHT * count / highest, 1))
    x, width = scale.place(left) + 1, scale.place(right) - scale.place(left) - 2
    top = BARS_HEIGHT + 14 - height
    return [
        element("rect", x=x, y=top, width=round(width, 1), height=height, rx=2, class_=kind),
        element("text", str(count), x=round(x + width / 2, 1), y=top - 3, text_anchor="middle", class_="number"),
    ]


def _axis(scale: Scale, bottom: float) -> list[Element]:
    parts = []
    for tick in scale.ticks:
        place = scale.place(tick)
        parts += [
            element("line", x1=place, x2=place, y1=4, y2=bottom, class_="grid"),
            element("text", f"{tick:g}", x=place, y=bottom + 17, text_anchor="middle", class_="tick"),
        ]
    return parts


def _plot(description: str, height: float, parts: list[Element]) -> Element:
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=description)


def _means_scale(means: list[Interval]) -> Scale:
    """From 0 to 1 for scores, else what holds every interval."""
    low, high = min(mean.low for mean in means), max(mean.high for mean in means)
    if low >= 0 and high <= 1:
        return Scale(0, 1)
    margin = (high - low) * 0.05 or 0.5
    return Scale(low - margin, high + margin)


def _outcome(differences: Numbers, measure: Measure) -> str:
    gains = -differences if measure.lower_is_better else differences
    return f"{int((gains > 0).sum())} better, {int((gains < 0).sum())} worse"


def _step(least: float) -> float:
    power = 10.0 ** floor(log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))
