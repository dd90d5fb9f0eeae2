"""The database opens fast, refuses a newer schema, and lets several processes write at once."""

import asyncio
import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, insert, select, text

from gemlora.aliases.records import Tally, Version
from gemlora.aliases.repository import AliasRepository
from gemlora.errors import StorageFailed
from gemlora.registry.records import PendingFiles
from gemlora.registry.repository import AdapterRepository
from gemlora.storage.database import HEAD, Database
from gemlora.storage.migrations import alembic_config
from gemlora.storage.sqlite import CONNECTIONS
from gemlora.storage.tables import metadata, served_models

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WRITERS = 3
ROWS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gemlora.sqlite"


async def test_migrations_make_exactly_the_tables(path: Path) -> None:
    database = await Database.open(path)

    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(compare) == []
        assert await connection.run_sync(lambda c: ScriptDirectory.from_config(alembic_config(c)).get_heads()) == [HEAD]
    await database.close()


async def test_adapters_of_the_first_version_are_kept(path: Path) -> None:
    def first_version() -> None:
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            command.upgrade(alembic_config(connection), "0001")
            connection.execute(text("INSERT INTO accounts VALUES ('a', 'a', 1, 0)"))
            connection.execute(
                text(
                    "INSERT INTO adapters VALUES ('1', 'a', 'm', 'poet', '', 0, 0, 0, "
                    "'d', 'c', 'w', 'm', 'g', 5, 2, '[\"q_proj\"]', '[]'), "
                    "('2', 'a', 'm', 'half', '', 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
                )
            )
        engine.dispose()

    await asyncio.to_thread(first_version)
    database = await Database.open(path)

    ready, half = await AdapterRepository(database).list("a")

    assert (ready.name, ready.files.modules, ready.files.difference, ready.files.probed_base) == (
        "poet",
        ("q_proj",),
        None,
        None,
    )
    assert (half.name, half.ready, half.pending) == ("half", False, PendingFiles())
    await database.close()


async def test_aliases_of_the_version_before_shadows_are_kept(path: Path) -> None:
    def before_shadows() -> None:
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            command.upgrade(alembic_config(connection), "0005")
            for row in (
                "accounts VALUES ('a', 'a', 1, 0)",
                "aliases VALUES ('1', 'a', 'bot', 0, 1)",
                "alias_revisions VALUES ('1', 1, 0, 'token', 'create', '', NULL, NULL, NULL)",
                "alias_versions VALUES ('1', 1, 0, 'cf-public-base', NULL, 3.0, 4, 2.5)",
            ):
                connection.execute(text(f"INSERT INTO {row}"))
        engine.dispose()

    await asyncio.to_thread(before_shadows)
    database = await Database.open(path)

    alias = await AliasRepository(database).find("a", "bot")

    assert alias.current.versions == (Version("cf-public-base", 3, None, 0),)
    standings = await AliasRepository(database).standings(alias, [1])
    assert standings[1].tallies == (Tally("cf-public-base", 4, 2.5),)
    await database.close()


async def test_commits_are_durable_and_references_checked(path: Path) -> None:
    database = await Database.open(path)
    async with database.reading() as connection:
        settings = {
            name: await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    await database.close()

    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


async def test_connections_of_a_burst_stay_for_the_next_one(path: Path) -> None:
    database = await Database.open(path)
    opened: list[object] = []
    event.listen(database._engine.sync_engine, "connect", lambda connection, _: opened.append(connection))
    together = asyncio.Barrier(CONNECTIONS)

    async def read() -> None:
        async with database.reading() as connection:
            await connection.execute(text("SELECT 1"))
            await together.wait()

    await asyncio.gather(*(read() for _ in range(CONNECTIONS)))
    opened.clear()
    await asyncio.gather(*(read() for _ in range(CONNECTIONS)))

    assert not opened
    await database.close()


async def test_no_thread_outlives_a_connection_whose_opening_was_cancelled(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await Database.open(path)
    await database.close()  # the next one to read opens a connection
    before = set(threading.enumerate())
    begun, released, connect = threading.Event(), threading.Event(), sqlite3.connect

    def connect_slowly(*arguments: Any, **options: Any) -> sqlite3.Connection:
        begun.set()
        released.wait()
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_slowly)

    async def read() -> None:
        async with database.reading():
            pass

    reading = asyncio.create_task(read())
    await asyncio.to_thread(begun.wait)
    reading.cancel()
    await asyncio.wait([reading], timeout=0.1)
    waited = not reading.done()
    released.set()
    await asyncio.wait([reading])
    await database.close()

    assert waited
    assert reading.cancelled()
    for thread in set(threading.enumerate()) - before:
        if "connection" in thread.name:  # it owes the loop nothing any more and ends
            thread.join(5)
            assert not thread.is_alive()


def test_opening_a_current_database_does_not_import_alembic(path: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from gemlora.storage.database import Database
async def main():
    await (await Database.open(Path({str(path)!r}))).close()
asyncio.run(main())
print("alembic" in sys.modules)
"""
    outputs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "12"
    ]

    assert [output.stdout.strip() for output in outputs] == ["True", "False"]


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await (await Database.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()

    with pytest.raises(StorageFailed, match="newer version of gemlora"):
        await Database.open(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"something else " * 100)

    with pytest.raises(StorageFailed, match="not a database"):
        asyncio.run(Database.open(path))


async def test_a_failed_transaction_leaves_nothing(path: Path) -> None:
    database = await Database.open(path)

    async def write_and_fail() -> None:
        async with database.writing() as connection:
            await connection.execute(insert(served_models).values(model="m", facts={}, recorded_at=NOW))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await write_and_fail()
    async with database.reading() as connection:
        assert (await connection.execute(select(served_models))).all() == []
    await database.close()


async def test_a_database_error_is_a_storage_error(path: Path) -> None:
    database = await Database.open(path)
    with pytest.raises(StorageFailed, match="no such table"):
        async with database.writing() as connection:
            await connection.execute(text("DELETE FROM missing"))
    await database.close()


def write_rows(path: Path, writer: int) -> None:
    """Read, then write what was read plus one: lost updates would show."""

    async def write() -> None:
        database = await Database.open(path)
        for _ in range(ROWS):
            async with database.writing() as connection:
                query = select(served_models.c.facts).where(served_models.c.model == "counter")
                facts = await connection.scalar(query)
                if facts is None:
                    await connection.execute(
                        insert(served_models).values(model="counter", facts={"n": 1}, recorded_at=NOW)
                    )
                else:
                    await connection.execute(served_models.update().values(facts={"n": facts["n"] + 1}))
        await database.close()

    asyncio.run(write())


async def test_processes_that_open_and_write_at_once_lose_nothing(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_rows, args=(path, writer)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    database = await Database.open(path)
    async with database.reading() as connection:
        assert await connection.scalar(select(served_models.c.facts)) == {"n": WRITERS * ROWS}
    await database.close()
