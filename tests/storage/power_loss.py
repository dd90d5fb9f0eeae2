"""The states that a power loss may leave of a folder, from the calls that changed it.

As little is promised as POSIX does. What was written to a file is there after the file's fsync; until then any part of
it may be missing, torn, or zeros. A name is there (or gone) after its folder's fsync; until then each name by itself
may still stand for what it stood for at any time since, also when other names have changed later.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.storage.file_calls import Call

ROOT = "."
ACKNOWLEDGED = "acknowledged"
"""The file in which a recorded program says what its caller knows: one line each, never lost."""

FOLDER = -1
"""What the name of a folder stands for; other names stand for files."""


@dataclass(slots=True)
class Content:
    """A file's bytes: what is safe, and the writes (offset, bytes) or sizes since."""

    safe: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


class State(NamedTuple):
    """What is left: the content of each file, None for a folder; and what had been acknowledged."""

    entries: dict[str, bytes | None]
    acknowledged: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Make `folder`, which is not there yet, look like this."""
        folder.mkdir(mode=0o700)
        for path, content in sorted(self.entries.items()):
            if content is None:
                (folder / path).mkdir(mode=0o700)
            else:
                (folder / path).write_bytes(content)


class Disk:
    """What the calls so far have made of an empty folder, and how much of it is safe."""

    def __init__(self) -> None:
        self._contents: list[Content] = []
        self._numbers: dict[int, int] = {}
        self._names: dict[str, list[int | None]] = {}
        """For each path what it stood for, from the last time that it was safe until now."""
        self.acknowledged: tuple[str, ...] = ()

    def apply(self, call: Call) -> None:
        """Take over one more call."""
        if call.kind == "nothing":
            return
        if call.path == ACKNOWLEDGED:
            if call.kind == "write":
                self.acknowledged += (call.content.decode().strip(),)
        elif call.kind == "create":
            self._numbers[call.file] = len(self._contents)
            self._contents.append(Content())
            self._set(call.path, self._numbers[call.file])
        elif call.kind == "mkdir":
            self._set(call.path, FOLDER)
        elif call.kind == "unlink":
            self._set(call.path, None)
        elif call.kind == "rename":
            self._set(call.content.decode(), self._names[call.path][-1])
            self._set(call.path, None)
        elif call.kind == "sync":
            self._sync(call)
        else:
            self._content(call).pending.append((call.offset, call.content if call.kind == "write" else None))

    def states(self, generator: random.Random, count: int) -> Iterator[State]:
        """What a power loss now may leave: the least, the most, and `count` random ones between."""
        yield self._state(lambda versions: versions[0], lambda content: content.safe)
        yield self._state(lambda versions: versions[-1], lambda content: rebuilt(content, content.pending))
        for _ in range(count):
            yield self._state(generator.choice, partial(damaged, generator, generator.choice((0.1, 0.5, 0.9))))

    def _state(self, choose: Callable[[list[int | None]], int | None], remains: Callable[[Content], bytes]) -> State:
        entries: dict[str, bytes | None] = {}
        for path, versions in sorted(self._names.items()):
            target = choose(versions)
            parent = str(Path(path).parent)
            if target is not None and (parent == ROOT or entries.get(parent, b"") is None):
                entries[path] = None if target == FOLDER else remains(self._contents[target])
        return State(entries, self.acknowledged)

    def _set(self, path: str, target: int | None) -> None:
        self._names.setdefault(path, [None]).append(target)

    def _sync(self, call: Call) -> None:
        if call.path == ROOT or self._names.get(call.path, [None])[-1] == FOLDER:
            for path, versions in self._names.items():
                if str(Path(path).parent) == call.path:
                    del versions[:-1]
        else:
            content = self._content(call)
            content.safe = rebuilt(content, content.pending)
            content.pending.clear()

    def _content(self, call: Call) -> Content:
        return self._contents[self._numbers[call.file]]


def rebuilt(content: Content, changes: Iterable[tuple[int, bytes | None]]) -> bytes:
    """The safe bytes with some of the changes."""
    result = bytearray(content.safe)
    for offset, written in changes:
        end = offset + len(written or b"")
        result.extend(bytes(max(0, end - len(result))))
        if written is None:
            del result[offset:]
        else:
            result[offset:end] = written
    return bytes(result)


def damaged(generator: random.Random, survival: float, content: Content) -> bytes:
    """The safe bytes with each change whole (as likely as `survival`), torn, as zeros, or not at all."""
    changes: list[tuple[int, bytes | None]] = []
    for offset, written in content.pending:
        fate = generator.random()
        if fate < survival or (fate < survival + 0.05 and written is None):
            changes.append((offset, written))
        elif fate < survival + 0.05 and written:
            cut = generator.randrange(len(written))
            changes.append(generator.choice([(offset, written[:cut]), (offset + cut, written[cut:])]))
        elif fate < survival + 0.07 and written:
            changes.append((offset, bytes(len(written))))
    return rebuilt(content, changes)


def states(calls: Iterable[Call], generator: random.Random, count: int) -> Iterator[State]:
    """What a power loss may leave between any two of the calls and after the last, each state once."""
    disk = Disk()
    known: set[int] = set()
    for call in calls:
        disk.apply(call)
        for state in disk.states(generator, count):
            key = hash((frozenset(state.entries.items()), state.acknowledged))
            if key not in known:
                known.add(key)
                yield state
