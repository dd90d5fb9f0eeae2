"""The engine's process with a clock around its kernels: `python -m benchmarks.clocked_worker FILE FD`.

When it ends, it writes every step that ended with greedy tokens to FILE, as JSON.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from gemlora.engines.cpu import worker
from gemlora.kernels import _native


class Step(NamedTuple):
    """`rows` were computed; its last kernel ended at `end`, and its kernels took `kernels` seconds."""

    rows: int
    end: float
    kernels: float


class ClockedLibrary:
    """A native library and what each step's calls of it took; a step ends with its most likely tokens."""

    def __init__(self, library: Any, clock: Callable[[], float] = perf_counter) -> None:
        self._library = library
        self._clock = clock
        self._rows = 0
        self._seconds = 0.0
        self.steps: list[Step] = []

    def __getattr__(self, name: str) -> Any:
        clocked = self.clocked(getattr(self._library, name))
        setattr(self, name, clocked)
        return clocked

    def clocked(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function with a clock."""

        def call(*arguments: Any) -> None:
            started = self._clock()
            function(*arguments)
            self._seconds += self._clock() - started

        return call

    def begin_recording(self) -> "ClockedProgram":
        """As the library does, with a clock around what it returns."""
        self._recording = ClockedProgram(self, self._library.begin_recording())
        return self._recording

    def end_recording(self) -> None:
        """As the library does. What was recorded is a step."""
        self._library.end_recording()
        self._recording.rows = self._rows

    def embed(self, *arguments: Any) -> None:
        """The first kernel of a step, unless that repeats a program."""
        self._rows = len(arguments[1])
        self.clocked(self._library.embed)(*arguments)

    def most_likely(self, *arguments: Any) -> None:
        """The last kernel of a step."""
        self.clocked(self._library.most_likely)(*arguments)
        self.end_step(self._rows)

    def end_step(self, rows: int) -> None:
        """Note a step of so many rows."""
        self.steps.append(Step(rows, self._clock(), self._seconds))
        self._seconds = 0.0


class ClockedProgram:
    """Recorded calls whose time counts as the library's: those of a step with so many rows."""

    def __init__(self, library: ClockedLibrary, program: Any) -> None:
        self._library = library
        self._run = library.clocked(program.run)
        self.rows = 0

    def run(self, segments: Any) -> None:
        """Compute such a step again."""
        self._run(segments)
        self._library.end_step(self.rows)


def main() -> None:
    """Run the engine, then write what the step loop's library noted."""
    path = Path(sys.argv.pop(1))
    library, made = _native.Library, list[ClockedLibrary]()

    def clocked_library(*arguments: Any) -> ClockedLibrary:
        made.append(ClockedLibrary(library(*arguments)))
        return made[-1]

    _native.Library = clocked_library  # type: ignore[assignment,misc]
    worker.main()
    path.write_text(json.dumps(max((each.steps for each in made), key=len)), encoding="utf-8")


if __name__ == "__main__":
    main()
