"""Every route gives requests that name no adapter the default one, and the base to those that ask for it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, MODEL, RUN, TOKEN, Parts

from gemlora.api.application import batch_answers
from gemlora.engines.fake import FakeEngine
from gemlora.registry.models import DefaultAdapter

MESSAGES = [{"role": "user", "content": "Hello"}]
OPENAI = f"/client/v4/accounts/{ALICE}/ai/v1"
CHAT = {"model": MODEL, "messages": MESSAGES}
PIRATE = f"pirate@{'ab' * 32}"
BINDING = {"cf-consn-model-id": MODEL}


@pytest.fixture
def parts() -> Parts:
    return Parts(FakeEngine(), default_adapter=DefaultAdapter("pirate"))


@pytest.fixture
async def client(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(parts.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
        yield client


@pytest.mark.parametrize(
    ("url", "body", "served"),
    [
        (RUN, {"prompt": "Hello"}, PIRATE),
        (RUN, {"messages": MESSAGES, "stream": True}, PIRATE),
        (RUN, {"messages": MESSAGES, "lora": "cf-public-base"}, "none"),
        (RUN, {"prompt": "Hello", "raw": True}, "none"),
        ("/run?version=3", {"inputs": {"prompt": "Hello"}}, PIRATE),
        ("/run?version=3", {"inputs": {"prompt": "Hello"}, "options": {"lora": "cf-public-base"}}, "none"),
        (f"{OPENAI}/chat/completions", CHAT, PIRATE),
        (f"{OPENAI}/chat/completions", CHAT | {"lora": "cf-public-base"}, "none"),
        (f"{OPENAI}/chat/completions", CHAT | {"model": f"{MODEL}:cf-public-base"}, "none"),
        (f"{OPENAI}/completions", {"model": MODEL, "prompt": "Hello"}, "none"),
        (f"{OPENAI}/completions", {"model": f"{MODEL}:pirate", "prompt": "Hello"}, PIRATE),
    ],
)
async def test_the_header_names_what_served(
    client: httpx.AsyncClient, parts: Parts, url: str, body: dict[str, Any], served: str
) -> None:
    response = await client.post(url, json=body, headers=BINDING)

    assert response.status_code == 200
    assert response.headers["gemlora-adapter"] == served
    adapter = parts.engine.requests[0].adapter
    assert (adapter is None) == (served == "none")


@pytest.mark.parametrize(
    ("changes", "served"), [({}, True), ({"lora": "cf-public-base"}, False), ({"raw": True}, False)]
)
async def test_a_request_of_a_batch_gets_it_too(parts: Parts, changes: dict[str, Any], served: bool) -> None:
    answer = await batch_answers(parts.services).answer(ALICE, MODEL, {"prompt": "Hello", **changes})

    assert answer.success
    assert (parts.engine.requests[0].adapter is not None) == served
