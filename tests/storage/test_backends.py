"""PostgreSQL and a bucket do what SQLite and a folder do."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select, text
from tests.backends import S3Server, postgres_server, postgres_url, s3_server, s3_store  # noqa: F401

from gemlora.errors import StorageFailed
from gemlora.storage.database import Database
from gemlora.storage.object_cache import ObjectCache
from gemlora.storage.s3_objects import S3Objects
from gemlora.storage.tables import metadata, served_models

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CONTENT = bytes(range(256)) * 40_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def objects(s3_store: Any, tmp_path: Path) -> S3Objects:  # noqa: F811
    return S3Objects(s3_store, ObjectCache(tmp_path / "cache", 1 << 30))


async def test_servers_that_start_at_once_migrate_postgres_once(postgres_url: str) -> None:  # noqa: F811
    databases = await asyncio.gather(*(Database.open_postgres(postgres_url) for _ in range(3)))

    async with databases[0].reading() as connection:
        assert (
            await connection.run_sync(lambda c: list(compare_metadata(MigrationContext.configure(c), metadata))) == []
        )
    for database in databases:
        await database.close()


async def test_writers_on_postgres_wait_for_each_other(postgres_url: str) -> None:  # noqa: F811
    databases = [await Database.open_postgres(postgres_url) for _ in range(2)]
    async with databases[0].writing() as connection:
        await connection.execute(insert(served_models).values(model="counter", facts={"n": 0}, recorded_at=NOW))

    async def add(database: Database) -> None:
        async with database.writing() as connection:
            facts = await connection.scalar(select(served_models.c.facts))
            await connection.execute(served_models.update().values(facts={"n": facts["n"] + 1}))

    await asyncio.gather(*(add(databases[turn % 2]) for turn in range(20)))

    async with databases[0].reading() as connection:
        assert (await connection.execute(select(served_models.c.facts, served_models.c.recorded_at))).one() == (
            {"n": 20},
            NOW,
        )
    for database in databases:
        await database.close()


async def test_a_newer_schema_on_postgres_is_refused(postgres_url: str) -> None:  # noqa: F811
    database = await Database.open_postgres(postgres_url)
    async with database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()

    with pytest.raises(StorageFailed, match="newer version of gemlora"):
        await Database.open_postgres(postgres_url)


async def test_an_unreachable_postgres_is_a_storage_error_without_the_password() -> None:
    with pytest.raises(StorageFailed, match="Could not reach the database") as raised:
        await Database.open_postgres("postgresql://me:hidden-password@127.0.0.1:1/none")

    assert "hidden-password" not in f"{raised.value}{raised.value.__cause__}"


def test_a_blob_in_a_bucket_comes_back_whole(objects: S3Objects) -> None:
    assert not objects.contains(DIGEST)
    assert objects.put(CONTENT) == DIGEST
    assert objects.contains(DIGEST)
    assert objects.verify(DIGEST)
    assert objects.local(DIGEST).read_bytes() == CONTENT


def test_a_damaged_or_missing_copy_is_fetched_again(objects: S3Objects) -> None:
    objects.put(CONTENT)
    objects.local(DIGEST).write_bytes(b"other bytes")
    assert objects.local(DIGEST).read_bytes() == CONTENT
    objects.local(DIGEST).unlink()
    assert objects.local(DIGEST).read_bytes() == CONTENT


def test_a_damaged_object_is_not_served_and_storing_again_heals_it(objects: S3Objects, s3_store: Any) -> None:  # noqa: F811
    objects.put(CONTENT)
    objects.local(DIGEST).unlink()
    obstore.put(s3_store, DIGEST, b"other bytes")

    assert not objects.verify(DIGEST)
    with pytest.raises(StorageFailed, match="damaged"):
        objects.local(DIGEST)
    objects.put(CONTENT)
    assert objects.verify(DIGEST)


def test_only_old_unused_objects_are_discarded(objects: S3Objects) -> None:
    used, unused = objects.put(b"used"), objects.put(b"unused")

    assert objects.discard(frozenset({used}), grace_seconds=60) == 0
    assert objects.discard(frozenset({used}), grace_seconds=-60) == 1
    assert [objects.contains(digest) for digest in (used, unused)] == [True, False]
