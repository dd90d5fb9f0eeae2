"""The playground's link on the wire."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.api.parts import ALICE
from tests.api.real_parts import RealParts, real_parts

PATH = "/client/v4/sign-in"


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[RealParts]:
    async with real_parts(tmp_path / "data") as parts:
        yield parts


def code_for(parts: RealParts, account_id: str = ALICE) -> str:
    code = parts.sign_in.offer(account_id)
    assert code is not None
    return code


async def test_a_code_becomes_a_token_that_opens_its_account(parts: RealParts) -> None:
    async with parts.client(None) as client:
        response = await client.post(PATH, json={"code": code_for(parts)})
    result = response.json()["result"]

    assert response.headers["cache-control"] == "no-store"
    assert (result["account_id"], result["name"], result["status"]) == (ALICE, "playground", "active")
    async with parts.client(None) as client:
        headers = {"authorization": f"Bearer {result['token']}"}
        verified = await client.get(f"/client/v4/accounts/{ALICE}/tokens/verify", headers=headers)
    assert verified.json()["result"]["expires_on"] == result["expires_on"]


async def test_neither_code_nor_token_is_logged(parts: RealParts) -> None:
    code = code_for(parts)
    async with parts.client(None) as client:
        token = (await client.post(PATH, json={"code": code})).json()["result"]["token"]
        await client.post(PATH, json={"code": code})

    assert "signed in by link" in [line["event"] for line in parts.log_lines]
    assert code not in parts.log_stream.getvalue()
    assert token not in parts.log_stream.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"code": "wrong"}', 401, 10000),
        (b'{"code": 1}', 400, 5006),
        (b"{}", 400, 3003),
        (b"[]", 400, 5006),
        (b"", 400, 3003),
        (json.dumps({"code": "x" * 5000}).encode(), 413, 3006),
    ],
)
async def test_anything_else_is_refused(parts: RealParts, content: bytes, status: int, code: int) -> None:
    code_for(parts)
    async with parts.client(None) as client:
        response = await client.post(PATH, content=content)

    assert (response.status_code, response.json()["errors"][0]["code"]) == (status, code)


async def test_a_used_code_is_as_wrong_as_any(parts: RealParts) -> None:
    code = code_for(parts)
    async with parts.client(None) as client:
        assert (await client.post(PATH, json={"code": code})).status_code == 200
        assert (await client.post(PATH, json={"code": code})).status_code == 401
