"""Streams through a reverse proxy that does not buffer: each event comes before the next token is computed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, MODEL, RUN, TOKEN, Parts
from tests.api.real_server import RealServer, eventually

from gemlora.engines.fake import FakeEngine

CHAT = f"/client/v4/accounts/{ALICE}/ai/v1/chat/completions"
COMPLETIONS = f"/client/v4/accounts/{ALICE}/ai/v1/completions"
ENCODED = RUN.replace(MODEL, MODEL.replace("/", "%2F"))
MESSAGES = [{"role": "user", "content": "Hello"}]
SAMPLED: dict[str, Any] = {"seed": 5, "max_tokens": 6, "stream": True}
REQUESTS = {
    "run": (RUN, SAMPLED | {"messages": MESSAGES}),
    "run, encoded": (ENCODED, SAMPLED | {"messages": MESSAGES}),
    "binding": ("/run?version=3", {"inputs": SAMPLED | {"messages": MESSAGES}, "options": {}}),
    "chat": (CHAT, SAMPLED | {"model": MODEL, "messages": MESSAGES}),
    "completions": (COMPLETIONS, SAMPLED | {"model": MODEL, "prompt": "Hello"}),
}
HEADERS = {"authorization": f"Bearer {TOKEN}", "cf-consn-model-id": MODEL}


class SteppedEngine(FakeEngine):
    """Computes a token only when a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = asyncio.Semaphore(0)

    async def _pause(self, seconds: float) -> None:
        await self.steps.acquire()


@asynccontextmanager
async def reverse_proxy(port: int) -> AsyncIterator[str]:
    """Passes bytes on as they come, in both directions, and closes what the other side closed."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(relay(reader, upstream_writer), relay(upstream_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize("name", REQUESTS)
async def test_events_come_one_by_one_and_unchanged(name: str) -> None:
    path, body = REQUESTS[name]
    engine = SteppedEngine()
    engine.steps.release()  # for the prompt
    async with (
        RealServer.running(Parts(engine)) as server,
        reverse_proxy(server.port) as address,
        httpx.AsyncClient(base_url=address, headers=HEADERS, timeout=10) as client,
    ):
        engine.steps.release()
        async with client.stream("POST", path, json=body) as response:
            assert response.headers["content-type"] == "text/event-stream"
            content, tokens = b"", 1
            async for chunk in response.aiter_raw():
                content += chunk
                texts = content.count(b'"content":"') + content.count(b'"text":"') + content.count(b'"response":"')
                opening = content.count(b'"role":"assistant"')
                if texts - opening == tokens and tokens < SAMPLED["max_tokens"]:
                    tokens += 1
                    engine.steps.release()  # only now can the next event be made

    assert tokens == SAMPLED["max_tokens"]
    assert content.endswith(b"data: [DONE]\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in content.split(b"\n\n")[:-1])


async def test_a_client_that_leaves_the_proxy_ends_the_request_at_the_server() -> None:
    engine = SteppedEngine()
    path, body = REQUESTS["run"]
    async with (
        RealServer.running(Parts(engine)) as server,
        reverse_proxy(server.port) as address,
        httpx.AsyncClient(base_url=address, headers=HEADERS, timeout=10) as client,
    ):
        for _ in range(3):
            engine.steps.release()
        async with client.stream("POST", path, json=body) as response:
            await anext(response.aiter_raw())
            assert engine.live == 1

        await eventually(lambda: engine.live == 0)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_session_s_affinity_changes_nothing(client: httpx.AsyncClient, name: str) -> None:
    path, body = REQUESTS[name]

    async def answer(**headers: str) -> list[str]:
        response = await client.post(path, json=body, headers=HEADERS | headers)
        assert response.status_code == 200, response.text
        return [line.partition('"choices"')[2] or line for line in response.text.splitlines()]

    assert await answer(**{"x-session-affinity": "session-1"}) == await answer()
