"""What each token may do: the page about the API says it, the routes hold it, also for tokens that are over."""

import re
from pathlib import Path

import httpx
import pytest
from tests.api.parts import ALICE, MODEL
from tests.api.real_parts import FINETUNES, TOKENS, RealParts, create
from tests.api.test_routes import api_routes, guards_of

from gemlora.accounts.records import Scope
from gemlora.api.authentication import Access
from gemlora.registry.adapters import CONFIG_FILE

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"
LINE = re.compile(r"^\| `([A-Z]+) (/ai/finetunes\S*)` \| `([a-z:]+)` \|", re.MULTILINE)
DOCUMENTED = {(method, f"/client/v4/accounts/{{account_id}}{path}"): Scope(scope)
              for method, path, scope in LINE.findall(DOCUMENT.read_text())}  # fmt: skip


def test_the_routes_demand_what_the_page_says(parts: RealParts) -> None:
    demanded = {}
    for route in api_routes(parts):
        if "/ai/finetunes" in route.path:
            (guard,) = guards_of(route)
            assert guard.access is Access.ACCOUNT
            demanded |= {(method, route.path): guard.scope for method in route.methods - {"HEAD"}}

    assert len(DOCUMENTED) == 9
    assert demanded == DOCUMENTED


@pytest.mark.parametrize(("method", "path"), DOCUMENTED)
async def test_only_tokens_with_the_scope_are_admitted(
    parts: RealParts, client: httpx.AsyncClient, method: str, path: str
) -> None:
    await create(client, "poet")
    scope = DOCUMENTED[method, path]
    url = path.format(account_id=ALICE, finetune="poet", file_name=CONFIG_FILE)

    for token, (account_id, scopes, state) in TOKENS.items():
        async with parts.client(token) as other:
            response = await other.request(method, url, content=b"[]")
        expected = 401 if state != "valid" else 403 if account_id != ALICE or scope not in scopes else None
        if expected:
            assert response.status_code == expected, token
            assert response.json()["errors"] == [{"code": 10000, "message": "Authentication error"}]
            assert response.json()["result"] is None
        else:
            assert response.status_code in (200, 400, 404, 409), token


async def test_a_token_that_may_run_can_neither_list_nor_change_and_the_other_way_round(parts: RealParts) -> None:
    run = f"/client/v4/accounts/{ALICE}/ai/run/{MODEL}"
    allowed = {}
    for scope in Scope:
        async with parts.client(f"alice-{scope.value}") as client:
            responses = [
                await client.post(run, json={"prompt": "x"}),
                await client.get(FINETUNES),
                await client.post(FINETUNES, json={"model": MODEL, "name": f"by-{scope.name}"}),
            ]
        allowed[scope] = [response.status_code for response in responses]

    assert allowed == {
        Scope.RUN: [200, 403, 403],
        Scope.FINETUNES_READ: [403, 200, 403],
        Scope.FINETUNES_WRITE: [403, 403, 200],
        Scope.ADMIN: [403, 403, 403],
    }
