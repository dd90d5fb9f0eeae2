"""The life of an adapter: added whole or not at all, found by its owner alone, removed without hurting requests."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, text
from tests.registry.conftest import ALICE, BOB, NOW, Registry
from tests.registry.peft_folder import BASE, MODEL, PeftFolder, config, tensors

from gemlora.errors import (
    AdapterExists,
    AdapterIncomplete,
    AdapterInvalid,
    AdapterNotFound,
    EngineFailed,
    InvalidRequest,
    OutOfCapacity,
    StorageFailed,
)
from gemlora.registry.engine import NO_DIFFERENCE
from gemlora.registry.models import served_model
from gemlora.registry.records import Adapter, PendingFiles
from gemlora.storage.manifest import AdapterManifest

WIDER = replace(BASE, name="wider-gemma", modules=BASE.modules | {"o_proj": (16, 12)})
OTHER_KEYS = replace(BASE, name="other-gemma", modules=BASE.modules | {"q_proj": (16, 8)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return PeftFolder().write(tmp_path / "peft")


def serving(base: object) -> object:
    return served_model(MODEL.name, "starter", base, MODEL.limits)


def stored_files(registry: Registry) -> list[Path]:
    return [path for path in registry.data.objects.rglob("*") if path.is_file()]


async def test_an_added_adapter_is_ready_by_name_and_by_id(registry: Registry, folder: Path) -> None:
    added = await registry.uploads.add(ALICE, MODEL, "poet", folder, "writes verse")

    by_name = await registry.adapters.resolve(ALICE, "poet", MODEL)
    by_id = await registry.adapters.resolve(ALICE, added.id, MODEL)

    assert by_name == by_id
    assert by_name.digest == added.files.digest
    assert by_name.weights_path.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert len(AdapterManifest.read(by_name.manifest_path).modules) == 6
    assert (added.description, added.files.rank, added.files.modules) == ("writes verse", 2, ("q_proj", "v_proj"))
    assert await registry.adapters.list(ALICE) == (added,)


async def test_the_digest_depends_on_both_files_and_on_nothing_else(registry: Registry, tmp_path: Path) -> None:
    first = PeftFolder().write(tmp_path / "first")
    other_config = PeftFolder(config(lora_alpha=5)).write(tmp_path / "config")
    other_weights = PeftFolder(tensors=tensors(seed=1)).write(tmp_path / "weights")

    digests = [
        (await registry.uploads.add(account, MODEL, name, folder)).files.digest
        for account, name, folder in [
            (ALICE, "one", first),
            (BOB, "two", first),
            (ALICE, "three", other_config),
            (ALICE, "four", other_weights),
        ]
    ]

    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("reference", ["poet", "id"])
async def test_a_foreign_adapter_looks_like_an_unknown_one(registry: Registry, folder: Path, reference: str) -> None:
    added = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    name = added.id if reference == "id" else "poet"

    for act in (registry.adapters.find, registry.adapters.remove):
        with pytest.raises(AdapterNotFound, match=f"Adapter {name} not found"):
            await act(BOB, name)
    with pytest.raises(AdapterNotFound, match=f"Adapter {name} not found"):
        await registry.adapters.resolve(BOB, name, MODEL)
    assert await registry.adapters.list(BOB) == ()
    assert await registry.adapters.list(ALICE) == (added,)


async def test_two_accounts_may_use_one_name(registry: Registry, folder: Path) -> None:
    alices = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    bobs = await registry.uploads.add(BOB, MODEL, "poet", folder)

    assert (await registry.adapters.resolve(ALICE, "poet", MODEL)).id == alices.id
    assert (await registry.adapters.resolve(BOB, "poet", MODEL)).id == bobs.id


async def test_a_name_is_used_once_per_account(registry: Registry, folder: Path) -> None:
    await registry.uploads.add(ALICE, MODEL, "poet", folder)

    with pytest.raises(AdapterExists, match="'poet'"):
        await registry.uploads.add(ALICE, MODEL, "poet", folder)


async def test_of_two_that_race_for_a_name_one_wins(registry: Registry, folder: Path) -> None:
    results = await asyncio.gather(
        *(registry.uploads.add(ALICE, MODEL, "poet", folder) for _ in range(4)), return_exceptions=True
    )

    assert sorted(type(result).__name__ for result in results) == ["Adapter", *["AdapterExists"] * 3]
    assert len(await registry.adapters.list(ALICE)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        " poet",
        "poet ",
        "a\nb",
        "a\0b",
        "\ud800",
        "x" * 256,
        "0aa5b9a2-3a50-4c5e-8a3a-2b3c4d5e6f70",
        "cf-public-x",
        "CF-PUBLIC-x",
    ],
)
async def test_names_that_would_mislead_are_refused(registry: Registry, folder: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        await registry.uploads.add(ALICE, MODEL, name, folder)


@pytest.mark.parametrize("name", ["x", "my adapter", "größe/2 (β)", "../../etc", "x" * 255, "lora'; DROP TABLE--"])
async def test_any_other_name_is_fine(registry: Registry, folder: Path, name: str) -> None:
    await registry.uploads.add(ALICE, MODEL, name, folder)

    assert (await registry.adapters.resolve(ALICE, name, MODEL)).name == name


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
async def test_a_missing_file_is_named(registry: Registry, folder: Path, file: str) -> None:
    (folder / file).unlink()

    with pytest.raises(AdapterIncomplete, match=file):
        await registry.uploads.add(ALICE, MODEL, "poet", folder)
    assert stored_files(registry) == []


async def test_an_invalid_adapter_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    folder = PeftFolder(config(use_qalora=True)).write(tmp_path / "peft")

    with pytest.raises(AdapterInvalid, match="use_qalora"):
        await registry.uploads.add(ALICE, MODEL, "poet", folder)
    assert stored_files(registry) == []
    assert await registry.adapters.list(ALICE) == ()


async def test_files_over_the_limit_are_refused(registry: Registry, folder: Path) -> None:
    small = served_model(MODEL.name, "starter", BASE, replace(MODEL.limits, max_bytes=1000))

    with pytest.raises(AdapterInvalid, match="larger than 1000 bytes"):
        await registry.uploads.add(ALICE, small, "poet", folder)
    (folder / "adapter_config.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(AdapterInvalid, match=r"adapter_config\.json is larger"):
        await registry.uploads.add(ALICE, MODEL, "poet", folder)


async def test_a_removed_adapter_is_unknown_but_its_files_stay_for_requests_in_flight(
    registry: Registry, folder: Path
) -> None:
    await registry.uploads.add(ALICE, MODEL, "poet", folder)
    ready = await registry.adapters.resolve(ALICE, "poet", MODEL)

    await registry.adapters.remove(ALICE, "poet")

    with pytest.raises(AdapterNotFound):
        await registry.adapters.resolve(ALICE, "poet", MODEL)
    with pytest.raises(AdapterNotFound):
        await registry.adapters.remove(ALICE, "poet")
    assert await registry.adapters.discard_unused() == 0
    assert ready.weights_path.exists()


async def test_unused_files_go_after_a_while_and_used_ones_never(registry: Registry, tmp_path: Path) -> None:
    kept = PeftFolder().write(tmp_path / "kept")
    gone = PeftFolder(config(lora_alpha=6), tensors(seed=6)).write(tmp_path / "gone")
    await registry.uploads.add(ALICE, MODEL, "kept", kept)
    await registry.uploads.add(ALICE, MODEL, "gone", gone)
    await registry.adapters.remove(ALICE, "gone")
    for path in stored_files(registry):
        os.utime(path, (1, 1))

    assert await registry.adapters.discard_unused() == 3

    ready = await registry.adapters.resolve(ALICE, "kept", MODEL)
    assert ready.weights_path.exists()
    assert ready.manifest_path.exists()


async def test_a_name_used_again_means_the_new_content(registry: Registry, tmp_path: Path) -> None:
    first = await registry.uploads.add(ALICE, MODEL, "poet", PeftFolder().write(tmp_path / "first"))
    await registry.adapters.remove(ALICE, "poet")
    second = await registry.uploads.add(
        ALICE, MODEL, "poet", PeftFolder(tensors=tensors(seed=9)).write(tmp_path / "second")
    )

    ready = await registry.adapters.resolve(ALICE, "poet", MODEL)

    assert ready.digest == second.files.digest != first.files.digest


async def test_an_adapter_of_another_model_is_refused_for_this_one(registry: Registry, folder: Path) -> None:
    await registry.uploads.add(ALICE, replace(MODEL, name="@cf/other"), "poet", folder)

    with pytest.raises(AdapterInvalid, match="made for @cf/other"):
        await registry.adapters.resolve(ALICE, "poet", MODEL)


async def test_when_other_weights_are_served_an_adapter_that_fits_works_on(registry: Registry, folder: Path) -> None:
    await registry.uploads.add(ALICE, MODEL, "poet", folder)

    ready = await registry.adapters.resolve(ALICE, "poet", serving(WIDER))

    assert AdapterManifest.read(ready.manifest_path).modules
    assert (await registry.adapters.find(ALICE, "poet")).files.geometry == WIDER.geometry


async def test_when_other_weights_are_served_an_adapter_that_does_not_fit_is_refused(
    registry: Registry, folder: Path
) -> None:
    await registry.uploads.add(ALICE, MODEL, "poet", folder)

    with pytest.raises(AdapterInvalid, match=r"q_proj\.lora_B\.weight.*other-gemma"):
        await registry.adapters.resolve(ALICE, "poet", serving(OTHER_KEYS))
    assert (await registry.adapters.resolve(ALICE, "poet", MODEL)).name == "poet"


async def test_checking_against_other_weights_does_not_read_the_tensors_again(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.uploads.add(ALICE, MODEL, "poet", folder)
    monkeypatch.setattr("gemlora.registry.tensor_values.check_values", None)
    monkeypatch.setattr("gemlora.registry.validation.digest_of", None)

    await registry.adapters.resolve(ALICE, "poet", serving(WIDER))


async def test_warnings_are_kept(registry: Registry, tmp_path: Path) -> None:
    silent = {name: np.zeros_like(value) for name, value in tensors().items()}
    await registry.uploads.add(ALICE, MODEL, "silent", PeftFolder(tensors=silent).write(tmp_path / "peft"))

    [warning] = (await registry.adapters.find(ALICE, "silent")).files.warnings

    assert "no effect" in warning


async def test_files_that_vanish_before_the_row_is_written_are_noticed(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.objects, "contains", lambda _digest: False)

    with pytest.raises(StorageFailed, match="vanished"):
        await registry.uploads.add(ALICE, MODEL, "poet", folder)
    assert await registry.adapters.list(ALICE) == ()


class FailingDisk:
    """Lets the n-th of the watched system calls fail as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
        self._left = failing
        for name in ("fsync", "replace", "open", "mkdir"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise OSError(28, "No space left on device")
            return call(*arguments, **options)

        return watched


async def test_a_full_disk_at_any_call_is_one_clear_error_and_leaves_no_adapter(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    while True:
        with monkeypatch.context() as patch:
            FailingDisk(patch, failures + 1)
            adding = registry.uploads.add(ALICE, MODEL, f"poet {failures}", folder)
            [result] = await asyncio.gather(adding, return_exceptions=True)
        if isinstance(result, Adapter):
            break
        assert isinstance(result, StorageFailed)
        assert "No space left" in str(result)
        failures += 1

    assert failures >= 8
    assert [adapter.name for adapter in await registry.adapters.list(ALICE)] == [f"poet {failures}"]


async def test_the_base_that_was_served_last_is_remembered(registry: Registry) -> None:
    assert await registry.rows.find_base(MODEL.name) is None

    await registry.rows.record_base(MODEL.name, BASE, NOW)
    await registry.rows.record_base(MODEL.name, WIDER, NOW)

    assert await registry.rows.find_base(MODEL.name) == WIDER


REPROBED = replace(BASE, name="retrained-gemma", digest="e" * 64)


async def test_on_other_weights_of_the_same_shape_it_is_tried_out_before_its_first_use(
    registry: Registry, folder: Path
) -> None:
    added = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    registry.probe.difference = 0.0

    await asyncio.gather(*(registry.adapters.resolve(ALICE, "poet", serving(REPROBED)) for _ in range(5)))
    await registry.adapters.resolve(ALICE, "poet", serving(REPROBED))

    assert len(registry.probe.probed) == 2
    files = (await registry.adapters.find(ALICE, "poet")).files
    assert files == replace(added.files, difference=0.0, probed_base=REPROBED.digest, warnings=(NO_DIFFERENCE,))
    registry.probe.difference = 1.0
    await registry.adapters.resolve(ALICE, "poet", MODEL)
    assert (await registry.adapters.find(ALICE, "poet")).files == added.files


@pytest.mark.parametrize("failure", [AdapterInvalid("infinite logits"), OutOfCapacity("full"), EngineFailed("dead")])
async def test_a_probe_that_fails_before_first_use_fails_the_request_and_is_tried_again(
    registry: Registry, folder: Path, failure: Exception
) -> None:
    added = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    registry.probe.failure = failure

    results = await asyncio.gather(
        *(registry.adapters.resolve(ALICE, "poet", serving(WIDER)) for _ in range(3)), return_exceptions=True
    )

    assert [str(result) for result in results] == [str(failure)] * 3
    assert await registry.adapters.find(ALICE, "poet") == added
    registry.probe.failure = None
    assert (await registry.adapters.resolve(ALICE, "poet", serving(WIDER))).id == added.id


async def test_a_request_that_gives_up_takes_the_check_from_nobody(registry: Registry, folder: Path) -> None:
    await registry.uploads.add(ALICE, MODEL, "poet", folder)
    reached, going_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await going_on.wait()

    registry.probe.act = wait
    first, second = (asyncio.create_task(registry.adapters.resolve(ALICE, "poet", serving(REPROBED))) for _ in range(2))
    await reached.wait()
    first.cancel()
    await asyncio.wait([first])
    going_on.set()

    assert (await second).name == "poet"
    assert len(registry.probe.probed) == 2


async def test_an_adapter_of_its_own_goes_before_one_on_the_shelf(registry: Registry, folder: Path) -> None:
    """No name can be both, but what an id means is decided in the same order."""
    public = await registry.uploads.add(ALICE, MODEL, "cf-public-poet", folder, public=True)
    own = await registry.uploads.add(BOB, MODEL, "poet", folder)

    for account, reference, expected in [
        (BOB, "poet", own),
        (BOB, own.id, own),
        (BOB, "cf-public-poet", public),
        (BOB, public.id, public),
        (ALICE, "cf-public-poet", public),
    ]:
        assert await registry.adapters.find_visible(account, reference) == expected
    with pytest.raises(AdapterNotFound):
        await registry.adapters.find_visible(ALICE, own.id)


async def test_adapters_that_were_added_before_there_were_probes_are_tried_out_once(
    registry: Registry, folder: Path
) -> None:
    added = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    async with registry.database.writing() as connection:
        await connection.execute(text("UPDATE adapters SET difference = NULL, probed_base = NULL"))

    for _ in range(2):
        await registry.adapters.resolve(ALICE, "poet", MODEL)

    assert len(registry.probe.probed) == 2
    assert (await registry.adapters.find(ALICE, "poet")).files == added.files


@pytest.mark.parametrize("query", ["find", "find_public", "is_used"])
async def test_lookups_use_an_index(registry: Registry, folder: Path, query: str) -> None:
    """So that they take as long among thousands of adapters as among ten."""
    added = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    statements: list[tuple[str, Any]] = []
    event.listen(
        registry.database._engine.sync_engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, parameters, *_: statements.append((statement, parameters)),
    )
    with suppress(AdapterNotFound):
        if query == "find":
            await registry.rows.find(ALICE, "poet")
            await registry.rows.find(ALICE, added.id)
        elif query == "find_public":
            await registry.rows.find_public("cf-public-poet")
        else:
            await registry.rows.is_used(added.files.digest)

    async with registry.database.reading() as connection:
        for statement, parameters in tuple(statements):
            plan = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all()
            assert all("SEARCH" in step.detail and "USING" in step.detail for step in plan), plan
    assert statements


async def test_a_ready_adapter_s_files_are_never_exchanged(registry: Registry, folder: Path) -> None:
    """Not even by an upload that began before there were any."""
    ready = await registry.uploads.add(ALICE, MODEL, "poet", folder)
    before = replace(ready, files=None)
    half = replace(before, pending=PendingFiles(config_blob=ready.files.config_blob))

    assert not await registry.rows.change(before, half, lambda: True)
    assert not await registry.rows.change(before, replace(ready, files=replace(ready.files, rank=1)), lambda: True)

    assert await registry.adapters.find(ALICE, "poet") == ready
