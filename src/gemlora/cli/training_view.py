"""A training in the terminal: how far it is, how long it will take, and the losses as a plot."""

import math
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gemlora.training.history import History

WIDTH, HEIGHT = 64, 8
"""Of the plot, in characters."""

BLOCKS = " ▁▂▃▄▅▆▇█"
LINES_WITHOUT_TERMINAL = 20
"""About so many lines tell of the steps where there is no terminal."""


class TrainingView:
    """Implements `training.trainer.Watcher`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._steps = 0
        self._resumed = 0
        self._started = time.monotonic()

    def tell(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def began(self, history: History, steps: int) -> None:
        """See `Watcher`."""
        self._steps, self._resumed = steps, len(history.steps)
        self._started = time.monotonic()
        if self._resumed:
            self.tell(f"Going on after step {self._resumed} of {steps}")

    def stepped(self, history: History) -> None:
        """See `Watcher`."""
        done = len(history.steps)
        if self._console.is_terminal:
            plot = loss_plot([one.loss for one in history.steps], WIDTH, HEIGHT)
            self._live.update(Group(Text(plot, "cyan"), Text(self._line(history))), refresh=True)
        elif done % max(1, self._steps // LINES_WITHOUT_TERMINAL) == 0:
            self.tell(self._line(history))

    def evaluated(self, history: History) -> None:
        """See `Watcher`."""
        if history.evaluations:
            now = history.evaluations[-1]
            best = " (best)" if now is history.best else ""
            who = f"after step {now.step}{best}" if now.step else "with the base alone"
            self.tell(f"Held out, {who}: loss {now.loss:.4f}, perplexity {math.exp(now.loss):.2f}")

    def summary(self, history: History) -> None:
        """What came of it."""
        done = len(history.steps)
        early = f" of {self._steps}: nothing more was gained" if done < self._steps else ""
        self.tell(f"Trained {done} steps{early}, in {_duration(history.seconds)}")

    def _line(self, history: History) -> str:
        done = len(history.steps)
        pace = (time.monotonic() - self._started) / max(1, done - self._resumed)
        left = _duration(pace * (self._steps - done))
        return f"Step {done} of {self._steps}: loss {history.steps[-1].loss:.4f}, {left} left"

    def __enter__(self) -> "TrainingView":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()


def loss_plot(losses: Sequence[float], width: int, height: int) -> str:
    """Columns of the mean losses of equal stretches of steps, highest loss on top, with the scale at the left."""
    stretch = max(1, math.ceil(len(losses) / width))
    means = [
        sum(losses[start : start + stretch]) / len(losses[start : start + stretch])
        for start in range(0, len(losses), stretch)
    ]
    top = max(means)
    eighths = [round(8 * height * mean / top) if top else 0 for mean in means]
    rows = []
    for row in reversed(range(height)):
        label = f"{top * (row + 1) / height:6.2f} "
        rows.append(label + "".join(BLOCKS[min(8, max(0, level - 8 * row))] for level in eighths))
    return "\n".join(rows)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
