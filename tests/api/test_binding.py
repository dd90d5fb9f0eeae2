"""What workerd's `env.AI` sends and needs to get back."""

import json
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, BOBS_TOKEN, MODEL, RUN, Parts

from gemlora.errors import OutOfCapacity

HEADERS = {"cf-consn-model-id": MODEL, "cf-consn-sdk-version": "2.0.0", "content-type": "application/json"}
INPUTS = {"prompt": "Hello", "seed": 5}


async def run(client: httpx.AsyncClient, inputs: Any, options: Any = None, **headers: str) -> httpx.Response:
    """`AI.run` as workerd sends it."""
    body = {"inputs": inputs, "options": options or {}}
    request = {**HEADERS, "host": "workers-binding.ai", **headers}
    return await client.post("/run?version=3", content=json.dumps(body), headers=request)


async def test_the_answer_is_the_bare_result(client: httpx.AsyncClient) -> None:
    bare = await run(client, INPUTS)
    enveloped = await client.post(RUN, json=INPUTS)

    assert bare.status_code == 200
    assert bare.headers["content-type"] == "application/json"
    assert bare.headers["cf-ai-req-id"]
    assert bare.json() == enveloped.json()["result"]


async def test_a_stream_has_the_same_bytes_as_over_rest(client: httpx.AsyncClient) -> None:
    inputs = {**INPUTS, "stream": True}

    bound = await run(client, inputs)

    assert bound.headers["content-type"] == "text/event-stream"
    assert bound.content == (await client.post(RUN, json=inputs)).content


async def test_the_account_is_the_token_s(client: httpx.AsyncClient, parts: Parts) -> None:
    await run(client, {**INPUTS, "lora": "pirate"})

    assert parts.engine.requests[0].adapter is not None
    assert (await run(client, {**INPUTS, "lora": "pirate"}, authorization=f"Bearer {BOBS_TOKEN}")).status_code == 404


async def test_an_adapter_may_be_named_in_the_options(client: httpx.AsyncClient) -> None:
    response = await run(client, INPUTS, {"lora": "pirate"})

    assert response.headers["gemlora-adapter"].startswith("pirate@")


async def test_a_prefix_before_the_model_is_cut_off(client: httpx.AsyncClient) -> None:
    assert (await run(client, INPUTS, **{"cf-consn-model-id": f"pf:{MODEL}"})).status_code == 200


async def test_a_gateway_in_the_options_changes_nothing(client: httpx.AsyncClient) -> None:
    body = {"inputs": INPUTS, "options": {"gateway": {"id": "g1"}}}

    response = await client.post("/ai-gateway/run?version=3", json=body, headers=HEADERS)

    assert response.json() == (await run(client, INPUTS)).json()


@pytest.mark.parametrize(
    ("inputs", "model", "code", "http", "description"),
    [
        (INPUTS, "@cf/nope", 5007, 400, "No such model @cf/nope or task"),
        ({"prompt": "x", "seed": 0}, MODEL, 5006, 400, "Error: oneOf at '/' not met, 0 matches: '/seed' must be >= 1"),
        ({**INPUTS, "lora": "nothing"}, MODEL, 3037, 404, "Finetune nothing not found"),
    ],
)
async def test_errors_have_an_internal_code(
    client: httpx.AsyncClient, inputs: Any, model: str, code: int, http: int, description: str
) -> None:
    response = await run(client, inputs, **{"cf-consn-model-id": model})

    assert response.status_code == http
    error = response.json()
    assert (error["internalCode"], error["httpCode"], error["name"]) == (code, http, "AiError")
    assert error["description"] == description
    assert error["requestId"] == response.headers["cf-ai-req-id"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"inputs":5}', b"{}"])
async def test_bodies_that_are_no_call_are_refused_in_the_binding_s_form(
    client: httpx.AsyncClient, content: bytes
) -> None:
    response = await client.post("/run?version=3", content=content, headers=HEADERS)

    assert response.status_code == 400
    assert response.json()["internalCode"] == (3003 if content == b"" else 5006)


async def test_capacity_is_named_so_that_workers_can_retry(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.engine.fail_next(OutOfCapacity("full"))

    response = await run(client, INPUTS)

    assert (response.status_code, response.json()["internalCode"]) == (429, 3040)


async def test_a_missing_model_header_is_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/run?version=3", json={"inputs": INPUTS})

    assert response.json()["internalCode"] == 3003
    assert "cf-consn-model-id" in response.json()["description"]


async def test_raw_bodies_are_refused_because_the_model_is_text_only(client: httpx.AsyncClient) -> None:
    headers = {**HEADERS, "content-type": "image/png"}

    response = await client.post("/run?version=3&userInputs=%7B%7D", content=b"\x89PNG", headers=headers)

    assert (response.status_code, response.json()["internalCode"]) == (400, 5006)
    assert "text-only model" in response.json()["description"]


async def test_older_versions_of_the_protocol_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/run?version=2", json={"inputs": INPUTS}, headers=HEADERS)

    assert (response.status_code, response.json()["internalCode"]) == (405, 5019)


async def test_a_bad_token_is_refused_as_the_binding_understands_it(client: httpx.AsyncClient) -> None:
    response = await run(client, INPUTS, authorization="Bearer wrong")

    assert response.status_code == 401
    assert response.json()["errors"] == [{"code": 10000, "message": "Authentication error"}]


async def test_the_catalogue_s_refusals_are_enveloped_too(client: httpx.AsyncClient) -> None:
    headers = {"x-forwarded": "https://workers-binding.ai/ai-api/models/search?page=0"}

    for response in (
        await client.get("/ai-api/models/search?page=0"),
        await client.get(TestProxy.URL, headers=headers),
    ):
        assert response.status_code == 400
        assert "'page'" in response.json()["errors"][0]["message"]


async def test_the_catalogue_comes_enveloped(client: httpx.AsyncClient) -> None:
    response = await client.get("/ai-api/models/search?search=gemma&page=1")

    assert [model["name"] for model in response.json()["result"]] == [MODEL]


class TestProxy:
    URL = f"/client/v4/accounts/{ALICE}/ai/run/proxy"

    async def test_wrangler_s_forwarded_call_is_answered_in_the_binding_s_form(self, client: httpx.AsyncClient) -> None:
        headers = {**HEADERS, "x-forwarded": "https://workers-binding.ai/run?version=3"}

        response = await client.post(self.URL, json={"inputs": INPUTS, "options": {}}, headers=headers)

        assert response.json() == (await run(client, INPUTS)).json()
        assert response.headers["content-type"] == "application/json"

    async def test_the_catalogue_is_forwarded_with_its_query(self, client: httpx.AsyncClient) -> None:
        headers = {"x-forwarded": "https://workers-binding.ai/ai-api/models/search?search=nothing"}

        assert (await client.get(self.URL, headers=headers)).json()["result"] == []

    @pytest.mark.parametrize("url", ["", "https://workers-binding.ai/autorag/rags/x/search", "http://[", "/../run"])
    async def test_anything_else_is_no_route(self, client: httpx.AsyncClient, url: str) -> None:
        response = await client.post(self.URL, json={}, headers={"x-forwarded": url})

        assert response.status_code == 404
        assert response.json()["errors"][0]["code"] == 7000
