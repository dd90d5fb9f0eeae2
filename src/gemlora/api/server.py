"""uvicorn as this API needs it: it drains on the first signal, gives up on the second, can drop a connection, and
waits for no request's head for ever.
"""

import asyncio
import logging
import math
import re
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from weakref import WeakMethod

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gemlora.api.envelope import error_kind, gateway_error
from gemlora.api.health import Lifecycle, Phase
from gemlora.api.listener import UNSENT_BYTES
from gemlora.api.streaming import ABORT_EXTENSION, BULK_EXTENSION, DIRECT_EXTENSION
from gemlora.errors import GemloraError, RequestTimedOut, RequestTooLarge, SettingsInvalid

BULK_BYTES = 1 << 20
"""The same for an answer that asks for it: with the few bytes above a network of 50 ms takes 600 KB a second."""

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that they seldom send a request into one that is being closed."""

HEAD_BYTES = 64 << 10
"""Longest request line and headers together."""

CLOCK_SECONDS = 1
"""Between two looks at the clock."""

HEAD_END = re.compile(rb"\n\r?\n")
UPGRADE = re.compile(rb"\r\nUpgrade:[^\r\n]*", re.IGNORECASE)

LOGGER = logging.getLogger("gemlora.server")


class Config(uvicorn.Config):
    """uvicorn's settings, and how long a request's head may take."""

    def __init__(self, app: ASGIApp, drain_seconds: float, header_seconds: float) -> None:
        super().__init__(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(drain_seconds),
        )
        self.header_seconds = header_seconds


class Connection(HttpToolsProtocol):
    """One client connection; requests carry a way to drop it together with what is unsent.

    The parser gets a request's head in one piece. From its first byte on the head has `header_seconds` to come; a
    connection without a first byte is as idle as one between two requests, and closed as late.
    """

    config: Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(transport)
        self._between_requests = True
        self._head = bytearray()
        self._head_deadline: asyncio.TimerHandle | None = None
        self._is_bulk = False
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._buffer(UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended."""
        self._end_head_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called with what the client sent."""
        if self.transport.is_closing():
            return
        if self._between_requests:
            self._head_received(data)
        else:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """Called by the parser before a request's first byte."""
        super().on_message_begin()
        self._between_requests = False
        self._begin_head_deadline()
        self.scope["extensions"] = {
            ABORT_EXTENSION: {"abort": self.transport.abort},
            BULK_EXTENSION: {"begin": self._begin_bulk},
        }

    def on_headers_complete(self) -> None:
        """Called by the parser after a request's head."""
        self._end_head_deadline()
        super().on_headers_complete()
        # Weakly: the cycle holds the scope, and what goes round waits for the garbage collector.
        self.scope["extensions"][DIRECT_EXTENSION] = {"send": WeakMethod(self.cycle.send)}

    def on_response_complete(self) -> None:
        """Called after an answer's last byte."""
        super().on_response_complete()
        if self._is_bulk and not self.transport.is_closing():
            self._is_bulk = False
            self._buffer(UNSENT_BYTES)
        if self._head_deadline is not None:
            self._unset_keepalive_if_required()

    def on_message_complete(self) -> None:
        """Called by the parser after a request's last byte."""
        super().on_message_complete()
        self._between_requests = True

    def _begin_bulk(self) -> None:
        self._is_bulk = True
        self._buffer(BULK_BYTES)

    def _buffer(self, size: int) -> None:
        """Let as many bytes of an answer wait, in this process and in the kernel."""
        self.transport.set_write_buffer_limits(high=size)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def _head_received(self, data: bytes) -> None:
        """Collect a head, and pass it on with what follows. Empty lines before it are allowed and begin nothing."""
        searched = max(0, len(self._head) - 2)
        self._head += data if self._head else data.lstrip(b"\r\n")
        if not self._head:
            return
        self._unset_keepalive_if_required()
        self._begin_head_deadline()
        end = HEAD_END.search(self._head, searched)
        if (end.end() if end else len(self._head)) > HEAD_BYTES:
            self._refuse(RequestTooLarge("Request is too large"))
        elif end or not self._head[:1].isalpha():  # the parser tells at once whoever speaks TLS
            received, self._head = bytes(self._head), bytearray()
            super().data_received(_without_upgrade(received))

    def _begin_head_deadline(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self.loop.call_later(self.config.header_seconds, self._head_overdue)

    def _end_head_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_overdue(self) -> None:
        self._head_deadline = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._begin_head_deadline()  # a refusal would end up inside the answer to the request before
        else:
            self._refuse(RequestTimedOut("Request timeout"))

    def _refuse(self, error: GemloraError) -> None:
        """Answer what did not become a request, and close."""
        kind = error_kind(error)
        answer = gateway_error(kind.http, kind.code, kind.describe(error), {"connection": "close"})
        head = [
            b"HTTP/1.1 %d %s" % (kind.http, kind.title.encode()),
            *(b": ".join(header) for header in answer.raw_headers),
        ]
        self._end_head_deadline()
        self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()


class Server(uvicorn.Server):
    """Ends with exit status 0 after a signal, running requests first, for at most `drain_seconds`."""

    def __init__(self, config: Config, lifecycle: Lifecycle, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called once, when the server listens."""
        super().__init__(config)
        self._lifecycle = lifecycle
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and say so. Raises `SettingsInvalid` if another server listens at the address by now."""
        self._loop = asyncio.get_running_loop()
        for listener in sockets or ():
            _listen(listener, self.config.backlog)
        await super().startup(sockets)
        self._lifecycle.phase = Phase.READY
        self._on_ready()

    async def main_loop(self) -> None:
        """Wait for the end, and look at the clock once a second for the answers' date; uvicorn does so ten times."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), CLOCK_SECONDS)

    def stop(self) -> None:
        """Drain and end. May be called while a signal is handled."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """The first signal drains, a second one drops the requests that still run."""
        self._lifecycle.phase = Phase.DRAINING
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._drop_connections)
        self.stop()
        LOGGER.info("received %s", signal.Signals(sig).name)

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _without_upgrade(data: bytes) -> bytes:
    """A request without the offer to change the protocol, as Java's client makes it with HTTP/2.

    A server may ignore the offer, but this one's parser would skip the request's body.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"", head) + end + rest if end else data


def _listen(listener: socket.socket, backlog: int) -> None:
    """Two servers can bind an address as long as neither listens, and uvloop overlooks that the second one may not."""
    try:
        listener.listen(backlog)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise SettingsInvalid(f"--host {host} --port {port}: {error.strerror}") from error
