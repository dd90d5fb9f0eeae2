"""One sequence of bytes stored in one or several files, read without mapping it: pages read this way cost no memory."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import WeightsInvalid

HASHED_AT_ONCE = 4 << 20
"""Bytes."""


class Pieces:
    """The concatenation of `paths`. A context manager; reads raise `WeightsInvalid` past the end."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._files: list[int] = []
        self._starts: list[int] = []
        self.size = 0
        try:
            for path in self.paths:
                self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                self._starts.append(self.size)
                self.size += os.fstat(self._files[-1]).st_size
        except OSError as error:
            self.close()
            raise WeightsInvalid(f"{path}: cannot be read: {error.strerror}") from error

    @property
    def name(self) -> str:
        """The first file, for messages."""
        return str(self.paths[0])

    def read(self, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset`."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise WeightsInvalid(
                f"{self.name}: the file is truncated: bytes {offset} to {offset + size} of {self.size} are wanted"
            )
        buffer = bytearray(size)
        view = memoryview(buffer)
        for file, start in zip(self._files, self._starts, strict=True):
            while view and start <= offset:
                part = os.pread(file, len(view), offset - start)
                if not part:
                    break
                view[: len(part)] = part
                offset += len(part)
                view = view[len(part) :]
        if view:
            raise WeightsInvalid(f"{self.name}: the file became shorter while it was read")
        return buffer

    def digest(self, progress: Progress) -> str:
        """SHA-256 of all bytes, 64 hex digits."""
        digest = sha256()
        for offset in range(0, self.size, HASHED_AT_ONCE):
            digest.update(self.read(offset, min(HASHED_AT_ONCE, self.size - offset)))
            progress("Checking", min(offset + HASHED_AT_ONCE, self.size), self.size)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
