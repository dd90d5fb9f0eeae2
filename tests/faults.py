"""The steps that durable operations consist of, so that a test can end its process before each one."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import obstore
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from gemlora.storage.objects import Incoming

FILES = [(os, name) for name in ("open", "mkdir", "fsync", "replace", "unlink")]
DATABASE = [(AsyncConnection, "execute"), (AsyncTransaction, "__aexit__")]
BUCKET = [(obstore, name) for name in ("put", "head", "get_range", "list", "delete")]
WATCHED = [*FILES, (Incoming, "write"), *DATABASE, *BUCKET]
"""A transaction's `__aexit__` is its commit."""


class Steps:
    """Counts the watched calls inside the block, from all threads; `reach` is called before each with its number."""

    def __init__(self, reach: Callable[[int], None]) -> None:
        self._reach = reach
        self._lock = Lock()
        self._patches = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        for owner, name in WATCHED:
            self._patches.enter_context(patch.object(owner, name, self._counted(getattr(owner, name))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.close()

    def take(self) -> None:
        """Count a step that is no watched call."""
        with self._lock:
            self._count += 1
            number = self._count
        self._reach(number)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.take()
            return call(*arguments, **options)

        return counted
