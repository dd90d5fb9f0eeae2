"""How much memory a server takes: the proportional shares of all its processes, the peak of many samples."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.5
"""Seconds between samples."""


def proportional_bytes(pid: int) -> int:
    """PSS of a process and of all that descend from it; shared pages are divided among those that map them."""
    try:
        processes = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_pss, processes))


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@dataclass
class Peak:
    """The most that was seen."""

    bytes: int = 0


@contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Samples the memory of a process and its descendants while the block runs."""
    peak, done = Peak(), threading.Event()

    def sample() -> None:
        while True:
            peak.bytes = max(peak.bytes, proportional_bytes(pid))
            if done.wait(INTERVAL):
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.bytes = max(peak.bytes, proportional_bytes(pid))
