"""A registry over a fresh data folder."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gemlora.accounts.records import Account
from gemlora.accounts.repository import AccountRepository
from gemlora.registry.adapters import Adapters
from gemlora.registry.repository import AdapterRepository
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects

ALICE, BOB = "a" * 32, "b" * 32
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Registry:
    adapters: Adapters
    rows: AdapterRepository
    objects: LocalObjects
    data: DataFolder


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    data = DataFolder.open(tmp_path / "data")
    database = await Database.open(data.database)
    async with AccountRepository(database).changing() as changes:
        for account_id in (ALICE, BOB):
            await changes.make_first(Account(account_id, account_id[0], NOW))
    objects = LocalObjects(data.objects)
    rows = AdapterRepository(database)
    yield Registry(Adapters(rows, objects), rows, objects, data)
    await database.close()
