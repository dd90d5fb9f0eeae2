"""The form of an upload: what clients send is read in any pieces, anything else is refused by name."""

import random
import tracemalloc
from collections.abc import Iterator

import httpx
import pytest
from starlette.requests import Request

from gemlora.api.body import BodyReader
from gemlora.api.multipart import MAX_FILE_NAME, SLACK, Form, FormReader
from gemlora.errors import AdapterInvalid, GemloraError, IncompleteRequest, InvalidRequest

NAME = "adapter_config.json"
CURL = "------------------------9rCnFuaH1TbRPEJ0vYbW5E"


def part(name: str, content: bytes, *headers: str, rest: str = "") -> bytes:
    head = [f'Content-Disposition: form-data; name="{name}"{rest}', *headers]
    return "\r\n".join([*head, "", ""]).encode() + content + b"\r\n"


def body(*parts: bytes, boundary: str = "b", end: bytes = b"--\r\n") -> bytes:
    delimiter = f"--{boundary}".encode()
    return b"".join(delimiter + b"\r\n" + part for part in parts) + delimiter + end


def both(content: bytes, boundary: str = "b") -> bytes:
    return body(part("file_name", NAME.encode()), part("file", content), boundary=boundary)


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        size = next(sizes)
        yield data[position : position + size]
        position += size


def read(data: bytes, size: int = 1 << 20, *, boundary: str = "b", limit: int = 1 << 20) -> tuple[str, bytes]:
    """What the form says, fed in pieces of `size` bytes."""
    form = Form(boundary.encode(), limit)
    content = b"".join(form.feed(data[start : start + size]) for start in range(0, len(data), size))
    return form.close(), content


CLIENTS = {
    "curl": (
        CURL,
        body(
            part("file_name", NAME.encode()),
            part("file", b"{}", "Content-Type: application/octet-stream", rest='; filename="adapter_config.json"'),
            boundary=CURL,
        ),
    ),
    "wrangler": (
        "----formdata-undici-047319551466",
        body(
            part("file_name", NAME.encode()),
            part("file", b"{}", "Content-Type: application/octet-stream", rest='; filename="blob"'),
            boundary="----formdata-undici-047319551466",
        ),
    ),
    "TypeScript": (
        "----formdata-undici-021234567890",
        body(
            part("file", b"{}", "Content-Type: application/json", rest='; filename="adapter_config.json"'),
            part("file_name", NAME.encode()),
            boundary="----formdata-undici-021234567890",
        ),
    ),
    "Python": (
        "6fb1e6a39ee0c3ebf1f2f4ad9d1d24a5",
        body(
            part("file_name", NAME.encode()),
            part("file", b"{}", "Content-Type: application/octet-stream", rest='; filename="upload"'),
            boundary="6fb1e6a39ee0c3ebf1f2f4ad9d1d24a5",
        ),
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("size", [1, 2, 6, 7, 100, 1 << 20])
def test_forms_of_real_clients_are_read_in_pieces_of_any_size(client: str, size: int) -> None:
    boundary, form = CLIENTS[client]

    assert read(form, size, boundary=boundary) == (NAME, b"{}")


@pytest.mark.parametrize(
    "form",
    [
        b"\r\n" + both(b"x"),
        both(b"x") + b"\r\nepilogue",
        both(b"x").removesuffix(b"\r\n"),
        body(part("file_name", NAME.encode()), part("file", b"x", rest='; filename="a\\"b"')),
        body(part("file_name", NAME.encode()), part("file", b"x", rest='; filename="a\\"')),
        body(
            part("file_name", NAME.encode()), part("file", b"x", rest="; filename*=UTF-8''a%22; filename=\"\u00fc\";")
        ),
        body(part("file_name", NAME.encode()), part("file", b"x", rest='; filename="../../etc/passwd"')),
        body(part("file_name", NAME.encode()), part("file", b"x", rest="; filename=a.bin")),
        body(part("file_name", NAME.encode(), rest='; filename="n"'), part("file", b"x", "Content-Type: text/plain")),
        body(part("file_name", NAME.encode()), part("file", b"x", "Content-Transfer-Encoding: binary", "X-A: b")),
        both(b"x").replace(b"Content-Disposition: form-data", b"content-disposition:Form-Data"),
        both(b"x").replace(b'name="file"', b"name = file"),
        both(b"x").replace(b"--b\r\n", b"--b \t\r\n").replace(b"--b \t\r\n", b"--b\r\n", 1),
    ],
)
def test_harmless_variants_are_the_same_form(form: bytes) -> None:
    assert read(form) == read(form, 1) == (NAME, b"x")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (b"", "Request is missing headers or body: body"),
        (body(), "missing headers or body: file_name"),
        (body(part("file", b"x")), "missing headers or body: file_name"),
        (body(part("file_name", b"x")), "missing headers or body: file"),
        (body(part("file_name", b"x"), part("file", b"x"), part("extra", b"")), 'has the part "extra"'),
        (body(part("description", b"x")), 'has the part "description"; it must have file_name and file alone'),
        (body(part("File", b"x")), 'has the part "File"'),
        (body(part("file[]", b"x")), 'has the part "file[]"'),
        (body(part("file_name", b"x"), part("file_name", b"x"), part("file", b"x")), "part file_name twice"),
        (body(part("file", b"x"), part("file", b"x"), part("file_name", b"x")), "part file twice"),
        (body(part("x" * 3000, b"")), '"; it must have'),
        (both(b"x").replace(b"--b--\r\n", b""), "ends before its last boundary"),
        (both(b"x").removesuffix(b"--b--\r\n") + b"--b", "ends before its last boundary"),
        (both(b"x").removesuffix(b"--\r\n") + b"-", "ends before its last boundary"),
        (both(b"x")[:60], "ends before its last boundary"),
        (b"-", "ends before its last boundary"),
        (b"preamble\r\n" + both(b"x"), "does not begin with the boundary"),
        (b"\r\n\r\n" + both(b"x"), "does not begin with the boundary"),
        (b"{}" * 20, "does not begin with the boundary"),
        (b"--c\r\n" + both(b"x"), "does not begin with the boundary"),
        (body(part("file", b"x", "Content-Type: multipart/mixed; boundary=c")), "nested forms"),
        (body(part("file", b"eA==", "Content-Transfer-Encoding: base64")), 'Content-Transfer-Encoding "base64"'),
        (body(part("file", b"x", "Content-Disposition: form-data")), 'repeated header "content-disposition"'),
        (body(part("file", b"x", rest='; name="file_name"')), 'the parameter "name" twice'),
        (body(part("file", b"x", rest='; filename="a"; name="file"')), 'the parameter "name" twice'),
        (body(part("file", b"x", rest='; filename="a')), "malformed parameters"),
        (body(part("file", b"x", rest="; ;; x")), "malformed parameters"),
        (body(b"Content-Type: text/plain\r\n\r\nx\r\n"), "no Content-Disposition"),
        (body(b"Content-Disposition: form-data\r\n\r\nx\r\n"), "no Content-Disposition with a name"),
        (body(b"Content-Disposition: attachment; name=file\r\n\r\nx\r\n"), "no Content-Disposition with a name"),
        (body(b"\r\nx\r\n"), "no Content-Disposition"),
        (body(b"Content-Disposition form-data\r\n\r\nx\r\n"), "malformed at byte"),
        (body(b" folded: x\r\n\r\nx\r\n"), "malformed at byte"),
        (body(b": x\r\n\r\nx\r\n"), "malformed at byte"),
        (body(b"A: b\rc\r\n\r\nx\r\n"), "malformed at byte"),
        (body(b"A: b\nC: d\r\n\r\nx\r\n"), 'header "a"'),
        (body(b"A: \0\r\n\r\nx\r\n"), 'header "a"'),
        (body(part("file", b"x", *(f"A{number}: b" for number in range(16)))), "malformed at byte"),
        (body(part("file", b"x", "A: " + "b" * 5000)), "malformed at byte"),
        (body(b"A" * 5000 + b": b\r\n\r\nx\r\n"), "malformed at byte"),
        (body(part("file_name", b"n" * (MAX_FILE_NAME + 1)), part("file", b"x")), "longer than 255 bytes"),
        (body(part("file_name", b"\xff"), part("file", b"x")), "file_name: is not valid UTF-8"),
        (b"--b\n" + part("file", b"x").replace(b"\r", b""), "malformed at byte 3"),
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_anything_else_is_refused_with_its_reason(form: bytes, text: str) -> None:
    for size in (1, 6, 1 << 20):
        with pytest.raises(InvalidRequest) as refusal:
            read(form, size)

        assert text in str(refusal.value)
        assert len(str(refusal.value)) < 200


def test_what_is_missing_is_named_as_the_wire_does() -> None:
    with pytest.raises(IncompleteRequest):
        read(body(part("file", b"x")))


def test_a_file_at_the_limit_is_read_and_one_over_it_is_refused() -> None:
    assert read(both(b"x" * 1000), 6, limit=1000) == (NAME, b"x" * 1000)
    for size in (1, 1 << 20):
        with pytest.raises(AdapterInvalid, match="file: is larger than 1000 bytes"):
            read(both(b"x" * 1001), size, limit=1000)


def test_content_that_resembles_boundaries_is_read_exactly() -> None:
    generator = random.Random(5)
    resembling = [b"\r\n", b"\r", b"\n", b"-", b"--", b"--b", b"\r\n--", b"\r\n-", b"\r\n--c", b"b", b"\0", b"\xff"]
    for _ in range(3000):
        boundary = generator.choice(["b", "bb", "-b", "b-", CURL])
        content = b"".join(generator.choices([*resembling, boundary.encode(), b"\r\n--" + boundary.encode()[:-1]], k=9))
        # A line that begins with the boundary is no content, whatever follows.
        if b"\r\n--" + boundary.encode() in b"\r\n" + content + b"\r\n":
            continue
        parts = [part("file_name", NAME.encode()), part("file", content)]
        generator.shuffle(parts)
        data = body(*parts, boundary=boundary)
        form = Form(boundary.encode(), 1 << 20)

        read = b"".join(form.feed(piece) for piece in pieces(data, iter(lambda: generator.randint(1, 9), 0)))

        assert (form.close(), read) == (NAME, content), (boundary, data)


def test_damaged_forms_are_read_or_refused_but_never_break() -> None:
    generator = random.Random(6)
    _, valid = CLIENTS["curl"]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(4000):
        start = generator.randrange(len(valid))
        end = min(len(valid), start + generator.randrange(1, 12))
        middle = generator.choice(
            [b"", valid[start:end] * 2, generator.randbytes(3), b"\r\n", b"\0", b'"', b"--", b";"]
        )
        damaged = valid[:start] + middle + valid[end:]
        verdicts = set()
        for size in (1, 7, 1 << 20):
            try:
                verdicts.add(repr(read(damaged, size, boundary=CURL)))
            except InvalidRequest:
                verdicts.add("refused")
        assert len(verdicts) == 1, damaged
        outcomes["refused" if verdicts == {"refused"} else "read"] += 1

    assert outcomes["read"] > 400
    assert outcomes["refused"] > 400


def test_a_million_small_chunks_are_read_without_being_kept() -> None:
    form = Form(b"b", 1 << 30)
    head, tail = both(b"|").split(b"|")
    form.feed(head)

    size = sum(len(form.feed(b"123456")) for _ in range(950_000))
    tracemalloc.start()
    size += sum(len(form.feed(b"123456")) for _ in range(50_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    form.feed(tail)
    assert form.close() == NAME
    assert size == 6_000_000
    assert peak < 100_000


async def receive_all(content_type: str | None, chunks: list[bytes], **headers: str) -> tuple[str, bytes]:
    """Read the form of a request."""
    messages = iter([{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks])

    async def receive() -> dict[str, object]:
        return next(messages, {"type": "http.request", "body": b"", "more_body": False})

    named = headers if content_type is None else {"content-type": content_type, **headers}
    encoded = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()]
    request = Request({"type": "http", "method": "POST", "headers": encoded, "state": {}}, receive)
    received = bytearray()

    async def write(chunk: bytes) -> None:
        received.extend(chunk)

    name = await FormReader(BodyReader(1, 1)).read(request, 1000, write)
    return name, bytes(received)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=b", "b"),
        ('Multipart/Form-Data;boundary="b"', "b"),
        ("multipart/form-data; charset=utf-8; boundary=b;", "b"),
        ('multipart/form-data; boundary="a b"', "a b"),
        ("multipart/form-data; boundary=----=_Part_1_2.3", "----=_Part_1_2.3"),
        (f"multipart/form-data; boundary={'b' * 70}", "b" * 70),
    ],
)
async def test_boundaries_as_the_standard_has_them_are_taken(content_type: str, boundary: str) -> None:
    assert await receive_all(content_type, [both(b"x", boundary)]) == (NAME, b"x")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=b",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="b',
        'multipart/form-data; boundary="b "',
        "multipart/form-data; boundary=b; boundary=c",
        "multipart/form-data; boundary=\u00fc",
        "multipart/form-data; boundary=b\\",
        f"multipart/form-data; boundary={'b' * 71}",
        "multipart/form-data, multipart/form-data; boundary=b",
    ],
)
async def test_other_content_types_are_refused(content_type: str | None) -> None:
    with pytest.raises(InvalidRequest):
        await receive_all(content_type, [both(b"x")])


async def test_a_compressed_form_is_not_opened() -> None:
    with pytest.raises(InvalidRequest, match="Content-Encoding"):
        await receive_all("multipart/form-data; boundary=b", [both(b"x")], content_encoding="gzip")


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "+5"])
async def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(InvalidRequest, match="Content-Length"):
        await receive_all("multipart/form-data; boundary=b", [both(b"x")], content_length=length)


@pytest.mark.parametrize("length", [str(1000 + SLACK + 1), "9" * 30])
async def test_a_declared_length_over_the_limit_is_refused_as_the_file_is(length: str) -> None:
    with pytest.raises(AdapterInvalid, match="larger than 1000 bytes"):
        await receive_all("multipart/form-data; boundary=b", [both(b"x")], content_length=length)


@pytest.mark.parametrize("padding", [both(b"x") + b" " * SLACK, both(b"x").replace(b"--b--", b"--b" + b" " * SLACK)])
async def test_bytes_are_counted_whatever_the_length_says(padding: bytes) -> None:
    chunks = [padding[start : start + 5000] for start in range(0, len(padding), 5000)]
    with pytest.raises(GemloraError, match="larger than 1000 bytes"):
        await receive_all("multipart/form-data; boundary=b", [*chunks, b" " * 5000], content_length="10")


def test_forms_as_httpx_writes_them_are_read() -> None:
    request = httpx.Request("POST", "http://x", data={"file_name": NAME}, files={"file": ("ü;\"'\\\r\n", b"\r\n--")})
    boundary = request.headers["content-type"].partition("boundary=")[2]

    assert read(request.read(), 5, boundary=boundary) == (NAME, b"\r\n--")
