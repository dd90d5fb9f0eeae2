"""Each system call of storing a blob fails once: success or `StorageFailed`, nothing torn, nothing left for good."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemlora.errors import StorageFailed
from gemlora.storage.local_objects import LocalObjects

CONTENT = b"some bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CALLS = ("open", "fsync", "replace", "mkdir", "unlink")


class FailingOnce:
    """Wraps system calls so that the `nth` of them fails."""

    def __init__(self, nth: int, code: int) -> None:
        self.left = nth
        self._code = code

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(self._code, os.strerror(self._code))
            return call(*arguments, **options)

        return wrapped


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_every_call_may_fail_once(code: int, tmp_path: Path) -> None:
    nth, failures = 0, 0
    while True:
        nth += 1
        objects = LocalObjects(tmp_path / str(nth))
        failing = FailingOnce(nth, code)
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, failing.wrap(getattr(os, name)))
            try:
                objects.put(CONTENT)
            except StorageFailed:
                failures += 1
        assert objects.verify(DIGEST) == objects.contains(DIGEST)
        assert objects.put(CONTENT) == DIGEST
        objects.discard(frozenset({DIGEST}), grace_seconds=-60)
        assert [path.name for path in (tmp_path / str(nth)).rglob("*") if path.is_file()] == [DIGEST]
        if failing.left > 0:
            break
    assert failures >= 8
