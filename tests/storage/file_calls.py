"""Every call that changes files below a folder, in a process of its own: written down, and the n-th made to fail.

`file_calls.c` is preloaded into the process, so that SQLite's calls are seen like Python's.
"""

import ctypes
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KILL = -signal.SIGKILL
"""A code that ends the process instead of letting the call fail."""

_HEADER = struct.Struct("=cQQQQ")
_SOURCE = Path(__file__).with_suffix(".c")
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `kind` is create, mkdir, write, truncate, sync, rename, unlink, or nothing if it changed nothing."""

    kind: str
    path: str
    """Relative to the watched folder; `.` is the folder itself."""
    file: int
    """The number of the file, which a later file may have again once this one is deleted."""
    offset: int = 0
    """Where a write begins, or the size that a file is cut or grown to."""
    content: bytes = b""
    """What is written; or the new path, for a rename."""


_KINDS = {
    "c": "create", "m": "mkdir", "W": "write", "T": "truncate", "s": "sync", "r": "rename", "u": "unlink",
    "n": "nothing",
}  # fmt: skip


def build(folder: Path) -> Path:
    """Compile the library that is preloaded."""
    library = folder / "file_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, _SOURCE, "-ldl"], check=True)
    return library


def run_preloaded(library: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `module` as a program with the library preloaded; it calls `watch` itself, when it is ready."""
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(_REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def watch(folder: Path, log: Path | None = None) -> None:
    """In a preloaded process: begin to count the calls below `folder`, and to append them to `log`."""
    _preloaded().file_calls_watch(os.fsencode(folder), None if log is None else os.fsencode(log))


def fail(nth: int, code: int) -> None:
    """In a preloaded process: let the `nth` call from now fail with the `errno` `code`, or `KILL` the process."""
    _preloaded().file_calls_fail(ctypes.c_long(nth), code)


def seen() -> int:
    """In a preloaded process: how many calls there have been since `watch`."""
    return int(_preloaded().file_calls_seen())


def _preloaded() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def read_log(log: Path, folder: Path) -> Iterator[Call]:
    """The calls in `log`, with paths relative to `folder`."""
    content = log.read_bytes()
    position = 0
    while position < len(content):
        kind, length, more, file, offset = _HEADER.unpack_from(content, position)
        position += _HEADER.size
        path = content[position : position + length]
        rest = content[position + length : position + length + more]
        position += length + more
        if kind == b"r":
            rest = os.fsencode(_relative(rest, folder))
        yield Call(_KINDS[kind.decode()], _relative(path, folder), file, offset, rest)


def _relative(path: bytes, folder: Path) -> str:
    return os.path.relpath(os.fsdecode(path).removesuffix(" (deleted)"), folder)
