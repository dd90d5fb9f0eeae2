"""uvicorn as this API needs it: it drains on the first signal, gives up on the second, and can drop a connection."""

import asyncio
import logging
import math
import re
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gemlora.api.health import Lifecycle, Phase
from gemlora.api.streaming import ABORT_EXTENSION
from gemlora.errors import SettingsInvalid

UNSENT_BYTES = 32 << 10
"""Bytes of an answer that wait in this process, and as many in the kernel, before the generation waits too."""

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that they seldom send a request into one that is being closed."""

UPGRADE = re.compile(rb"\r\nUpgrade:[^\r\n]*", re.IGNORECASE)

LOGGER = logging.getLogger("gemlora.server")


class Connection(HttpToolsProtocol):
    """One client connection; requests carry a way to drop it together with what is unsent."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called when a client has connected."""
        super().connection_made(transport)
        self._between_requests = True
        transport.set_write_buffer_limits(high=UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Called with what the client sent."""
        super().data_received(_without_upgrade(data) if self._between_requests else data)

    def on_message_begin(self) -> None:
        """Called by the parser before a request's first byte."""
        super().on_message_begin()
        self._between_requests = False
        self.scope["extensions"] = {ABORT_EXTENSION: {"abort": self.transport.abort}}

    def on_message_complete(self) -> None:
        """Called by the parser after a request's last byte."""
        super().on_message_complete()
        self._between_requests = True


class Server(uvicorn.Server):
    """Ends with exit status 0 after a signal, running requests first, for at most `drain_seconds`."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, drain_seconds: float, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called once, when the server listens."""
        config = uvicorn.Config(
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
        super().__init__(config)
        self._lifecycle = lifecycle
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and say so. Raises `SettingsInvalid` if another server listens at the address by now."""
        self._loop = asyncio.get_running_loop()
        for listener in sockets or ():
            _listen(listener, self.config.backlog)
        await super().startup(sockets)
        self._lifecycle.phase = Phase.READY
        self._on_ready()

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """The first signal drains, a second one drops the requests that still run."""
        self._lifecycle.phase = Phase.DRAINING
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._drop_connections)
        self.should_exit = True
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


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has the address but does not listen yet, so that a taken port shows before a model is loaded.

    Raises `SettingsInvalid`.
    """
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it. Left to itself, the kernel would buffer a whole answer for a stalled reader.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise SettingsInvalid(f"--host {host} --port {port}: {error.strerror}") from error
    return listener
