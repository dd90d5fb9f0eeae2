"""Immutable blobs, named by the SHA-256 of their content: what every store of them promises.

`LocalObjects` keeps them in a folder, `S3Objects` in a bucket. A blob can be found under its digest only when its bytes
are durable and have been read back. All methods block (call them from a thread) and raise `StorageFailed`.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from gemlora.storage.files import OWNER_ONLY_FILE, create_folder, storage_errors

CHUNK = 1 << 20
"""Bytes that are read or hashed at a time."""

_DIGEST = re.compile("[0-9a-f]{64}")


class Objects(Protocol):
    """A store of blobs."""

    def receive(self) -> "AbstractContextManager[Incoming]":
        """A new blob to write to; it is dropped unless `keep` is called inside the block."""

    def put(self, content: bytes) -> str:
        """Store a small blob and return its digest."""

    def local(self, digest: str) -> Path:
        """A local file with the blob's bytes. Raises `StorageFailed` if there is no such blob."""

    def contains(self, digest: str) -> bool:
        """Whether the blob exists."""

    def verify(self, digest: str) -> bool:
        """Whether the blob exists and its stored bytes still have their digest."""

    def discard(self, referenced: frozenset[str], grace_seconds: float) -> int:
        """Delete blobs that are neither referenced nor younger than the grace period; return how many.

        Storing a blob again makes it young again. Also drops what an interrupted `receive` left.
        """


class Incoming:
    """A blob that is being written: a local file until `keep`."""

    def __init__(self, path: Path, file: BinaryIO, store: "Callable[[Incoming], None]") -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._store = store
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

    def flush(self) -> None:
        """Make the bytes of the local file durable. A failed flush is never tried again: the file is given up."""
        os.fsync(self._file.fileno())

    def keep(self) -> str:
        """Make the blob durable under its digest, which is returned."""
        digest = self.digest
        self._store(self)
        return digest


@contextmanager
def incoming_file(folder: Path, store: Callable[[Incoming], None]) -> Iterator[Incoming]:
    """A blob to write to in `folder`; whatever is left of its file at the end of the block is deleted."""
    path = folder / secrets.token_hex(16)
    with storage_errors("create a blob"):
        create_folder(folder)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY_FILE)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            yield Incoming(path, file, store)
    finally:
        # What cannot be deleted now is found by `discard`; the reason that the block ended for matters more.
        with suppress(OSError):
            path.unlink(missing_ok=True)


def put(objects: Objects, content: bytes) -> str:
    """Store a small blob through `receive`."""
    with objects.receive() as incoming:
        incoming.write(content)
        return incoming.keep()


def is_digest(text: str) -> bool:
    """Whether the text has a digest's form."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(digest: str) -> str:
    """`digest`, if it has a digest's form: only such a text ever becomes a part of a path or a key."""
    if not is_digest(digest):
        raise ValueError("not a SHA-256 digest in hexadecimal")
    return digest


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def discard_old(path: Path, deadline: float) -> bool:
    """Delete a file that has not changed since `deadline`; one that another process moved meanwhile is not there."""
    try:
        if path.stat().st_mtime >= deadline:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
