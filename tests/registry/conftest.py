"""A registry over a fresh data folder."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gemlora.accounts.records import Account
from gemlora.accounts.repository import AccountRepository
from gemlora.registry.adapters import Adapters
from gemlora.registry.records import ReadyAdapter
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.uploads import Uploads
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.storage.manifest import AdapterManifest
from gemlora.storage.objects import Objects

ALICE, BOB = "a" * 32, "b" * 32
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class FakeProbe:
    """The engine's part: what it finds, or how it fails; `act` runs while it probes."""

    difference: float = 1.0
    failure: Exception | None = None
    act: Callable[[], Awaitable[object]] | None = None
    probed: list[ReadyAdapter] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)

    async def probe(self, adapter: ReadyAdapter) -> float:
        self.probed.append(adapter)
        assert hashlib.sha256(adapter.manifest_path.read_bytes()).hexdigest() == adapter.manifest_digest
        manifest = AdapterManifest.read(adapter.manifest_path)
        assert hashlib.sha256(adapter.weights_path.read_bytes()).hexdigest() == manifest.weights_digest
        if self.act is not None:
            act, self.act = self.act, None
            await act()
        if self.failure is not None:
            raise self.failure
        return self.difference

    async def unload(self, digest: str) -> None:
        self.unloaded.append(digest)


@dataclass(frozen=True)
class Registry:
    """One server's view of a registry."""

    adapters: Adapters
    uploads: Uploads
    rows: AdapterRepository
    objects: Objects
    probe: FakeProbe
    data: DataFolder
    database: Database


def make_registry(data: DataFolder, database: Database, objects: Objects) -> Registry:
    rows, probe = AdapterRepository(database), FakeProbe()
    return Registry(Adapters(rows, objects, probe), Uploads(rows, objects, probe), rows, objects, probe, data, database)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    data = DataFolder.open(tmp_path / "data")
    database = await Database.open(data.database)
    await add_accounts(database)
    yield make_registry(data, database, LocalObjects(data.objects))
    await database.close()


async def add_accounts(database: Database) -> None:
    async with AccountRepository(database).changing() as changes:
        for account_id in (ALICE, BOB):
            await changes.make_first(Account(account_id, account_id[0], NOW))
