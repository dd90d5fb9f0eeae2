"""SQLite: WAL mode with `synchronous=FULL`, and a write lock that is taken when a write begins."""

import asyncio
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gemlora.errors import StorageFailed

BUSY_SECONDS = 30
"""How long a writer waits for another one."""

RETRY_SECONDS = 0.05

CONNECTIONS = 15
"""At most, each with a thread. They stay: opening one takes longer than a dozen queries."""

PRIMARY_CODE = 0xFF
"""The part of an error's code that is not detail."""

BEGIN_WRITING = "BEGIN IMMEDIATE"


def sqlite_engine(path: Path) -> AsyncEngine:
    """Connections to the database file at `path`. Blocks. Raises `StorageFailed`."""
    _use_write_ahead_log(path)
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}",
        async_creator=partial(_connect, path),
        pool_size=CONNECTIONS,
        max_overflow=0,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _prepare_connection)
    event.listen(engine.sync_engine, "handle_error", _replace_read_only_connection)
    return engine


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


async def _connect(path: Path) -> aiosqlite.Connection:
    """Open a connection. Whoever is cancelled meanwhile waits until it is closed: no thread outlives the event loop."""
    connection = aiosqlite.connect(path, timeout=BUSY_SECONDS)
    connection._thread.daemon = True  # as SQLAlchemy does: nobody waits for its thread when the interpreter ends
    opening = asyncio.ensure_future(connection)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await connection.close()
        raise


def _prepare_connection(connection: Any, _record: object) -> None:
    """Leave BEGIN to `Database`; make commits durable and references checked."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _replace_read_only_connection(context: ExceptionContext) -> None:
    """SQLite opens a file for reading alone when it could not open it for writing: such a connection must not stay."""
    code = getattr(context.original_exception, "sqlite_errorcode", 0)
    if code & PRIMARY_CODE == sqlite3.SQLITE_READONLY:
        context.is_disconnect = True
