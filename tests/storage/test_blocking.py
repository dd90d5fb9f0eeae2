"""A blocking call runs beside the loop, and nobody goes on before it has ended."""

import asyncio
import threading

import pytest

from gemlora.storage.blocking import in_thread


async def test_the_result_and_the_error_come_through() -> None:
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(KeyError):
        await in_thread(lambda: {}[1])


@pytest.mark.parametrize("failing", [False, True])
async def test_one_that_is_cancelled_waits_for_the_end_of_its_call(failing: bool) -> None:
    started, going_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        going_on.wait()
        ended.set()
        if failing:
            raise OSError

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(started.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    going_on.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
