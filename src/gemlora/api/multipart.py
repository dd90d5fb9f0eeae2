"""Reads the form of an upload as it comes, in bounded memory: its parts are `file_name` and `file`, in any order.

Of RFC 7578 only what clients send: nothing before the first boundary, no nested forms, no transfer encodings. What a
part says about its file's name and type is ignored.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from gemlora.api.body import BodyReader
from gemlora.errors import AdapterInvalid, IncompleteRequest, InvalidRequest, RequestTooLarge

FILE_NAME, FILE = "file_name", "file"
PARTS = (FILE_NAME, FILE)

MAX_FILE_NAME = 255
MAX_HEADERS = 16
MAX_HEADER = 4096
"""Bytes of one header of a part."""
SLACK = 256 << 10
"""Bytes of a form beside its file: more than all headers and boundaries together may have."""

PLAIN_ENCODINGS = ("7bit", "8bit", "binary")

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
# A quote inside a quoted value is one that neither a semicolon nor the end follows: clients escape it in three ways.
PARAMETER = re.compile(
    r"""[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*("(?:[^"]|"(?![ \t]*(?:;|$)))*+"|[^;"\s]*)"""
)
CONTROL = re.compile("[\0-\x08\x0a-\x1f\x7f]")


class FormReader:
    """Reads forms of clients that never pause for longer than `bodies` allows."""

    def __init__(self, bodies: BodyReader) -> None:
        self._bodies = bodies

    async def read(self, request: Request, limit: int, write: Callable[[bytes], Awaitable[None]]) -> str:
        """Pass the file's bytes to `write` as they come, at most `limit`; return the `file_name`.

        Nothing more is read while `write` has not returned. Raises `InvalidRequest` and its kin for a form that is
        wrong, `AdapterInvalid` for a larger file, `RequestTimedOut` or `RequestAborted`.
        """
        form = Form(_boundary(request), limit)
        try:
            async with aclosing(self._bodies.chunks(request, limit + SLACK)) as chunks:
                async for chunk in chunks:
                    if piece := form.feed(chunk):
                        await write(piece)
        except RequestTooLarge:
            raise _too_large(limit) from None
        return form.close()


class Form:
    """One form: bytes in, the file's bytes out. All methods raise `InvalidRequest` and its kin."""

    def __init__(self, boundary: bytes, limit: int) -> None:
        self._start = b"--" + boundary
        self._limit = limit
        self._received = 0
        self._head: bytearray | None = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._read_field,
                "on_header_value": self._read_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": self._read_content,
                "on_end": self._end,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER,
        )
        # The library's own lines quote what clients send.
        self._parser.logger = logging.Logger("multipart", logging.CRITICAL + 1)
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[str, str] = {}
        self._part = ""
        self._begun: list[str] = []
        self._file_name = bytearray()
        self._file_size = 0
        self._pieces: list[bytes] = []
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the form; return those of the file in them."""
        if self._head is not None:
            self._head += data
            if len(self._head) < len(self._start) + len(b"\r\n"):
                return b""
            data, self._head = self._checked_head(bytes(self._head)), None
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidRequest(f"the form is malformed at byte {self._received + error.offset}") from None
        self._received += len(data)
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def close(self) -> str:
        """The `file_name`, once the form has ended."""
        if not self._received and not self._head:
            raise IncompleteRequest("Request is missing headers or body: body")
        if not self._ended:
            raise InvalidRequest("the form ends before its last boundary")
        for name in PARTS:
            if name not in self._begun:
                raise IncompleteRequest(f"Request is missing headers or body: {name}")
        try:
            return self._file_name.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{FILE_NAME}: is not valid UTF-8") from None

    def _checked_head(self, head: bytes) -> bytes:
        if not head.removeprefix(b"\r\n").startswith(self._start):
            raise InvalidRequest("the form does not begin with the boundary of its Content-Type")
        return head

    def _begin_part(self) -> None:
        self._headers = {}

    def _read_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _read_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name, value = self._field.decode("latin-1").lower(), self._value.decode("latin-1").strip()
        self._field.clear()
        self._value.clear()
        if name in self._headers or CONTROL.search(value):
            raise InvalidRequest(f"a part of the form has a malformed or repeated header {_quoted(name)}")
        self._headers[name] = value

    def _begin_content(self) -> None:
        kind, parameters = _parameters(self._headers.get("content-disposition", ""))
        name = parameters.get("name")
        if kind != "form-data" or name is None:
            raise InvalidRequest("a part of the form has no Content-Disposition with a name")
        if name not in PARTS:
            raise InvalidRequest(f"the form has the part {_quoted(name)}; it must have {FILE_NAME} and {FILE} alone")
        if name in self._begun:
            raise InvalidRequest(f"the form has the part {name} twice")
        if self._headers.get("content-type", "").lower().startswith("multipart/"):
            raise InvalidRequest(f"{name}: nested forms are not supported")
        encoding = self._headers.get("content-transfer-encoding", "binary").lower()
        if encoding not in PLAIN_ENCODINGS:
            raise InvalidRequest(f"{name}: Content-Transfer-Encoding {_quoted(encoding)} is not supported")
        self._part = name
        self._begun.append(name)

    def _read_content(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE:
            self._file_size += end - start
            if self._file_size > self._limit:
                raise _too_large(self._limit)
            self._pieces.append(data[start:end])
            return
        self._file_name += data[start:end]
        if len(self._file_name) > MAX_FILE_NAME:
            raise InvalidRequest(f"{FILE_NAME}: is longer than {MAX_FILE_NAME} bytes")

    def _end(self) -> None:
        self._ended = True


def _boundary(request: Request) -> bytes:
    values = request.headers.getlist("content-type")
    kind, parameters = _parameters(values[0]) if len(values) == 1 else ("", {})
    if kind != "multipart/form-data":
        raise InvalidRequest("the upload must be a form: Content-Type multipart/form-data")
    boundary = parameters.get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise InvalidRequest("the Content-Type has no valid boundary of 1 to 70 characters")
    return boundary.encode("ascii")


def _parameters(header: str) -> tuple[str, dict[str, str]]:
    """The value of a header and its parameters, names in lower case."""
    kind, semicolon, rest = header.partition(";")
    rest = semicolon + rest.rstrip(" \t;")
    parameters: dict[str, str] = {}
    position = 0
    while match := PARAMETER.match(rest, position):
        name, value = match[1].lower(), match[2]
        if name in parameters:
            raise InvalidRequest(f"a header has the parameter {_quoted(name)} twice")
        parameters[name] = value[1:-1] if value.startswith('"') else value
        position = match.end()
    if rest[position:].strip(" \t;"):
        raise InvalidRequest("a header of the form has malformed parameters")
    return kind.strip().lower(), parameters


def _quoted(text: str) -> str:
    return json.dumps(text[:64])


def _too_large(limit: int) -> AdapterInvalid:
    return AdapterInvalid(f"{FILE}: is larger than {limit} bytes")
