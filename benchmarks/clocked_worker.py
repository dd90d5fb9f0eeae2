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

CLOCKED: list["ClockedLibrary"] = []


class Step(NamedTuple):
    """`rows` were computed; its last kernel ended at `end`, and its kernels took `kernels` seconds."""

    rows: int
    end: float
    kernels: float


class ClockedLibrary:
    """A native library and what each step's calls of it took, from the embeddings to the most likely tokens."""

    def __init__(self, library: Any, clock: Callable[[], float] = perf_counter) -> None:
        self._library = library
        self._clock = clock
        self._rows = 0
        self._seconds = 0.0
        self.steps: list[Step] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)

        def clocked(*arguments: Any) -> None:
            started = self._clock()
            function(*arguments)
            self._seconds += self._clock() - started

        setattr(self, name, clocked)
        return clocked

    def embed(self, *arguments: Any) -> None:
        """The first kernel of a step."""
        started = self._clock()
        self._library.embed(*arguments)
        self._seconds = self._clock() - started
        self._rows = len(arguments[1])

    def most_likely(self, *arguments: Any) -> None:
        """The last one."""
        started = self._clock()
        self._library.most_likely(*arguments)
        ended = self._clock()
        self.steps.append(Step(self._rows, ended, self._seconds + ended - started))


def main() -> None:
    """Run the engine, then write what the step loop's library noted."""
    path = Path(sys.argv.pop(1))
    library = _native.Library

    def clocked_library(*arguments: Any) -> ClockedLibrary:
        CLOCKED.append(ClockedLibrary(library(*arguments)))
        return CLOCKED[-1]

    _native.Library = clocked_library  # type: ignore[assignment,misc]
    worker.main()
    path.write_text(json.dumps(max((each.steps for each in CLOCKED), key=len)), encoding="utf-8")


if __name__ == "__main__":
    main()
