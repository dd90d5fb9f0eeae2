"""The load generator: real requests to a server of our own, and its arithmetic."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from types import SimpleNamespace

import pytest
from benchmarks.client import Answer, Call, CallFailed, answered
from benchmarks.load import Closed, Open, perform, poisson, quantile, run, summary


@asynccontextmanager
async def streaming(events: list[bytes], status: str = "200 OK") -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server's port and the requests that it got; every answer is the events, each in a chunk of its own."""
    requests: list[bytes] = []
    handlers: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await write(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        requests.append(await reader.readexactly(length))
        writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for event in events:
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests
        await asyncio.gather(*handlers)


def event(**content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


USAGE = {"prompt_tokens": 128, "completion_tokens": 2}
STREAMS = {
    "gemlora": [event(response="a"), event(response="b"), event(response="", usage=USAGE), b"data: [DONE]\n\n"],
    "llama.cpp": [
        event(content="a", stop=False),
        event(content="b", stop=False),
        event(content="", stop=True, tokens_evaluated=128, tokens_predicted=2),
    ],
    "openai": [
        event(choices=[{"text": "a"}]),
        event(choices=[{"text": "b"}]),
        event(choices=[], usage=USAGE),
        b"data: [DONE]\n\n",
    ],
}


@pytest.mark.parametrize("dialect", STREAMS)
async def test_each_dialect_gives_counts_and_the_moment_of_the_first_text(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.client.time", SimpleNamespace(perf_counter=count().__next__))
    async with streaming(STREAMS[dialect]) as (port, requests):
        answer = await answered(Call(port, "/run", {"prompt": "x"}, dialect))

    assert (answer.prompt_tokens, answer.output_tokens) == (128, 2)
    assert (answer.begin, answer.first, answer.end) == (0, 1, 2)
    assert json.loads(requests[0]) == {"prompt": "x"}


async def test_events_may_be_cut_anywhere() -> None:
    whole = b"".join(STREAMS["gemlora"])
    async with streaming([whole[:9], whole[9:30], whole[30:]]) as (port, _):
        assert (await answered(Call(port, "/", {}, "gemlora"))).output_tokens == 2


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([b'{"errors": []}'], "500 Internal Server Error"),
        ([event(response="a")], "200 OK"),
        ([b"data: {\n\n"], "200 OK"),
    ],
    ids=["refused", "without counts", "not JSON"],
)
async def test_what_is_not_a_whole_answer_fails(events: list[bytes], status: str) -> None:
    async with streaming(events, status) as (port, _):
        with pytest.raises(CallFailed):
            await answered(Call(port, "/", {}, "gemlora"))


async def test_a_closed_load_asks_one_after_the_other_and_an_open_one_at_its_moments() -> None:
    async with streaming(STREAMS["gemlora"]) as (port, _):
        call = Call(port, "/", {}, "gemlora")
        first, second = await perform(Closed(((call, call),)))
        early, late = await perform(Open(((0.0, call), (0.05, call))))

    assert second.begin >= first.end
    assert 0.04 < late.begin - early.begin < 5


async def test_a_load_runs_in_a_process_of_its_own() -> None:
    async with streaming(STREAMS["gemlora"]) as (port, _):
        plan = Closed(((Call(port, "/", {}, "gemlora"),),) * 3)
        answers = await asyncio.to_thread(run, plan, 60)

    assert [answer.output_tokens for answer in answers] == [2, 2, 2]


def test_rates_count_real_tokens_over_the_whole_time() -> None:
    found = summary([Answer(10, 11, 14, 128, 4), Answer(10, 12, 15, 128, 6)])

    assert (found.tokens_per_second, found.seconds) == (10 / 5, 5)
    assert (found.first_token_median, found.first_token_worst) == (1.5, 2)
    assert found.between_tokens_median == pytest.approx((1 + 3 / 5) / 2)
    assert found.short_answers == 1


def test_a_quantile_is_one_of_the_values() -> None:
    values = list(range(1, 101))

    assert [quantile(values, share) for share in (0.01, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert quantile([7.0], 0.99) == 7


def test_arrivals_are_as_many_as_the_rate_says_and_the_same_for_the_same_seed() -> None:
    moments = list(poisson(rate=50, seconds=100, seed=3))

    assert moments == sorted(moments) == list(poisson(50, 100, 3))
    assert 4500 < len(moments) < 5500
    assert moments[-1] < 100
