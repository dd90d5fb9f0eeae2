import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from tests.collecting import collect, until
from tests.stepping import BROKEN, CONTEXT, NOT_FINITE, alone, request

from gemlora.engines.contract import AdapterRef, FinishReason, GenerateRequest, Output
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions
from gemlora.errors import (
    AdapterInvalid,
    EngineFailed,
    InvalidRequest,
    OutOfCapacity,
    PromptTooLong,
    RequestAborted,
    WeightsInvalid,
)

FAKE_WORKER = (sys.executable, "-P", str(Path(__file__).parents[2] / "fake_worker.py"))
DEADLY = 49
SLOW = {"step_seconds": 0.005}

Starter = Callable[..., Awaitable[CpuEngine]]


def new_engine(behaviour: dict[str, Any], **options: Any) -> CpuEngine:
    defaults: dict[str, Any] = {
        "kv_cache_bytes": 200,
        "max_sequences": 16,
        "max_queue": 100,
        "step_tokens": 64,
        "adapter_memory_bytes": 4,
        "adapter_cache": "",
        "adapter_cache_bytes": 0,
    }
    model = msgspec.json.encode(behaviour).decode()
    return CpuEngine(CpuOptions(model=model, **{**defaults, **options}), FAKE_WORKER)


@pytest.fixture
async def start() -> AsyncIterator[Starter]:
    engines: list[CpuEngine] = []

    async def started(behaviour: dict[str, Any] | None = None, **options: Any) -> CpuEngine:
        engine = new_engine(behaviour or {}, **options)
        await engine.start()
        engines.append(engine)
        return engine

    yield started
    for engine in engines:
        await engine.close()
    assert not workers()


def workers() -> list[psutil.Process]:
    """The fake workers that run; other tests of the session may have servers of their own."""
    return [child for child in psutil.Process().children() if "fake_worker" in " ".join(child.cmdline())]


def kill(engine: CpuEngine) -> None:
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)


def idle(engine: CpuEngine) -> bool:
    stats = engine.stats()
    return stats.running + stats.waiting == 0 and stats.free_blocks == stats.blocks > 0


async def test_requests_get_their_tokens_through_the_process(start: Starter) -> None:
    engine = await start()
    requests = [
        request(str(i), [i + 1] * 9, max_tokens=20, temperature=i % 2, seed=i, adapter=[None, "one", "two"][i % 3])
        for i in range(30)
    ]
    assert await asyncio.gather(*(collect(engine, one) for one in requests)) == alone(*requests)
    await until(lambda: idle(engine))
    assert engine.facts.name == "fake"


async def test_the_last_output_carries_the_finish_reason(start: Starter) -> None:
    engine = await start()
    (expected,) = alone(request("a", max_tokens=5))
    outputs = [output async for output in engine.generate(request("a", max_tokens=5))]
    assert [o.finish_reason for o in outputs] == [None] * (len(outputs) - 1) + [FinishReason.LENGTH]
    outputs = [output async for output in engine.generate(request("a", max_tokens=5, stop=(expected[-1],)))]
    # Outputs that nobody has read yet are joined, so the last one may carry tokens.
    assert [token for output in outputs for token in output.tokens] == expected[: expected.index(expected[-1])]
    assert [o.finish_reason for o in outputs] == [None] * (len(outputs) - 1) + [FinishReason.STOP]


async def test_requests_may_have_the_same_id(start: Starter) -> None:
    engine = await start()
    requests = [request("same", [i + 1]) for i in range(3)]
    assert await asyncio.gather(*(collect(engine, one) for one in requests)) == alone(*requests)


@pytest.mark.parametrize(
    ("failure", "error", "text"),
    [
        ("weights", WeightsInvalid, "these weights are damaged"),
        ("error", EngineFailed, "no such luck"),
        ("death", EngineFailed, "died while loading"),
    ],
)
async def test_a_start_that_fails_says_why(failure: str, error: type[Exception], text: str) -> None:
    engine = new_engine({"start_failure": failure})
    with pytest.raises(error, match=text):
        await engine.start()
    with pytest.raises(EngineFailed, match="not been started"):
        _ = engine.facts
    await engine.close()
    assert not workers()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (request("a", [1] * CONTEXT), PromptTooLong),
        (request("a", []), InvalidRequest),
        (request("a", seed=1 << 64), InvalidRequest),
        (request("a", [1.5]), InvalidRequest),  # type: ignore[list-item]
        (request("a", adapter=BROKEN), AdapterInvalid),
        (request("a", [NOT_FINITE]), EngineFailed),
    ],
)
async def test_a_wrong_request_fails_alone(start: Starter, wrong: GenerateRequest, error: type[Exception]) -> None:
    engine = await start()
    good = asyncio.create_task(collect(engine, request("b", max_tokens=50)))
    with pytest.raises(error):
        await collect(engine, wrong)
    assert [await good] == alone(request("b", max_tokens=50))


async def test_killing_the_worker_changes_no_stream(start: Starter, caplog: pytest.LogCaptureFixture) -> None:
    engine = await start(SLOW, kv_cache_bytes=24)
    requests = [
        request(str(i), range(i + 1, i + 20), max_tokens=60, temperature=0.9, seed=i, adapter=["one", None][i % 2])
        for i in range(20)
    ]
    sinks: list[list[int]] = [[] for _ in requests]
    with caplog.at_level(logging.CRITICAL):
        tasks = [asyncio.create_task(collect(engine, *pair)) for pair in zip(requests, sinks, strict=True)]
        for count in (10, 200, 500):
            await until(lambda count=count: sum(map(len, sinks)) >= count and engine.worker_pid is not None)
            kill(engine)
            await until(lambda: engine.worker_pid is None)
        assert await asyncio.gather(*tasks) == alone(*requests)
    assert engine.stats().restarts == 3
    await until(lambda: idle(engine))


async def test_an_idle_worker_that_dies_is_replaced(start: Starter) -> None:
    engine = await start()
    kill(engine)
    assert [await collect(engine, request("a"))] == alone(request("a"))
    assert engine.stats().restarts == 1


async def test_a_poisonous_request_fails_after_a_few_deaths_and_takes_nobody_with_it(start: Starter) -> None:
    engine = await start(SLOW)
    innocent = [request(str(i), [i + 1] * 30, max_tokens=30, temperature=1.0, seed=i) for i in range(12)]
    tasks = [asyncio.create_task(collect(engine, one)) for one in innocent[:6]]
    await until(lambda: engine.stats().running == 6)
    poison = asyncio.create_task(collect(engine, request("poison", [1, DEADLY])))
    tasks += [asyncio.create_task(collect(engine, one)) for one in innocent[6:]]
    assert await asyncio.gather(*tasks) == alone(*innocent)
    with pytest.raises(EngineFailed, match="died repeatedly"):
        await poison
    assert engine.stats().restarts == 3


async def test_an_adapter_that_kills_the_process_fails_its_request_and_no_other(start: Starter) -> None:
    engine = await start(SLOW)
    innocent = [request(str(i), [i + 1] * 30, max_tokens=30, adapter="one" if i % 2 else None) for i in range(6)]
    tasks = [asyncio.create_task(collect(engine, one)) for one in innocent]
    await until(lambda: engine.stats().running == 6)
    poison = asyncio.create_task(collect(engine, request("poison", adapter="deadly")))
    assert await asyncio.gather(*tasks) == alone(*innocent)
    with pytest.raises(EngineFailed, match="died repeatedly"):
        await poison


async def test_requests_fail_while_no_worker_can_be_started_and_later_ones_do_not(
    start: Starter, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    engine = await start({"flag": str(flag), **SLOW})
    running = asyncio.create_task(collect(engine, request("a", max_tokens=400)))
    await until(lambda: engine.stats().running)
    flag.unlink()
    kill(engine)
    with pytest.raises(EngineFailed, match="cannot be started"):
        await running
    flag.touch()
    assert [await collect(engine, request("b"))] == alone(request("b"))


def ref(digest: str) -> AdapterRef:
    return AdapterRef(digest, "", "", "")


async def test_probes_and_unloads_get_their_answers(start: Starter) -> None:
    engine = await start()
    probe = await engine.probe(ref("one"))
    assert probe.difference > 0
    assert await engine.probe(ref("one")) == probe
    assert engine.stats().adapters == 1
    await engine.unload("one")
    await until(lambda: engine.stats().adapters == 0)
    with pytest.raises(AdapterInvalid, match="this adapter is broken"):
        await engine.probe(ref(BROKEN))


async def test_probes_and_unloads_survive_the_death_of_the_worker(start: Starter) -> None:
    engine = await start({"step_seconds": 0.1})
    expected = await engine.probe(ref("one"))
    probes = [asyncio.create_task(engine.probe(ref("one"))) for _ in range(3)]
    unload = asyncio.create_task(engine.unload("two"))
    await asyncio.sleep(0)
    kill(engine)
    assert await asyncio.gather(*probes) == [expected] * 3
    await unload
    assert engine.stats().restarts == 1


async def test_a_probe_of_an_adapter_that_kills_the_process_fails(start: Starter) -> None:
    engine = await start()
    with pytest.raises(EngineFailed, match="died repeatedly"):
        await engine.probe(ref("deadly"))
    assert (await engine.probe(ref("one"))).difference > 0


async def test_a_probe_whose_client_goes_away_leaves_nothing_behind(start: Starter) -> None:
    engine = await start({"step_seconds": 0.1})
    for delay in (0, 0.002, 0.05, 0.15):
        task = asyncio.create_task(engine.probe(ref("one")))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: idle(engine))
    assert (await engine.probe(ref("one"))).difference > 0


async def test_probes_count_as_requests_and_unloads_do_not(start: Starter) -> None:
    engine = await start(SLOW, max_sequences=1, max_queue=0)
    assert not engine.busy
    running = asyncio.create_task(collect(engine, request("a", max_tokens=100)))
    await until(lambda: engine.stats().running)
    assert engine.busy
    with pytest.raises(OutOfCapacity):
        await engine.probe(ref("one"))
    await engine.unload("one")
    await running


@pytest.mark.parametrize("state", ["queued", "in prefill", "decoding"])
async def test_closing_the_iterator_frees_the_sequence(start: Starter, state: str) -> None:
    engine = await start({"step_seconds": 0.05}, step_tokens=16, max_sequences=1)
    await until(lambda: idle(engine))
    other = asyncio.create_task(collect(engine, request("other", max_tokens=100 if state == "queued" else 1)))
    stream = engine.generate(request("a", [1] * 400 if state == "in prefill" else [1], max_tokens=400))
    reader = asyncio.create_task(anext(stream))
    await until(
        lambda: engine.stats().waiting if state == "queued" else engine.stats().prompt_tokens > 20 or reader.done()
    )
    assert reader.done() == (state == "decoding")
    reader.cancel()
    await asyncio.wait([reader])
    await stream.aclose()
    await until(lambda: not engine.stats().waiting if state == "queued" else idle(engine))
    assert engine.stats().steps < 60, "it went on as if nothing had happened"
    other.cancel()
    await asyncio.wait([other])


async def test_two_hundred_cancelled_requests_leave_nothing_behind(start: Starter) -> None:
    engine = await start(max_sequences=4)
    worker = psutil.Process(engine.worker_pid)

    async def cancel_after(count: int, number: int) -> None:
        async with aclosing(engine.generate(request("a", [number % 40] * 40, max_tokens=400, adapter="one"))) as stream:
            for _ in range(count):
                await anext(stream)

    async def burst() -> None:
        await asyncio.gather(*(cancel_after(number % 4, number) for number in range(100)))
        await until(lambda: idle(engine))

    await burst()
    files, own_files, memory = worker.num_fds(), psutil.Process().num_fds(), worker.memory_info().rss
    await burst()
    await burst()
    assert worker.num_fds() == files
    assert psutil.Process().num_fds() == own_files
    assert worker.memory_info().rss < memory + (1 << 20)
    assert not engine._jobs


async def test_a_full_queue_refuses_until_there_is_room(start: Starter) -> None:
    engine = await start(SLOW, max_sequences=2, max_queue=3)
    streams = [engine.generate(request(str(i), max_tokens=100)) for i in range(5)]
    readers = [asyncio.create_task(anext(stream)) for stream in streams]
    await until(lambda: engine.stats().running + engine.stats().waiting == 5)
    with pytest.raises(OutOfCapacity, match="try again later"):
        await collect(engine, request("one too many"))
    await readers[0]
    await streams[0].aclose()
    assert len(await collect(engine, request("now there is room"), [])) == 8
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    for stream in streams:
        await stream.aclose()


async def test_a_slow_consumer_loses_nothing_and_holds_up_nobody(start: Starter) -> None:
    engine = await start()
    one = request("a", max_tokens=300)
    stream = engine.generate(one)
    first = await anext(stream)
    await until(lambda: engine.stats().output_tokens == 300)
    rest = await anext(stream)
    assert rest.finish_reason is FinishReason.LENGTH
    assert [first.tokens + rest.tokens] == alone(one)
    await stream.aclose()


async def test_closing_the_engine_aborts_what_runs_and_leaves_no_process() -> None:
    engine = new_engine(SLOW)
    await engine.start()
    pid = engine.worker_pid
    running = asyncio.create_task(collect(engine, request("a", max_tokens=400)))
    await until(lambda: engine.stats().running)
    await engine.close()
    with pytest.raises(RequestAborted):
        await running
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(EngineFailed, match="not running"):
        await collect(engine, request("b"))
    await engine.close()


async def test_an_idle_worker_uses_no_processor_time_and_wakes_at_once(start: Starter) -> None:
    engine = await start()
    worker = psutil.Process(engine.worker_pid)
    await collect(engine, request("a"))
    before = worker.cpu_times()
    await asyncio.sleep(0.5)
    assert worker.cpu_times()[:2] == before[:2]
    started = time.monotonic()
    await collect(engine, request("a", max_tokens=1))
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
async def test_the_worker_leaves_interruptions_to_its_parent(start: Starter, interruption: signal.Signals) -> None:
    engine = await start(SLOW)
    running = asyncio.create_task(collect(engine, request("a", max_tokens=20)))
    await until(lambda: engine.stats().running)
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, interruption)
    assert [await running] == alone(request("a", max_tokens=20))
    assert engine.stats().restarts == 0


PARENT = """
import asyncio, sys
from tests.collecting import collect
from tests.engines.cpu.test_client import SLOW, new_engine
from tests.stepping import request

async def main():
    engine = new_engine(SLOW)
    await engine.start()
    if sys.argv[1] == "busy":
        task = asyncio.create_task(collect(engine, request("a", max_tokens=400)))
        await asyncio.sleep(0.1)
    print(engine.worker_pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_the_worker_ends_when_its_parent_is_killed(state: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, state, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(await parent.stdout.readline()))
    assert worker.is_running()
    parent.kill()
    await parent.wait()
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, seconds=5)
