"""Work that ends with the client: when the client goes away, the work is cancelled at once, streaming or not."""

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from starlette.types import Receive

from gemlora.errors import RequestAborted

T = TypeVar("T")

Watcher = Coroutine[Any, Any, NoReturn]
"""Waits for something that ends the work, and raises then."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T], *watchers: Watcher) -> T:
    """Return what `work` returns. Cancels it and raises `RequestAborted` when the client disconnects first.

    So does what a watcher raises. The request's body must have been read before.
    """
    working = asyncio.ensure_future(work)
    watching = [asyncio.ensure_future(watcher) for watcher in (_disconnected(receive), *watchers)]
    try:
        done, _ = await asyncio.wait({working, *watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working in done else done.pop().result()
    finally:
        for task in (working, *watching):
            task.cancel()
        await asyncio.gather(working, *watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> NoReturn:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise RequestAborted("Request was aborted")
