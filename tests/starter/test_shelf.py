"""What ships is put on the shelf once: a newer release replaces its own, and what an operator did is kept."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.registry.conftest import ALICE, BOB, Registry, make_registry
from tests.registry.peft_folder import LIMITS, MODEL, PeftFolder, tensors

from gemlora.errors import AdapterNotFound, OutOfCapacity, StorageFailed
from gemlora.registry.models import DefaultAdapter, Model
from gemlora.registry.records import Adapter
from gemlora.starter.shelf import StarterShelf
from gemlora.starter.shipped import CHAT, ShippedAdapter, shipped_adapters
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.telemetry.logs import create_logger


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that ships an adapter."""
    write_release(tmp_path / "adapters", 0)
    return tmp_path / "adapters"


@pytest.fixture
async def other(registry: Registry) -> AsyncIterator[Registry]:
    """Another server on the same data folder."""
    database = await Database.open(registry.data.database)
    yield make_registry(registry.data, database, LocalObjects(registry.data.objects))
    await database.close()


def write_release(package: Path, number: int) -> None:
    """Let the package ship the chat adapter of this release."""
    PeftFolder(tensors=tensors(seed=number)).write(package / "chat")
    (package / "chat" / "README.md").write_text(f"# Chat\n\nOf release {number}.\n")


def shelf_of(server: Registry, package: Path, log: io.StringIO | None = None) -> StarterShelf:
    logger = create_logger("info", "json", log or io.StringIO())
    return StarterShelf(server.rows, server.uploads, shipped_adapters(package), logger)


async def start(server: Registry, package: Path, model: Model = MODEL, account_id: str = ALICE) -> None:
    await shelf_of(server, package).stock(account_id, model)


async def chat(server: Registry) -> Adapter:
    return await server.rows.find_public(CHAT)


async def test_a_first_start_puts_it_on_the_shelf_as_the_account_s(registry: Registry, package: Path) -> None:
    PeftFolder(tensors=tensors(seed=7)).write(package / "intents")

    await start(registry, package)

    names = [adapter.name for adapter in await registry.rows.list_public()]
    assert sorted(names) == [CHAT, "cf-public-intents"]
    published = await chat(registry)
    assert (published.account_id, published.description) == (ALICE, "Of release 0.")
    assert published.files is not None
    assert (published.files.difference, published.files.probed_base) == (1.0, MODEL.base.digest)
    assert (await registry.adapters.resolve(BOB, CHAT, MODEL)).digest == published.files.digest
    assert await shelf_of(registry, package).default_adapter(MODEL) == DefaultAdapter(CHAT, optional=True)


async def test_a_start_with_nothing_to_do_reads_no_file_and_runs_no_engine(
    registry: Registry, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(registry, package)
    published, probed = await chat(registry), len(registry.probe.probed)
    monkeypatch.setattr(ShippedAdapter, "digest", lambda self: pytest.fail("hashed"))

    await start(registry, package)

    assert await chat(registry) == published
    assert len(registry.probe.probed) == probed


async def test_the_same_content_in_a_newer_release_changes_nothing(
    registry: Registry, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(registry, package)
    published = await chat(registry)
    monkeypatch.setattr("gemlora.starter.shipped.__version__", "9.9.9")

    await start(registry, package)
    monkeypatch.setattr(ShippedAdapter, "digest", lambda self: pytest.fail("hashed again"))
    await start(registry, package)

    assert await chat(registry) == published


async def test_newer_content_takes_the_place_of_the_older_and_never_the_other_way(
    registry: Registry, package: Path
) -> None:
    await start(registry, package)
    old = await chat(registry)
    assert old.files is not None
    write_release(package, 1)

    await start(registry, package)

    new = await chat(registry)
    assert new.files is not None
    assert new.files.digest != old.files.digest
    assert new.description == "Of release 1."
    assert registry.probe.unloaded == [old.files.digest]
    with pytest.raises(AdapterNotFound):
        await registry.adapters.find_visible(BOB, old.id)

    write_release(package, 0)
    await start(registry, package)
    assert await chat(registry) == new


async def test_older_content_that_somebody_else_uses_stays_loaded(registry: Registry, package: Path) -> None:
    await start(registry, package)
    await registry.uploads.publish(await chat(registry), BOB, "cf-public-copy")
    write_release(package, 1)

    await start(registry, package)

    assert registry.probe.unloaded == []


@pytest.mark.parametrize("renamed", [False, True])
async def test_what_an_operator_took_away_stays_away(registry: Registry, package: Path, renamed: bool) -> None:
    await start(registry, package)
    if renamed:
        await registry.uploads.rename(ALICE, CHAT, "cf-public-old-chat")
    else:
        await registry.adapters.remove(ALICE, CHAT)

    for release in (0, 1):
        write_release(package, release)
        await start(registry, package)
        with pytest.raises(AdapterNotFound):
            await chat(registry)
    assert await shelf_of(registry, package).default_adapter(MODEL) is None


async def test_what_an_operator_put_in_its_place_stays_and_is_the_default(
    registry: Registry, package: Path, tmp_path: Path
) -> None:
    await start(registry, package)
    await registry.adapters.remove(ALICE, CHAT)
    folder = PeftFolder(tensors=tensors(seed=5)).write(tmp_path / "own")
    own = await registry.uploads.add(BOB, MODEL, CHAT, folder, public=True)
    write_release(package, 1)

    await start(registry, package)

    assert await chat(registry) == own
    assert await shelf_of(registry, package).default_adapter(MODEL) == DefaultAdapter(CHAT, optional=True)


async def test_a_name_that_was_taken_before_stays_as_it_is(registry: Registry, package: Path, tmp_path: Path) -> None:
    folder = PeftFolder(tensors=tensors(seed=5)).write(tmp_path / "own")
    own = await registry.uploads.add(BOB, MODEL, CHAT, folder, public=True)

    await start(registry, package)

    assert await chat(registry) == own


async def test_an_operator_who_puts_it_back_gets_newer_content_again(registry: Registry, package: Path) -> None:
    await start(registry, package)
    await registry.adapters.remove(ALICE, CHAT)
    again = await registry.uploads.add(ALICE, MODEL, CHAT, package / "chat", public=True)
    write_release(package, 1)

    await start(registry, package)

    assert (await chat(registry)).id != again.id


async def test_it_follows_the_name_of_the_model_and_the_first_account(registry: Registry, package: Path) -> None:
    await start(registry, package)
    before = await chat(registry)
    other_model = replace(MODEL, name="@cf/google/other")

    assert await shelf_of(registry, package).default_adapter(other_model) is None
    await start(registry, package, other_model, BOB)

    after = await chat(registry)
    assert (after.model, after.account_id) == (other_model.name, BOB)
    assert after.files == before.files
    assert registry.probe.unloaded == []
    assert await shelf_of(registry, package).default_adapter(other_model) == DefaultAdapter(CHAT, optional=True)


async def test_other_weights_get_nothing(registry: Registry, package: Path) -> None:
    other_weights = replace(MODEL, starter=False)

    await start(registry, package, other_weights)
    assert await registry.rows.list_public() == ()

    await start(registry, package)
    assert await shelf_of(registry, package).default_adapter(other_weights) is None


async def test_a_package_without_adapters_leaves_the_shelf_empty(registry: Registry, tmp_path: Path) -> None:
    await start(registry, tmp_path / "missing")

    assert await registry.rows.list_public() == ()
    assert await shelf_of(registry, tmp_path / "missing").default_adapter(MODEL) is None


async def test_an_adapter_without_files_is_no_default(registry: Registry, tmp_path: Path) -> None:
    await registry.uploads.create(ALICE, MODEL, CHAT, public=True)

    assert await shelf_of(registry, tmp_path).default_adapter(MODEL) is None


async def test_what_is_refused_is_logged_and_the_rest_is_published(registry: Registry, package: Path) -> None:
    PeftFolder(tensors=tensors(seed=7)).write(package / "intents")
    (package / "base").mkdir()
    (package / "chat" / "adapter_model.safetensors").write_bytes(b"damaged")
    log = io.StringIO()

    await shelf_of(registry, package, log).stock(ALICE, MODEL)

    assert [adapter.name for adapter in await registry.rows.list_public()] == ["cf-public-intents"]
    refused = [line for line in log.getvalue().splitlines() if "starter adapter not published" in line]
    assert len(refused) == 2


async def test_it_obeys_the_limits_and_comes_once_they_allow_it(registry: Registry, package: Path) -> None:
    await start(registry, package, replace(MODEL, limits=replace(LIMITS, max_rank=1)))
    with pytest.raises(AdapterNotFound):
        await chat(registry)

    await start(registry, package)

    assert (await chat(registry)).ready


async def test_a_failed_start_is_made_up_for_by_the_next(registry: Registry, package: Path) -> None:
    registry.probe.failure = OutOfCapacity("full")
    await start(registry, package)
    registry.probe.failure = None

    await start(registry, package)

    assert (await chat(registry)).ready


@pytest.mark.parametrize("existing", [False, True])
async def test_two_servers_that_start_together_publish_it_once(
    registry: Registry, other: Registry, package: Path, existing: bool
) -> None:
    for release in range(10):
        if not existing:
            await registry.rows.remove_all(ALICE)
            async with registry.database.writing() as connection:
                await connection.exec_driver_sql("DELETE FROM shipped_adapters")
        write_release(package, release)

        await asyncio.gather(start(registry, package), start(other, package))

        (shown,) = await registry.rows.list_public()
        assert shown.files is not None
        assert shown.files.digest == shipped_adapters(package)[0].digest()
        assert (await other.adapters.resolve(BOB, CHAT, MODEL)).weights_path.exists()


async def test_an_adapter_that_is_removed_while_another_server_starts_stays_away(
    registry: Registry, other: Registry, package: Path
) -> None:
    async def meanwhile() -> None:
        await start(other, package)
        await other.adapters.remove(ALICE, CHAT)

    registry.probe.act = meanwhile
    await start(registry, package)

    assert await registry.rows.list_public() == ()


async def test_files_that_vanish_before_the_row_is_written_are_noticed(registry: Registry, package: Path) -> None:
    (shipped,) = shipped_adapters(package)

    class Forgetful(LocalObjects):
        def contains(self, digest: str) -> bool:
            return False

    forgetful = make_registry(registry.data, registry.database, Forgetful(registry.data.objects))
    with pytest.raises(StorageFailed, match="vanished"):
        await forgetful.uploads.add_shipped(ALICE, MODEL, CHAT, shipped.folder, "", fingerprint="any", replaced=None)
    assert await registry.rows.list_shipped() == ()
