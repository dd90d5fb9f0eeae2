"""Blobs in an S3-compatible bucket, each under its digest; readers get a copy from a local cache.

A put replaces an object whole or not at all, and every put of a digest has the same bytes, so that storing a blob
again is harmless: it heals a damaged one and makes it young again.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from gemlora.errors import StorageFailed
from gemlora.storage.files import storage_errors
from gemlora.storage.object_cache import ObjectCache
from gemlora.storage.objects import Incoming, check_digest, incoming_file, is_digest, put

PART_BYTES = 8 << 20
"""Bytes of one request. Larger blobs are sent in parts, which become visible together."""

PARTS_AT_ONCE = 3

CONNECT_SECONDS = 5
REQUEST_SECONDS = 30
RETRIES = 3
RETRY_SECONDS = 20
"""A request is begun again at most `RETRIES` times within this time."""

MISSING = (NotFoundError, FileNotFoundError)
"""The library raises either, by the kind of request."""

_STATUS = re.compile(r"\b([45]\d\d [A-Z][A-Za-z ]+)")


class S3Objects:
    """Blobs in `store`, which a prefix may narrow."""

    def __init__(self, store: S3Store, cache: ObjectCache) -> None:
        self._store = store
        self._cache = cache

    def receive(self) -> AbstractContextManager[Incoming]:
        """See `Objects.receive`."""
        return incoming_file(self._cache.incoming(), self._keep)

    def put(self, content: bytes) -> str:
        """See `Objects.put`."""
        return put(self, content)

    def local(self, digest: str) -> Path:
        """The blob's copy in the cache, fetched if it is not there."""
        if (path := self._cache.find(digest)) is not None:
            return path
        with self._cache.receive() as incoming:
            for chunk in self._read(digest):
                incoming.write(chunk)
            if incoming.digest != digest:
                raise StorageFailed(f"The blob {digest} is damaged in the object store")
            incoming.keep()
        if (path := self._cache.find(digest)) is None:
            raise StorageFailed(f"The copy of blob {digest} vanished from the cache")
        return path

    def contains(self, digest: str) -> bool:
        """See `Objects.contains`."""
        with _store_errors("look for a blob"):
            try:
                obstore.head(self._store, check_digest(digest))
            except MISSING:
                return False
        return True

    def verify(self, digest: str) -> bool:
        """See `Objects.verify`; reads the whole object."""
        return self.contains(digest) and self._stored_digest(digest) == digest

    def discard(self, referenced: frozenset[str], grace_seconds: float) -> int:
        """See `Objects.discard`."""
        self._cache.discard_abandoned(grace_seconds)
        deadline = datetime.now(UTC) - timedelta(seconds=grace_seconds)
        discarded = 0
        with _store_errors("delete unused blobs"):
            for page in obstore.list(self._store, chunk_size=1000):
                old = [entry["path"] for entry in page if entry["last_modified"] < deadline]
                unused = [key for key in old if key not in referenced and is_digest(key)]
                if unused:
                    obstore.delete(self._store, unused)
                discarded += len(unused)
        return discarded

    def _keep(self, incoming: Incoming) -> None:
        digest = incoming.digest
        with storage_errors("read a blob back"), _store_errors("store a blob"), incoming.path.open("rb") as file:
            obstore.put(self._store, digest, file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        if self._stored_digest(digest) != digest:
            raise StorageFailed("A blob read back from the object store differs from what was written")
        self._cache.adopt(incoming)

    def _stored_digest(self, digest: str) -> str:
        content = hashlib.sha256()
        for chunk in self._read(digest):
            content.update(chunk)
        return content.hexdigest()

    def _read(self, digest: str) -> Iterator[bytes]:
        """The stored bytes, in requests small enough to be tried again."""
        key = check_digest(digest)
        with _store_errors(f"read the blob {digest}"):
            size = obstore.head(self._store, key)["size"]
            for start in range(0, size, PART_BYTES):
                yield bytes(obstore.get_range(self._store, key, start=start, end=min(start + PART_BYTES, size)))


def open_bucket(
    bucket: str,
    prefix: str,
    endpoint: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
) -> S3Store:
    """A bucket, with bounded waiting. What is not given comes from the usual `AWS_*` variables."""
    given = {
        "endpoint": endpoint,
        "region": region,
        "access_key_id": access_key,
        "secret_access_key": secret_key,
    }
    return S3Store(
        bucket,
        prefix=prefix or None,
        config={key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


@contextmanager
def _store_errors(action: str) -> Iterator[None]:
    """Turn the store's errors into `StorageFailed`. Their texts stay out: they quote requests with their key ids."""
    try:
        yield
    except MISSING:
        raise StorageFailed(f"Could not {action}: it is missing in the object store") from None
    except BaseError as error:
        status = _STATUS.search(str(error))
        reason = status.group(1).strip() if status else type(error).__name__
        raise StorageFailed(f"Could not {action}: the object store failed ({reason})") from None
