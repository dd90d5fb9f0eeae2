"""Runs blocking calls, such as those of `Objects`, beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

R = TypeVar("R")


async def in_thread(call: Callable[[], R], executor: Executor | None = None) -> R:
    """The call's result. Also when this is cancelled, it ends only after the call has.

    So nobody takes away under a running call what it works with: its file, or the write lock that protects it.
    """
    work = asyncio.get_running_loop().run_in_executor(executor, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _end(work)
        raise


async def _end(work: "asyncio.Future[R]") -> None:
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue
    if not work.cancelled():
        work.exception()  # seen: the cancellation is what the caller gets
