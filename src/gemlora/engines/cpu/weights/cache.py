"""The cache of packed models: each is made once, by one process, and is either complete or not there."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from gemlora.engines.cpu.weights.folder import Summary, sync
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import StorageFailed, WeightsInvalid

MODELS, DIGESTS = "models", "digests"
PARTIAL = ".partial"
"""Ending of the folder in which a model is made. Only the holder of the model's lock touches it."""

SETTLED_NANOSECONDS = 2_000_000_000
"""A file that changed less than this ago may change again within the same timestamp: its digest is not remembered."""


class ModelCache:
    """`models/KEY` holds packed models, `digests` what the content of big files hashed to."""

    def __init__(self, folder: Path) -> None:
        self._models = folder / MODELS
        self._digests = folder / DIGESTS
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            self._digests.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{folder}: the cache cannot be written: {error.strerror}") from error

    def model(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of the packed model `key`; `make` fills an empty folder if it is not there or is damaged.

        Raises what `make` raises, and `StorageFailed` if the disk is full or not writable.
        """
        folder = self._models / key
        if _is_complete(folder):
            return folder
        try:
            with self._locked(key):
                if not _is_complete(folder):
                    self._sweep()
                    self._make(folder, make)
        except OSError as error:
            raise StorageFailed(f"{folder}: the model cannot be written: {error.strerror}") from error
        return folder

    def packed(self) -> list[Summary]:
        """Every complete model, by name."""
        models = []
        for folder in self._models.iterdir():
            with suppress(WeightsInvalid):
                models.append(Summary.read(folder))
        return sorted(models, key=lambda model: (model.name, model.quantize))

    def digest(self, paths: Sequence[Path], progress: Progress) -> str:
        """SHA-256 of the concatenation of files. Files that did not change since the last time are not read again."""
        identity = json.dumps([_identity(path) for path in paths])
        memory = self._digests / sha256(identity.encode()).hexdigest()[:32]
        with suppress(OSError):
            return memory.read_text()
        with Pieces(paths) as pieces:
            digest = pieces.digest(progress)
        newest = max(path.stat().st_mtime_ns for path in paths)
        if time.time_ns() - newest > SETTLED_NANOSECONDS:
            with suppress(OSError):
                _write_atomically(memory, digest)
        return digest

    def _make(self, folder: Path, make: Callable[[Path], None]) -> None:
        partial = folder.with_name(folder.name + PARTIAL)
        for stale in (folder, partial):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir()
        try:
            make(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(self._models)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Wait until no other process makes this model."""
        with (self._models / f"{key}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Remove what killed conversions left behind."""
        for partial in self._models.glob(f"*{PARTIAL}"):
            with partial.with_suffix(".lock").open("w") as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    try:
        Summary.read(folder)
    except WeightsInvalid:
        return False
    return True


def _identity(path: Path) -> tuple[str, int, int, int]:
    """What changes whenever a file's content does."""
    try:
        status = path.stat()
    except OSError as error:
        raise WeightsInvalid(f"{path}: cannot be read: {error.strerror}") from error
    return str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
