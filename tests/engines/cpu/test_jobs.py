"""What a consumer of a stream meets, whenever it comes and goes."""

import asyncio
from contextlib import suppress

import pytest

from gemlora.engines.contract import FinishReason, GenerateRequest, Output, Sampling
from gemlora.engines.cpu.jobs import Stream
from gemlora.errors import EngineFailed


@pytest.fixture
def stream() -> Stream:
    return Stream(GenerateRequest("one", (1, 2), 10, Sampling(seed=0), ()))


async def test_what_was_delivered_before_somebody_asks_comes_at_once_and_together(stream: Stream) -> None:
    stream.deliver((5,), None)
    stream.deliver((6, 7), FinishReason.STOP)

    assert await stream.next() == Output((5, 6, 7), FinishReason.STOP)


async def test_who_waits_gets_each_delivery(stream: Stream) -> None:
    for token in (5, 6):
        waiting = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        stream.deliver((token,), None)
        assert await waiting == Output((token,), None)


async def test_several_deliveries_before_a_waiting_consumer_runs_come_together(stream: Stream) -> None:
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    stream.deliver((5,), None)
    stream.deliver((6,), None)

    assert await waiting == Output((5, 6), None)


async def test_a_consumer_that_gave_up_waiting_takes_nothing_from_the_next(stream: Stream) -> None:
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    stream.deliver((5,), None)

    assert await stream.next() == Output((5,), None)


async def test_a_failure_comes_behind_the_tokens_that_are_left_and_stays(stream: Stream) -> None:
    stream.deliver((5,), None)
    stream.fail(EngineFailed("broken"))

    assert await stream.next() == Output((5,), None)
    for _ in range(2):
        with pytest.raises(EngineFailed, match="broken"):
            await asyncio.wait_for(stream.next(), 1)


async def test_a_failure_wakes_who_waits(stream: Stream) -> None:
    waiting = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    stream.fail(EngineFailed("broken"))

    with pytest.raises(EngineFailed, match="broken"):
        await asyncio.wait_for(waiting, 1)
