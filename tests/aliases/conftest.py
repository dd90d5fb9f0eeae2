"""Aliases over a database of either kind that has adapters of two accounts."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert
from tests.backends import fresh_database, postgres_server  # noqa: F401

from gemlora.aliases.repository import AliasRepository
from gemlora.aliases.service import Aliases, AliasLimits
from gemlora.registry.records import Adapter, AdapterFiles
from gemlora.registry.repository import AdapterRepository
from gemlora.storage.database import Database
from gemlora.storage.tables import accounts
from gemlora.telemetry.logs import create_logger

ALICE, BOB = "a" * 32, "b" * 32
NOW = datetime(2026, 3, 1, tzinfo=UTC)
FILES = AdapterFiles("d" * 64, "c" * 64, "e" * 64, "f" * 64, "g", 5, 2, ("q_proj",), ())
ADAPTERS = {
    "old": (ALICE, False), "new": (ALICE, False), "half": (ALICE, False), "foreign": (BOB, False),
    "cf-public-chat": (BOB, True),
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            database = await Database.open(tmp_path / "gemlora.sqlite")
        else:
            url = await stack.enter_async_context(fresh_database(request.getfixturevalue("postgres_server")))
            database = await Database.open_postgres(url)
        stack.push_async_callback(database.close)
        async with database.writing() as connection:
            rows = [{"id": account, "name": "x", "first": False, "created_at": NOW} for account in (ALICE, BOB)]
            await connection.execute(insert(accounts), rows)
        for name, (owner, public) in ADAPTERS.items():
            await AdapterRepository(database).add(adapter(name, owner, public=public))
        yield database


def adapter(name: str, owner: str = ALICE, *, public: bool = False) -> Adapter:
    number = [*ADAPTERS, name].index(name)
    files = None if name == "half" else FILES
    return Adapter(f"00000000-0000-0000-0000-{number:012}", owner, "m", name, "", public, NOW, NOW, files)


@pytest.fixture
def aliases(database: Database) -> Aliases:
    return Aliases(AliasRepository(database), AliasLimits(3, 3), create_logger("error"), lambda: NOW)
