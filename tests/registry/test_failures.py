"""Each call of the disk, the database and the bucket fails once: one clear error, nothing torn, and no restart."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import pytest
from obstore.exceptions import GenericError
from sqlalchemy.exc import OperationalError
from tests.backends import S3Server, postgres_server, postgres_url, s3_server  # noqa: F401
from tests.faults import BUCKET, DATABASE, FILES
from tests.registry.killing import SCENARIOS, Place, check, opened, prepare, start_over
from tests.registry.peft_folder import PeftFolder, config, tensors

from gemlora.errors import StorageFailed

LEAST_FAILURES = {"upload": 25, "upload, replacing weights": 25, "add": 18, "publish": 3, "remove": 3, "collect": 3}
"""Calls of each scenario that must fail it, so that a loop that stops watching does not look like a success."""


def failures(code: int) -> list[tuple[Any, str, Callable[[], Exception]]]:
    """The watched calls, and what each raises; `code` is an `errno`."""
    return [
        *((owner, name, lambda: OSError(code, os.strerror(code))) for owner, name in FILES),
        *((o, n, lambda: OperationalError("", {}, sqlite3.OperationalError("disk I/O error"))) for o, n in DATABASE),
        *((o, n, lambda: GenericError("Server returned error response: 503 Service Unavailable")) for o, n in BUCKET),
    ]


class Failing:
    """Inside the block, watched call number `step` fails instead of being made."""

    def __init__(self, step: int, code: int) -> None:
        self._left = step
        self._code = code
        self._lock = Lock()
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        for owner, name, failure in failures(self._code):
            self._patches.enter_context(patch.object(owner, name, self._watched(getattr(owner, name), failure)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patches.close()

    @property
    def reached(self) -> bool:
        return self._left <= 0

    def _watched(self, call: Callable[..., Any], failure: Callable[[], Exception]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                if self._left == 0:
                    raise failure()
            return call(*arguments, **options)

        return watched


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return PeftFolder(config(lora_alpha=8), tensors(seed=2)).write(tmp_path / "victim")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_every_call_may_fail_once(tmp_path: Path, folder: Path, scenario: str, code: int) -> None:
    place = Place(tmp_path / "data")
    await prepare(place, PeftFolder().write(tmp_path / "bystander"))

    assert await fail_each_call(place, folder, scenario, code, stride=1) >= LEAST_FAILURES[scenario]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_calls_of_postgres_and_a_bucket_may_fail_once(
    tmp_path: Path,
    folder: Path,
    scenario: str,
    postgres_url: str,  # noqa: F811
    s3_server: S3Server,  # noqa: F811
) -> None:
    place = Place(tmp_path / "data", postgres_url, s3_server.create_bucket(), s3_server.endpoint)
    await prepare(place, PeftFolder().write(tmp_path / "bystander"))

    assert await fail_each_call(place, folder, scenario, errno.EIO, stride=4) >= 1


async def fail_each_call(place: Place, folder: Path, scenario: str, code: int, stride: int) -> int:
    """Let every `stride`-th call of the scenario fail, all on one open registry; how many failures were noticed."""
    noticed, step = 0, 1
    async with opened(place) as registry:
        while True:
            acknowledged: list[str] = []
            await SCENARIOS[scenario].prepare(registry, folder, acknowledged.append)
            failing = Failing(step, code)
            with failing:
                operating = SCENARIOS[scenario].operate(registry, folder, acknowledged.append)
                [result] = await asyncio.gather(operating, return_exceptions=True)
            if result is not None:
                assert isinstance(result, StorageFailed), repr(result)
                noticed += 1
            await check(registry, place, folder, acknowledged)
            await SCENARIOS[scenario].operate(registry, folder, acknowledged.append)
            await check(registry, place, folder, acknowledged)
            await start_over(registry, place)
            if not failing.reached:
                return noticed
            step += stride
