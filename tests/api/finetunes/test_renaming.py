"""Another name for a finetune: everything else about it stays."""

import httpx
import pytest
from tests.api.parts import MODEL
from tests.api.real_parts import FINETUNES, RUN, SHELF, create, ready, refusal


async def test_it_is_named_anew_and_nothing_else_changes(client: httpx.AsyncClient, files: dict[str, bytes]) -> None:
    finetune_id = await ready(client, "poet", files)
    before = (await client.get(f"{FINETUNES}/poet")).json()["result"]

    renamed = (await client.patch(f"{FINETUNES}/poet", json={"name": "bard"})).json()["result"]

    after = (await client.get(f"{FINETUNES}/{finetune_id}")).json()["result"]
    assert after == before | {"name": "bard", "modified_at": renamed["modified_at"]}
    assert renamed.items() <= after.items()
    assert refusal(await client.get(f"{FINETUNES}/poet"))[:2] == (404, 3037)


async def test_requests_use_the_new_name_at_once(client: httpx.AsyncClient, files: dict[str, bytes]) -> None:
    await ready(client, "poet", files)
    await client.patch(f"{FINETUNES}/poet", json={"name": "bard"})

    answer = await client.post(RUN, json={"prompt": "x", "lora": "bard"})
    assert answer.headers["gemlora-adapter"].startswith("bard@")
    assert (await client.post(RUN, json={"prompt": "x", "lora": "poet"})).json()["errors"][0]["code"] == 3037


async def test_the_old_name_is_free(client: httpx.AsyncClient) -> None:
    await create(client, "poet")
    await client.patch(f"{FINETUNES}/poet", json={"name": "bard"})

    await create(client, "poet")


async def test_its_own_name_again_is_a_success(client: httpx.AsyncClient) -> None:
    await create(client, "poet")

    assert (await client.patch(f"{FINETUNES}/poet", json={"name": "poet"})).json()["success"] is True


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({"name": "taken"}, 400, 5004, "An adapter named 'taken' exists already"),
        ({"name": ""}, 400, 5006, "name: must have 1 to 255 characters"),
        ({"name": " x"}, 400, 5006, "name: must be printable, without blanks at its ends"),
        ({"name": "cf-public-x"}, 400, 5006, "reserved for public adapters"),
        ({"name": "11111111-2222-3333-4444-555555555555"}, 400, 5006, "must not look like an id"),
        ({"name": 1}, 400, 5006, "name"),
        ({}, 400, 3003, "name"),
    ],
)
async def test_a_name_that_no_finetune_can_have_is_refused(
    client: httpx.AsyncClient, body: dict[str, object], status: int, code: int, text: str
) -> None:
    await create(client, "poet")
    await create(client, "taken")

    refused = refusal(await client.patch(f"{FINETUNES}/poet", json=body))

    assert refused[:2] == (status, code)
    assert text in refused[2]
    assert (await client.get(f"{FINETUNES}/poet")).json()["success"] is True


async def test_what_is_on_the_shelf_keeps_the_prefix_of_public_names(operator: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "name": "cf-public-one", "public": True}
    finetune = (await operator.post(SHELF, json=body)).json()["result"]["id"]

    assert refusal(await operator.patch(f"{SHELF}/{finetune}", json={"name": "one"}))[:2] == (400, 5006)
    renamed = await operator.patch(f"{SHELF}/{finetune}", json={"name": "cf-public-two"})
    assert renamed.json()["result"]["name"] == "cf-public-two"
