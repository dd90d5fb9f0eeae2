"""A client that goes away frees what it had, at whatever moment, and disturbs nobody."""

import asyncio
import json

import httpx
import pytest
from tests.api.parts import RUN, TOKEN, Parts
from tests.api.real_server import RealServer, eventually, leave, run_request

from gemlora.engines.fake import FakeEngine

STEP = 0.01
LONG_STEP = 0.5
"""Long enough that a busy machine can tell what happens within it from what happens after it."""


def request(stream: bool) -> bytes:
    return run_request(json.dumps({"prompt": "Hello", "stream": stream, "max_tokens": 4000}).encode())


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(length=4000, token_seconds=STEP)


@pytest.fixture
def parts(engine: FakeEngine) -> Parts:
    return Parts(engine)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", ["reset", "close", "half-close"])
async def test_leaving_while_tokens_come_frees_the_sequence_before_the_next_step(stream: bool, way: str) -> None:
    engine = FakeEngine(length=4000, token_seconds=LONG_STEP)
    async with RealServer.running(Parts(engine)) as server, server.connection() as (reader, writer):
        writer.write(request(stream))
        await eventually(lambda: engine.live == 1)
        if stream:
            await reader.readuntil(b'{"response":')
        left = asyncio.get_running_loop().time()
        leave(writer, way)
        await eventually(lambda: engine.live == 0)

        assert asyncio.get_running_loop().time() - left < LONG_STEP


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_during_the_prefill_frees_the_sequence(stream: bool) -> None:
    engine = FakeEngine(prefill_seconds=60)
    async with RealServer.running(Parts(engine)) as server:
        async with server.connection() as (_reader, writer):
            writer.write(request(stream))
            await eventually(lambda: engine.live == 1)
        await eventually(lambda: engine.live == 0)


@pytest.mark.parametrize("part", [b"POST", b"POST / HTTP/1.1\r\nHost: a\r\n", None])
async def test_leaving_before_the_request_is_complete_leaves_nothing_behind(
    server: RealServer, engine: FakeEngine, part: bytes | None
) -> None:
    async with server.connection() as (_reader, writer):
        writer.write(request(stream=False)[:-10] if part is None else part)
        await writer.drain()
        await eventually(lambda: len(server.server.server_state.connections) == 1)

    await eventually(lambda: not server.server.server_state.connections and not server.server.server_state.tasks)
    assert engine.requests == []


async def test_many_that_leave_at_random_moments_leave_nothing_behind(server: RealServer, engine: FakeEngine) -> None:
    async def come_and_go(index: int) -> None:
        async with server.connection() as (_reader, writer):
            writer.write(request(stream=index % 2 == 0))
            await asyncio.sleep(0.003 * (index % 40))

    await asyncio.gather(*(come_and_go(index) for index in range(100)))

    await eventually(lambda: engine.live == 0)
    await eventually(lambda: not server.server.server_state.tasks)


async def test_a_neighbour_gets_its_answer_unchanged(server: RealServer) -> None:
    body = {"prompt": "neighbour", "seed": 3, "max_tokens": 30}
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        alone = (await client.post(RUN, json=body)).json()
        answer = asyncio.create_task(client.post(RUN, json=body))
        async with server.connection() as (_reader, writer):
            writer.write(request(stream=True))
            await asyncio.sleep(5 * STEP)

        assert (await answer).json() == alone


async def test_a_client_that_stays_is_not_taken_for_one_that_left(server: RealServer) -> None:
    body = json.dumps({"prompt": "Hello", "max_tokens": 3}).encode()

    async with server.connection() as (reader, writer):
        for _ in range(3):
            writer.write(run_request(body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
