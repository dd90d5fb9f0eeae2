"""How adapters come to be: created, uploaded file by file or added whole, published on the shelf.

Whatever becomes visible is durable and was tried out before: both files are checked together, run through the engine,
and on disk, verified, before one transaction makes the adapter ready. What is refused, killed or cancelled on the way
changes nothing; blobs that it left are deleted by `Adapters.discard_unused`.
"""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gemlora.errors import (
    AdapterExists,
    AdapterIncomplete,
    AdapterInvalid,
    AdapterNotReady,
    InvalidRequest,
    StorageFailed,
)
from gemlora.registry.adapters import CONFIG_FILE, FILE_NAMES, MAX_CONFIG_BYTES, WEIGHTS_FILE
from gemlora.registry.engine import AdapterEngine, with_difference
from gemlora.registry.models import AdapterLimits, Model
from gemlora.registry.names import check_description, check_name
from gemlora.registry.receiving import Kept, Receiver, receiving
from gemlora.registry.records import (
    Adapter,
    AdapterFiles,
    PendingFiles,
    ReadyAdapter,
    ShippedContent,
    adapter_digest,
)
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.safetensors_header import read_header
from gemlora.registry.validation import CheckedAdapter, check_adapter, read_config
from gemlora.storage.blocking import in_thread
from gemlora.storage.files import storage_errors
from gemlora.storage.objects import CHUNK, Objects

THREADS = 4
"""Threads for the files of all uploads: as many as there may be, requests find others free."""

Source = Receiver | Kept


class Uploads:
    """Makes adapters, of all accounts."""

    def __init__(
        self,
        repository: AdapterRepository,
        objects: Objects,
        engine: AdapterEngine,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self._objects = objects
        self._engine = engine
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, "upload")

    async def create(
        self, account_id: str, model: Model, name: str, description: str = "", *, public: bool = False
    ) -> Adapter:
        """An adapter without files. Raises `InvalidRequest`, `AdapterExists` or `TooManyAdapters`."""
        adapter = self._new(account_id, model.name, name, description, public=public)
        await self._repository.add(adapter, model.limits.max_adapters)
        return adapter

    def receive(self) -> AbstractAsyncContextManager[Receiver]:
        """A file on disk to write an upload to."""
        return receiving(self._objects, self._threads)

    async def attach(self, adapter: Adapter, file_name: str, receiver: Receiver, model: Model) -> Adapter:
        """Give the adapter one of its two files; with the second it becomes ready.

        Until then another file of the same name replaces the first one; the same bytes again are always a success.
        Raises `InvalidRequest` for another `file_name`, `AdapterInvalid`, `AdapterNotFound` if it was removed
        meanwhile, and what an engine raises that cannot try it out now.
        """
        if file_name not in FILE_NAMES:
            raise InvalidRequest(f"file_name: must be {CONFIG_FILE} or {WEIGHTS_FILE}")
        await receiver.finish()
        await in_thread(lambda: _check_alone(file_name, receiver, model.limits), self._threads)
        while True:
            # As it is now: receiving may have taken long, and another upload may change it while this one is checked.
            current = await self._repository.find(adapter.account_id, adapter.id)
            attached = await self._attach(current, file_name, receiver, model)
            if attached is not None:
                return attached

    async def add(
        self, account_id: str, model: Model, name: str, folder: Path, description: str = "", *, public: bool = False
    ) -> Adapter:
        """An adapter from a folder that PEFT saved; once this returns, it can be named in requests.

        Raises what `create` and `attach` raise, and `AdapterIncomplete` if a file is missing.
        """
        adapter = self._new(account_id, model.name, name, description, public=public)
        if await self._repository.exists(account_id, name):
            raise AdapterExists(f"An adapter named {name!r} exists already")
        adapter = replace(adapter, files=await self._read(adapter, folder, model))
        await self._repository.add(adapter, model.limits.max_adapters, lambda: self._is_stored(adapter))
        return adapter

    async def add_shipped(
        self,
        account_id: str,
        model: Model,
        name: str,
        folder: Path,
        description: str,
        *,
        fingerprint: str,
        replaced: Adapter | None,
    ) -> Adapter | None:
        """An adapter that came with gemlora, on the shelf in the place of `replaced`; it belongs to the account.

        None if the shelf has changed meanwhile. Raises what `add` raises.
        """
        adapter = self._new(account_id, model.name, name, description, public=True)
        files = await self._read(adapter, folder, model)
        adapter = replace(adapter, files=files)
        content = ShippedContent(name, files.digest, fingerprint)
        unused = await self._repository.add_shipped(adapter, content, replaced, lambda: self._is_stored(adapter))
        if unused is None:
            return None
        for digest in unused:
            await self._engine.unload(digest)
        return adapter

    async def publish(self, adapter: Adapter, owner_account_id: str, name: str) -> Adapter:
        """Put a ready adapter's content on the shelf, as an adapter of its own that belongs to the owner.

        Raises `InvalidRequest` for the name, `AdapterExists` or `AdapterNotReady`.
        """
        published = self._new(owner_account_id, adapter.model, name, adapter.description, public=True)
        if adapter.files is None:
            raise AdapterNotReady(f"Adapter {adapter.name} is missing {CONFIG_FILE} or {WEIGHTS_FILE}")
        published = replace(published, files=adapter.files)
        await self._repository.add(published, still_stored=lambda: self._is_stored(published))
        return published

    async def rename(self, account_id: str, name_or_id: str, name: str) -> Adapter:
        """Give the account's own adapter another name. Requests that run keep what they started with.

        Raises `AdapterNotFound`, `InvalidRequest` for the name, or `AdapterExists`.
        """
        adapter = await self._repository.find(account_id, name_or_id)
        check_name(name, public=adapter.public)
        return await self._repository.rename(adapter, name, self._clock())

    def _new(self, account_id: str, model: str, name: str, description: str, *, public: bool) -> Adapter:
        check_name(name, public=public)
        check_description(description)
        now = self._clock()
        return Adapter(str(uuid.uuid4()), account_id, model, name, description, public, now, now)

    async def _read(self, adapter: Adapter, folder: Path, model: Model) -> AdapterFiles:
        """The accepted files of a folder that PEFT saved."""
        async with self.receive() as config, self.receive() as weights:
            for file_name, receiver in ((CONFIG_FILE, config), (WEIGHTS_FILE, weights)):
                await _copy(folder / file_name, receiver, _size_limit(file_name, model.limits))
                await in_thread(lambda: _check_alone(file_name, receiver, model.limits), self._threads)  # noqa: B023
            return await self._accept(adapter, config, weights, model)

    async def _attach(self, adapter: Adapter, file_name: str, receiver: Receiver, model: Model) -> Adapter | None:
        """The adapter with the file, or None if another upload has changed it meanwhile."""
        held = adapter.files or adapter.pending
        if receiver.digest == (held.config_blob if file_name == CONFIG_FILE else held.weights_blob):
            await in_thread(receiver.keep, self._threads)  # heals a blob that was damaged
            return adapter
        if adapter.ready:
            raise AdapterInvalid(f"{file_name} differs from the adapter's; a ready one never changes: create another")
        config, weights = self._sources(adapter.pending, file_name, receiver)
        if config and weights:
            files = await self._accept(adapter, config, weights, model)
            after = replace(adapter, files=files, pending=PendingFiles(), modified_at=self._clock())
        else:
            await in_thread(receiver.keep, self._threads)
            pending = PendingFiles(config.digest if config else None, weights.digest if weights else None)
            after = replace(adapter, pending=pending, modified_at=self._clock())
        changed = await self._repository.change(adapter, after, lambda: self._is_stored(after))
        return after if changed else None

    def _sources(
        self, pending: PendingFiles, file_name: str, receiver: Receiver
    ) -> tuple[Source | None, Source | None]:
        """Config and weights, once `receiver` has taken its place."""
        if file_name == CONFIG_FILE:
            return receiver, Kept(self._objects, pending.weights_blob) if pending.weights_blob else None
        return Kept(self._objects, pending.config_blob) if pending.config_blob else None, receiver

    async def _accept(self, adapter: Adapter, config: Source, weights: Source, model: Model) -> AdapterFiles:
        """Check both files, try them out, and make them durable. A refusal leaves no blobs."""
        checked, size = await in_thread(lambda: _check_both(config, weights, model), self._threads)
        digest = adapter_digest(config.digest, weights.digest)
        async with self.receive() as manifest:
            await manifest.write(checked.manifest.to_json())
            await manifest.finish()
            ready = await in_thread(
                lambda: ReadyAdapter(
                    adapter.id, adapter.name, digest, manifest.path(), weights.path(), manifest.digest, adapter.public
                ),
                self._threads,
            )
            difference = await self._probe(ready)
            for source in (config, weights, manifest):
                await in_thread(source.keep, self._threads)
        files = AdapterFiles(
            digest=digest,
            config_blob=config.digest,
            weights_blob=weights.digest,
            manifest_blob=manifest.digest,
            geometry=model.base.geometry,
            size=size,
            rank=checked.rank,
            modules=checked.modules,
            warnings=checked.warnings,
        )
        return with_difference(files, difference, model.base)

    async def _probe(self, adapter: ReadyAdapter) -> float:
        try:
            return await self._engine.probe(adapter)
        except AdapterInvalid:
            if not await self._repository.is_used(adapter.digest):
                await self._engine.unload(adapter.digest)
            raise

    def _is_stored(self, adapter: Adapter) -> bool:
        files, pending = adapter.files, adapter.pending
        blobs = {pending.config_blob, pending.weights_blob}
        if files is not None:
            blobs |= {files.config_blob, files.weights_blob, files.manifest_blob}
        return all(self._objects.contains(blob) for blob in blobs if blob is not None)


def _size_limit(file_name: str, limits: AdapterLimits) -> int:
    return MAX_CONFIG_BYTES if file_name == CONFIG_FILE else limits.max_bytes


def _check_alone(file_name: str, receiver: Receiver, limits: AdapterLimits) -> None:
    """Refuse a file that is wrong whatever the other one is."""
    if receiver.size > (limit := _size_limit(file_name, limits)):
        raise AdapterInvalid(f"{file_name} is larger than {limit} bytes")
    with storage_errors("read an uploaded file"):
        if file_name == CONFIG_FILE:
            read_config(receiver.path().read_bytes())
        else:
            read_header(receiver.path())


def _check_both(config: Source, weights: Source, model: Model) -> tuple[CheckedAdapter, int]:
    """The accepted pair, and bytes of the weights."""
    with storage_errors("read the files of an adapter"):
        settings, path = read_config(config.path().read_bytes()), weights.path()
        return check_adapter(settings, path, model.base, model.limits, weights.digest), path.stat().st_size


async def _copy(source: Path, target: Receiver, limit: int) -> None:
    try:
        file = await in_thread(lambda: source.open("rb"))
        with file:
            while chunk := await in_thread(lambda: file.read(CHUNK)):
                if target.size + len(chunk) > limit:
                    raise AdapterInvalid(f"{source.name} is larger than {limit} bytes")
                await target.write(chunk)
    except FileNotFoundError:
        raise AdapterIncomplete(f"{source.name} is missing in {source.parent}") from None
    except OSError as error:
        raise StorageFailed(f"Could not read {source}: {error.strerror}") from error
    await target.finish()
