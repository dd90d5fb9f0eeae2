"""The database: connections, transactions, and the schema's version at start.

SQLite in WAL mode with `synchronous=FULL`; a write takes the write lock when it begins, so server and command line
can write at the same time and neither ever fails halfway for the other's sake.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gemlora.errors import StorageFailed

HEAD = "0001"
"""The revision of the schema that this version works with."""

BUSY_SECONDS = 30
"""How long a writer waits for another one."""

RETRY_SECONDS = 0.05


class Database:
    """One database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        event.listen(engine.sync_engine, "connect", _prepare_connection)
        event.listen(engine.sync_engine, "begin", _begin)

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Open the SQLite database at `path` and bring its schema up to date.

        Raises `StorageFailed` if it cannot be opened or was written by a newer version.
        """
        await asyncio.to_thread(_use_write_ahead_log, path)
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})
        database = cls(engine)
        try:
            await database._migrate()
        except BaseException:
            await database.close()
            raise
        return database

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """For single queries: each sees the database as it is then."""
        async with _database_errors(), self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that holds the write lock from its beginning; committed durably at the end of the block."""
        async with _database_errors(), self._engine.connect() as connection:
            await connection.execution_options(gemlora_writing=True)
            async with connection.begin():
                yield connection

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def _migrate(self) -> None:
        if await self._revision() == HEAD:
            return
        from gemlora.storage.migrations import upgrade

        async with self.writing() as connection:
            await connection.run_sync(upgrade)

    async def _revision(self) -> str | None:
        async with self._engine.connect() as connection:
            try:
                revision: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
            except exc.DBAPIError:
                return None
            return revision


@asynccontextmanager
async def _database_errors() -> AsyncIterator[None]:
    try:
        yield
    except exc.IntegrityError:
        raise
    except exc.DBAPIError as error:
        raise StorageFailed(f"The database failed: {error.orig}") from error
    except exc.TimeoutError as error:
        raise StorageFailed("The database has too many connections in use") from error


def _use_write_ahead_log(path: Path) -> None:
    """Switch the file to WAL, which it then keeps. SQLite does not wait for other processes here, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.Error as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise StorageFailed(f"Could not open the database {path}: {error}") from error
            time.sleep(RETRY_SECONDS)


def _prepare_connection(connection: Any, _record: object) -> None:
    """Leave BEGIN to `_begin`; make commits durable and references checked."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("gemlora_writing", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
