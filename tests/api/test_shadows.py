"""Shadows over HTTP: seen by nobody who asks, read by whoever may read the account's aliases."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from tests.api.parts import MODEL
from tests.api.real_parts import FINETUNES, RUN, RealParts, peft_files, ready, real_parts, refusal

from gemlora.api.application import batch_answers

ALIASES = FINETUNES.replace("finetunes", "aliases")
BOT = f"{ALIASES}/bot"
CHAT = FINETUNES.replace("finetunes", "v1/chat/completions")
COMPLETIONS = FINETUNES.replace("finetunes", "v1/completions")
BASE = "cf-public-base"
USER = [{"role": "user", "content": "Hi"}]
SHADOWED = [{"version": BASE, "weight": 1}, {"version": "new", "weight": 0, "shadow": 1}]
JSON_OF_CITY = {
    "type": "json_schema",
    "json_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[RealParts]:
    async with real_parts(tmp_path / "data") as parts, parts.client() as alice:
        await ready(alice, "new", peft_files(at=tmp_path / "peft"))
        assert (await alice.post(ALIASES, json={"name": "bot", "versions": SHADOWED})).status_code == 200
        running = [
            asyncio.create_task(work)
            for work in (parts.shadows.run(), parts.services.batches.run(batch_answers(parts.services)))
        ]
        yield parts
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@pytest.fixture
async def alice(parts: RealParts) -> AsyncIterator[httpx.AsyncClient]:
    async with parts.client() as client:
        yield client


async def shadows(client: httpx.AsyncClient, number: int) -> list[dict[str, Any]]:
    """The newest pairs, once the version has run as often."""
    await until(client, lambda runs: runs["run"] >= number)
    pairs: list[dict[str, Any]] = (await client.get(f"{BOT}/shadows")).json()["result"]
    return pairs


async def until(client: httpx.AsyncClient, met: Callable[[dict[str, int]], bool]) -> None:
    async with asyncio.timeout(20):
        while not met(await shadow_runs(client)):  # noqa: ASYNC110 - what is awaited is in the database
            await asyncio.sleep(0.01)


async def finished(client: httpx.AsyncClient, url: str, requests: list[object]) -> list[dict[str, Any]]:
    """The responses of a batch."""
    queued = await client.post(url, json={"requests": requests})
    poll = {"request_id": queued.json()["result"]["request_id"]}
    async with asyncio.timeout(20):
        while "status" in (result := (await client.post(RUN, json=poll)).json()["result"]):  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)
    responses: list[dict[str, Any]] = result["responses"]
    return responses


async def shadow_runs(client: httpx.AsyncClient) -> dict[str, int]:
    runs: dict[str, int] = (await client.get(BOT)).json()["result"]["versions"][1]["shadow_runs"]
    return runs


async def test_every_route_is_shadowed_and_its_answers_stay_the_same(alice: httpx.AsyncClient) -> None:
    native, chat = {"messages": USER, "seed": 7}, {"model": MODEL, "messages": USER, "seed": 7}
    text = {"model": MODEL, "prompt": ["Hi", "Ho"], "seed": 7}
    ways = [
        (RUN, native, 1), (RUN, {**native, "stream": True}, 1), (RUN, {**native, "response_format": JSON_OF_CITY}, 1),
        (CHAT, chat, 1), (CHAT, {**chat, "stream": True}, 1), (CHAT, {**chat, "n": 2}, 0), (COMPLETIONS, text, 2),
    ]  # fmt: skip
    runs = 0
    for path, body, expected in ways:
        plain = await alice.post(path, json={**body, "lora": BASE})
        response = await alice.post(path, json={**body, "lora": "bot"})
        assert response.headers["gemlora-alias"] == f"bot; revision=1; version={BASE}"
        assert told(response) == told(plain), body
        runs += expected
        pairs = await shadows(alice, runs)
        assert len(pairs) == runs
        if expected:
            assert pairs[0]["request_id"] == response.headers["cf-ai-req-id"]
            assert (pairs[0]["served"]["version"], pairs[0]["shadow"]["version"]) == (BASE, "new")
            assert pairs[0]["shadow"]["json"] is ("response_format" in body)
    assert await shadow_runs(alice) == {"run": runs, "dropped": 0, "failed": 0}


def told(response: httpx.Response) -> object:
    """What an answer says, without what is new each time."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        return [line.partition('"choices"')[2] or line for line in response.text.splitlines()]
    body = response.json()
    return body.get("result") or (body["choices"], body["usage"])


async def test_a_batch_takes_an_alias_and_is_shadowed_like_other_requests(
    alice: httpx.AsyncClient, parts: RealParts
) -> None:
    def as_adapter() -> list[bool]:
        return sorted(request.adapter is not None for request in parts.engine.requests)

    responses = await finished(alice, f"{RUN}?queueRequest=true", [{"prompt": "Hi", "lora": "bot"}] * 2)
    assert [response["success"] for response in responses] == [True, True]
    await shadows(alice, 2)
    assert as_adapter() == [False, False, True, True]

    await alice.post(f"{BOT}/promote", json={"version": "new"})
    await finished(alice, f"{RUN}?queueRequest=true&lora=bot", [{"prompt": "Hi"}])

    assert as_adapter() == [False, False, True, True, True]
    log = (await alice.get(f"{BOT}/revisions")).json()["result"]
    assert [one["versions"][1]["shadow_runs"]["run"] for one in log] == [0, 2]


async def test_texts_are_kept_where_that_is_wished_and_others_see_nothing(
    alice: httpx.AsyncClient, parts: RealParts
) -> None:
    served = (await alice.post(RUN, json={"messages": USER, "lora": "bot"})).json()["result"]
    [pair] = await shadows(alice, 1)

    assert pair["messages"] == USER
    assert (pair["served"]["response"], pair["served"]["tool_calls"]) == (served["response"], [])
    assert pair["shadow"]["response"] != served["response"]
    described = parts.document
    schema = {"$ref": "#/components/schemas/AliasPair", "components": described["components"]}
    jsonschema_rs.validator_for(schema).validate(pair)
    page = (await alice.get(f"{BOT}/shadows", params={"page": 2, "per_page": 1})).json()
    assert (page["result"], page["result_info"]["total_count"]) == ([], 1)
    async with parts.client("bob") as bob:
        foreign = await bob.get(f"{BOT}/shadows".replace("a" * 32, "b" * 32))
    assert refusal(foreign) == (404, 7003, "Alias bot not found")


async def test_a_shadow_s_adapter_that_is_gone_fails_the_shadow_alone(
    alice: httpx.AsyncClient, parts: RealParts
) -> None:
    assert refusal(await alice.delete(f"{FINETUNES}/new"))[:2] == (409, 3045)
    await parts.registry.remove_all("a" * 32)  # as a removal of a public adapter, which no alias hinders

    response = await alice.post(RUN, json={"messages": USER, "lora": "bot"})

    assert response.status_code == 200
    await until(alice, lambda runs: runs["failed"] == 1)
    [pair] = (await alice.get(f"{BOT}/shadows")).json()["result"]
    assert (pair["error"], pair["shadow"]) == ("AdapterNotFound", {"version": "new"})


async def test_a_test_is_measured_by_the_server(alice: httpx.AsyncClient) -> None:
    test = {
        "control": BASE, "candidate": "new", "metric": "length", "better": "lower", "effect": 0.9, "power": 0.5,
        "measured_by": "server",
    }  # fmt: skip
    wanted = {"versions": SHADOWED, "test": test}
    assert (await alice.put(BOT, json=wanted)).json()["result"]["test"]["measured_by"] == "server"

    await alice.post(RUN, json={"messages": USER, "lora": "bot", "max_tokens": 2})
    await shadows(alice, 1)

    versions = (await alice.get(BOT)).json()["result"]["versions"]
    assert [(one["outcomes"], one["mean"]) for one in versions] == [(1, 1), (1, 1)]
    report = {"version": "new", "value": 1}
    assert refusal(await alice.post(f"{BOT}/outcomes", json=report))[:2] == (409, 3045)


WRONG = [{"versions": [{"version": BASE, "weight": 1, "shadow": shadow}]} for shadow in (2, -1, "1", True)] + [
    {"versions": SHADOWED, "test": {"control": BASE, "candidate": "new", "metric": "m", "effect": 0.5, **change}}
    for change in ({"measured_by": "server"}, {"measured_by": "nobody"})
]


async def test_what_is_wrong_is_refused(alice: httpx.AsyncClient) -> None:
    for body in WRONG:
        assert refusal(await alice.put(BOT, json=body))[:2] == (400, 5006), body
