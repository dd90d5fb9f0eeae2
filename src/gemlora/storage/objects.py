"""Immutable blobs, named by the SHA-256 of their content.

A blob appears under its name only when its bytes are durable and have been read back: write, fsync, verify, rename,
fsync of the folder. All methods block; call them from a thread.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from gemlora.errors import StorageFailed
from gemlora.storage.files import OWNER_ONLY_FILE, create_folder, storage_errors, sync_folder

CHUNK = 1 << 20
"""Bytes that are read or hashed at a time."""

_DIGEST = re.compile("[0-9a-f]{64}")


class Objects:
    """Blobs in a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"

    @contextmanager
    def receive(self) -> Iterator["Incoming"]:
        """A new blob to write to; it is dropped unless `keep` is called inside the block."""
        with storage_errors("create a blob"):
            create_folder(self._incoming)
            path = self._incoming / secrets.token_hex(16)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY_FILE)
        with os.fdopen(descriptor, "wb", buffering=0) as file, Incoming(self, path, file) as incoming:
            yield incoming

    def put(self, content: bytes) -> str:
        """Store a small blob and return its digest."""
        with self.receive() as incoming:
            incoming.write(content)
            return incoming.keep()

    def path(self, digest: str) -> Path:
        """Where the blob lies, whether it exists or not. Only digests of this form ever become a path."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError("not a SHA-256 digest in hexadecimal")
        return self._folder / digest[:2] / digest

    def contains(self, digest: str) -> bool:
        """Whether the blob exists."""
        return self.path(digest).is_file()

    def verify(self, digest: str) -> bool:
        """Whether the stored bytes still have their digest."""
        path = self.path(digest)
        with storage_errors("read a blob"):
            return path.is_file() and digest_of(path) == digest

    def discard(self, referenced: frozenset[str], grace_seconds: float) -> int:
        """Delete blobs that are neither referenced nor younger than the grace period; return how many.

        Also drops what an interrupted `receive` left.
        """
        deadline = time.time() - grace_seconds
        with storage_errors("delete unused blobs"):
            candidates = [path for path in self._folder.glob("*/*") if path.name not in referenced]
            return sum(_discard_old(path, deadline) for path in candidates)


class Incoming:
    """A blob that is being written."""

    def __init__(self, objects: Objects, path: Path, file: BinaryIO) -> None:
        self._objects = objects
        self._file = file
        self._hash = hashlib.sha256()
        self._kept = False
        self.path = path
        self.size = 0

    @property
    def digest(self) -> str:
        """SHA-256 of what has been written so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append to the blob."""
        with storage_errors("write a blob"):
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self.size += len(chunk)

    def keep(self) -> str:
        """Make the blob durable under its digest, which is returned."""
        digest = self.digest
        target = self._objects.path(digest)
        with storage_errors("store a blob"):
            os.fsync(self._file.fileno())
            if digest_of(self.path) != digest:
                raise StorageFailed("A blob read back differs from what was written")
            create_folder(target.parent)
            self.path.replace(target)
            self._kept = True
            sync_folder(target.parent)
        return digest

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._kept:
            self.path.unlink(missing_ok=True)


def _discard_old(path: Path, deadline: float) -> bool:
    """Delete a file that has not changed since `deadline`; one that another process moved meanwhile is not there."""
    try:
        if path.stat().st_mtime >= deadline:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
