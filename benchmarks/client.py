"""A streaming HTTP client that costs little: where cores are few it takes its time from the server that it measures."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, cast

import httptools
from benchmarks.dialects import DIALECTS
from msgspec import Struct

END = b"[DONE]"


class Call(Struct, frozen=True):
    """A POST request for a streamed answer."""

    port: int
    path: str
    body: Mapping[str, Any]
    dialect: str
    """One of `DIALECTS`."""
    headers: Mapping[str, str] = {}


class Answer(Struct, frozen=True):
    """When an answer came, in seconds of the client's clock, and how many tokens it was made of."""

    begin: float
    first: float
    """The first text."""
    end: float
    prompt_tokens: int
    output_tokens: int


class CallFailed(Exception):
    """The server refused a request or broke off its answer."""


async def answered(call: Call) -> Answer:
    """Send the request over a connection of its own and read its stream to the end. Raises `CallFailed`."""
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    transport, stream = await loop.create_connection(lambda: _Stream(call, begin), "127.0.0.1", call.port)
    try:
        return await stream.answer
    finally:
        transport.close()


class _Stream(asyncio.Protocol):
    """One request and its answer; the parser calls the methods named `on_…`."""

    def __init__(self, call: Call, begin: float) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._call = call
        self._hear = DIALECTS[call.dialect]
        self._begin = begin
        self._first: float | None = None
        self._counts: tuple[int, int] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._text = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not derived from asyncio's classes.
        connection = cast(asyncio.WriteTransport, transport)
        body = json.dumps(self._call.body).encode()
        headers = {
            "host": f"127.0.0.1:{self._call.port}",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **self._call.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.write(f"POST {self._call.path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, ValueError, KeyError) as error:
            self._fail(f"{error!r} in {data[:200]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost ({error}); status {self._parser.get_status_code()}: {self._text[:300]!r}")

    def on_body(self, data: bytes) -> None:
        *events, self._text = (self._text + data).split(b"\n\n")
        for event in events:
            payload = event.removeprefix(b"data: ")
            if payload != END:
                self._listen(json.loads(payload))

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200 or self._counts is None or self.answer.done():
            self._fail(f"status {self._parser.get_status_code()}: {self._text[:300]!r}")
            return
        end = time.perf_counter()
        self.answer.set_result(Answer(self._begin, self._first or end, end, *self._counts))

    def _listen(self, event: dict[str, Any]) -> None:
        heard = self._hear(event)
        if heard.text and self._first is None:
            self._first = time.perf_counter()
        if heard.prompt_tokens is not None and heard.output_tokens is not None:
            self._counts = heard.prompt_tokens, heard.output_tokens

    def _fail(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(CallFailed(reason))
