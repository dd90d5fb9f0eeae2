"""Strict JSON from any bytes, and limits that hold before memory is used."""

import asyncio
import contextlib
import json
import random
from typing import Any

import httpx
import pytest
from tests.api.parts import RUN, TOKEN, Parts
from tests.api.real_server import RealServer, run_request

from gemlora.api.body import parse
from gemlora.api.limits import Limits
from gemlora.engines.fake import FakeEngine
from gemlora.errors import IncompleteRequest, InvalidRequest

LIMIT = 20_000


@pytest.fixture
def parts() -> Parts:
    return Parts(FakeEngine(), Limits(body_bytes=LIMIT, body_idle_seconds=0.2))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":[1,2.5,null,true,"x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (b"\xef\xbb\xbf{}", {}),
        (b' \t\r\n{"a":1}\n', {"a": 1}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\u0000"', "\0"),
        (b"-0", 0),
        (b"9999999999", 9999999999),
        (b"1" + b"0" * 20, 1e20),
        (b"[" * 64 + b"]" * 64, None),
        ('"ü→😀"'.encode(), "ü→😀"),
    ],
)
def test_valid_json_is_read(data: bytes, value: Any) -> None:
    parsed = parse(data)

    if value is not None:
        assert parsed == value


def test_no_bytes_are_no_body() -> None:
    with pytest.raises(IncompleteRequest):
        parse(b"")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b" ", "line 1 column 2"),
        (b"{", "line 1 column 2"),
        (b'{"a":1}x', "line 1 column 8"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b'"\n"', "not valid JSON"),
        (b'"\0"', "not valid JSON"),
        (b"01", "not valid JSON"),
        (b"+1", "not valid JSON"),
        (b".5", "not valid JSON"),
        (b"0x10", "not valid JSON"),
        (b"NaN", "NaN is not a number"),
        (b'{"a":[Infinity]}', "Infinity is not a number"),
        (b"-Infinity", "-Infinity is not a number"),
        (b"1e999", "number that is out of range"),
        (b"-1e999", "number that is out of range"),
        (b"9" * 5000, "number that is out of range"),
        (b'{"a":1,"b":{"c":1,"c":1}}', 'the key "c" twice'),
        (b'{"\\u0061":1,"a":1}', 'the key "a" twice'),
        (b'"\\ud800"', "unpaired surrogate"),
        (b'{"a":[{"\\udc00":1}]}', "unpaired surrogate"),
        (b'"\xed\xa0\x80"', "not valid UTF-8 at byte 1"),
        (b'"\xc0\xaf"', "not valid UTF-8"),
        (b'"\xff"', "not valid UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not valid UTF-8 at byte 0"),
        ('{"a":1}'.encode("utf-32"), "not valid UTF-8 at byte 0"),
        ('{"a":1}'.encode("utf-16-le"), "not valid JSON"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "deeper than 64"),
        (b"[" * 100_000, "deeper than 64"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_anything_else_is_refused_with_its_reason(data: bytes, text: str) -> None:
    with pytest.raises(InvalidRequest, match="body") as refusal:
        parse(data)

    assert text in str(refusal.value)


def test_the_reason_quotes_at_most_a_bit_of_a_key() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(b'{"%s":1,"%s":1}' % (b"k" * 9999, b"k" * 9999))

    assert len(str(refusal.value)) < 150


def corpus() -> list[bytes]:
    """Valid requests with pieces cut out, doubled, replaced by odd bytes and by odd values."""
    generator = random.Random(11)
    valid = (
        b'{"messages":[{"role":"user","content":"a\\u00e9\\ud83d\\ude00"}],'
        b'"max_tokens":5,"seed":3,"lora":"","stream":true}'
    )
    odd: list[Any] = [None, True, 0, -1, 1e308, 10**25, 1.5, "", "\0", "\u202e", [], {}, [[]], {"a": {}}, "x" * 3000]
    bodies = []
    for _ in range(200):
        start = generator.randrange(len(valid))
        end = min(len(valid), start + generator.randrange(1, 9))
        middle = generator.choice([b"", valid[start:end] * 2, generator.randbytes(3), b"\0", b'"', b"{", b"]", b"\\u"])
        bodies.append(valid[:start] + middle + valid[end:])
    keys = ["prompt", "messages", "image", "raw", "lora", "tools", "functions", "max_tokens", "stop", "options"]
    for _ in range(250):
        body = {key: generator.choice(odd) for key in generator.sample(keys, 3)}
        body[generator.choice(["prompt", "messages"])] = generator.choice([odd[-1], [{"role": "a", "content": "b"}]])
        body["messages" if "messages" in body and generator.random() < 0.5 else "x"] = [
            {"role": generator.choice(odd), "content": generator.choice(odd), "tool_calls": generator.choice(odd)}
        ]
        bodies.append(json.dumps(body).encode())
    return bodies


async def test_hostile_bodies_get_an_answer_or_a_named_code(client: httpx.AsyncClient) -> None:
    statuses = []
    for body in corpus():
        response = await client.post(RUN, content=body)
        statuses.append(response.status_code)
        if response.status_code != 200:
            code = response.json()["errors"][0]["code"]
            assert (response.status_code, code) in {(400, 5006), (404, 3037)}, (body, response.text)

    assert statuses.count(200) > 20
    assert statuses.count(400) > 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity"])
async def test_compressed_bodies_are_not_opened(client: httpx.AsyncClient, encoding: str) -> None:
    response = await client.post(RUN, content=b"x", headers={"content-encoding": encoding})

    assert response.status_code == 400
    assert "Content-Encoding" in response.json()["errors"][0]["message"]


async def test_a_body_at_the_limit_is_read_and_one_over_it_is_refused(client: httpx.AsyncClient) -> None:
    def body(size: int) -> bytes:
        return b'{"prompt":"x"' + b" " * (size - 14) + b"}"

    at_limit = await client.post(RUN, content=body(LIMIT))
    over = await client.post(RUN, content=body(LIMIT + 1))

    assert at_limit.status_code == 200
    assert over.status_code == 413
    assert over.json()["errors"][0]["code"] == 3006
    assert over.headers["connection"] == "close"


async def test_a_large_body_is_read_beside_the_event_loop() -> None:
    parts = Parts(FakeEngine())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    body = json.dumps({"messages": [{"role": "user", "content": "x"}] * 50_000}).encode()
    transport = httpx.ASGITransport(parts.api)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
        ticking = asyncio.create_task(tick())
        response = await client.post(RUN, content=body)
        ticking.cancel()

    assert response.json()["errors"][0]["code"] == 5021
    assert ticks > 10


class TestOnTheSocket:
    async def test_a_declared_length_over_the_limit_is_refused_before_the_body_comes(self, server: RealServer) -> None:
        request = run_request(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 99999999")

        answer = await server.exchange(request)

        assert answer.startswith(b"HTTP/1.1 413")
        assert b"100 Continue" not in answer
        assert b'"code":3006' in answer

    async def test_an_endless_chunked_body_is_refused_at_the_limit(self, server: RealServer) -> None:
        head = run_request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        async with server.connection() as (reader, writer):
            writer.write(head)
            sent = 0
            answer = b""
            while not answer and sent < 64 * LIMIT:
                writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
                sent += 4096
                await asyncio.sleep(0)
                with contextlib.suppress(TimeoutError):
                    answer = await asyncio.wait_for(reader.read(65536), 0.001)

        assert answer.startswith(b"HTTP/1.1 413")
        assert sent <= LIMIT + (64 << 10)

    async def test_a_client_still_sending_gets_the_refusal_and_not_a_reset(self, server: RealServer) -> None:
        answer = await server.exchange(run_request(b" " * 1_000_000))

        assert answer.startswith(b"HTTP/1.1 413")
        assert answer.endswith(b'"success":false,"result":{},"messages":[]}')

    async def test_a_body_shorter_than_declared_times_out(self, server: RealServer) -> None:
        request = run_request(b'{"prompt":"x"').replace(b"Content-Length: 13", b"Content-Length: 14")

        answer = await server.exchange(request)

        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":3007' in answer
        assert b"connection: close" in answer

    @pytest.mark.parametrize(
        "headers",
        [
            ["Content-Length: -1"],
            ["Content-Length: 14", "Content-Length: 13"],
            ["Content-Length: 14", "Transfer-Encoding: chunked"],
            ["Content-Length: 1e3"],
            ["Content-Length: 99999999999999999999999999"],
        ],
    )
    async def test_lengths_that_make_no_sense_are_refused_and_the_connection_closed(
        self, server: RealServer, headers: list[str]
    ) -> None:
        request = run_request(b'{"prompt":"x"}', *headers).replace(b"Content-Length: 14\r\n", b"", 1)

        answer = await server.exchange(request)

        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
        assert b"connection: close" in answer.lower()

    async def test_a_body_in_small_chunks_is_one_body(self, server: RealServer) -> None:
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"prompt":"x"}') + b"0\r\n\r\n"
        head = run_request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")

        assert (await server.exchange(head + chunks)).startswith(b"HTTP/1.1 200")
