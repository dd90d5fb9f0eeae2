"""Streamed answers that end with their client: a reader that is gone or stalls frees what is being produced."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NoReturn

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from gemlora.api.disconnect import while_connected
from gemlora.api.sse import MEDIA_TYPE
from gemlora.errors import GemloraError, RequestAborted

ABORT_EXTENSION = "gemlora.abort"
"""ASGI extension of `api/server.py`; its `abort` drops the connection with everything that is unsent."""

BULK_EXTENSION = "gemlora.bulk"
"""ASGI extension of `api/server.py`; its `begin` lets more of this one answer wait unsent, so that it flows faster."""

DIRECT_EXTENSION = "gemlora.direct"
"""ASGI extension of `api/server.py`; its `send`, a weak reference, takes what follows an answer's start past the
middlewares, which look at the start alone.
"""


class Stalled(Exception):
    """The reader took nothing for too long."""


class StreamedAnswer(Response):
    """Sends chunks as they come. The server's write buffer is bounded: a full one stops their production.

    A failure after the start, or a write that makes no progress for `stall_seconds`, closes the connection before the
    answer is complete, so that no client takes the part for the whole.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        stall_seconds: float,
        log: FilteringBoundLogger,
        first: bytes = b"",
    ) -> None:
        """`first` comes before the chunks."""
        super().__init__()
        del self.headers["content-length"]
        self.headers.update(headers)
        self._first = first
        self._chunks = chunks
        self._stall_seconds = stall_seconds
        self._writing_since: float | None = None
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; return early when the client is gone or the production failed."""
        extensions = scope.get("extensions", {})
        async with aclosing(self._chunks):
            try:
                await while_connected(receive, self._send_all(send, extensions), self._stalled())
            except RequestAborted:
                return
            except Stalled:
                self._log.info("stream stalled", seconds=self._stall_seconds)
                if ABORT_EXTENSION in extensions:
                    extensions[ABORT_EXTENSION]["abort"]()
            except GemloraError as error:
                self._log.warning("stream failed", error=type(error).__name__)

    async def _send_all(self, send: Send, extensions: dict[str, Any]) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if DIRECT_EXTENSION in extensions:
            send = extensions[DIRECT_EXTENSION]["send"]() or send
        if self._first:
            await self._send(send, {"type": "http.response.body", "body": self._first, "more_body": True})
        async for chunk in self._chunks:
            await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, object]) -> None:
        self._writing_since = time.monotonic()
        await send(message)
        self._writing_since = None

    async def _stalled(self) -> NoReturn:
        """Raise `Stalled` when one write has taken too long. A timer for each write would cost as much as the write."""
        while True:
            since = self._writing_since
            await asyncio.sleep(
                self._stall_seconds if since is None else since + self._stall_seconds - time.monotonic()
            )
            if since is not None and self._writing_since == since:
                raise Stalled


class EventStream(StreamedAnswer):
    """Server-sent events, of which the first is there already: what failed before it was an ordinary error."""

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        stall_seconds: float,
        log: FilteringBoundLogger,
    ) -> None:
        headers = {"cache-control": "no-cache", **headers, "content-type": MEDIA_TYPE}
        super().__init__(rest, headers, stall_seconds, log, first)


async def event_stream(
    receive: Receive,
    events: AsyncGenerator[bytes, None],
    headers: dict[str, str],
    stall_seconds: float,
    log: FilteringBoundLogger,
) -> EventStream:
    """The stream once its first event is there. Raises what comes before it, or `RequestAborted`."""
    first = await while_connected(receive, anext(events))
    return EventStream(first, events, headers, stall_seconds, log)
