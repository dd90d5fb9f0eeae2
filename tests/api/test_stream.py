"""Streams: the exact bytes, the same text as the whole answer, and an end without [DONE] when something fails."""

import asyncio
import json
import sys
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from tests.api.parts import ALICE, MODEL, RUN, TOKEN, Parts
from tests.api.real_server import RealServer, eventually, run_request

from gemlora.api.limits import Limits
from gemlora.api.run import events
from gemlora.api.sse import event, event_of_any
from gemlora.api.streaming import EventStream
from gemlora.engines.contract import FinishReason
from gemlora.engines.fake import FAKE_FACTS, FakeEngine
from gemlora.errors import EngineFailed
from gemlora.serving.generation import Ending, Piece, Usage
from gemlora.serving.prompt import Prompt, ToolCall
from gemlora.serving.service import RunRequest

STREAM = {"prompt": "Hello", "stream": True, "seed": 7}


def payloads(body: str) -> list[dict[str, Any]]:
    """What the events of a complete stream carry."""
    lines = body.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_the_bytes_are_those_of_the_hosted_service() -> None:
    async def pieces() -> Any:
        yield Piece("Hi")
        yield Piece("→ ü")
        yield Ending(Usage(11, 2), FinishReason.STOP)

    stream = b"".join([chunk async for chunk in events(pieces())])

    assert stream.decode() == (
        'data: {"response":"Hi"}\n\n'
        'data: {"response":"→ ü"}\n\n'
        'data: {"response":""}\n\n'
        'data: {"response":"","usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13},'
        '"finish_reason":"stop"}\n\n'
        "data: [DONE]\n\n"
    )


async def test_numbers_in_the_arguments_of_a_call_are_written_as_in_a_whole_answer() -> None:
    async def pieces() -> Any:
        yield ToolCall("move", '{"far":1e16,"exact":123456789012345678901234567890}')
        yield Ending(Usage(11, 2), FinishReason.STOP, called=True)

    first = await anext(events(pieces()))

    assert b'"arguments":{"far":1e+16,"exact":123456789012345678901234567890}' in first


def test_every_character_is_written_as_in_a_whole_answer() -> None:
    every = {"response": "".join(map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]))}

    assert event(every) == event_of_any(every)


async def test_events_of_pipelined_requests_come_one_answer_after_the_other(parts: Parts) -> None:
    async with RealServer.running(parts) as server, server.connection() as (reader, writer):
        writer.write(run_request(json.dumps(STREAM).encode()) * 2)
        answers = [await reader.readuntil(b"0\r\n\r\n") for _ in range(2)]

    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"[DONE]") == 1
        assert answer.count(b'{"response":') == answers[0].count(b'{"response":')


async def test_what_follows_the_start_passes_by_the_middlewares(parts: Parts) -> None:
    seen: list[str] = []
    api = parts.api

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            seen.append(message["type"])
            await send(message)

        await api(scope, receive, noting)

    parts.api = middleware  # type: ignore[assignment]
    async with RealServer.running(parts) as server:
        answer = await server.exchange(run_request(json.dumps(STREAM).encode()))

    assert answer.count(b"[DONE]") == 1
    assert seen == ["http.response.start"]


async def test_an_answer_without_text_is_an_empty_chunk_usage_and_done(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.engine._length = 0

    response = await client.post(RUN, json=STREAM)

    assert [payload["response"] for payload in payloads(response.text)] == ["", ""]


async def test_a_stream_has_the_headers_that_clients_read(client: httpx.AsyncClient) -> None:
    response = await client.post(RUN, json={**STREAM, "lora": "pirate"})

    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["gemlora-adapter"] == f"pirate@{'ab' * 32}"
    assert len(response.headers["cf-ai-req-id"]) == 36
    assert "content-length" not in response.headers


@pytest.mark.parametrize("seed", range(1, 8))
async def test_the_concatenated_stream_is_the_whole_answer(seed: int) -> None:
    """The alphabet's bytes often make no character, so pieces of characters must wait for each other."""
    parts = Parts(FakeEngine(alphabet=[*"aé→😀".encode()], length=200))
    transport = httpx.ASGITransport(parts.api)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
        body = {"prompt": "x", "seed": seed}
        whole = (await client.post(RUN, json=body)).json()["result"]
        streamed = payloads((await client.post(RUN, json={**body, "stream": True})).text)

    assert "".join(payload["response"] for payload in streamed) == whole["response"]
    assert streamed[-1]["usage"] == whole["usage"]
    assert streamed[-1]["finish_reason"] == whole["finish_reason"]
    assert all(payload["response"] for payload in streamed[:-2])


async def test_a_failure_in_the_middle_closes_the_stream_without_done(parts: Parts) -> None:
    parts.engine.fail_next(EngineFailed("broken"), after_tokens=3)
    async with RealServer.running(parts) as server:
        answer = await server.exchange(run_request(json.dumps(STREAM).encode()))

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b'{"response":') == 3
    assert b"[DONE]" not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert parts.engine.live == 0


async def test_a_client_that_left_before_the_answer_began_ends_the_generation() -> None:
    parts = Parts(FakeEngine())
    generation = await parts.services.generation.start(RunRequest("id", ALICE, MODEL, Prompt.of_text("x")))
    stream = events(generation.pieces())
    response = EventStream(await anext(stream), stream, {}, 1, parts.services.log)
    assert parts.engine.live == 1

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def never(message: Any) -> None:
        await asyncio.sleep(60)

    await response({"type": "http"}, gone, never)

    assert parts.engine.live == 0


async def test_tokens_are_sent_as_they_come() -> None:
    parts = Parts(FakeEngine(token_seconds=0.05))
    async with RealServer.running(parts) as server, server.connection() as (reader, writer):
        writer.write(run_request(json.dumps(STREAM).encode()))
        await reader.readuntil(b'data: {"response":')

        assert parts.engine.live == 1


async def test_a_reader_that_stalls_is_cut_off_and_its_sequence_freed() -> None:
    engine = FakeEngine(replace(FAKE_FACTS, context_window=1 << 30), length=1 << 30)
    parts = Parts(engine, Limits(write_stall_seconds=0.2))
    async with RealServer.running(parts) as server, server.connection() as (_reader, writer):
        body = {**STREAM, "max_tokens": 1 << 29}
        writer.write(run_request(json.dumps(body).encode()))
        await eventually(lambda: engine.live == 1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: engine.live == 0, 5)
        await eventually(lambda: not server.server.server_state.connections)

    assert any(line["event"] == "stream stalled" for line in parts.log_lines)


async def test_a_slow_reader_that_makes_progress_gets_everything() -> None:
    parts = Parts(FakeEngine(length=3000), Limits(write_stall_seconds=1))
    async with RealServer.running(parts) as server, server.connection() as (reader, writer):
        writer.write(run_request(json.dumps({**STREAM, "max_tokens": 4000}).encode()))
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            answer += await reader.read(20000)
            await asyncio.sleep(0.005)

    assert b"data: [DONE]" in answer
