"""The catalogue as SDKs and wrangler read it."""

import json
from importlib.resources import files
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, MODEL, TOKEN, Parts

from gemlora.engines.fake import FakeEngine
from gemlora.registry.models import DefaultAdapter

SEARCH = f"/client/v4/accounts/{ALICE}/ai/models/search"
SCHEMA = f"/client/v4/accounts/{ALICE}/ai/models/schema"


async def test_the_model_is_described_with_what_really_serves_it(client: httpx.AsyncClient) -> None:
    body = (await client.get(SEARCH)).json()

    assert body["success"] is True
    (item,) = body["result"]
    assert item["id"] == "337170b7-bd2f-4631-9a57-688b579cf6d3"
    assert item["source"] == 1
    assert item["name"] == MODEL
    assert item["task"]["name"] == "Text Generation"
    assert item["task"]["id"] == "c329a1f9-323d-4e91-b2aa-582dd4188d34"
    assert "Served by fake (none, context 8192 tokens): small pretrained starter weights" in item["description"]
    properties = {entry["property_id"]: entry["value"] for entry in item["properties"]}
    assert properties == {
        "beta": "true",
        "lora": "true",
        "context_window": "8192",
        "weights": "fake",
        "quantization": "none",
    }


async def test_a_default_adapter_is_named() -> None:
    parts = Parts(FakeEngine(), default_adapter=DefaultAdapter("poet"))
    headers = {"authorization": f"Bearer {TOKEN}"}
    transport = httpx.ASGITransport(parts.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
        (item,) = (await client.get(SEARCH)).json()["result"]

    assert {"property_id": "default_adapter", "value": "poet"} in item["properties"]
    assert "Requests that name no adapter and are not raw get poet" in item["description"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", True),
        ("search=GEMMA", True),
        ("search=llama", False),
        ("task=Text%20Generation", True),
        ("task=Translation", False),
        ("author=google", True),
        ("author=meta", False),
        ("source=1", True),
        ("source=2", False),
        ("hide_experimental=true&include_deprecated=true&format=openrouter", True),
    ],
)
async def test_filters_select(client: httpx.AsyncClient, query: str, found: bool) -> None:
    assert bool((await client.get(f"{SEARCH}?{query}")).json()["result"]) is found


async def test_the_page_behind_the_last_is_empty_so_that_sdks_stop_asking(client: httpx.AsyncClient) -> None:
    first = (await client.get(f"{SEARCH}?per_page=50&page=1")).json()
    second = (await client.get(f"{SEARCH}?page=2")).json()

    assert first["result_info"] == {"count": 1, "page": 1, "per_page": 50, "total_count": 1}
    assert second["result"] == []
    assert second["result_info"] == {"count": 0, "page": 2, "per_page": 50, "total_count": 1}


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "per_page=0", "per_page=1001", "page=%C2%B2", f"page={'9' * 99}"]
)
async def test_pages_that_cannot_be_are_refused(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"{SEARCH}?{query}")

    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == 5006


async def test_the_schemas_are_those_of_the_model_page(client: httpx.AsyncClient) -> None:
    response = await client.get(SCHEMA, params={"model": MODEL})

    folder = files("gemlora.api") / "schemas"
    packaged: dict[str, Any] = {
        name: json.loads((folder / f"gemma-7b-it-lora.{name}.json").read_text()) for name in ("input", "output")
    }
    assert response.json()["result"] == packaged
    assert [form["title"] for form in packaged["input"]["oneOf"]] == ["Prompt", "Messages"]
    assert packaged["output"]["oneOf"][1] == {"type": "string"}


async def test_schemas_of_unknown_models_do_not_exist(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"{SCHEMA}?model=@cf/x")).json()["errors"][0]["code"] == 5007
    assert (await client.get(SCHEMA)).json()["errors"][0]["code"] == 3003


async def test_tasks_and_authors_are_those_of_the_models(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get(SEARCH)).json()["result"]
    for kind, expected in (("tasks", [model["task"]]), ("authors", [{"id": "google", "name": "google"}])):
        answer = (await client.get(SEARCH.replace("models/search", f"{kind}/search"))).json()
        assert answer["success"]
        assert answer["result"] == expected
    assert (await client.get(SEARCH, params={"author": "google"})).json()["result"] == [model]
