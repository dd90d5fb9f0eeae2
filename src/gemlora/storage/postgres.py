"""PostgreSQL: every query at READ COMMITTED, and one advisory lock that writers hold until they commit."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gemlora.errors import SettingsInvalid, StorageFailed

CONNECT_SECONDS = 5
BUSY_SECONDS = 30
"""How long a writer waits for another one, or a query for its answer."""

IDLE_SECONDS = 600
"""How long a transaction may do nothing before the database ends it: a server that vanished holds no lock for ever."""

BEGIN_WRITING = "SELECT pg_advisory_xact_lock(29103443246281313)"
"""The number is `gemlora` in ASCII: nobody else in the database is likely to use it."""


def postgres_engine(url: str) -> AsyncEngine:
    """Connections to the database at `url` (libpq's form). Raises `SettingsInvalid` without the library for it."""
    try:
        import asyncpg
    except ImportError:
        raise SettingsInvalid("database_url needs the package asyncpg: pip install 'gemlora[postgres]'") from None

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                url,
                timeout=CONNECT_SECONDS,
                command_timeout=BUSY_SECONDS + CONNECT_SECONDS,
                server_settings={
                    "application_name": "gemlora",
                    "lock_timeout": f"{BUSY_SECONDS}s",
                    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
                },
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Not the error's own text: one about a bad URL may quote it, with its password.
            raise StorageFailed(f"Could not reach the database: {type(error).__name__}") from None

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=CONNECT_SECONDS,
        hide_parameters=True,
    )
