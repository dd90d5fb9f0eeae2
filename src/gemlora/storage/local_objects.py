"""Blobs in a local folder: write, fsync, verify, rename, fsync of the folder."""

import time
from contextlib import AbstractContextManager
from pathlib import Path

from gemlora.errors import StorageFailed
from gemlora.storage.files import OWNER_ONLY_FOLDER, storage_errors, sync_folder
from gemlora.storage.objects import Incoming, check_digest, digest_of, discard_old, incoming_file, put


class LocalObjects:
    """Blobs in the folder `folder`, which only this class writes to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._durable: set[Path] = set()
        """Folders of blobs whose own entries this process has made durable."""

    def receive(self) -> AbstractContextManager[Incoming]:
        """See `Objects.receive`."""
        return incoming_file(self._folder / "incoming", self._keep)

    def put(self, content: bytes) -> str:
        """See `Objects.put`."""
        return put(self, content)

    def local(self, digest: str) -> Path:
        """The blob's own file."""
        path = self._path(digest)
        if not path.is_file():
            raise StorageFailed(f"The blob {digest} is missing")
        return path

    def contains(self, digest: str) -> bool:
        """See `Objects.contains`."""
        return self._path(digest).is_file()

    def verify(self, digest: str) -> bool:
        """See `Objects.verify`."""
        path = self._path(digest)
        with storage_errors("read a blob"):
            return path.is_file() and digest_of(path) == digest

    def discard(self, referenced: frozenset[str], grace_seconds: float) -> int:
        """See `Objects.discard`."""
        deadline = time.time() - grace_seconds
        with storage_errors("delete unused blobs"):
            candidates = [path for path in self._folder.glob("*/*") if path.name not in referenced]
            return sum(discard_old(path, deadline) for path in candidates)

    def _keep(self, incoming: Incoming) -> None:
        # An existing blob is replaced by the same bytes: that heals a damaged one and makes it young again.
        target = self._path(incoming.digest)
        with storage_errors("store a blob"):
            incoming.flush()
            if digest_of(incoming.path) != incoming.digest:
                raise StorageFailed("A blob read back differs from what was written")
            self._create_folder(target.parent)
            incoming.path.replace(target)
            sync_folder(target.parent)

    def _create_folder(self, folder: Path) -> None:
        # One that is there already may come from a process that was killed before it made the entry durable.
        if folder not in self._durable or not folder.is_dir():
            folder.mkdir(mode=OWNER_ONLY_FOLDER, exist_ok=True)
            sync_folder(folder.parent)
            self._durable.add(folder)

    def _path(self, digest: str) -> Path:
        return self._folder / check_digest(digest)[:2] / digest
