"""Two servers on one database and one folder of blobs never undo each other's work."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.registry.conftest import ALICE, Registry, make_registry
from tests.registry.peft_folder import MODEL, PeftFolder, config, raw, tensors

from gemlora.errors import AdapterInvalid, AdapterNotFound, StorageFailed
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.records import Adapter, PendingFiles
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects

FILES = {CONFIG_FILE: json.dumps(config()).encode(), WEIGHTS_FILE: raw(tensors()).content}


@pytest.fixture
async def other(registry: Registry) -> AsyncIterator[Registry]:
    database = await Database.open(registry.data.database)
    yield make_registry(registry.data, database, LocalObjects(registry.data.objects))
    await database.close()


async def attach(server: Registry, name: str) -> Adapter:
    adapter = await server.adapters.find(ALICE, "poet")
    async with server.uploads.receive() as receiver:
        await receiver.write(FILES[name])
        return await server.uploads.attach(adapter, name, receiver, MODEL)


async def collect(server: Registry) -> int:
    return await server.rows.discard_unused(lambda used: server.objects.discard(used, -60))


async def test_the_two_files_may_come_to_different_servers_at_once(registry: Registry, other: Registry) -> None:
    for _ in range(10):
        await registry.uploads.create(ALICE, MODEL, "poet")

        await asyncio.gather(attach(registry, CONFIG_FILE), attach(other, WEIGHTS_FILE))

        for server in (registry, other):
            assert (await server.adapters.find(ALICE, "poet")).ready
            assert (await server.adapters.resolve(ALICE, "poet", MODEL)).weights_path.exists()
        await other.adapters.remove(ALICE, "poet")


async def test_one_server_collects_while_another_adds(registry: Registry, other: Registry, tmp_path: Path) -> None:
    """With no grace at all an upload may lose its blobs, but then it says so and nothing of it is shown."""
    folder = PeftFolder().write(tmp_path / "peft")
    added, lost = 0, 0
    for number in range(30):
        adding = registry.uploads.add(ALICE, MODEL, f"poet {number}", folder)
        collecting = [collect(other) for _ in range(3)]
        result, *_ = await asyncio.gather(adding, *collecting, return_exceptions=True)
        # The last one is the fake engine's, when the files of the probe itself have gone.
        assert isinstance(result, Adapter | StorageFailed | FileNotFoundError), repr(result)
        added += isinstance(result, Adapter)
        lost += not isinstance(result, Adapter)

    listed = await other.adapters.list(ALICE)
    assert len(listed) == added
    assert added + lost == 30
    for adapter in listed:
        assert (await other.adapters.resolve(ALICE, adapter.name, MODEL)).weights_path.exists()


@pytest.mark.parametrize("write", ["add", "change"])
async def test_blobs_that_another_server_collects_before_the_row_is_written_are_missed(
    registry: Registry, other: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    await registry.uploads.create(ALICE, MODEL, "poet")
    writing = getattr(registry.rows, write)

    async def collect_first(*arguments: object, **options: object) -> object:
        await collect(other)
        return await writing(*arguments, **options)

    monkeypatch.setattr(registry.rows, write, collect_first)
    whole = PeftFolder().write(tmp_path / "peft")
    work = registry.uploads.add(ALICE, MODEL, "cook", whole) if write == "add" else attach(registry, CONFIG_FILE)
    with pytest.raises(StorageFailed, match="vanished"):
        await work
    monkeypatch.undo()

    (poet,) = await other.adapters.list(ALICE)
    assert poet.pending == PendingFiles()
    assert (await attach(registry, CONFIG_FILE)).pending.config_blob is not None


async def test_one_server_removes_while_another_uploads(registry: Registry, other: Registry) -> None:
    for turn in range(20):
        created = await registry.uploads.create(ALICE, MODEL, "poet")
        await attach(registry, CONFIG_FILE)
        if turn % 2:
            registry.probe.act = lambda: other.adapters.remove(ALICE, "poet")
            uploaded = (await asyncio.gather(attach(registry, WEIGHTS_FILE), return_exceptions=True))[0]
        else:
            removing = other.adapters.remove(ALICE, "poet")
            uploaded, _ = await asyncio.gather(attach(registry, WEIGHTS_FILE), removing, return_exceptions=True)

        assert isinstance(uploaded, Adapter | AdapterNotFound)
        with pytest.raises(AdapterNotFound):
            await registry.adapters.find(ALICE, created.id)
    await collect(registry)
    assert [path for path in registry.data.objects.rglob("*") if path.is_file()] == []


async def test_a_refusal_by_one_server_spares_what_the_other_accepted(registry: Registry, other: Registry) -> None:
    """Their engines may differ; content that some adapter has stays loaded."""
    await registry.uploads.create(ALICE, MODEL, "poet")
    await attach(registry, CONFIG_FILE)
    other.probe.act = lambda: attach(registry, WEIGHTS_FILE)
    other.probe.failure = AdapterInvalid("infinite logits")

    with pytest.raises(AdapterInvalid):
        await attach(other, WEIGHTS_FILE)

    assert (await other.adapters.find(ALICE, "poet")).ready
    assert other.probe.unloaded == []
