"""A progress bar for long work, on standard error."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class ProgressBar:
    """Shows the activities that are reported to it; without a terminal it names each once.

    Nothing is shown of an activity that is finished when it is first reported.
    """

    def __init__(self, console: "Console | None" = None, *, counts: str | None = None) -> None:
        """`counts` says what is counted; None: bytes."""
        self._counts = counts
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID | None] = {}

    def __call__(self, activity: str, done: int, total: int) -> None:
        """`done` of `total` of `activity` are finished."""
        if activity not in self._tasks:
            if done < total:
                self._tasks[activity] = self._begin(activity, total)
            return
        task = self._tasks[activity]
        if self._progress is not None and task is not None:
            self._progress.update(task, completed=done, total=total)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _begin(self, activity: str, total: int) -> "TaskID | None":
        # Only here: a start from the cache has nothing to show, and the library takes a moment to load.
        from rich.console import Console

        console = self._console or Console(stderr=True)
        if not console.is_terminal:
            size = f"{total / 1e6:.0f} MB" if self._counts is None else f"{total} {self._counts}"
            print(f"{activity} {size}", file=sys.stderr, flush=True)
            return None
        if self._progress is None:
            self._progress = _bars(console, self._counts)
            self._progress.start()
        return self._progress.add_task(activity, total=total)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _bars(console: "Console", counts: str | None) -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    done = DownloadColumn() if counts is None else MofNCompleteColumn()
    return Progress(TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn(), console=console)
