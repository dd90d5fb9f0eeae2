"""The database: connections, transactions, and the schema's version at start.

SQLite or PostgreSQL, behind the same two kinds of transaction. A write takes the one write lock when it begins, so
that servers and command lines can write at the same time and none ever fails halfway for another's sake.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Connection, event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gemlora.errors import StorageFailed
from gemlora.storage import postgres, sqlite

HEAD = "0006"
"""The revision of the schema that this version works with."""


class Database:
    """One database."""

    def __init__(self, engine: AsyncEngine, begin_writing: str) -> None:
        self._engine = engine

        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get("gemlora_writing", False):
                connection.exec_driver_sql(begin_writing)

        event.listen(engine.sync_engine, "begin", begin)

    @classmethod
    async def open(cls, path: Path) -> "Database":
        """Open the SQLite database at `path` and bring its schema up to date.

        Raises `StorageFailed` if it cannot be opened or was written by a newer version.
        """
        engine = await asyncio.to_thread(sqlite.sqlite_engine, path)
        return await cls(engine, sqlite.BEGIN_WRITING)._opened()

    @classmethod
    async def open_postgres(cls, url: str) -> "Database":
        """Open the PostgreSQL database at `url` and bring its schema up to date.

        Raises `StorageFailed` if it cannot be reached or was written by a newer version.
        """
        return await cls(postgres.postgres_engine(url), postgres.BEGIN_WRITING)._opened()

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

    async def _opened(self) -> "Database":
        try:
            await self._migrate()
        except BaseException:
            await self.close()
            raise
        return self

    async def _migrate(self) -> None:
        if await self._revision() == HEAD:
            return
        from gemlora.storage.migrations import upgrade

        async with self.writing() as connection:
            await connection.run_sync(upgrade)

    async def _revision(self) -> str | None:
        async with self.reading() as connection:
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
