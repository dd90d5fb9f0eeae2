"""A program in which each call that changes files fails once, with each code; prints how often that was noticed.

Arguments: a folder to work in, then error numbers. It ends with an error when a failure is anything but
`StorageFailed`, when the same thing does not succeed at once afterwards, or when something torn or left over is found.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.storage import file_calls
from tests.storage.stored_blobs import CONTENTS, Blobs, digest_of, opened

from gemlora.errors import StorageFailed

KEPT, FORGOTTEN = CONTENTS[:2]


async def twice(action: Callable[[], Awaitable[object]]) -> int:
    """Do it; if it fails, do it again, which must succeed. Returns how often it failed."""
    try:
        await action()
    except StorageFailed:
        await action()
        return 1
    return 0


async def use(folder: Path) -> int:
    """Open a data folder, change everything that can change; returns how often something failed."""
    async with AsyncExitStack() as stack:
        opening: list[Blobs] = []

        async def open_it() -> None:
            opening.append(await stack.enter_async_context(opened(folder)))

        failures = await twice(open_it)
        (blobs,) = opening
        failures += await twice(lambda: blobs.add(KEPT))
        failures += await twice(lambda: blobs.add(FORGOTTEN))
        failures += await twice(lambda: blobs.remove(digest_of(FORGOTTEN)))
        failures += await twice(blobs.collect)
    return failures


async def check(blobs: Blobs) -> None:
    """The blob that was kept is there, nothing else is left."""
    await blobs.collect()
    kept = digest_of(KEPT)
    files = {path.name for path in (blobs.folder / "objects").rglob("*") if path.is_file()}
    if await blobs.names() != {kept} or files != {kept} or not blobs.objects.verify(kept):
        raise SystemExit(f"wrong content: {files}")


async def main(folder: Path, codes: list[int]) -> None:
    async with opened(folder / "fresh"):
        pass
    noticed = {}
    for code in codes:
        nth, noticed[code] = 0, 0
        while nth <= file_calls.seen():
            nth += 1
            data = Path(shutil.copytree(folder / "fresh", folder / f"{code} at {nth}"))
            file_calls.watch(data)
            file_calls.fail(nth, code)
            noticed[code] += await use(data)
            file_calls.fail(0, 0)
            calls = file_calls.seen()
            async with opened(data) as blobs:
                await check(blobs)
            shutil.rmtree(data)
            if calls < nth:
                break
    print(json.dumps(noticed))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), [int(code) for code in sys.argv[2:]]))
