"""The files of an adapter on their way into the store of blobs."""

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path

from gemlora.errors import AdapterInvalid
from gemlora.storage.blocking import in_thread
from gemlora.storage.files import storage_errors
from gemlora.storage.objects import Incoming, Objects, digest_of

BUFFER = 1 << 20
"""Bytes that are collected before a thread writes them."""


class Receiver:
    """One file that a client sends. It becomes a blob only when `keep` is called."""

    def __init__(self, objects: Objects, incoming: Incoming, executor: Executor | None) -> None:
        self._objects = objects
        self._incoming = incoming
        self._executor = executor
        self._buffer = bytearray()
        self._kept = False

    @property
    def size(self) -> int:
        """Bytes that were written so far."""
        return self._incoming.size + len(self._buffer)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file, once `finish` has returned."""
        return self._incoming.digest

    async def write(self, chunk: bytes) -> None:
        """Append to the file. Raises `StorageFailed`."""
        self._buffer += chunk
        if len(self._buffer) >= BUFFER:
            await self.finish()

    async def finish(self) -> None:
        """Write what is left of the file. Raises `StorageFailed`."""
        if self._buffer:
            content, self._buffer = bytes(self._buffer), bytearray()
            await in_thread(lambda: self._incoming.write(content), self._executor)

    def path(self) -> Path:
        """A local file with the bytes. Blocks."""
        return self._objects.local(self.digest) if self._kept else self._incoming.path

    def keep(self) -> None:
        """Make it a blob, which it stays. Blocks. Raises `StorageFailed`."""
        if not self._kept:
            self._incoming.keep()
            self._kept = True


def stored_file(objects: Objects, digest: str) -> Path:
    """A local file with a blob's bytes, compared with their digest. Blocks.

    Raises `AdapterInvalid` if they are damaged, which the same upload mends, and `StorageFailed`.
    """
    path = objects.local(digest)
    with storage_errors("read a stored file"):
        if digest_of(path) != digest:
            raise AdapterInvalid("A file of this adapter was damaged in the store: upload the same files again")
    return path


class Kept:
    """A file that is a blob already."""

    def __init__(self, objects: Objects, digest: str) -> None:
        self._objects = objects
        self.digest = digest

    def path(self) -> Path:
        """A local file with the bytes. Blocks. Raises `StorageFailed`, or `AdapterInvalid` if they are damaged."""
        return stored_file(self._objects, self.digest)

    def keep(self) -> None:
        """Nothing to do."""


@asynccontextmanager
async def receiving(objects: Objects, executor: Executor | None = None) -> AsyncIterator[Receiver]:
    """A file to write to, which is gone at the end of the block unless it was kept."""
    opened = objects.receive()
    incoming = await in_thread(opened.__enter__, executor)
    try:
        yield Receiver(objects, incoming, executor)
    finally:
        await in_thread(lambda: opened.__exit__(None, None, None), executor)
