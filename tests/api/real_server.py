"""The application behind a real socket in the test's own event loop, and raw bytes to it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.api.parts import RUN, TOKEN, Parts

from gemlora.api.listener import bound_socket
from gemlora.api.server import Config, Server

SILENT_SECONDS = 30
"""How long an answer may take before there is none: long, because a busy machine stops processes for seconds."""


class QuietServer(Server):
    """Leaves the test process's signal handlers alone."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)


@dataclass(frozen=True)
class RealServer:
    """A running server."""

    parts: Parts
    port: int
    server: Server
    finished: asyncio.Task[None]

    @classmethod
    @asynccontextmanager
    async def running(
        cls, parts: Parts, drain_seconds: float = 1, header_seconds: float = 10
    ) -> AsyncIterator["RealServer"]:
        listener = bound_socket("127.0.0.1", 0)
        ready = asyncio.Event()
        server = QuietServer(Config(parts.api, drain_seconds, header_seconds), parts.lifecycle, ready.set)
        task = asyncio.create_task(server.serve([listener]))
        await asyncio.wait_for(ready.wait(), 5)
        try:
            yield cls(parts, listener.getsockname()[1], server, task)
        finally:
            server.stop()
            await asyncio.wait_for(task, 5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A raw connection with a small receive buffer, dropped at the end."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def exchange(self, request: bytes) -> bytes:
        """Send bytes and read until the server closes or is silent for a moment."""
        async with self.connection() as (reader, writer):
            writer.write(request)
            answer = b""
            try:
                while chunk := await asyncio.wait_for(reader.read(65536), SILENT_SECONDS):
                    answer += chunk
                    if _is_complete(answer):
                        break
            except (TimeoutError, ConnectionResetError):
                pass
            return answer


def run_request(body: bytes, *headers: str, target: str = RUN, host: str = "gemlora") -> bytes:
    """A POST with bearer token and length."""
    lines = [
        f"POST {target} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {TOKEN}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until the condition holds; fails when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what tests wait for has no event
            await asyncio.sleep(0.002)


def _is_complete(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def leave(writer: asyncio.StreamWriter, way: str) -> None:
    """End a connection as clients do: by `reset`, `close` or `half-close`."""
    match way:
        case "reset":
            writer.transport.abort()
        case "close":
            writer.close()
        case "half-close":
            writer.write_eof()
