"""Files come one by one, in any order; the second makes the adapter ready; what is refused changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.backends import fresh_database, postgres_server, s3_server, s3_store  # noqa: F401
from tests.registry.conftest import ALICE, BOB, Registry, add_accounts, make_registry
from tests.registry.peft_folder import MODEL, PeftFolder, config, raw, tensors

from gemlora.errors import (
    AdapterIncomplete,
    AdapterInvalid,
    AdapterNotFound,
    AdapterNotReady,
    EngineFailed,
    GemloraError,
    InvalidRequest,
    OutOfCapacity,
    StorageFailed,
    TooManyAdapters,
)
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.engine import NO_DIFFERENCE
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


async def test_until_it_is_ready_another_file_replaces_the_first_one(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    adapter = await attach(registry, adapter, CONFIG_FILE, WIDE_CONFIG)

    with pytest.raises(AdapterInvalid, match=r"expected \[3, 8\]"):
        await attach(registry, adapter, WEIGHTS_FILE, WEIGHTS)
    assert await registry.adapters.find(ALICE, "poet") == adapter
    adapter = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    adapter = await attach(registry, adapter, WEIGHTS_FILE, WEIGHTS)

    assert adapter.ready


async def test_the_same_bytes_again_are_a_success_and_others_are_refused_once_it_is_ready(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    half = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    assert await attach(registry, half, CONFIG_FILE, CONFIG) == half
    whole = await attach(registry, half, WEIGHTS_FILE, WEIGHTS)

    for stale in (adapter, half, whole):  # whatever the client's request saw when it began
        assert await attach(registry, stale, CONFIG_FILE, CONFIG) == whole
        assert await attach(registry, stale, WEIGHTS_FILE, WEIGHTS) == whole
        with pytest.raises(AdapterInvalid, match=f"{WEIGHTS_FILE} differs"):
            await attach(registry, stale, WEIGHTS_FILE, OTHER_WEIGHTS)

    assert await registry.adapters.find(ALICE, "poet") == whole


@pytest.mark.parametrize("name", ["", "model.safetensors", "Adapter_config.json", "adapter_config.json\0", "../x"])
async def test_there_are_two_files_and_no_others(registry: Registry, name: str) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")

    with pytest.raises(InvalidRequest, match=f"{CONFIG_FILE} or {WEIGHTS_FILE}"):
        await attach(registry, adapter, name, CONFIG)
    with pytest.raises(InvalidRequest, match=f"{CONFIG_FILE} or {WEIGHTS_FILE}"):
        await registry.adapters.open_file(adapter, name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG_FILE, b"{"),
        (CONFIG_FILE, b""),
        (CONFIG_FILE, json.dumps(config(peft_type="LOHA")).encode()),
        (CONFIG_FILE, b" " * (1 << 20) + CONFIG),
        (WEIGHTS_FILE, b""),
        (WEIGHTS_FILE, WEIGHTS + b"x"),
        (WEIGHTS_FILE, CONFIG),
        (WEIGHTS_FILE, b"x" * (MODEL.limits.max_bytes + 1)),
    ],
    ids=map(str, range(8)),
)
async def test_a_file_that_is_wrong_by_itself_is_refused_at_once_and_not_stored(
    registry: Registry, name: str, content: bytes
) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")

    with pytest.raises(AdapterInvalid, match=name):
        await attach(registry, adapter, name, content, piece=1 << 19)

    assert await registry.adapters.find(ALICE, "poet") == adapter
    assert await discard_all(registry) == 0
    assert registry.probe.probed == []


@pytest.mark.parametrize("failure", [AdapterInvalid("infinite logits"), EngineFailed("dead"), OutOfCapacity("full")])
@pytest.mark.parametrize("last", FILES)
async def test_what_the_probe_refuses_is_not_stored_and_may_be_sent_again(
    registry: Registry, failure: GemloraError, last: str
) -> None:
    first = next(name for name in FILES if name != last)
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    half = await attach(registry, adapter, first, FILES[first])
    registry.probe.failure = failure

    with pytest.raises(type(failure), match=str(failure)):
        await attach(registry, half, last, FILES[last])
    assert await registry.adapters.find(ALICE, "poet") == half
    assert await discard_all(registry) == 0
    assert len(registry.probe.unloaded) == isinstance(failure, AdapterInvalid)
    registry.probe.failure = None

    assert (await attach(registry, half, last, FILES[last])).ready


async def test_a_probe_that_finds_no_difference_is_a_warning(registry: Registry) -> None:
    registry.probe.difference = 0.0

    adapter = await ready(registry)

    assert adapter.files is not None
    assert adapter.files.difference == 0
    assert adapter.files.warnings == (NO_DIFFERENCE,)


async def test_both_files_at_once_meet(registry: Registry) -> None:
    adapters = [await registry.uploads.create(ALICE, MODEL, f"poet {number}") for number in range(4)]

    results = await asyncio.gather(
        *(attach(registry, adapter, name, FILES[name]) for adapter in adapters for name in FILES)
    )

    assert all(any(result.ready for result in results[index : index + 2]) for index in range(0, 8, 2))
    assert all(adapter.ready for adapter in await registry.adapters.list(ALICE))


async def test_of_two_that_race_with_different_weights_one_wins_and_the_other_is_told(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    half = await attach(registry, adapter, CONFIG_FILE, CONFIG)

    results = await asyncio.gather(
        *(attach(registry, half, WEIGHTS_FILE, content) for content in (WEIGHTS, OTHER_WEIGHTS, WEIGHTS)),
        return_exceptions=True,
    )

    found = await registry.adapters.find(ALICE, "poet")
    assert found.ready
    for result in results:
        assert result == found or isinstance(result, AdapterInvalid)
    assert {type(result) for result in results} == {Adapter, AdapterInvalid}


async def test_an_adapter_that_is_removed_while_it_is_probed_stays_removed(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    half = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    registry.probe.act = lambda: registry.adapters.remove(ALICE, "poet")

    with pytest.raises(AdapterNotFound):
        await attach(registry, half, WEIGHTS_FILE, WEIGHTS)

    assert await registry.adapters.list(ALICE) == ()
    assert await discard_all(registry) == 4 - 1  # the manifest and both files, as nothing refers to them


async def test_a_file_that_is_replaced_while_the_pair_is_probed_counts(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    half = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    registry.probe.act = lambda: attach(registry, half, CONFIG_FILE, WIDE_CONFIG)

    with pytest.raises(AdapterInvalid, match=r"expected \[3, 8\]"):
        await attach(registry, half, WEIGHTS_FILE, WEIGHTS)

    found = await registry.adapters.find(ALICE, "poet")
    assert not found.ready
    assert (await registry.adapters.open_file(found, CONFIG_FILE)).read_bytes() == WIDE_CONFIG


async def test_an_upload_that_is_cancelled_leaves_nothing(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    half = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    reached = asyncio.Event()

    async def wait_for_ever() -> None:
        reached.set()
        await asyncio.Event().wait()

    registry.probe.act = wait_for_ever
    upload = asyncio.create_task(attach(registry, half, WEIGHTS_FILE, WEIGHTS))
    await reached.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload

    assert await registry.adapters.find(ALICE, "poet") == half
    assert await discard_all(registry) == 0
    assert (await attach(registry, half, WEIGHTS_FILE, WEIGHTS)).ready


async def test_collecting_spares_what_is_pending_ready_or_young(registry: Registry, tmp_path: Path) -> None:
    await ready(registry, "poet")
    half = await registry.uploads.create(ALICE, MODEL, "half")
    half = await attach(registry, half, WEIGHTS_FILE, OTHER_WEIGHTS)
    gone = await ready(registry, "gone", weights=raw(tensors(seed=2)).content)
    await registry.adapters.remove(ALICE, gone.id)

    assert await registry.adapters.discard_unused() == 0
    async with registry.uploads.receive() as receiver:
        await receiver.write(CONFIG)
        assert await discard_all(registry) >= 2  # the removed adapter's weights and manifest, and what is received

    assert (await registry.adapters.resolve(ALICE, "poet", MODEL)).weights_path.read_bytes() == WEIGHTS
    assert (await registry.adapters.open_file(half, WEIGHTS_FILE)).read_bytes() == OTHER_WEIGHTS
    assert (await attach(registry, half, CONFIG_FILE, CONFIG)).ready


async def test_a_pending_file_that_is_replaced_can_be_collected(registry: Registry) -> None:
    adapter = await registry.uploads.create(ALICE, MODEL, "poet")
    adapter = await attach(registry, adapter, CONFIG_FILE, CONFIG)
    await attach(registry, adapter, CONFIG_FILE, WIDE_CONFIG)

    assert await discard_all(registry) == 1


async def test_sending_a_lost_file_again_heals_it(registry: Registry) -> None:
    adapter = await ready(registry)
    assert adapter.files is not None
    registry.objects.discard(frozenset(), -60)
    assert not registry.objects.contains(adapter.files.weights_blob)

    await attach(registry, adapter, WEIGHTS_FILE, WEIGHTS)

    assert registry.objects.verify(adapter.files.weights_blob)


async def test_of_creations_that_race_for_a_name_one_wins(registry: Registry) -> None:
    results = await asyncio.gather(
        *(registry.uploads.create(ALICE, MODEL, "poet") for _ in range(4)), return_exceptions=True
    )

    assert sorted(type(result).__name__ for result in results) == ["Adapter", *["AdapterExists"] * 3]


async def test_an_account_has_no_more_adapters_than_it_may(registry: Registry, tmp_path: Path) -> None:
    model = replace(MODEL, limits=replace(MODEL.limits, max_adapters=3))
    results = await asyncio.gather(
        *(registry.uploads.create(ALICE, model, f"poet {number}") for number in range(5)), return_exceptions=True
    )
    await registry.uploads.create(BOB, model, "poet")
    await registry.uploads.create(ALICE, model, "cf-public-poet", public=True)

    assert sorted(type(result).__name__ for result in results) == [*["Adapter"] * 3, *["TooManyAdapters"] * 2]
    with pytest.raises(TooManyAdapters, match="3 adapters already"):
        await registry.uploads.add(ALICE, model, "one more", PeftFolder().write(tmp_path / "peft"))
    assert len(await registry.adapters.list(ALICE)) == 4


async def test_an_account_that_was_deleted_gets_no_adapters(registry: Registry) -> None:
    with pytest.raises(StorageFailed, match="account was deleted"):
        await registry.uploads.create("c" * 32, MODEL, "poet")


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 10_001])
async def test_a_description_that_a_database_refuses_is_refused_before(registry: Registry, text: str) -> None:
    with pytest.raises(InvalidRequest, match="description"):
        await registry.uploads.create(ALICE, MODEL, "poet", text)


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800", "x" * 5000, "", "' OR 1=1 --", "0" * 36])
async def test_odd_references_are_unknown_adapters(registry: Registry, name: str) -> None:
    await ready(registry)

    for act in (registry.adapters.find, registry.adapters.find_visible, registry.adapters.remove):
        with pytest.raises(AdapterNotFound):
            await act(ALICE, name)
    with pytest.raises(AdapterNotFound):
        await registry.adapters.resolve(ALICE, name, MODEL)


class TestTheShelf:
    async def test_a_published_adapter_is_used_by_all_and_outlives_the_original(self, registry: Registry) -> None:
        source = await ready(registry)
        assert source.files is not None

        published = await registry.uploads.publish(source, ALICE, "cf-public-poet")
        await registry.adapters.remove(ALICE, "poet")

        assert (published.files, published.public) == (source.files, True)
        assert await registry.adapters.list_public() == (published,)
        assert await registry.adapters.list(BOB) == ()
        assert await registry.adapters.find_visible(BOB, "cf-public-poet") == published
        for reference in ("cf-public-poet", published.id):
            resolved = await registry.adapters.resolve(BOB, reference, MODEL)
            assert (resolved.digest, resolved.public) == (source.files.digest, True)
            with pytest.raises(AdapterNotFound):
                await registry.adapters.find(BOB, reference)
            with pytest.raises(AdapterNotFound):
                await registry.adapters.remove(BOB, reference)
        assert registry.probe.unloaded == []
        await registry.adapters.remove(ALICE, "cf-public-poet")
        assert registry.probe.unloaded == [source.files.digest]

    async def test_public_names_are_used_once_on_the_whole_server(self, registry: Registry) -> None:
        source = await ready(registry)
        results = await asyncio.gather(
            registry.uploads.publish(source, ALICE, "cf-public-poet"),
            registry.uploads.publish(source, BOB, "cf-public-poet"),
            registry.uploads.create(BOB, MODEL, "cf-public-poet", public=True),
            return_exceptions=True,
        )

        assert sorted(type(result).__name__ for result in results) == ["Adapter", "AdapterExists", "AdapterExists"]
        assert len(await registry.adapters.list_public()) == 1

    async def test_what_is_not_ready_cannot_be_published(self, registry: Registry) -> None:
        half = await registry.uploads.create(ALICE, MODEL, "poet")

        with pytest.raises(AdapterNotReady):
            await registry.uploads.publish(half, ALICE, "cf-public-poet")

    async def test_publishing_what_was_removed_and_collected_meanwhile_fails(self, registry: Registry) -> None:
        source = await ready(registry)
        await registry.adapters.remove(ALICE, "poet")
        assert await discard_all(registry) == 3

        with pytest.raises(StorageFailed, match="vanished"):
            await registry.uploads.publish(source, ALICE, "cf-public-poet")
        assert await registry.adapters.list_public() == ()

    async def test_a_public_adapter_can_be_made_file_by_file(self, registry: Registry) -> None:
        adapter = await registry.uploads.create(ALICE, MODEL, "cf-public-poet", public=True)
        with pytest.raises(AdapterIncomplete):
            await registry.adapters.resolve(BOB, "cf-public-poet", MODEL)
        for name, content in FILES.items():
            adapter = await attach(registry, adapter, name, content)

        assert (await registry.adapters.resolve(BOB, "cf-public-poet", MODEL)).id == adapter.id


async def test_the_engine_forgets_content_that_no_adapter_has_any_more(registry: Registry) -> None:
    first, second = await ready(registry, "poet"), await ready(registry, "poet", BOB)
    assert first.files is not None

    await registry.adapters.remove(ALICE, "poet")
    assert registry.probe.unloaded == []
    await registry.adapters.remove(BOB, second.id)

    assert registry.probe.unloaded == [first.files.digest]


async def test_a_removal_that_is_done_does_not_depend_on_the_database_any_more(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = await ready(registry)
    assert adapter.files is not None

    async def fail(*_: object) -> None:
        raise StorageFailed("The database failed")

    monkeypatch.setattr(registry.rows, "is_used", fail)
    await registry.adapters.remove(ALICE, "poet")

    assert registry.probe.unloaded == [adapter.files.digest]
