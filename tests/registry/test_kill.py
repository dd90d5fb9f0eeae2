"""A kill at any step of adding or removing loses nothing acknowledged and shows nothing torn."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction
from tests.registry.conftest import FakeProbe
from tests.registry.peft_folder import MODEL, PeftFolder, tensors

from gemlora.accounts.repository import AccountRepository
from gemlora.accounts.service import Accounts
from gemlora.errors import AdapterNotFound
from gemlora.registry.adapters import Adapters
from gemlora.registry.holdings import AdapterHoldings
from gemlora.registry.records import Adapter
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.uploads import Uploads
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects

ACCOUNT = "a" * 32
WATCHED = [
    (os, "open"), (os, "mkdir"), (os, "fsync"), (os, "replace"), (os, "unlink"),
    (AsyncConnection, "execute"), (AsyncTransaction, "__aexit__"),
]  # fmt: skip


class Opened(NamedTuple):
    adapters: Adapters
    uploads: Uploads
    objects: LocalObjects


Action = Callable[[Opened], Any]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Opened]:
    data = DataFolder.open(path)
    database = await Database.open(data.database)
    try:
        objects, rows = LocalObjects(data.objects), AdapterRepository(database)
        adapters = Adapters(rows, objects, FakeProbe())
        accounts = Accounts(AccountRepository(database), data.first_token, AdapterHoldings(adapters))
        await accounts.prepare(ACCOUNT, "token")
        yield Opened(adapters, Uploads(rows, objects, FakeProbe()), objects)
    finally:
        await database.close()


def run(path: Path, action: Action) -> Any:
    async def act() -> Any:
        async with opened(path) as registry:
            return await action(registry)

    return asyncio.run(act())


def run_and_die(path: Path, action: Action, step: int) -> None:
    """Do it in this process and die before the `step`-th watched call."""
    left = step

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    async def act() -> None:
        async with opened(path) as registry:
            for owner, name in WATCHED:
                setattr(owner, name, watched(getattr(owner, name)))
            await action(registry)
            os._exit(0)

    asyncio.run(act())


def kills(path: Path, action: Action) -> list[int]:
    """Exit codes of running the action until it survives; it is killed one step later each time."""
    codes = []
    while not codes or codes[-1] != 0:
        process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(path, action, len(codes) + 1))
        process.start()
        process.join()
        codes.append(process.exitcode or 0)
        assert codes[-1] in (0, -signal.SIGKILL)
        check_all(path)
    return codes


def check_all(path: Path) -> None:
    """Everything that is listed is whole and can be resolved."""

    async def check() -> None:
        async with opened(path) as (adapters, _, objects):
            for adapter in await adapters.list(ACCOUNT):
                assert_whole(adapter, objects)
                ready = await adapters.resolve(ACCOUNT, adapter.name, MODEL)
                assert ready.manifest_path.is_file()

    asyncio.run(check())


def assert_whole(adapter: Adapter, objects: LocalObjects) -> None:
    assert adapter.files is not None
    for blob in (adapter.files.config_blob, adapter.files.weights_blob, adapter.files.manifest_blob):
        assert objects.verify(blob)


def names(path: Path) -> list[str]:
    return [adapter.name for adapter in run(path, lambda registry: registry.adapters.list(ACCOUNT))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    first = PeftFolder().write(tmp_path / "first")
    run(tmp_path / "data", lambda registry: registry.uploads.add(ACCOUNT, MODEL, "first", first))
    return tmp_path / "data"


def test_killed_at_any_step_of_adding_an_adapter_is_there_whole_or_not_at_all(data: Path, tmp_path: Path) -> None:
    second = PeftFolder(tensors=tensors(seed=2)).write(tmp_path / "second")

    codes = kills(data, lambda registry: registry.uploads.add(ACCOUNT, MODEL, "second", second))

    assert len(codes) >= 15
    assert names(data) == ["first", "second"]


def test_killed_at_any_step_of_removing_an_adapter_is_there_whole_or_not_at_all(data: Path) -> None:
    async def remove(registry: Opened) -> None:
        with suppress(AdapterNotFound):  # a process that was killed behind its commit has removed it
            await registry.adapters.remove(ACCOUNT, "first")

    codes = kills(data, remove)

    assert len(codes) >= 3
    assert names(data) == []


def test_what_killed_writers_left_is_discarded_later(data: Path, tmp_path: Path) -> None:
    second = PeftFolder(tensors=tensors(seed=2)).write(tmp_path / "second")
    kills(data, lambda registry: registry.uploads.add(ACCOUNT, MODEL, "second", second))
    run(data, lambda registry: registry.adapters.remove(ACCOUNT, "second"))
    for path in (data / "objects").rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))

    run(data, lambda registry: registry.adapters.discard_unused())

    assert len([path for path in (data / "objects").rglob("*") if path.is_file()]) == 3
    assert names(data) == ["first"]
