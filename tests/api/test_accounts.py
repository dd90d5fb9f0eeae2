"""Accounts and tokens over HTTP, on the whole application with a real database and the fake engine."""

import io
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cloudflare
import httpx
import pytest
from tests.registry.peft_folder import PeftFolder, raw, tensors

from gemlora.app.application import open_application, open_records
from gemlora.app.backend import starting_backend
from gemlora.engines.cpu.weights.progress import silent
from gemlora.engines.fake import FAKE_FACTS
from gemlora.settings import Settings
from gemlora.telemetry.logs import create_logger

FIRST = "0123456789abcdef0123456789abcdef"
ROOT = "/client/v4/accounts"
MODEL = "@cf/google/gemma-7b-it-lora"
ALL = ["admin", "finetunes:read", "finetunes:write", "run"]
REFUSED = {
    "result": None,
    "success": False,
    "errors": [{"code": 10000, "message": "Authentication error"}],
    "messages": [],
}


@dataclass
class Server:
    """The application, what it logged, and the operator's client."""

    client: httpx.AsyncClient
    log: io.StringIO
    settings: Settings

    async def ask(self, method: str, path: str = "", token: str = "operator", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await self.client.request(method, ROOT + path, headers=headers, **options)

    async def account(self, name: str = "tenant") -> str:
        return (await self.ask("POST", json={"name": name})).json()["result"]["id"]

    async def token(self, account: str, *scopes: str, **members: Any) -> dict[str, Any]:
        body = {"name": "key", "scopes": list(scopes or ["run"]), **members}
        answer = await self.ask("POST", f"/{account}/tokens", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    async def adapter(self, account: str, token: str, name: str = "poet", **members: Any) -> None:
        """Upload an adapter for the fake engine's base."""
        peft = PeftFolder(tensors=tensors(layers=range(FAKE_FACTS.layers), shapes=FAKE_FACTS.modules))
        finetunes = f"/{account}/ai/finetunes"
        created = await self.ask("POST", finetunes, token, json={"name": name, "model": MODEL, **members})
        for file_name, content in {
            "adapter_config.json": json.dumps(peft.config).encode(),
            "adapter_model.safetensors": raw(peft.tensors).content,
        }.items():
            answer = await self.ask(
                "POST", f"{finetunes}/{created.json()['result']['id']}/finetune-assets", token,
                data={"file_name": file_name}, files={"file": content},
            )  # fmt: skip
            assert answer.status_code == 200, answer.text

    async def run(self, account: str, token: str, **body: Any) -> int:
        answer = await self.ask("POST", f"/{account}/ai/run/{MODEL}", token, json={"prompt": "x", **body})
        return answer.status_code


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    settings = Settings(engine="fake", data_dir=tmp_path / "data", account_id=FIRST, api_token="operator")
    log = io.StringIO()
    async with (
        starting_backend(settings, silent) as backend,
        open_application(settings, backend, create_logger("debug", "json", log)) as application,
        httpx.AsyncClient(transport=httpx.ASGITransport(application.api), base_url="http://gemlora") as client,
    ):
        yield Server(client, log, settings)


def error(answer: httpx.Response) -> tuple[int, int, str]:
    [only] = answer.json()["errors"]
    return answer.status_code, only["code"], only["message"]


async def test_accounts_are_created_listed_shown_and_deleted(server: Server) -> None:
    created = (await server.ask("POST", json={"name": "Käpt’n & Co", "type": "standard"})).json()
    assert created["success"] is True
    account = created["result"]
    assert set(account) == {"id", "name", "type", "created_on"}
    assert (account["name"], account["type"], len(account["id"])) == ("Käpt’n & Co", "standard", 32)

    assert (await server.ask("GET", f"/{account['id']}")).json()["result"] == account
    listed = (await server.ask("GET")).json()
    assert [one["id"] for one in listed["result"]] == [FIRST, account["id"]]
    assert listed["result_info"] == {"page": 1, "per_page": 20, "count": 2, "total_count": 2, "total_pages": 1}

    assert (await server.ask("DELETE", f"/{account['id']}")).json()["result"] == {"id": account["id"]}
    assert error(await server.ask("GET", f"/{account['id']}"))[:2] == (404, 7003)
    assert error(await server.ask("DELETE", f"/{account['id']}"))[:2] == (404, 7003)


async def test_lists_come_in_pages_that_end_with_an_empty_one(server: Server) -> None:
    accounts = [FIRST, *[await server.account(f"tenant {number}") for number in range(4)]]

    pages = [(await server.ask("GET", f"?page={page}&per_page=2")).json() for page in (1, 2, 3, 4)]

    assert [one["id"] for page in pages for one in page["result"]] == accounts
    assert [page["result_info"]["count"] for page in pages] == [2, 2, 1, 0]
    assert pages[0]["result_info"]["total_pages"] == 3
    for number in range(3):
        await server.token(accounts[1], name=f"key {number}")
    second = (await server.ask("GET", f"/{accounts[1]}/tokens?page=2&per_page=2")).json()
    assert [token["name"] for token in second["result"]] == ["key 2"]
    for query in ("page=0", "page=x", "per_page=1001", "per_page=-1", "page=1e3", "page=٣"):
        assert error(await server.ask("GET", f"?{query}"))[:2] == (400, 5006)


async def test_a_token_works_at_once_for_its_account_alone(server: Server) -> None:
    account, other = await server.account(), await server.account()

    token = await server.token(account, "run")

    assert set(token) == {"id", "name", "status", "issued_on", "scopes", "value"}
    assert (token["status"], token["scopes"]) == ("active", ["run"])
    assert await server.run(account, token["value"]) == 200
    assert await server.run("your-account-id", token["value"]) == 200
    for foreign in (other, FIRST, "f" * 32):
        assert await server.run(foreign, token["value"]) == 403


async def test_the_secret_is_shown_once(server: Server) -> None:
    token = await server.token(FIRST, *ALL)

    listed = await server.ask("GET", f"/{FIRST}/tokens")

    assert [(one["name"], one["scopes"]) for one in listed.json()["result"]] == [("first", ALL), ("key", ALL)]
    assert token["value"] not in listed.text
    assert "value" not in listed.text
    assert token["value"] not in (await server.ask("GET", f"/{FIRST}/tokens/verify", token["value"])).text


async def test_revoking_takes_effect_at_once(server: Server) -> None:
    account = await server.account()
    token, kept = await server.token(account), await server.token(account)
    assert await server.run(account, token["value"]) == 200

    revoked = await server.ask("DELETE", f"/{account}/tokens/{token['id']}")

    assert revoked.json()["result"] == {"id": token["id"]}
    assert await server.run(account, token["value"]) == 401
    assert await server.run(account, kept["value"]) == 200
    listed = (await server.ask("GET", f"/{account}/tokens")).json()["result"]
    assert [one["id"] for one in listed] == [kept["id"]]
    assert (await server.ask("DELETE", f"/{account}/tokens/{token['id']}")).status_code == 200


async def test_the_token_of_the_settings_is_not_revoked(server: Server) -> None:
    [preset] = (await server.ask("GET", f"/{FIRST}/tokens")).json()["result"]

    status, code, text = error(await server.ask("DELETE", f"/{FIRST}/tokens/{preset['id']}"))

    assert (status, code) == (409, 3045)
    assert "api_token" in text
    assert await server.run(FIRST, "operator") == 200


async def test_a_token_ends_when_it_says(server: Server) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.4)
    token = await server.token(FIRST, expires_on=soon.isoformat())
    assert await server.run(FIRST, token["value"]) == 200

    while await server.run(FIRST, token["value"]) == 200:
        assert datetime.now(UTC) < soon + timedelta(seconds=5)

    assert datetime.now(UTC) >= soon
    assert await server.run(FIRST, token["value"]) == 401
    [_, listed] = (await server.ask("GET", f"/{FIRST}/tokens")).json()["result"]
    assert listed["status"] == "expired"


async def test_each_scope_opens_its_routes_and_no_others(server: Server) -> None:
    account = await server.account()
    routes = {
        "run": ("POST", f"/{account}/ai/run/{MODEL}", {"prompt": "x"}),
        "admin": ("GET", f"/{account}/tokens", None),
        "finetunes:read": ("GET", f"/{account}/ai/finetunes", None),
        "finetunes:write": ("DELETE", f"/{account}/ai/finetunes/none", None),
    }
    for scope in ALL:
        value = (await server.token(account, scope))["value"]
        for needed, (method, path, body) in routes.items():
            status = (await server.ask(method, path, value, json=body)).status_code
            assert (status == 403) == (scope != needed), (scope, path)
        assert (await server.ask("GET", f"/{account}/tokens/verify", value)).status_code == 200


async def test_verify_tells_a_token_about_itself(server: Server) -> None:
    account = await server.account()
    token = await server.token(account, "finetunes:read", expires_on="2999-01-01T01:00:00+01:00")

    answer = (await server.ask("GET", "/your-account-id/tokens/verify", token["value"])).json()["result"]

    assert answer == {
        "id": token["id"],
        "name": "key",
        "status": "active",
        "issued_on": token["issued_on"],
        "scopes": ["finetunes:read"],
        "expires_on": "2999-01-01T00:00:00Z",
        "account_id": account,
    }
    assert (await server.ask("GET", f"/{account}/tokens/verify", "wrong")).status_code == 401
    assert (await server.ask("GET", f"/{account}/tokens/verify")).status_code == 403, "another account's token"


async def test_without_the_scope_admin_nothing_tells_foreign_from_unknown(server: Server) -> None:
    own, foreign = await server.account(), await server.account()
    target = await server.token(foreign)
    value = (await server.token(own, "run", "finetunes:read", "finetunes:write"))["value"]
    accounts = (own, foreign, FIRST, "f" * 32, "your-account-id", "x", "%2e%2e", "a%00b", "' OR 1=1 --")
    routes = [("GET", ""), ("POST", "")]
    routes += [(method, f"/{account}") for method, account in itertools.product(("GET", "DELETE"), accounts)]
    routes += [(method, f"/{account}/tokens") for method, account in itertools.product(("GET", "POST"), accounts)]
    routes += [("DELETE", f"/{account}/tokens/{target['id']}") for account in accounts]

    for method, path in routes:
        answer = await server.ask(method, path, value, json={"name": "x", "scopes": ["run"]})
        assert (answer.status_code, answer.json()) == (403, REFUSED), (method, path)

    assert await server.run(foreign, target["value"]) == 200


@pytest.mark.parametrize("account", ["f" * 32, "F" * 32, "x", "a%00b", "%2e%2e", "' OR 1=1 --", "é", FIRST + "0"])
async def test_an_operator_is_told_that_an_account_is_unknown(server: Server, account: str) -> None:
    body = {"name": "x", "scopes": ["run"]}
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/tokens"), ("POST", "/tokens"), ("DELETE", "/tokens/x")]:
        status, code, text = error(await server.ask(method, f"/{account}{path}", json=body))
        assert (status, code) == (404, 7003), (method, path)
        assert text.endswith("not found")


async def test_a_token_is_revoked_under_its_own_account_only(server: Server) -> None:
    account, other = await server.account(), await server.account()
    token = await server.token(account)

    for path in (f"/{other}/tokens/{token['id']}", f"/{account}/tokens/x", f"/{account}/tokens/a%00b"):
        assert error(await server.ask("DELETE", path))[:2] == (404, 7003)

    assert await server.run(account, token["value"]) == 200


async def test_the_first_account_stays(server: Server) -> None:
    for account in (FIRST, "your-account-id"):
        status, code, text = error(await server.ask("DELETE", f"/{account}"))
        assert (status, code, text) == (409, 3045, "the first account cannot be deleted")
    assert await server.run(FIRST, "operator") == 200


async def test_a_deleted_account_is_gone_with_tokens_and_adapters(server: Server, tmp_path: Path) -> None:
    account = await server.account()
    token = await server.token(account, *ALL)
    await server.adapter(account, token["value"])
    assert await server.run(account, token["value"], lora="poet") == 200

    assert (await server.ask("DELETE", f"/{account}")).status_code == 200

    assert await server.run(account, token["value"]) == 401
    async with open_records(server.settings) as records:
        assert await records.adapters.list(account) == ()


async def test_an_account_with_public_adapters_stays_until_they_are_gone(server: Server) -> None:
    account = await server.account()
    token = await server.token(account, *ALL)
    await server.adapter(account, token["value"], "cf-public-poet", public=True)

    status, code, text = error(await server.ask("DELETE", f"/{account}"))
    assert (status, code) == (409, 3045)
    assert "cf-public-poet" in text
    assert await server.run(FIRST, "operator", lora="cf-public-poet") == 200

    await server.ask("DELETE", f"/{account}/ai/finetunes/cf-public-poet", token["value"])
    assert (await server.ask("DELETE", f"/{account}")).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", 3003),
        ("{", 5006),
        ("[]", 5006),
        ("{}", 3003),
        ('{"name": 1}', 5006),
        ('{"name": ""}', 5006),
        ('{"name": " x"}', 5006),
        ('{"name": "a\\u0000b"}', 5006),
        ('{"name": "\\u202e"}', 5006),
        ('{"name": "\\ud800"}', 5006),
        (f'{{"name": "{"x" * 256}"}}', 5006),
        ('{"name": "x", "name": "y"}', 5006),
        ('{"name": "x", "type": "enterprise"}', 5006),
    ],
)
async def test_an_account_with_a_bad_body_is_refused(server: Server, body: str, code: int) -> None:
    answer = await server.ask("POST", content=body.encode())

    assert error(answer)[:2] == (400, code), answer.text
    assert len((await server.ask("GET")).json()["result"]) == 1


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"scopes": ...}, 3003),
        ({"name": ...}, 3003),
        ({"scopes": []}, 5006),
        ({"scopes": "run"}, 5006),
        ({"scopes": ["run", "root"]}, 5006),
        ({"scopes": ["RUN"]}, 5006),
        ({"scopes": [None]}, 5006),
        ({"scopes": [{}]}, 5006),
        ({"expires_on": "2020-01-01T00:00:00Z"}, 5006),
        ({"expires_on": "2999-01-01T00:00:00"}, 5006),
        ({"expires_on": "tomorrow"}, 5006),
        ({"expires_on": 1}, 5006),
        ({"expires_on": "9999-12-31T23:59:59-23:00"}, 5006),
        ({"policies": [{"effect": "allow"}]}, 5006),
        ({"condition": {"request_ip": {"in": ["127.0.0.1"]}}}, 5006),
        ({"not_before": "2999-01-01T00:00:00Z"}, 5006),
        ({"name": "line\nbreak"}, 5006),
    ],
)
async def test_a_token_with_a_bad_body_is_refused(server: Server, members: dict[str, Any], code: int) -> None:
    body = {key: value for key, value in ({"name": "x", "scopes": ["run"]} | members).items() if value is not ...}

    answer = await server.ask("POST", f"/{FIRST}/tokens", json=body)

    assert error(answer)[:2] == (400, code), answer.text
    assert len((await server.ask("GET", f"/{FIRST}/tokens")).json()["result"]) == 1


async def test_a_slash_at_the_end_makes_no_difference(server: Server) -> None:
    assert (await server.ask("GET", "/")).json() == (await server.ask("GET")).json()
    assert (await server.ask("GET", f"/{FIRST}/tokens/")).status_code == 200


async def test_no_token_is_ever_logged(server: Server) -> None:
    account = await server.account()
    token = await server.token(account, *ALL)
    for value in (token["value"], "wrong-secret"):
        await server.run(account, value)
        await server.ask("GET", f"/{account}/tokens", value)
        await server.ask("POST", f"/{account}/tokens", value, json={"name": value, "scopes": [value]})
    await server.ask("DELETE", f"/{account}/tokens/{token['id']}")
    await server.ask("DELETE", f"/{account}")

    lines = server.log.getvalue()

    assert [event for event in ("token created", "token revoked", "account deleted") if event not in lines] == []
    assert [value for value in (token["value"], "operator", "wrong-secret") if value in lines] == []


async def test_the_official_client_reads_what_it_gets(server: Server) -> None:
    transport = server.client._transport
    async with (
        httpx.AsyncClient(transport=transport) as http,
        cloudflare.AsyncCloudflare(
            api_token="operator", base_url="http://gemlora/client/v4", http_client=http
        ) as client,
    ):
        account = await client.accounts.create(name="tenant")
        assert account is not None
        assert [one.id async for one in client.accounts.list(per_page=1.0)] == [FIRST, account.id]
        created = await client.accounts.tokens.create(
            account_id=account.id, name="key", policies=[], extra_body={"scopes": ["run"]},
            expires_on=datetime(2999, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        assert created is not None
        assert created.value
        [listed] = [one async for one in client.accounts.tokens.list(account_id=account.id)]
        assert (listed.id, listed.status, listed.expires_on) == (created.id, "active", datetime(2999, 1, 1, tzinfo=UTC))
        own = client.with_options(api_token=created.value)
        verified = await own.accounts.tokens.verify(account_id=account.id)
        assert verified is not None
        assert (verified.id, verified.status) == (created.id, "active")
        await client.accounts.tokens.delete(str(created.id), account_id=account.id)
        with pytest.raises(cloudflare.AuthenticationError):
            await own.accounts.tokens.verify(account_id=account.id)
        deleted = await client.accounts.delete(account_id=account.id)
        assert deleted is not None
        assert deleted.id == account.id
