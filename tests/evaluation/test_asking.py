"""Every case gets an answer or the reason why not, from exactly what was asked."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from gemlora.errors import ServerRefused, ServerUnreachable
from gemlora.evaluation.asking import BASE_NAME, Asked, Asker, Contender, Settings, account_client
from gemlora.evaluation.cases import Case

BASE, PIRATE = Contender(None), Contender("pirate")
DIGEST = "a" * 64
CASES = [Case(f"c{number}", number, {"prompt": f"question {number}"}, (), {}) for number in range(6)]
Handler = Callable[[dict[str, Any]], httpx2.Response]


def answer(text: str, served_by: str | None = "none", finish_reason: str = "stop") -> httpx2.Response:
    result = {"response": text, "usage": {"completion_tokens": 3}, "finish_reason": finish_reason}
    headers = {} if served_by is None else {"gemlora-adapter": served_by}
    return httpx2.Response(200, json={"result": result, "success": True, "errors": []}, headers=headers)


def refusal(status: int, code: int, text: str = "no", **headers: str) -> httpx2.Response:
    body = {"result": {}, "success": False, "errors": [{"message": text, "code": code}]}
    return httpx2.Response(status, json=body, headers={key.replace("_", "-"): value for key, value in headers.items()})


def honest(body: dict[str, Any]) -> httpx2.Response:
    name = body["lora"]
    return answer(f"{name} on {body['prompt']}", "none" if name == BASE_NAME else f"{name}@{DIGEST}")


class Asking:
    """Asks a server that is a function, without waiting."""

    def __init__(self, handler: Handler, **settings: Any) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.pauses: list[float] = []
        self.progress: list[tuple[int, int]] = []
        self._handler = handler
        self._settings = Settings("@cf/google/gemma-7b-it-lora", **settings)

    async def __call__(self, *contenders: Contender, cases: list[Case] = CASES) -> Asked:
        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        async with account_client("http://server", "a/b", "token", httpx2.MockTransport(self._handle)) as client:
            asker = Asker(client, self._settings, pause)
            return await asker.ask(cases, contenders, lambda *at: self.progress.append(at))

    async def _handle(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.raw_path == b"/client/v4/accounts/a%2Fb/ai/run/@cf/google/gemma-7b-it-lora"
        assert request.headers["authorization"] == "Bearer token"
        self.bodies.append(json.loads(request.content))
        return self._handler(self.bodies[-1])


async def test_every_case_is_asked_of_every_contender_alike() -> None:
    asking = Asking(honest, max_tokens=9, seed=5)

    asked = await asking(BASE, PIRATE)

    assert [[one.text for one in row] for row in asked.answers] == [
        [f"{BASE_NAME} on question {n}", f"pirate on question {n}"] for n in range(6)
    ]
    assert asked.answers[0][1].served_by == f"pirate@{DIGEST}"
    assert asked.tokens == 36
    assert asked.failures == []
    assert all((body["max_tokens"], body["temperature"], body["seed"]) == (9, 0, 5) for body in asking.bodies)
    assert asking.progress == [(done, 12) for done in range(1, 13)]


async def test_as_many_requests_are_under_way_as_wished() -> None:
    running, most = 0, 0

    async def slow(request: httpx2.Request) -> httpx2.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return honest(json.loads(request.content))

    async with account_client("http://server", "a", "t", httpx2.MockTransport(slow)) as client:
        await Asker(client, Settings("m", concurrency=5)).ask(CASES, [BASE, PIRATE], lambda *_: None)

    assert most == 5


async def test_a_server_that_does_not_know_the_base_s_name_gets_none() -> None:
    def older(body: dict[str, Any]) -> httpx2.Response:
        return refusal(404, 3037) if body.get("lora") == BASE_NAME else answer("bare")

    asking = Asking(older, concurrency=3)
    asked = await asking(BASE)

    assert {row[0].text for row in asked.answers} == {"bare"}
    assert sum("lora" not in body for body in asking.bodies) == len(CASES)
    assert 1 <= sum("lora" in body for body in asking.bodies) <= 3


@pytest.mark.parametrize(
    ("contender", "served_by", "reason"),
    [(BASE, "default@b", "base model was asked for, but the server answered with default@b"), (PIRATE, "none", "none")],
)
async def test_an_answer_of_something_else_ends_it(contender: Contender, served_by: str, reason: str) -> None:
    with pytest.raises(ServerRefused, match=reason):
        await Asking(lambda _: answer("x", served_by))(contender)


async def test_an_adapter_that_is_replaced_meanwhile_ends_it() -> None:
    digests = iter("abcdef")

    with pytest.raises(ServerRefused, match="pirate was replaced"):
        await Asking(lambda _: answer("x", f"pirate@{next(digests)}"))(PIRATE)


async def test_a_server_without_the_header_is_believed() -> None:
    asked = await Asking(lambda _: answer("x", None))(PIRATE)

    assert asked.answers[0][0].served_by is None


async def test_what_passes_is_tried_again_and_then_counted() -> None:
    tries: dict[str, int] = {}

    def busy(body: dict[str, Any]) -> httpx2.Response:
        prompt = body["prompt"]
        tries[prompt] = tries.get(prompt, 0) + 1
        if prompt == "question 0":
            return refusal(500, 3043, "broken")
        if prompt == "question 1" and tries[prompt] < 3:
            return refusal(429, 3040, "busy", retry_after="7")
        if prompt == "question 2":
            return refusal(413, 5021, "too long")
        if prompt == "question 3":
            return answer("half", finish_reason="length")
        if prompt == "question 4":
            raise httpx2.ConnectError("gone")
        return answer("whole")

    asking = Asking(busy, tries=3, concurrency=1)
    asked = await asking(BASE)

    texts = [(row[0].text, row[0].failure, row[0].cut) for row in asked.answers]
    assert texts == [
        ("", "500, code 3043: broken", False),
        ("whole", None, False),
        ("", "413, code 5021: too long", False),
        ("half", None, True),
        ("", "The server at server does not answer: gone", False),
        ("whole", None, False),
    ]
    assert len(asked.failures) == 3
    assert list(tries.values()) == [3, 3, 1, 1, 3, 1]
    assert asking.pauses == [0.5, 1, 7, 7, 0.5, 1]


@pytest.mark.parametrize(("status", "code"), [(401, 10000), (404, 3037), (400, 3039), (400, 5004), (400, 5007)])
async def test_what_holds_for_all_cases_ends_it_at_once(status: int, code: int) -> None:
    asking = Asking(lambda _: refusal(status, code, "AiError: why"), concurrency=1)

    with pytest.raises(ServerRefused, match=f"refuses with {status}: AiError: why") as refused:
        await asking(PIRATE)

    assert refused.value.code == code
    assert len(asking.bodies) == 1


async def test_another_kind_of_server_is_noticed() -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, text="<html>"))
    async with account_client("http://server", "a", "t", transport) as client:
        with pytest.raises(ServerUnreachable, match="answers 200, but not as gemlora does"):
            await Asker(client, Settings("m")).server()
