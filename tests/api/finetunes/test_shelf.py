"""The public shelf: who puts what on it, who sees and uses it."""

from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, BOB, MODEL
from tests.api.real_parts import DOCUMENTED, FINETUNES, RUN, SHELF, RealParts, create, ready, refusal, upload

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE


class TestListing:
    @pytest.fixture
    async def shelf(self, operator: httpx.AsyncClient, files: dict[str, bytes]) -> list[str]:
        """Three public finetunes, in the order of their creation."""
        names = [f"cf-public-{letter}" for letter in "bca"]
        source = await ready(operator, "source", files, SHELF)
        for name in names:
            published = await operator.post(f"{SHELF}/{source}/publish", json={"name": name})
            assert published.status_code == 200, published.text
        return names

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", "bca"),
            ("?", "bca"),
            ("?limit=2", "bc"),
            ("?limit=2&offset=2", "a"),
            ("?limit=2.0&offset=1.0", "ca"),
            ("?offset=3", ""),
            ("?limit=0", ""),
            ("?orderBy=name", "abc"),
            ("?orderBy=-name", "cba"),
            ("?orderBy=created_at", "bca"),
            ("?orderBy=-created_at&limit=1", "a"),
            ("?orderBy=&limit=&offset=", "bca"),
        ],
    )
    async def test_the_shelf_is_listed_for_every_account(
        self, shelf: list[str], parts: RealParts, query: str, expected: str
    ) -> None:
        async with parts.client("bob") as bob:
            response = await bob.get(f"{FINETUNES.replace(ALICE, BOB)}/public{query}")

        result = response.json()["result"]
        assert [item["name"] for item in result] == [f"cf-public-{letter}" for letter in expected]
        assert all(list(item) == [*DOCUMENTED, "public"] and item["public"] is True for item in result)

    @pytest.mark.parametrize(
        "query",
        [
            "limit=-1",
            "limit=1001",
            "limit=x",
            "limit=1.5",
            "limit=%D9%A1",
            "offset=-1",
            "offset=" + "9" * 30,
            "orderBy=account_id",
            "orderBy=name;drop",
            "orderBy=--name",
            "orderBy=-",
        ],
    )
    async def test_odd_pages_and_orders_are_refused(self, client: httpx.AsyncClient, query: str) -> None:
        status, code, message = refusal(await client.get(f"{FINETUNES}/public?{query}"))

        assert (status, code) == (400, 5006)
        assert query.partition("=")[0] in message


class TestTheShelf:
    async def test_creating_in_public_needs_the_operator_s_scope(
        self, client: httpx.AsyncClient, operator: httpx.AsyncClient
    ) -> None:
        body = {"model": MODEL, "name": "cf-public-poet", "public": True}

        refused = await client.post(FINETUNES, json=body)
        created = await operator.post(SHELF, json=body)

        assert refusal(refused) == (403, 10000, "Authentication error")
        assert created.json()["result"]["public"] is True

    async def test_publishing_needs_the_operator_s_scope(
        self, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(client, "poet", files)

        response = await client.post(f"{FINETUNES}/poet/publish", json={"name": "cf-public-poet"})

        assert refusal(response)[:2] == (403, 10000)

    async def test_a_published_finetune_is_used_by_every_account_and_outlives_the_original(
        self, operator: httpx.AsyncClient, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(operator, "source", files, SHELF)

        published = await operator.post(f"{SHELF}/source/publish", json={"name": "cf-public-poet"})
        await operator.delete(f"{SHELF}/source")
        shown = await client.get(f"{FINETUNES}/cf-public-poet")
        run = await client.post(RUN, json={"prompt": "x", "lora": "cf-public-poet"})
        listed = await client.get(FINETUNES)

        assert published.json()["result"]["ready"] is True
        assert shown.json()["result"]["public"] is True
        assert run.headers["gemlora-adapter"].startswith("cf-public-poet@")
        assert listed.json()["result"] == []

    async def test_others_can_neither_download_change_nor_delete_it(
        self, operator: httpx.AsyncClient, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(operator, "source", files, SHELF)
        await operator.post(f"{SHELF}/source/publish", json={"name": "cf-public-poet"})

        responses = [
            await client.get(f"{FINETUNES}/cf-public-poet/finetune-assets/{WEIGHTS_FILE}"),
            await upload(client, "cf-public-poet", CONFIG_FILE, files[CONFIG_FILE]),
            await client.delete(f"{FINETUNES}/cf-public-poet"),
        ]

        assert [refusal(response)[:2] for response in responses] == [(404, 3037)] * 3

    async def test_each_account_sees_how_often_it_used_one_itself(
        self, client: httpx.AsyncClient, operator: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        await ready(operator, "source", files, SHELF)
        await operator.post(f"{SHELF}/source/publish", json={"name": "cf-public-poet"})
        for _ in range(2):
            await client.post(RUN, json={"prompt": "x", "lora": "cf-public-poet"})

        user = await client.get(f"{FINETUNES}/cf-public-poet")
        publisher = await operator.get(f"{SHELF}/cf-public-poet")
        assert (user.json()["result"]["answers"], publisher.json()["result"]["answers"]) == (2, 0)

    async def test_an_incomplete_finetune_is_not_published(self, operator: httpx.AsyncClient) -> None:
        await create(operator, "half", SHELF)

        assert refusal(await operator.post(f"{SHELF}/half/publish", json={"name": "cf-public-half"}))[:2] == (409, 3039)

    @pytest.mark.parametrize(
        ("body", "code"),
        [({}, 3003), ({"name": 5}, 5006), ({"name": "poet"}, 5006), ([], 5006), ({"name": "cf-public-taken"}, 5004)],
    )
    async def test_what_cannot_be_published_is_refused(
        self, operator: httpx.AsyncClient, files: dict[str, bytes], body: Any, code: int
    ) -> None:
        await ready(operator, "source", files, SHELF)
        await operator.post(f"{SHELF}/source/publish", json={"name": "cf-public-taken"})

        assert refusal(await operator.post(f"{SHELF}/source/publish", json=body))[:2] == (400, code)
