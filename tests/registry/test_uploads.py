"""Files come one by one, in any order; the second makes the adapter ready; what is refused changes nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.backends import fresh_database, postgres_server, s3_server, s3_store  # noqa: F401
from tests.registry.conftest import ALICE, Registry, add_accounts, make_registry
from tests.registry.peft_folder import MODEL, config, raw, tensors

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.records import Adapter, PendingFiles
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.storage.object_cache import ObjectCache
from gemlora.storage.objects import Objects
from gemlora.storage.s3_objects import S3Objects

CONFIG = json.dumps(config()).encode()
WEIGHTS = raw(tensors()).content
OTHER_WEIGHTS = raw(tensors(seed=1)).content
WIDE_CONFIG = json.dumps(config(r=3)).encode()
FILES = {CONFIG_FILE: CONFIG, WEIGHTS_FILE: WEIGHTS}


@pytest.fixture(params=["sqlite and a folder", "postgres and a bucket"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    async with AsyncExitStack() as stack:
        data = DataFolder.open(tmp_path / "data")
        objects: Objects
        if request.param == "sqlite and a folder":
            database, objects = await Database.open(data.database), LocalObjects(data.objects)
        else:
            url = await stack.enter_async_context(fresh_database(request.getfixturevalue("postgres_server")))
            database = await Database.open_postgres(url)
            objects = S3Objects(request.getfixturevalue("s3_store"), ObjectCache(tmp_path / "cache", 1 << 30))
        stack.push_async_callback(database.close)
        await add_accounts(database)
        yield make_registry(data, database, objects)


async def attach(registry: Registry, adapter: Adapter, name: str, content: bytes, piece: int = 1000) -> Adapter:
    async with registry.uploads.receive() as receiver:
        for start in range(0, len(content), piece):
            await receiver.write(content[start : start + piece])
        assert receiver.size == len(content)
        return await registry.uploads.attach(adapter, name, receiver, MODEL)


async def ready(registry: Registry, name: str = "poet", account: str = ALICE, weights: bytes = WEIGHTS) -> Adapter:
    adapter = await registry.uploads.create(account, MODEL, name)
    adapter = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    return await attach(registry, adapter, WEIGHTS_FILE, weights)


def discard_all(registry: Registry) -> Any:
    """Collect garbage that is no second old."""
    return registry.rows.discard_unused(lambda used: registry.objects.discard(used, -60))


@pytest.mark.parametrize("order", [FILES, {name: FILES[name] for name in reversed(FILES)}], ids=lambda o: next(iter(o)))
async def test_the_second_file_makes_it_ready(registry: Registry, order: dict[str, bytes]) -> None:
    created = await registry.uploads.create(ALICE, MODEL, "poet", "verse")
    (first, content), (second, last) = order.items()

    half = await attach(registry, created, first, content)
    found = await registry.adapters.find(ALICE, "poet")
    whole = await attach(registry, half, second, last)

    assert (created.ready, half.ready, whole.ready) == (False, False, True)
    assert found == half
    assert await registry.adapters.find(ALICE, whole.id) == whole
    assert (whole.id, whole.description, whole.pending) == (created.id, "verse", PendingFiles())
    assert whole.files is not None
    assert (whole.files.difference, whole.files.probed_base) == (1.0, MODEL.base.digest)
    assert [probed.digest for probed in registry.probe.probed] == [whole.files.digest]
    resolved = await registry.adapters.resolve(ALICE, "poet", MODEL)
    assert resolved.weights_path.read_bytes() == WEIGHTS
    assert (await registry.adapters.open_file(whole, CONFIG_FILE)).read_bytes() == CONFIG
    assert len(registry.probe.probed) == 1
