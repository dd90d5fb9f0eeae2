"""An answer that is a file on disk: whole, in order, never a part of it."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

from starlette.types import Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from gemlora.api.streaming import BULK_EXTENSION, StreamedAnswer
from gemlora.errors import StorageFailed
from gemlora.storage.files import storage_errors

CHUNK = 256 << 10


class Download(StreamedAnswer):
    """Sends a file that is open, and closes it. The file may be deleted meanwhile. `HEAD` gets the headers alone."""

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        name: str,
        media_type: str,
        etag: str,
        stall_seconds: float,
        log: FilteringBoundLogger,
    ) -> None:
        headers = {
            "content-type": media_type,
            "content-length": str(size),
            "content-disposition": f'attachment; filename="{name}"',
            "etag": etag,
            "x-content-type-options": "nosniff",
            "accept-ranges": "none",
        }
        super().__init__(_chunks(file, size), headers, stall_seconds, log)
        self._file = file

    @classmethod
    async def of(
        cls, path: Path, name: str, media_type: str, etag: str, stall_seconds: float, log: FilteringBoundLogger
    ) -> "Download":
        """The file at `path`, which the client sees as `name`. Raises `StorageFailed` if it cannot be opened."""
        file, size = await asyncio.to_thread(_open, path)
        return cls(file, size, name, media_type, etag, stall_seconds, log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `StreamedAnswer`."""
        with self._file:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            extensions = scope.get("extensions", {})
            if BULK_EXTENSION in extensions:
                extensions[BULK_EXTENSION]["begin"]()
            await super().__call__(scope, receive, send)


def _open(path: Path) -> tuple[BinaryIO, int]:
    with storage_errors("open a file for a download"):
        file = path.open("rb", buffering=0)
        return file, os.fstat(file.fileno()).st_size


async def _chunks(file: BinaryIO, size: int) -> AsyncGenerator[bytes, None]:
    offset = 0
    while offset < size:
        # With its own offset: a read that is still under way when the file is closed moves no other file's position.
        chunk = await asyncio.to_thread(_read, file.fileno(), min(CHUNK, size - offset), offset)
        offset += len(chunk)
        yield chunk


def _read(descriptor: int, size: int, offset: int) -> bytes:
    with storage_errors("read a file for a download"):
        chunk = os.pread(descriptor, size, offset)
    if not chunk:
        raise StorageFailed("A file became shorter during its download")
    return chunk
