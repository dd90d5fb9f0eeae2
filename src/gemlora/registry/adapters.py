"""The life of an adapter: added, named in requests, removed. Its content never changes.

Adding is durable and atomic: the blobs are on disk and verified before one transaction makes the row visible. A kill
in between leaves blobs that nothing refers to, which `discard_unused` deletes later. Removing deletes the row only,
so that requests in flight keep their files.
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gemlora.errors import AdapterExists, AdapterIncomplete, AdapterInvalid, InvalidRequest, StorageFailed
from gemlora.registry.models import Model
from gemlora.registry.records import Adapter, AdapterFiles, ReadyAdapter
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.validation import CheckedAdapter, check_adapter, fit_adapter, read_config
from gemlora.storage.files import storage_errors
from gemlora.storage.objects import CHUNK, Incoming, Objects

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_NAME_LENGTH = 255
RESERVED_PREFIX = "cf-public-"
GRACE_SECONDS = 3600.0
"""Unused blobs younger than this stay: requests in flight and slow uploads may need them."""

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Adapters:
    """The adapters of all accounts."""

    def __init__(
        self, repository: AdapterRepository, objects: Objects, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._repository = repository
        self._objects = objects
        self._clock = clock

    async def add(self, account_id: str, model: Model, name: str, folder: Path, description: str = "") -> Adapter:
        """Register a PEFT folder; once this returns, the adapter can be named in requests.

        Raises `InvalidRequest` for a bad name, `AdapterExists`, `AdapterIncomplete` if a file is missing,
        `AdapterInvalid`, or `StorageFailed`.
        """
        check_name(name)
        if await self._repository.exists(account_id, name):
            raise AdapterExists(f"An adapter named {name!r} exists already")
        files = await asyncio.to_thread(self._store, folder, model)
        now = self._clock()
        adapter = Adapter(str(uuid.uuid4()), account_id, model.name, name, description, False, now, now, files)
        await self._repository.add(adapter, lambda: self._stored(files))
        return adapter

    async def list(self, account_id: str) -> tuple[Adapter, ...]:
        """The account's adapters, oldest first."""
        return await self._repository.list(account_id)

    async def find(self, account_id: str, name_or_id: str) -> Adapter:
        """The account's adapter with this name or id. Raises `AdapterNotFound`."""
        return await self._repository.find(account_id, name_or_id)

    async def resolve(self, account_id: str, name_or_id: str, model: Model) -> ReadyAdapter:
        """The adapter that a request names, ready for the engine that serves `model`.

        Raises `AdapterNotFound`, `AdapterIncomplete`, or `AdapterInvalid` if it does not fit what is served now.
        """
        adapter = await self._repository.find(account_id, name_or_id)
        files = adapter.files
        if files is None:
            raise AdapterIncomplete(f"Adapter {adapter.name} is missing {CONFIG_FILE} or {WEIGHTS_FILE}")
        if adapter.model != model.name:
            raise AdapterInvalid(f"Adapter {adapter.name} was made for {adapter.model}, not for {model.name}")
        manifest = files.manifest_blob
        if files.geometry != model.base.geometry:
            manifest = await self._check_again(adapter, files, model)
        return ReadyAdapter(
            adapter.id, adapter.name, files.digest, self._objects.local(manifest),
            self._objects.local(files.weights_blob), manifest,
        )  # fmt: skip

    async def remove(self, account_id: str, name_or_id: str) -> None:
        """Forget the adapter. Raises `AdapterNotFound`. Its files stay for a while, for requests in flight."""
        await self._repository.remove(account_id, name_or_id)

    async def discard_unused(self) -> int:
        """Delete blobs that no adapter refers to; return how many."""
        return await self._repository.discard_unused(lambda used: self._objects.discard(used, GRACE_SECONDS))

    async def _check_again(self, adapter: Adapter, files: AdapterFiles, model: Model) -> str:
        """Check an accepted adapter against other base weights than before; return its manifest for them."""

        def check() -> str:
            with storage_errors(f"read the files of adapter {adapter.id}"):
                config = read_config(self._objects.local(files.config_blob).read_bytes())
                weights = self._objects.local(files.weights_blob)
                checked = fit_adapter(config, weights, model.base, model.limits, files.weights_blob)
            return self._objects.put(checked.manifest.to_json())

        manifest = await asyncio.to_thread(check)
        await self._repository.record_check(adapter, manifest, model.base.geometry)
        return manifest

    def _store(self, folder: Path, model: Model) -> AdapterFiles:
        with self._objects.receive() as config, self._objects.receive() as weights:
            _copy(folder / CONFIG_FILE, config, MAX_CONFIG_BYTES)
            _copy(folder / WEIGHTS_FILE, weights, model.limits.max_bytes)
            checked = check_adapter(
                read_config(config.path.read_bytes()), weights.path, model.base, model.limits, weights.digest
            )
            return self._keep(config, weights, checked, model)

    def _keep(self, config: Incoming, weights: Incoming, checked: CheckedAdapter, model: Model) -> AdapterFiles:
        return AdapterFiles(
            digest=adapter_digest(config.digest, weights.digest),
            config_blob=config.keep(),
            weights_blob=weights.keep(),
            manifest_blob=self._objects.put(checked.manifest.to_json()),
            geometry=model.base.geometry,
            size=weights.size,
            rank=checked.rank,
            modules=checked.modules,
            warnings=checked.warnings,
        )

    def _stored(self, files: AdapterFiles) -> bool:
        return all(map(self._objects.contains, (files.config_blob, files.weights_blob, files.manifest_blob)))


def adapter_digest(config: str, weights: str) -> str:
    """SHA-256 over the digests of both files, each field tagged."""
    return hashlib.sha256(f"gemlora adapter\nconfig {config}\nweights {weights}\n".encode()).hexdigest()


def check_name(name: str) -> None:
    """Raise `InvalidRequest` unless `name` can name an adapter."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"name: must have 1 to {MAX_NAME_LENGTH} characters")
    if not name.isprintable() or name != name.strip():
        raise InvalidRequest("name: must be printable, without blanks at its ends")
    if _UUID.fullmatch(name):
        raise InvalidRequest("name: must not look like an id")
    if name.lower().startswith(RESERVED_PREFIX):
        raise InvalidRequest(f"name: the prefix {RESERVED_PREFIX!r} is reserved for public adapters")


def _copy(source: Path, target: Incoming, limit: int) -> None:
    try:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                if target.size + len(chunk) > limit:
                    raise AdapterInvalid(f"{source.name} is larger than {limit} bytes")
                target.write(chunk)
    except FileNotFoundError:
        raise AdapterIncomplete(f"{source.name} is missing in {source.parent}") from None
    except OSError as error:
        raise StorageFailed(f"Could not read {source}: {error.strerror}") from error
