"""The asynchronous form of the run route and of the binding: accepted at once, answered later."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert
from tests.api.parts import ALICE, BOB, BOBS_TOKEN, MODEL, RUN, TOKEN, Parts

from gemlora.api.application import batch_answers
from gemlora.api.limits import Limits
from gemlora.batches.repository import BatchRepository
from gemlora.engines.fake import FakeEngine
from gemlora.errors import EngineFailed
from gemlora.serving.batches import Batches, BatchRules
from gemlora.storage.database import Database
from gemlora.storage.tables import accounts
from gemlora.telemetry.logs import create_logger

QUEUED = f"{RUN}?queueRequest=true"
BINDING = {"cf-consn-model-id": MODEL}
ASKED = [
    {"prompt": "Hello", "seed": 5},
    {"messages": [{"role": "user", "content": "Hi"}], "seed": 6, "external_reference": "second", "stream": True},
]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    database = await Database.open(tmp_path / "gemlora.sqlite")
    async with database.writing() as connection:
        rows = [
            {"id": account, "name": "x", "first": False, "created_at": datetime.now(UTC)} for account in (ALICE, BOB)
        ]
        await connection.execute(insert(accounts), rows)
    rules = BatchRules(batches=3, concurrency=2, pause_seconds=0.02)
    batches = Batches(BatchRepository(database), rules, create_logger("error", "json"))
    yield Parts(FakeEngine(), Limits(batch_requests=3), batches=batches)
    await database.close()


@pytest.fixture
async def answering(parts: Parts) -> AsyncIterator[None]:
    task = asyncio.create_task(parts.services.batches.run(batch_answers(parts.services)))
    yield
    task.cancel()
    await asyncio.wait([task])


async def finished(client: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while "status" in (result := (await client.post(QUEUED, json={"request_id": identity})).json()["result"]):
            assert result["status"] in ("queued", "running")
            await asyncio.sleep(0.01)
    return dict(result)


async def submitted(client: httpx.AsyncClient, requests: Any = ASKED, url: str = QUEUED) -> str:
    answer = await client.post(url, json={"requests": requests})
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"].keys() == {"status", "request_id", "model"}
    return str(answer.json()["result"]["request_id"])


@pytest.mark.usefixtures("answering")
async def test_a_batch_gets_the_answers_that_its_requests_would_get_alone(client: httpx.AsyncClient) -> None:
    alone = [(await client.post(RUN, json={**asked, "stream": False})).json()["result"] for asked in ASKED]

    answer = await client.post(QUEUED, json={"requests": ASKED})
    identity = answer.json()["result"]["request_id"]
    result = await finished(client, identity)

    assert answer.json() == {
        "result": {"status": "queued", "request_id": identity, "model": MODEL},
        "success": True,
        "errors": [],
        "messages": [],
    }
    assert result["responses"] == [
        {"id": 0, "result": alone[0], "success": True, "external_reference": None},
        {"id": 1, "result": alone[1], "success": True, "external_reference": "second"},
    ]
    assert result["usage"] == {key: sum(one["usage"][key] for one in alone) for key in alone[0]["usage"]}


@pytest.mark.usefixtures("answering")
async def test_the_binding_submits_and_polls_without_an_envelope(client: httpx.AsyncClient) -> None:
    body = {"inputs": {"requests": ASKED}, "options": {"queueRequest": True}}
    answer = (await client.post("/run?version=3", json=body, headers=BINDING)).json()
    result = await finished(client, answer["request_id"])

    poll = {"inputs": {"request_id": answer["request_id"]}, "options": {}}
    polled = await client.post("/run?version=3", json=poll, headers=BINDING)

    assert answer == {"status": "queued", "request_id": answer["request_id"], "model": MODEL}
    assert polled.headers["content-type"] == "application/json"
    assert polled.json() == result


async def test_a_batch_is_queued_until_something_answers_it(client: httpx.AsyncClient) -> None:
    identity = await submitted(client)

    answer = await client.post(RUN, json={"request_id": identity})

    assert answer.json()["result"] == {"status": "queued", "request_id": identity, "model": MODEL}


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("place", ["query", "request"])
async def test_an_adapter_is_named_for_all_requests_or_for_one(
    client: httpx.AsyncClient, parts: Parts, place: str
) -> None:
    asked = {"prompt": "x", "max_tokens": 1} | ({"lora": "pirate"} if place == "request" else {})
    url = QUEUED if place == "request" else f"{QUEUED}&lora=pirate"

    await finished(client, await submitted(client, [asked, {"prompt": "x", "max_tokens": 1, "lora": ""}], url))

    digests = {None if request.adapter is None else request.adapter.digest for request in parts.engine.requests}
    assert digests == {"ab" * 32, None}


@pytest.mark.usefixtures("answering")
async def test_a_request_that_fails_leaves_the_others_alone(client: httpx.AsyncClient) -> None:
    identity = await submitted(client, [{"prompt": "x", "lora": "nobody-s"}, {"prompt": "x" * 9000}, {"prompt": "x"}])

    responses = (await finished(client, identity))["responses"]

    assert [response["success"] for response in responses] == [False, False, True]
    assert [response["errors"][0]["code"] for response in responses[:2]] == [3037, 5021]
    assert responses[0]["errors"][0]["message"].startswith("AiError: AiError: Finetune nobody-s not found (")
    assert responses[0]["result"] == {}


@pytest.mark.usefixtures("answering")
@pytest.mark.parametrize("failure", [EngineFailed("broken"), ZeroDivisionError("a defect")])
async def test_a_failure_of_the_engine_is_the_answer_of_that_request(
    client: httpx.AsyncClient, parts: Parts, failure: Any
) -> None:
    parts.engine.fail_next(failure)

    responses = (await finished(client, await submitted(client, [{"prompt": "x"}])))["responses"]

    assert responses[0]["errors"][0]["code"] == 3043


async def test_another_account_s_batch_looks_like_one_that_does_not_exist(client: httpx.AsyncClient) -> None:
    identity = await submitted(client)
    url, headers = QUEUED.replace(ALICE, BOB), {"authorization": f"Bearer {BOBS_TOKEN}"}

    foreign = await client.post(url, json={"request_id": identity}, headers=headers)
    unknown = await client.post(url, json={"request_id": "none"}, headers=headers)

    for answer, name in ((foreign, identity), (unknown, "none")):
        assert answer.status_code == 404
        assert answer.json()["errors"][0]["code"] == 7003
        assert f"Batch {name} not found" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"requests": []}, "'/requests' must have from 1 to 3 items"),
        ({"requests": [{"prompt": "x"}] * 4}, "'/requests' must have from 1 to 3 items"),
        ({"requests": {}}, "Type mismatch of '/requests', 'array' not in 'object'"),
        ({"requests": ["x"]}, "Type mismatch of '/requests/0', 'object' not in 'string'"),
        ({"requests": [{"prompt": "x"}, {}]}, "'/requests/1': oneOf at '/' not met"),
        ({"requests": [{"prompt": "x", "external_reference": 5}]}, "Type mismatch of '/requests/0/external_reference'"),
        ({"requests": [{"prompt": "x", "external_reference": ""}]}, "must have from 1 to 1024 characters"),
        ({"request_id": 5}, "Type mismatch of '/request_id', 'string' not in 'number','integer'"),
    ],
)
async def test_a_batch_that_could_not_be_answered_is_refused_whole(
    client: httpx.AsyncClient, body: dict[str, Any], text: str
) -> None:
    answer = await client.post(QUEUED, json=body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == 5006
    assert text in answer.json()["errors"][0]["message"]


async def test_an_account_with_too_many_batches_is_told_to_come_later(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await submitted(client)

    answer = await client.post(QUEUED, json={"requests": ASKED})

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (429, 3040)
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (QUEUED, {"requests": ASKED, "prompt": "x", "max_tokens": 1}),
        (QUEUED, {"prompt": "x", "max_tokens": 1, "request_id": "mine"}),
    ],
)
async def test_a_body_with_a_prompt_is_answered_as_ever(
    client: httpx.AsyncClient, url: str, body: dict[str, Any]
) -> None:
    assert "response" in (await client.post(url, json=body)).json()["result"]


async def test_requests_that_are_not_to_be_queued_are_no_known_form(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUN, json={"requests": ASKED})

    assert answer.json()["errors"][0]["code"] == 5006


@pytest.mark.usefixtures("answering")
async def test_no_text_of_a_batch_is_logged(client: httpx.AsyncClient, parts: Parts) -> None:
    await finished(client, await submitted(client, [{"prompt": "rosebud", "external_reference": "sledge"}]))

    assert parts.log_lines
    assert not any(word in json.dumps(parts.log_lines) for word in ("rosebud", "sledge", TOKEN))
