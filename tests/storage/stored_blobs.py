"""A program that stores, names, forgets and deletes blobs as the registry does, and tells what is done.

Arguments: the data folder, where to write its calls down or `-`, the call at which it is killed or 0. The rows that
name blobs are those of `served_models`, which stand for any row: a blob is stored before the transaction with its name.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, insert, select
from tests.storage import file_calls
from tests.storage.power_loss import ACKNOWLEDGED

from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.storage.tables import served_models

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NO_GRACE = -60.0
CONTENTS = [bytes([number]) * 9000 for number in range(4)]


class Blobs:
    """An open data folder."""

    def __init__(self, folder: Path, database: Database, objects: LocalObjects) -> None:
        self.folder = folder
        self.database = database
        self.objects = objects

    async def add(self, content: bytes) -> str:
        """Store a blob and the row that names it."""
        digest = self.objects.put(content)
        async with self.database.writing() as connection:
            await connection.execute(delete(served_models).where(served_models.c.model == digest))
            await connection.execute(insert(served_models).values(model=digest, facts={}, recorded_at=NOW))
        return digest

    async def remove(self, digest: str) -> None:
        """Delete the row; the blob stays."""
        async with self.database.writing() as connection:
            await connection.execute(delete(served_models).where(served_models.c.model == digest))

    async def collect(self) -> None:
        """Delete the blobs that no row names."""
        async with self.database.writing() as connection:
            names = await connection.scalars(select(served_models.c.model))
            self.objects.discard(frozenset(names), NO_GRACE)

    async def names(self) -> set[str]:
        """The digests that rows name."""
        async with self.database.reading() as connection:
            return set(await connection.scalars(select(served_models.c.model)))


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Blobs]:
    """Open the folder as a server does."""
    data = DataFolder.open(folder)
    database = await Database.open(data.database)
    try:
        yield Blobs(folder, database, LocalObjects(data.objects))
    finally:
        await database.close()


class Told:
    """What the program's caller is told of each blob: `present` or `absent` once that may not be lost any more."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(self, state: str, content: bytes) -> None:
        """`changing` before a change begins, until whose end either may be true."""
        os.write(self._file, f"{state} {digest_of(content)}\n".encode())

    async def add(self, blobs: Blobs, content: bytes) -> None:
        """Add a blob and tell it."""
        self.tell("changing", content)
        await blobs.add(content)
        self.tell("present", content)

    async def remove(self, blobs: Blobs, content: bytes) -> None:
        """Remove a blob's row and tell it."""
        self.tell("changing", content)
        await blobs.remove(digest_of(content))
        self.tell("absent", content)


async def work(folder: Path, told: Told) -> None:
    """Two lives of a server."""
    async with opened(folder) as blobs:
        for content in CONTENTS[:3]:
            await told.add(blobs, content)
        await told.remove(blobs, CONTENTS[0])
        await blobs.collect()
        await told.add(blobs, CONTENTS[0])
    async with opened(folder) as blobs:
        await told.add(blobs, CONTENTS[3])
        await told.remove(blobs, CONTENTS[0])
        await blobs.collect()


def digest_of(content: bytes) -> str:
    """The name of a blob."""
    return hashlib.sha256(content).hexdigest()


def main(folder: Path, log: str, kill_at: int) -> None:
    """Work with the calls watched."""
    file_calls.watch(folder, None if log == "-" else Path(log))
    file_calls.fail(kill_at, file_calls.KILL)
    asyncio.run(work(folder, Told(folder / ACKNOWLEDGED)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
