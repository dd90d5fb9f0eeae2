"""What a step takes beside its kernels is told apart from what they take."""

import itertools

import pytest
from benchmarks.clocked_worker import ClockedLibrary, Step
from benchmarks.overhead import overheads


class Program:
    """Recorded kernels."""

    def run(self, segments: str) -> None:
        """All of them."""


class Library:
    """Kernels that take as long as the clock says: a second each."""

    def begin_recording(self) -> Program:
        """What is to be repeated."""
        return Program()

    def end_recording(self) -> None:
        """Has nothing to do."""

    def embed(self, matrix: str, tokens: list[int], scale: float) -> None:
        """The first."""

    def linear(self, x: str) -> None:
        """Any other."""

    def most_likely(self, x: object) -> None:
        """The last."""


def test_the_kernels_of_each_step_are_added_up() -> None:
    library = ClockedLibrary(Library(), clock=itertools.count().__next__)

    library.embed("table", [5, 6], 1.0)
    library.linear("x")
    library.linear("x")
    library.most_likely("x")
    program = library.begin_recording()
    library.embed("table", [7], 1.0)
    library.most_likely("x")
    library.end_recording()
    library.embed("table", [8, 9, 10], 1.0)
    library.most_likely("x")
    program.run("segments")

    assert library.steps == [
        Step(rows=2, end=8, kernels=4),
        Step(rows=1, end=13, kernels=2),
        Step(rows=3, end=18, kernels=2),
        Step(rows=1, end=21, kernels=1),
    ]


def test_steps_count_that_followed_one_with_as_many_rows() -> None:
    steps = [Step(128, 1.0, 0.5), Step(1, 2.0, 0.5), Step(1, 5.0, 2.0), Step(1, 6.0, 0.9), Step(2, 9.0, 0.1)]

    assert overheads(steps, 1) == (2.0, pytest.approx(0.55))
