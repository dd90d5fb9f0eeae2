"""The address a server takes, and what its connections make of odd requests."""

import asyncio
import gc
import time
import weakref

import pytest
from tests.api.parts import Parts
from tests.api.real_server import QuietServer, RealServer, eventually, run_request

from gemlora.api.listener import bound_socket
from gemlora.api.server import HEAD_BYTES, Config, Connection
from gemlora.engines.fake import FakeEngine
from gemlora.errors import SettingsInvalid

OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
BODY = b'{"prompt":"x","max_tokens":1}'
STREAMED_BODY = b'{"prompt":"x","max_tokens":2,"stream":true}'
TIMEOUT = b'{"result":null,"success":false,"errors":[{"code":3007,"message":"Request timeout"}],"messages":[]}'


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """The status line of a successful answer, which is read to its end."""
    status = await reader.readline()
    await reader.readuntil(b'"messages":[]}')
    return status.strip()


async def test_an_answered_request_leaves_memory_without_the_collector(
    server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycles: list[weakref.ref[object]] = []
    original = Connection.on_headers_complete

    def noting(connection: Connection) -> None:
        original(connection)
        cycles.append(weakref.ref(connection.cycle))

    monkeypatch.setattr(Connection, "on_headers_complete", noting)
    gc.disable()
    try:
        async with server.connection() as (reader, writer):
            for body, end in ((BODY, b'"messages":[]}'), (STREAMED_BODY, b"0\r\n\r\n"), (BODY, b'"messages":[]}')):
                writer.write(run_request(body))
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                await reader.readuntil(end)
            await eventually(lambda: [cycle() is None for cycle in cycles] == [True, True, False])
    finally:
        gc.enable()


async def test_of_two_servers_that_start_at_once_on_one_port_the_second_is_refused(parts: Parts) -> None:
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bound_socket("127.0.0.1", port) as second:
            first.listen()
            announced: list[str] = []
            server = QuietServer(Config(parts.api, 1, 10), parts.lifecycle, lambda: announced.append("ready"))

            with pytest.raises(SettingsInvalid, match=f"--port {port}: Address already in use"):
                await server.serve([second])

    assert announced == []


@pytest.mark.parametrize("protocol", ["Upgrade: h2c", "upgrade: websocket"])
async def test_an_offer_to_change_the_protocol_is_ignored_and_the_body_read(server: RealServer, protocol: str) -> None:
    offer = ["Connection: Upgrade, HTTP2-Settings", protocol, "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]

    async with server.connection() as (reader, writer):
        for _ in range(2):
            writer.write(run_request(b'{"prompt":"x","max_tokens":1}', *offer))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b'"messages":[]}')


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_the_offer_may_come_in_pieces(server: RealServer, size: int) -> None:
    request = run_request(BODY, *OFFER)

    async with server.connection() as (reader, writer):
        for _ in range(2):
            for start in range(0, len(request), size):
                writer.write(request[start : start + size])
                await asyncio.sleep(0.0005)
            assert await read_answer(reader) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_headers_that_take_too_long_are_refused(parts: Parts, requests_before: int) -> None:
    async with RealServer.running(parts, header_seconds=0.2) as server, server.connection() as (reader, writer):
        for _ in range(requests_before):
            writer.write(run_request(BODY))
            assert await read_answer(reader) == b"HTTP/1.1 200 OK"
        writer.write(b"GET /livez HTTP/1.1\r\nHost: gemlora\r\n")
        answer = await asyncio.wait_for(reader.read(), 3)

    assert answer.startswith(b"HTTP/1.1 408 Timeout\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" + TIMEOUT)


async def test_headers_that_come_byte_by_byte_get_no_more_time(parts: Parts) -> None:
    async with RealServer.running(parts, header_seconds=0.2) as server, server.connection() as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: gemlora\r\nX: ")
        started = time.monotonic()
        while not writer.is_closing() and not reader.at_eof() and time.monotonic() < started + 5:
            writer.write(b"x")
            await asyncio.sleep(0.02)

        assert time.monotonic() - started < 3


async def test_a_connection_may_idle_before_and_between_requests(parts: Parts) -> None:
    async with RealServer.running(parts, header_seconds=0.1) as server, server.connection() as (reader, writer):
        for _ in range(2):
            await asyncio.sleep(0.2)
            writer.write(run_request(BODY))
            assert await read_answer(reader) == b"HTTP/1.1 200 OK"
            writer.write(b"\r\n")


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_that_never_asks_is_closed_as_an_idle_one(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("gemlora.api.server.KEEP_ALIVE_SECONDS", 0.1)

    async with RealServer.running(parts) as server, server.connection() as (reader, writer):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 3) == b""


async def test_headers_begun_during_an_answer_are_given_their_time_after_it() -> None:
    parts = Parts(FakeEngine(prefill_seconds=0.5))
    async with RealServer.running(parts, header_seconds=0.1) as server, server.connection() as (reader, writer):
        writer.write(run_request(BODY) + b"GET /livez HT")
        assert await read_answer(reader) == b"HTTP/1.1 200 OK"
        assert (await asyncio.wait_for(reader.read(), 3)).startswith(b"HTTP/1.1 408 ")


async def test_long_headers_are_refused(server: RealServer) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: gemlora\r\nX: "
    longest = head + b"x" * (HEAD_BYTES - len(head) - 4) + b"\r\n\r\n"

    assert (await server.exchange(longest)).startswith(b"HTTP/1.1 200 ")
    for too_long in (longest.replace(b"xx", b"xxx", 1), head + b"x" * HEAD_BYTES):
        answer = await server.exchange(too_long)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":3006' in answer


async def test_who_speaks_another_protocol_is_told_at_once(server: RealServer) -> None:
    started = time.monotonic()

    assert (await server.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")).startswith(b"HTTP/1.1 400 ")
    assert time.monotonic() - started < 1


async def test_an_idle_server_looks_at_the_clock_once_a_second() -> None:
    async with RealServer.running(Parts(FakeEngine())) as running:
        looks: list[int] = []
        look = running.server.on_tick

        async def counted(counter: int) -> bool:
            looks.append(counter)
            return await look(counter)

        running.server.on_tick = counted  # type: ignore[method-assign]
        await asyncio.sleep(0.5)

    assert len(looks) <= 2  # the last one at the end
