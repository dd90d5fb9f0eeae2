"""Waiting for what an engine does."""

import asyncio
import time
from collections.abc import Callable

from gemlora.engines.contract import Engine, GenerateRequest


async def collect(engine: Engine, one: GenerateRequest, sink: list[int] | None = None) -> tuple[int, ...]:
    tokens = [] if sink is None else sink
    async for output in engine.generate(one):
        tokens += output.tokens
    return tuple(tokens)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.002)
