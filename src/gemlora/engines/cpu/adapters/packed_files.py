"""The files of packed adapters: a cache that verifies what it reads and keeps within a budget of bytes.

A file is 128 bytes of header and then the arrays. It appears under its name by a rename; it is not flushed to disk,
because the hash in its header also finds what a power cut left. A file with anything wrong is as good as missing. The
hash is one against accidents, since it is computed at every load: whoever may write here may write the header too.
"""

import logging
import mmap
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np
import xxhash
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAGIC = b"gemlora adapter\n"
HEADER_BYTES = 128
"""Magic, key, hash of key and arrays, zeros."""

SPARE = 10
"""When the files are too large, they are cut to leave one part in so many free: not every new one counts them all."""

_HASH = re.compile("[0-9a-f]{64}")


class PackedFiles:
    """`DIGEST/KEY` for every packing of an adapter; least recently used ones leave. Several processes may share them.

    Digest and key are 64 hexadecimal digits.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        """`capacity` in bytes; with 0 nothing is ever written."""
        self._folder = folder
        self._capacity = capacity
        self._used: int | None = None  # unknown until something is written
        self._counting = Lock()

    def open(self, digest: str, key: str, size: int) -> NDArray[np.uint8] | None:
        """The bytes [size] of all arrays, mapped read-only; None if there is no such file or it is damaged."""
        path = self._path(digest, key)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != HEADER_BYTES + size:
                    raise ValueError("its size is wrong")
                memory = mmap.mmap(file.fileno(), HEADER_BYTES + size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            contents = np.frombuffer(memory, np.uint8)
            if contents[:HEADER_BYTES].tobytes() != _header(key, contents[HEADER_BYTES:]):
                raise ValueError("its hash is wrong")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the packed adapter %s is made anew: %s", path, error)
            return None
        with suppress(OSError):
            os.utime(path)
        return contents[HEADER_BYTES:]

    def write(self, digest: str, key: str, arrays: NDArray[np.uint8]) -> None:
        """Store the bytes of all arrays, if they fit the cache at all. Raises `OSError`."""
        size = HEADER_BYTES + len(arrays)
        if size > self._capacity:
            return
        path = self._path(digest, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{key}.{secrets.token_hex(8)}.partial")
        try:
            with partial.open("xb", buffering=0) as file:
                for part in (_header(key, arrays), arrays.data):
                    view = memoryview(part)
                    while view:
                        view = view[file.write(view) :]
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        with self._counting:
            self._make_room(path, size)

    def discard(self, digest: str) -> None:
        """Delete every packing of an adapter. Mapped ones stay readable. Raises `OSError`."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._path(digest, digest).parent)
        with self._counting:
            self._used = None

    def _path(self, digest: str, key: str) -> Path:
        if not _HASH.fullmatch(digest) or not _HASH.fullmatch(key):
            raise ValueError("not a SHA-256 digest in hexadecimal")
        return self._folder / digest / key

    def _make_room(self, newest: Path, size: int) -> None:
        """Delete the least recently used files, but not the newest, if all together are too large."""
        if self._used is not None and self._used + size <= self._capacity:
            self._used += size
            return
        files = sorted(
            (status.st_mtime_ns, path, status.st_size) for path in self._folder.glob("*/*") if (status := _status(path))
        )
        self._used = sum(size for _, _, size in files)
        if self._used <= self._capacity:
            return
        for _, path, size in files:
            if self._used <= self._capacity - self._capacity // SPARE:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                self._used -= size
                with suppress(OSError):
                    path.parent.rmdir()


def _header(key: str, arrays: NDArray[np.uint8]) -> bytes:
    start = MAGIC + bytes.fromhex(key)
    content = xxhash.xxh3_128(start)
    content.update(arrays.data)
    return (start + content.digest()).ljust(HEADER_BYTES, b"\0")


def _status(path: Path) -> os.stat_result | None:
    """None for what another process just deleted."""
    try:
        return path.stat()
    except OSError:
        return None
