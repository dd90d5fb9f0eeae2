"""Adapter files on their way to a server and back: never whole in memory, and whole or not at all on disk."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gemlora.cli.targets import CONFIG_FILE, WEIGHTS_FILE
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import AdapterIncomplete, StorageFailed
from gemlora.storage.files import storage_errors

CHUNK = 1 << 20


class Form:
    """A `multipart/form-data` body with one file, read from disk as it is sent."""

    def __init__(self, file_name: str, file: BinaryIO, progress: Progress) -> None:
        boundary = secrets.token_hex(16)
        part = f'--{boundary}\r\ncontent-disposition: form-data; name="'
        self._head = f'{part}file_name"\r\n\r\n{file_name}\r\n{part}file"; filename="{file_name}"\r\n\r\n'.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._file = file
        self._length = file.seek(0, 2)
        self._activity = f"Uploading {file_name}"
        self._progress = progress
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.size = len(self._head) + self._length + len(self._tail)

    def chunks(self) -> Iterator[bytes]:
        """The body, `size` bytes."""
        yield self._head
        self._file.seek(0)
        sent = 0
        while sent < self._length:
            with storage_errors(f"read {self._file.name}"):
                chunk = self._file.read(min(CHUNK, self._length - sent))
            if not chunk:
                raise StorageFailed(f"{self._file.name} became shorter while it was sent")
            yield chunk
            sent += len(chunk)
            self._progress(self._activity, sent, self._length)
        yield self._tail


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to upload. Raises `AdapterIncomplete` if it is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise AdapterIncomplete(f"{path.name} is missing in {path.parent}") from None
    except OSError as error:
        raise StorageFailed(f"Could not read {path}: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def downloading(folder: Path) -> Iterator[dict[str, Path]]:
    """Where to write an adapter's files, by their names: they get these at the end of the block, or vanish."""
    with storage_errors(f"write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f".{name}-{secrets.token_hex(8)}" for name in (CONFIG_FILE, WEIGHTS_FILE)}
    try:
        yield paths
        with storage_errors(f"write to {folder}"):
            for name, path in paths.items():
                path.replace(folder / name)
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def write_download(path: Path, chunks: Iterable[bytes], size: int, activity: str, progress: Progress) -> None:
    """Write what comes, `size` bytes. Raises `StorageFailed`."""
    received = 0
    with storage_errors(f"write {path}"), path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            received += len(chunk)
            progress(activity, received, size)
