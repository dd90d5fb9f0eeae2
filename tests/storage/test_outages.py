"""A database or bucket that goes away is a storage error at once; when it is back, the same objects work again."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from tests.backends import KEY, PostgresServer, postgres_server, postgres_url, running_s3  # noqa: F401

from gemlora.errors import StorageFailed
from gemlora.storage.database import Database
from gemlora.storage.object_cache import ObjectCache
from gemlora.storage.s3_objects import S3Objects, open_bucket
from gemlora.storage.tables import served_models

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def write(database: Database, model: str) -> None:
    async with database.writing() as connection:
        await connection.execute(insert(served_models).values(model=model, facts={}, recorded_at=NOW))


async def models(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list(await connection.scalars(select(served_models.c.model).order_by(served_models.c.model)))


async def test_postgres_goes_away_and_comes_back(
    postgres_url: str,  # noqa: F811
    postgres_server: PostgresServer,  # noqa: F811
) -> None:
    database = await Database.open_postgres(postgres_url)
    await write(database, "before")

    async def stop_while_writing() -> None:
        async with database.writing() as connection:
            await connection.execute(insert(served_models).values(model="lost", facts={}, recorded_at=NOW))
            postgres_server.stop()

    with pytest.raises(StorageFailed):
        await stop_while_writing()
    try:
        for _ in range(3):
            with pytest.raises(StorageFailed):
                await models(database)
            with pytest.raises(StorageFailed):
                await write(database, "during")
    finally:
        postgres_server.start()

    assert await models(database) == ["before"]
    await write(database, "after")
    assert await models(database) == ["after", "before"]
    await database.close()


def test_a_bucket_goes_away_and_comes_back(tmp_path: Path) -> None:
    with running_s3() as server:
        bucket = server.create_bucket()
        store = open_bucket(bucket, "", server.endpoint, "us-east-1", KEY, "hidden-secret")
        objects = S3Objects(store, ObjectCache(tmp_path, 1 << 30))
        digest = objects.put(b"before")
        server.stop()

        with pytest.raises(StorageFailed) as raised:
            objects.put(b"during")
        assert "hidden-secret" not in str(raised.value)
        assert objects.local(digest).read_bytes() == b"before"
        assert not list((tmp_path / "incoming").iterdir())

        server.start()
        server.create_bucket(bucket)
        assert objects.verify(objects.put(b"after"))
