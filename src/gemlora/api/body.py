"""Reads a request's body within its limits and parses it as strict JSON, whatever the content type says.

Stricter than `json`: no NaN or infinity, no duplicate keys, no unpaired surrogates, bounded depth, UTF-8 only.
"""

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from gemlora.api.validation import Json
from gemlora.errors import IncompleteRequest, InvalidRequest, RequestAborted, RequestTimedOut, RequestTooLarge

MAX_DEPTH = 64
LONGEST_EXACT_INTEGER = 18
"""Integers with more digits become floats, as all numbers are in JavaScript."""
SMALL_BODY = 64 << 10
"""Larger bodies are parsed in a thread, so that the event loop goes on."""

T = TypeVar("T")

SURROGATE = re.compile("[\ud800-\udfff]")


class BodyReader:
    """Reads bodies of at most `limit` bytes from clients that never pause for longer than `idle_seconds`."""

    def __init__(self, limit: int, idle_seconds: float) -> None:
        self._limit = limit
        self._idle_seconds = idle_seconds

    async def json(self, request: Request, convert: Callable[[Json], T]) -> T:
        """Parse and convert the body, a large one beside the event loop.

        Raises `InvalidRequest` and its kin, `RequestTimedOut`, `RequestAborted`, or what `convert` raises.
        """
        data = await self.read(request)
        if len(data) <= SMALL_BODY:
            return convert(parse(data))
        return await asyncio.to_thread(lambda: convert(parse(data)))

    async def read(self, request: Request) -> bytes:
        """Read the whole body; one that is too long is refused before more than the limit is read."""
        body = bytearray()
        async with aclosing(self.chunks(request, self._limit)) as chunks:
            async for chunk in chunks:
                body += chunk
        return bytes(body)

    async def chunks(self, request: Request, limit: int) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Until its end, `request.state.unread` says that the client still sends.

        Raises `InvalidRequest`, `RequestTooLarge` for more than `limit` bytes, `RequestTimedOut` or `RequestAborted`.
        """
        request.state.unread = True
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() not in ("", "identity"):
            raise InvalidRequest("Content-Encoding of the request body is not supported")
        if _declared_length(request) > limit:
            raise RequestTooLarge("Request is too large")
        received = 0
        stream = request.stream()
        try:
            while (chunk := await self._next(stream)) is not None:
                received += len(chunk)
                if received > limit:
                    raise RequestTooLarge("Request is too large")
                yield chunk
        except ClientDisconnect as error:
            raise RequestAborted("Request was aborted") from error
        except TimeoutError as error:
            raise RequestTimedOut("Request timeout") from error
        request.state.unread = False

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        async with asyncio.timeout(self._idle_seconds):
            return await anext(chunks, None)


def parse(data: bytes) -> Json:
    """Parse a JSON text. Raises `IncompleteRequest` if there is none and `InvalidRequest` if it is not acceptable."""
    if not data:
        raise IncompleteRequest("Request is missing headers or body: body")
    try:
        value: Json = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not valid UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    _check_content(value)
    return value


def _declared_length(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise InvalidRequest("Content-Length is not a number")
    return int(declared) if len(declared) <= LONGEST_EXACT_INTEGER else 10**LONGEST_EXACT_INTEGER


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequest(f"the body has the key {_quoted(twice)} twice in one object")
    return members


def _quoted(key: str) -> str:
    return json.dumps(key[:64])


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the body is not valid JSON: {name} is not a number")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_EXACT_INTEGER else _finite(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidRequest("the body has a number that is out of range")
    return number


def _check_content(value: Json) -> None:
    """Check depth and strings level by level, without recursion."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        containers: list[Iterable[Any]] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key)
                containers.append(item.values())
            elif isinstance(item, list):
                containers.append(item)
        if not containers:
            return
        level = [item for container in containers for item in container]
    raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    if not text.isascii() and SURROGATE.search(text):
        raise InvalidRequest("the body has a string with an unpaired surrogate")
