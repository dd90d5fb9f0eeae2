"""Damaged files and records are refused or mended: nothing is ever served that was not uploaded."""

import random
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update
from tests.registry.conftest import ALICE, Registry
from tests.registry.peft_folder import BASE, MODEL, PeftFolder, config, tensors

from gemlora.errors import AdapterInvalid, StorageFailed
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.models import Model, served_model
from gemlora.registry.records import Adapter, ReadyAdapter
from gemlora.storage.manifest import AdapterManifest
from gemlora.storage.objects import digest_of
from gemlora.storage.tables import adapters

COLUMNS = ("digest", "config_blob", "weights_blob", "manifest_blob")
OTHER_GEOMETRY: Model = served_model(
    MODEL.name, "starter", replace(BASE, digest="e" * 64, modules=BASE.modules | {"down_proj": (8, 32)}), MODEL.limits
)


@pytest.fixture
async def poet(registry: Registry, tmp_path: Path) -> Adapter:
    return await registry.uploads.add(ALICE, MODEL, "poet", PeftFolder().write(tmp_path / "poet"))


@pytest.fixture
async def other(registry: Registry, tmp_path: Path) -> Adapter:
    return await registry.uploads.add(
        ALICE, MODEL, "other", PeftFolder(config(lora_alpha=5), tensors(seed=1)).write(tmp_path / "o")
    )


def flip(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


async def upload(registry: Registry, adapter: Adapter, folder: Path, name: str) -> Adapter:
    async with registry.uploads.receive() as receiver:
        await receiver.write((folder / name).read_bytes())
        return await registry.uploads.attach(adapter, name, receiver, MODEL)


async def write_row(registry: Registry, adapter: Adapter, **values: str) -> None:
    async with registry.database.writing() as connection:
        await connection.execute(update(adapters).where(adapters.c.id == adapter.id).values(values))


async def row(registry: Registry, adapter: Adapter) -> dict[str, str]:
    query = select(*(adapters.c[name] for name in COLUMNS)).where(adapters.c.id == adapter.id)
    async with registry.database.reading() as connection:
        return dict((await connection.execute(query)).mappings().one())


async def served(resolving: Awaitable[ReadyAdapter]) -> str | None:
    """The digest of the weights that an engine would compute with, None if it refuses or is never asked."""
    try:
        ready = await resolving
    except (AdapterInvalid, StorageFailed):
        return None
    manifest = AdapterManifest.read(ready.manifest_path)
    whole = digest_of(ready.manifest_path) == ready.manifest_digest
    return manifest.weights_digest if whole and digest_of(ready.weights_path) == manifest.weights_digest else None


@pytest.mark.parametrize("blob", ["config_blob", "weights_blob"])
async def test_damaged_files_are_not_fitted_to_other_weights_until_they_are_uploaded_again(
    registry: Registry, poet: Adapter, tmp_path: Path, blob: str
) -> None:
    generator = random.Random(blob)
    name = {"config_blob": CONFIG_FILE, "weights_blob": WEIGHTS_FILE}[blob]
    for _ in range(50):
        flip(registry.objects.local(getattr(poet.files, blob)), generator)
        with pytest.raises(AdapterInvalid, match="damaged in the store"):
            await registry.adapters.resolve(ALICE, "poet", OTHER_GEOMETRY)
        await upload(registry, poet, tmp_path / "poet", name)

    assert (await registry.adapters.resolve(ALICE, "poet", OTHER_GEOMETRY)).digest == poet.files.digest


@pytest.mark.parametrize(("first", "second"), [(CONFIG_FILE, WEIGHTS_FILE), (WEIGHTS_FILE, CONFIG_FILE)])
async def test_a_waiting_file_that_was_damaged_is_refused_with_the_second_until_it_is_uploaded_again(
    registry: Registry, tmp_path: Path, first: str, second: str
) -> None:
    folder = PeftFolder().write(tmp_path / "late")
    half = await upload(registry, await registry.uploads.create(ALICE, MODEL, "late"), folder, first)
    flip(registry.objects.local(half.pending.config_blob or half.pending.weights_blob), random.Random(first))

    with pytest.raises(AdapterInvalid, match="damaged in the store"):
        await upload(registry, half, folder, second)
    await upload(registry, half, folder, first)

    assert (await upload(registry, half, folder, second)).ready


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_flipped_bit_in_a_record_serves_nothing_else(registry: Registry, poet: Adapter, column: str) -> None:
    whole = (await row(registry, poet))[column]
    for position in range(0, len(whole), 3):
        for bit in range(7):
            changed = whole[:position] + chr(ord(whole[position]) ^ 1 << bit) + whole[position + 1 :]
            await write_row(registry, poet, **{column: changed})
            assert await served(registry.adapters.resolve(ALICE, "poet", MODEL)) is None

    await write_row(registry, poet, **{column: whole})
    assert await served(registry.adapters.resolve(ALICE, "poet", MODEL)) == poet.files.weights_blob


SUBSETS = [[name for index, name in enumerate(COLUMNS) if mask >> index & 1] for mask in range(1, 15)]


@pytest.mark.parametrize("columns", SUBSETS, ids="+".join)
async def test_digests_of_another_adapter_in_a_record_never_serve_its_weights(
    registry: Registry, poet: Adapter, other: Adapter, columns: list[str]
) -> None:
    foreign = await row(registry, other)
    await write_row(registry, poet, **{name: foreign[name] for name in columns})

    assert await served(registry.adapters.resolve(ALICE, "poet", MODEL)) in (None, poet.files.weights_blob)
    assert await served(registry.adapters.resolve(ALICE, "other", MODEL)) == other.files.weights_blob
