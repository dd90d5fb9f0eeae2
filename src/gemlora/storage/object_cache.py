"""A local folder with copies of blobs that lie elsewhere, least recently used ones leave first.

A copy is compared with its digest when this process first uses it and when its file has changed since; a damaged one
is dropped, so that it is fetched again.
"""

import time
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock

from gemlora.storage.files import create_folder, storage_errors
from gemlora.storage.objects import Incoming, check_digest, digest_of, discard_old, incoming_file

IN_USE_SECONDS = 120
"""Copies used as lately as this stay even above the cap: a reader may be about to open them."""

TOUCH_SECONDS = 30
"""How often a use is written down, as the file's time of change."""


class ObjectCache:
    """At most `max_bytes` of copies in `folder`, besides those in use."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._checked: dict[str, tuple[int, int, int]] = {}
        self._lock = Lock()

    def receive(self) -> AbstractContextManager[Incoming]:
        """A local file to write to, which `keep` makes the copy of its own digest."""
        return incoming_file(self._folder / "incoming", self.adopt)

    def incoming(self) -> Path:
        """Where files lie that are being written."""
        return self._folder / "incoming"

    def adopt(self, incoming: Incoming) -> None:
        """Make a local file, which is whole, the copy of its digest."""
        target = self._path(incoming.digest)
        with storage_errors("store a copy of a blob"):
            create_folder(target.parent)
            incoming.path.replace(target)
            self._evict()

    def find(self, digest: str) -> Path | None:
        """The copy of a blob, if there is one and it is undamaged."""
        path = self._path(digest)
        with storage_errors("read a copy of a blob"):
            try:
                signature = _signature(path)
                if self._checked.get(digest) != signature and digest_of(path) != digest:
                    path.unlink()
                    return None
                if time.time() - path.stat().st_mtime > TOUCH_SECONDS:
                    path.touch()
                self._checked[digest] = _signature(path)
            except FileNotFoundError:
                self._checked.pop(digest, None)
                return None
        return path

    def discard_abandoned(self, grace_seconds: float) -> None:
        """Delete what interrupted writers left."""
        deadline = time.time() - grace_seconds
        with storage_errors("delete unfinished blobs"):
            for path in self.incoming().glob("*"):
                discard_old(path, deadline)

    def _evict(self) -> None:
        """Drop the least recently used copies until the rest fits."""
        with self._lock:
            files = [(path, path.stat()) for path in self._folder.glob("??/*")]
            excess = sum(status.st_size for _, status in files) - self._max_bytes
            for path, status in sorted(files, key=lambda entry: entry[1].st_mtime):
                if excess <= 0 or status.st_mtime > time.time() - IN_USE_SECONDS:
                    return
                path.unlink(missing_ok=True)
                self._checked.pop(path.name, None)
                excess -= status.st_size

    def _path(self, digest: str) -> Path:
        return self._folder / check_digest(digest)[:2] / digest


def _signature(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
