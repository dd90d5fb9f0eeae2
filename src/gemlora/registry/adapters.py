"""Adapters that are there: looked up, resolved for requests, read back, removed. `uploads.py` makes them.

Removing deletes the row only, so that requests in flight keep their files; blobs that nothing refers to any more are
deleted later by `discard_unused`.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from gemlora.errors import AdapterIncomplete, AdapterInvalid, AdapterNotFound, AdapterNotReady, InvalidRequest
from gemlora.registry.engine import AdapterEngine, with_difference
from gemlora.registry.models import Model
from gemlora.registry.receiving import stored_file
from gemlora.registry.records import Adapter, AdapterFiles, ReadyAdapter, adapter_digest
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.validation import fit_adapter, read_config
from gemlora.storage.blocking import in_thread
from gemlora.storage.files import storage_errors
from gemlora.storage.objects import Objects, is_digest

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FILE_NAMES = (CONFIG_FILE, WEIGHTS_FILE)
MAX_CONFIG_BYTES = 1 << 20
GRACE_SECONDS = 3600.0
"""Unused blobs younger than this stay: requests in flight and slow uploads may need them."""


class Adapters:
    """The adapters of all accounts."""

    def __init__(
        self,
        repository: AdapterRepository,
        objects: Objects,
        engine: AdapterEngine,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._repository = repository
        self._objects = objects
        self._engine = engine
        self._grace_seconds = grace_seconds
        self._checks: dict[tuple[str, str], asyncio.Task[AdapterFiles]] = {}

    async def list(self, account_id: str) -> tuple[Adapter, ...]:
        """The account's adapters, oldest first."""
        return await self._repository.list(account_id)

    async def list_public(self) -> tuple[Adapter, ...]:
        """The adapters that every account can use, oldest first."""
        return await self._repository.list_public()

    async def find(self, account_id: str, name_or_id: str) -> Adapter:
        """The account's own adapter with this name or id. Raises `AdapterNotFound`."""
        return await self._repository.find(account_id, name_or_id)

    async def find_visible(self, account_id: str, name_or_id: str) -> Adapter:
        """The adapter that the account means: its own first, else a public one. Raises `AdapterNotFound`."""
        try:
            return await self._repository.find(account_id, name_or_id)
        except AdapterNotFound:
            return await self._repository.find_public(name_or_id)

    async def resolve(self, account_id: str, name_or_id: str, model: Model) -> ReadyAdapter:
        """The adapter that a request names, ready for the engine that serves `model`.

        One that was checked against other base weights is checked, and tried out, once more. Raises
        `AdapterNotFound`, `AdapterIncomplete`, `AdapterInvalid` if it does not fit what is served now, and what an
        engine raises that cannot try it out now.
        """
        adapter = await self.find_visible(account_id, name_or_id)
        files = adapter.files
        if files is None:
            raise AdapterIncomplete(f"Adapter {adapter.name} is missing {CONFIG_FILE} or {WEIGHTS_FILE}")
        if adapter.model != model.name:
            raise AdapterInvalid(f"Adapter {adapter.name} was made for {adapter.model}, not for {model.name}")
        if not _is_checked(files, model):
            files = await self._check_once(adapter, files, model)
        return await in_thread(lambda: self._ready(adapter, files))

    async def open_file(self, adapter: Adapter, file_name: str) -> Path:
        """A local copy of one of the adapter's files, also while the other one is missing.

        Raises `InvalidRequest` for another name, `AdapterNotReady` if it was not uploaded yet, and
        `AdapterInvalid` if it was damaged in the store.
        """
        if file_name not in FILE_NAMES:
            raise InvalidRequest(f"file_name: must be {CONFIG_FILE} or {WEIGHTS_FILE}")
        held = adapter.files or adapter.pending
        blob = held.config_blob if file_name == CONFIG_FILE else held.weights_blob
        if blob is None:
            raise AdapterNotReady(f"Adapter {adapter.name} is missing {file_name}")
        return await in_thread(lambda: stored_file(self._objects, blob))

    async def remove(self, account_id: str, name_or_id: str) -> None:
        """Forget the account's own adapter. Raises `AdapterNotFound`.

        Its files stay for a while, for requests in flight; the engine gives its memory back.
        """
        await self._unload(await self._repository.remove(account_id, name_or_id))

    async def remove_all(self, account_id: str) -> None:
        """Forget all adapters of the account, those that it published too."""
        await self._unload(await self._repository.remove_all(account_id))

    async def discard_unused(self) -> int:
        """Delete blobs that no adapter refers to; return how many."""
        return await self._repository.discard_unused(lambda used: self._objects.discard(used, self._grace_seconds))

    async def _unload(self, digests: frozenset[str]) -> None:
        await asyncio.gather(*map(self._engine.unload, digests))

    async def _check_once(self, adapter: Adapter, files: AdapterFiles, model: Model) -> AdapterFiles:
        """Check it again; requests that come meanwhile wait for the same check."""
        key = (adapter.id, model.base.digest)
        if key not in self._checks:
            self._checks[key] = asyncio.create_task(self._check_again(adapter, files, model))
            self._checks[key].add_done_callback(lambda check: self._end_check(key, check))
        return await asyncio.shield(self._checks[key])

    def _end_check(self, key: tuple[str, str], check: "asyncio.Task[AdapterFiles]") -> None:
        del self._checks[key]
        if not check.cancelled():
            check.exception()  # seen, also when every request that waited has gone

    async def _check_again(self, adapter: Adapter, files: AdapterFiles, model: Model) -> AdapterFiles:
        """Check an accepted adapter against other base weights than before, and try it out on them."""
        files = (await self._repository.find(adapter.account_id, adapter.id)).files or files
        if _is_checked(files, model):
            return files  # by a check that ended while this request looked the adapter up
        if files.geometry != model.base.geometry:
            files = await in_thread(lambda: self._fit(adapter, files, model))
        ready = await in_thread(lambda: self._ready(adapter, files))
        files = with_difference(files, await self._engine.probe(ready), model.base)
        await self._repository.record_check(adapter, files, lambda: self._objects.contains(files.manifest_blob))
        return files

    def _fit(self, adapter: Adapter, files: AdapterFiles, model: Model) -> AdapterFiles:
        with storage_errors(f"read the files of adapter {adapter.id}"):
            config = read_config(stored_file(self._objects, files.config_blob).read_bytes())
            weights = stored_file(self._objects, files.weights_blob)
            checked = fit_adapter(config, weights, model.base, model.limits, files.weights_blob)
        manifest = self._objects.put(checked.manifest.to_json())
        return replace(files, manifest_blob=manifest, geometry=model.base.geometry)

    def _ready(self, adapter: Adapter, files: AdapterFiles) -> ReadyAdapter:
        # The engine knows content by this digest alone, and the files by digests of their own.
        if files.digest != adapter_digest(files.config_blob, files.weights_blob) or not is_digest(files.manifest_blob):
            raise AdapterInvalid(f"The record of adapter {adapter.name} was damaged: delete and create it again")
        return ReadyAdapter(
            adapter.id,
            adapter.name,
            files.digest,
            self._objects.local(files.manifest_blob),
            self._objects.local(files.weights_blob),
            files.manifest_blob,
            adapter.public,
        )


def _is_checked(files: AdapterFiles, model: Model) -> bool:
    return files.probed_base == model.base.digest and files.geometry == model.base.geometry
