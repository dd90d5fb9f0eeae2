"""Progress is shown on standard error, and only of work that takes time."""

import io

import pytest
from rich.console import Console

from gemlora.cli.progress import ProgressBar


def test_without_a_terminal_each_activity_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as progress:
        for done in range(0, 11_000_000, 1_000_000):
            progress("Downloading", done, 10_000_000)
        for done in range(0, 6_000_000, 1_000_000):
            progress("Converting", done, 5_000_000)

    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == "Downloading 10 MB\nConverting 5 MB\n"


def test_work_that_is_finished_already_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as progress:
        progress("Checking", 10, 10)

    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_ends_full() -> None:
    screen = io.StringIO()
    with ProgressBar(Console(file=screen, force_terminal=True, width=100)) as progress:
        progress("Converting", 1_000_000, 4_000_000)
        progress("Converting", 4_000_000, 4_000_000)

    assert "Converting" in screen.getvalue()
    assert "4.0/4.0 MB" in screen.getvalue()


def test_what_is_counted_has_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    with (
        ProgressBar(counts="answers") as plain,
        ProgressBar(Console(file=screen, force_terminal=True, width=100), counts="answers") as bar,
    ):
        for progress in (plain, bar):
            progress("Asking for", 0, 40)
            progress("Asking for", 40, 40)

    assert capsys.readouterr().err == "Asking for 40 answers\n"
    assert "40/40" in screen.getvalue()


def test_closing_twice_is_fine() -> None:
    progress = ProgressBar(Console(file=io.StringIO(), force_terminal=True))
    progress("Converting", 1, 2)

    progress.close()
    progress.close()
