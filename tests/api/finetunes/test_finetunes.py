"""Finetunes without their files: created, listed, shown and deleted."""

import re
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, BOB, MODEL
from tests.api.real_parts import (
    DOCUMENTED,
    FINETUNES,
    RUN,
    RealParts,
    create,
    ready,
    refusal,
    upload,
)

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class TestCreating:
    async def test_the_answer_is_the_documented_object(self, client: httpx.AsyncClient) -> None:
        response = await client.post(FINETUNES, json={"model": MODEL, "name": "poet", "description": "verse"})

        body = response.json()
        assert response.headers["content-type"] == "application/json"
        assert list(body) == ["result", "success", "errors", "messages"]
        assert list(body["result"]) == [*DOCUMENTED, "public"]
        assert (body["result"]["name"], body["result"]["description"]) == ("poet", "verse")
        assert (body["result"]["model"], body["result"]["public"]) == (MODEL, False)
        assert MOMENT.fullmatch(body["result"]["created_at"])
        assert MOMENT.fullmatch(body["result"]["modified_at"])

    @pytest.mark.parametrize("slash", ["", "/"])
    @pytest.mark.parametrize("content_type", ["text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "x"])
    async def test_any_content_type_and_a_slash_at_the_end_will_do(
        self, client: httpx.AsyncClient, content_type: str, slash: str
    ) -> None:
        body = b'{"model":"@cf/google/gemma-7b-it-lora","name":"my-ft","description":"","unknown":[1]}'

        response = await client.post(FINETUNES + slash, content=body, headers={"content-type": content_type})

        assert response.json()["success"] is True

    async def test_null_is_the_default(self, client: httpx.AsyncClient) -> None:
        body = {"model": MODEL, "name": "poet", "description": None, "public": None}

        result = (await client.post(FINETUNES, json=body)).json()["result"]

        assert (result["description"], result["public"]) == ("", False)

    @pytest.mark.parametrize(
        ("body", "code", "text"),
        [
            (b"", 3003, "Request is missing headers or body: body"),
            (b"{", 5006, "not valid JSON"),
            (b"[]", 5006, "Type mismatch of '/', 'object' not in 'array'"),
            (b'"x"', 5006, "Type mismatch of '/', 'object' not in 'string'"),
            ({"name": "x"}, 3003, "missing headers or body: model"),
            ({"model": MODEL}, 3003, "missing headers or body: name"),
            ({"model": 5, "name": "x"}, 5006, "Type mismatch of '/model', 'string' not in 'number'"),
            ({"model": MODEL, "name": None}, 5006, "Type mismatch of '/name', 'string' not in 'null'"),
            ({"model": MODEL, "name": ["x"]}, 5006, "Type mismatch of '/name', 'string' not in 'array'"),
            ({"model": MODEL, "name": "x", "description": 5}, 5006, "Type mismatch of '/description'"),
            ({"model": MODEL, "name": "x", "public": "true"}, 5006, "Type mismatch of '/public', 'boolean' not in"),
            ({"model": "@cf/x", "name": "x"}, 5007, "No such model @cf/x or task"),
            ({"model": MODEL, "name": ""}, 5006, "name"),
            ({"model": MODEL, "name": "n" * 256}, 5006, "name"),
            ({"model": MODEL, "name": " x"}, 5006, "name"),
            ({"model": MODEL, "name": "a\0b"}, 5006, "name"),
            ({"model": MODEL, "name": "a\nb"}, 5006, "name"),
            ({"model": MODEL, "name": "11111111-2222-3333-4444-555555555555"}, 5006, "name"),
            ({"model": MODEL, "name": "cf-public-x"}, 5006, "cf-public-"),
            ({"model": MODEL, "name": "CF-Public-x"}, 5006, "cf-public-"),
        ],
        ids=lambda value: str(value)[:50],
    )
    async def test_what_cannot_be_created_is_refused_with_its_reason(
        self, client: httpx.AsyncClient, body: Any, code: int, text: str
    ) -> None:
        how = {"content": body} if isinstance(body, bytes) else {"json": body}

        status, came, message = refusal(await client.post(FINETUNES, **how))

        assert (status, came) == (400, code)
        assert text in message
        assert (await client.get(FINETUNES)).json()["result"] == []

    async def test_a_name_is_taken_once_in_each_account(self, client: httpx.AsyncClient, parts: RealParts) -> None:
        await create(client, "poet")

        status, code, message = refusal(await client.post(FINETUNES, json={"model": MODEL, "name": "poet"}))
        async with parts.client("bob") as bob:
            await create(bob, "poet", FINETUNES.replace(ALICE, BOB))

        assert (status, code) == (400, 5004)
        assert "'poet' exists already" in message


class TestListing:
    async def test_it_is_flat_oldest_first_and_has_the_documented_members(self, client: httpx.AsyncClient) -> None:
        ids = [await create(client, name) for name in ("c", "a", "b")]

        for path in (FINETUNES, f"{FINETUNES}/", f"{FINETUNES}?"):
            result = (await client.get(path)).json()["result"]
            assert [item["id"] for item in result] == ids
            assert all(list(item)[: len(DOCUMENTED)] == DOCUMENTED for item in result)
            assert all("public" not in item for item in result)

    async def test_each_account_sees_its_own(self, client: httpx.AsyncClient, parts: RealParts) -> None:
        await create(client, "poet")

        async with parts.client("bob") as bob:
            assert (await bob.get(FINETUNES.replace(ALICE, BOB))).json()["result"] == []


class TestShowing:
    @pytest.mark.parametrize("pending", [True, False])
    async def test_one_finetune_says_what_is_known_of_its_files(
        self, client: httpx.AsyncClient, files: dict[str, bytes], pending: bool
    ) -> None:
        finetune_id = await (create(client, "poet") if pending else ready(client, "poet", files))

        by_id, by_name = [await client.get(f"{FINETUNES}/{name}") for name in (finetune_id, "poet")]

        assert by_id.json() == by_name.json()
        result = by_id.json()["result"]
        assert list(result)[:9] == [*DOCUMENTED, "public", "ready", "files"]
        assert result["ready"] is not pending
        assert result["files"] == ([] if pending else [CONFIG_FILE, WEIGHTS_FILE])
        assert ("digest" in result) is not pending
        assert (result["answers"], bool(MOMENT.fullmatch(result["answers_since"]))) == (0, True)

    @pytest.mark.parametrize(
        "name",
        [
            "a/b",
            "a/finetune-assets",
            "finetune-assets",
            "a b",
            "100%",
            "%2F",
            "a?b",
            "a#b",
            "ü→😀",
            "a+b",
            "...",
            "a;b=c",
            "a\\b",
            "publish",
            "public",
            "a/../b",
            "Ünïcode/finetune-assets/adapter_config.json",
            "n" * 255,
        ],
    )
    async def test_every_name_works_in_the_path(
        self, client: httpx.AsyncClient, files: dict[str, bytes], name: str
    ) -> None:
        finetune_id = await create(client, name)
        path = "".join(f"%{byte:02X}" for byte in name.encode())

        uploads = [await upload(client, path, file_name, content) for file_name, content in files.items()]
        shown = await client.get(f"{FINETUNES}/{path}")
        loaded = await client.get(f"{FINETUNES}/{path}/finetune-assets/{WEIGHTS_FILE}")
        run = await client.post(RUN, json={"prompt": "x", "lora": name})
        deleted = await client.delete(f"{FINETUNES}/{path}")

        assert [response.status_code for response in uploads] == [200, 200]
        if name != "public":
            assert shown.json()["result"]["name"] == name
        assert loaded.content == files[WEIGHTS_FILE]
        assert run.status_code == 200
        assert deleted.json()["result"] == {"id": finetune_id}

    @pytest.mark.parametrize(
        "name", ["nobody-s", "%00", "%ff", "x" * 4000, "%2e%2e", "a%2Fb", "'; drop table adapters"]
    )
    async def test_an_unknown_one_is_not_found(self, client: httpx.AsyncClient, name: str) -> None:
        for method, rest in (("GET", ""), ("DELETE", ""), ("GET", f"/finetune-assets/{CONFIG_FILE}")):
            status, code, _ = refusal(await client.request(method, f"{FINETUNES}/{name}{rest}"))
            assert (status, code) == (404, 3037)

    @pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS"])
    async def test_other_methods_are_not_supported(self, client: httpx.AsyncClient, method: str) -> None:
        one = await client.request(method, f"{FINETUNES}/poet")
        several = await client.request(method, FINETUNES)

        assert (one.status_code, one.headers["allow"]) == (405, "DELETE, GET, PATCH")
        assert (several.status_code, several.headers["allow"]) == (405, "GET, POST")


class TestDeleting:
    async def test_the_name_is_free_at_once_and_nothing_finds_it_any_more(
        self, client: httpx.AsyncClient, files: dict[str, bytes]
    ) -> None:
        finetune_id = await ready(client, "poet", files)

        deleted = await client.delete(f"{FINETUNES}/poet")
        again = await client.delete(f"{FINETUNES}/{finetune_id}")
        run = await client.post(RUN, json={"prompt": "x", "lora": finetune_id})

        assert deleted.json()["result"] == {"id": finetune_id}
        assert refusal(again)[:2] == (404, 3037)
        assert run.json()["errors"][0]["code"] == 3037
        assert await create(client, "poet") != finetune_id
