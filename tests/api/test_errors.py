"""Every error of the reference page is met over HTTP, in each of the forms that the page shows for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from docs.errors_page import EXAMPLES, NEVER, errors_page, forms
from tests.api.parts import ALICE, MODEL, RUN, TOKEN, Parts
from tests.api.real_parts import FINETUNES, create, peft_files, ready, real_parts, upload

from gemlora import errors
from gemlora.api.envelope import ERROR_KINDS, REFUSALS, Form, error_kind
from gemlora.api.limits import Limits
from gemlora.engines.fake import FakeEngine
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE

CHAT = f"/client/v4/accounts/{ALICE}/ai/v1/chat/completions"
ALIASES = FINETUNES.replace("finetunes", "aliases")
USER = {"role": "user", "content": "x"}


class Sender:
    """Asks for an answer in one of the three forms of model-level answers."""

    def __init__(self, parts: Parts, client: httpx.AsyncClient, form: Form) -> None:
        self.parts = parts
        self._client = client
        self.form = form

    async def send(self, model: str = MODEL, *, version: int = 3, content: Any = None, **inputs: Any) -> httpx.Response:
        inputs = {"messages": [USER], **inputs}
        headers, query, body = {}, {}, inputs
        match self.form:
            case Form.REST:
                path = RUN.replace(MODEL, model)
            case Form.OPENAI:
                path, body = CHAT, {"model": model, **inputs}
            case Form.BINDING:
                path, body, query = "/run", {"inputs": inputs, "options": {}}, {"version": str(version)}
                headers = {"cf-consn-model-id": model}
        content = json.dumps(body).encode() if content is None else content
        return await self._client.post(path, params=query, headers=headers, content=content)


async def silence() -> AsyncIterator[bytes]:
    """A client that stops in the middle of its body."""
    yield b"{"
    await asyncio.sleep(60)


async def failing(sender: Sender, error: errors.GemloraError) -> httpx.Response:
    sender.parts.engine.fail_next(error)
    return await sender.send()


async def closed(sender: Sender) -> httpx.Response:
    await sender.parts.engine.close()
    return await sender.send()


async def without_registry(sender: Sender) -> httpx.Response:
    sender.parts.adapters.failure = errors.StorageFailed("gone")
    return await sender.send(lora="pirate")


async def unknown_batch(sender: Sender) -> httpx.Response:
    asked = {"request_id": "unknown"}
    content = {"inputs": asked, "options": {}} if sender.form is Form.BINDING else asked
    return await sender.send(content=json.dumps(content).encode())


class NoBatches:
    """Knows no batch."""

    async def progress(self, _account_id: str, _model: str, batch_id: str) -> None:
        raise errors.BatchNotFound(batch_id)


async def broken_adapter(sender: Sender) -> httpx.Response:
    sender.parts.engine.break_adapter("ab" * 32)
    return await sender.send(lora="pirate")


WAYS: dict[type[errors.GemloraError], Callable[[Sender], Awaitable[httpx.Response]]] = {
    errors.InvalidRequest: lambda sender: sender.send(max_tokens=0),
    errors.IncompleteRequest: lambda sender: sender.send(content=b""),
    errors.RequestTooLarge: lambda sender: sender.send(content=b" " * 60_000),
    errors.ClientTooOld: lambda sender: sender.send(version=2),
    errors.PromptTooLong: lambda sender: sender.send(messages=[{"role": "user", "content": "x" * 9000}]),
    errors.ConstraintUnmet: lambda sender: failing(sender, errors.ConstraintUnmet("x")),
    errors.ModelNotFound: lambda sender: sender.send("@cf/nobody/nothing"),
    errors.BatchNotFound: unknown_batch,
    errors.AdapterNotFound: lambda sender: sender.send(lora="nobody"),
    errors.AdapterIncomplete: lambda sender: sender.send(lora="half"),
    errors.AdapterInvalid: broken_adapter,
    errors.RequestTimedOut: lambda sender: sender.send(content=silence()),
    errors.RequestAborted: closed,
    errors.OutOfCapacity: lambda sender: failing(sender, errors.OutOfCapacity("full")),
    errors.StorageFailed: without_registry,
    errors.EngineFailed: lambda sender: failing(sender, errors.EngineFailed("secret")),
}
"""How each error is met on the routes of models."""

CASES = [(type(error), form) for error in EXAMPLES for form in forms(error) if form is not None]


@asynccontextmanager
async def as_alice(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(parts.api), base_url="http://gemlora", headers=headers
    ) as client:
        yield client


@pytest.mark.parametrize(("error", "form"), CASES, ids=lambda value: getattr(value, "__name__", None))
async def test_each_error_is_met_on_the_routes_of_models(error: type[errors.GemloraError], form: Form) -> None:
    parts = Parts(FakeEngine(), Limits(body_bytes=50_000, body_idle_seconds=0.05), batches=NoBatches())
    async with as_alice(parts) as client:
        response = await WAYS[error](Sender(parts, client, form))

    kind = ERROR_KINDS.get(error) or ERROR_KINDS[errors.GemloraError]
    body = response.json()
    assert response.status_code == kind.http
    if form is Form.BINDING:
        assert list(body) == ["name", "internalCode", "httpCode", "message", "description", "requestId"]
        assert (body["internalCode"], body["httpCode"]) == (kind.code, kind.http)
        assert body["requestId"] == response.headers["cf-ai-req-id"]
    else:
        assert [entry["code"] for entry in body["errors"]] == [kind.code]
        assert body["result"] == {}
        assert response.headers["cf-ai-req-id"] in body["errors"][0]["message"]
        assert ("error" in body) is (form is Form.OPENAI)


Registry = Callable[[httpx.AsyncClient, httpx.AsyncClient], Awaitable[httpx.Response]]
"""Gets Alice's client and the operator's."""


async def taken_name(alice: httpx.AsyncClient, _operator: httpx.AsyncClient) -> httpx.Response:
    await create(alice, "mine")
    return await alice.post(FINETUNES, json={"model": MODEL, "name": "mine"})


async def one_too_many(alice: httpx.AsyncClient, _operator: httpx.AsyncClient) -> httpx.Response:
    for number in range(3):
        await create(alice, f"mine-{number}")
    return await alice.post(FINETUNES, json={"model": MODEL, "name": "mine"})


async def missing_file(alice: httpx.AsyncClient, _operator: httpx.AsyncClient) -> httpx.Response:
    await create(alice, "mine")
    return await alice.get(f"{FINETUNES}/mine/finetune-assets/{CONFIG_FILE}")


async def bad_weights(alice: httpx.AsyncClient, _operator: httpx.AsyncClient) -> httpx.Response:
    await create(alice, "mine")
    return await upload(alice, "mine", WEIGHTS_FILE, b"nothing")


async def alias_too_many(alice: httpx.AsyncClient, _operator: httpx.AsyncClient) -> httpx.Response:
    for number in range(4):
        base = [{"version": "cf-public-base", "weight": 1}]
        response = await alice.post(ALIASES, json={"name": f"bot-{number}", "versions": base})
    return response


async def measured_by_the_server(alice: httpx.AsyncClient, _operator: httpx.AsyncClient) -> httpx.Response:
    with TemporaryDirectory() as folder:
        await ready(alice, "mine", peft_files(at=Path(folder)))
    base = "cf-public-base"
    versions = [{"version": base, "weight": 1}, {"version": "mine", "weight": 0, "shadow": 1}]
    test = {"control": base, "candidate": "mine", "metric": "ended", "effect": 0.5, "measured_by": "server"}
    await alice.post(ALIASES, json={"name": "bot", "versions": versions, "test": test})
    return await alice.post(f"{ALIASES}/bot/outcomes", json={"version": "mine", "value": 1})


GATEWAY_WAYS: dict[type[errors.GemloraError], Registry] = {
    errors.InvalidRequest: lambda alice, _: alice.post(FINETUNES, json={"model": MODEL, "name": " "}),
    errors.IncompleteRequest: lambda alice, _: alice.post(FINETUNES, json={"model": MODEL}),
    errors.RequestTooLarge: lambda alice, _: alice.post(FINETUNES, content=b" " * 60_000),
    errors.ModelNotFound: lambda alice, _: alice.post(FINETUNES, json={"model": "@cf/no", "name": "mine"}),
    errors.AccountNotFound: lambda _, operator: operator.get(f"/client/v4/accounts/{'f' * 32}"),
    errors.TokenNotFound: lambda _, operator: operator.delete(
        f"/client/v4/accounts/{ALICE}/tokens/00000000-0000-0000-0000-000000000000"
    ),
    errors.AliasNotFound: lambda alice, _: alice.get(f"{ALIASES}/nobody"),
    errors.TooManyAliases: alias_too_many,
    errors.OutcomesMeasured: measured_by_the_server,
    errors.AdapterNotFound: lambda alice, _: alice.get(f"{FINETUNES}/nobody"),
    errors.AdapterNotReady: missing_file,
    errors.AdapterInvalid: bad_weights,
    errors.AdapterExists: taken_name,
    errors.TooManyAdapters: one_too_many,
    errors.StillNeeded: lambda _, operator: operator.delete("/client/v4/accounts/your-account-id"),
    errors.RequestTimedOut: lambda alice, _: alice.post(FINETUNES, content=silence()),
}
"""How each error is met on the routes of finetunes, accounts and tokens."""

FAILURES = {
    errors.StorageFailed: ("GET", FINETUNES, None),
    errors.ChangeFailed: ("POST", FINETUNES, {"model": MODEL, "name": "mine"}),
    errors.RequestAborted: ("GET", FINETUNES, None),
    errors.EngineFailed: ("GET", FINETUNES, None),
}
"""Those that need a failure behind the registry, and the request that meets it."""


def check_gateway(response: httpx.Response, error: type[errors.GemloraError]) -> None:
    kind = ERROR_KINDS.get(error) or ERROR_KINDS[errors.GemloraError]
    assert response.status_code == kind.http, response.text
    assert list(response.json()) == ["result", "success", "errors", "messages"]
    assert response.json()["result"] is None
    assert [entry["code"] for entry in response.json()["errors"]] == [kind.code]
    assert "cf-ai-req-id" not in response.headers


@pytest.mark.parametrize("error", GATEWAY_WAYS)
async def test_each_error_is_met_on_the_routes_of_the_registry(
    error: type[errors.GemloraError], tmp_path: Path
) -> None:
    limits = Limits(body_bytes=50_000, body_idle_seconds=0.05)
    async with real_parts(tmp_path, limits, most=3) as parts, parts.client() as alice, parts.client("operator") as op:
        check_gateway(await GATEWAY_WAYS[error](alice, op), error)


@pytest.mark.parametrize("error", FAILURES)
async def test_each_failure_behind_the_registry_has_its_answer(
    error: type[errors.GemloraError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, path, body = FAILURES[error]
    raised = errors.StorageFailed if error is errors.ChangeFailed else error
    async with real_parts(tmp_path) as parts, parts.client() as alice:

        async def fail(*_: object, **__: object) -> None:
            raise raised("secret")

        monkeypatch.setattr(parts.registry, "list", fail)
        monkeypatch.setattr(parts.services.uploads, "create", fail)
        check_gateway(await alice.request(method, path, json=body), error)


REFUSED: dict[tuple[int, int], tuple[str, str, str]] = {
    (10000, 401): ("POST", CHAT, "wrong"),
    (10000, 403): ("POST", CHAT.replace(ALICE, "f" * 32), TOKEN),
    (7000, 400): ("POST", CHAT + "/nothing", TOKEN),
    (7000, 404): ("GET", "/nothing", TOKEN),
    (7001, 405): ("PUT", CHAT, TOKEN),
    (7003, 404): ("POST", f"/client/v4/accounts//ai/run/{MODEL}", TOKEN),
}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.code}-{refusal.http}")
async def test_each_refusal_is_met_before_model_code(refusal: Any) -> None:
    method, path, token = REFUSED[refusal.code, refusal.http]
    async with as_alice(Parts(FakeEngine())) as client:
        response = await client.request(method, path, headers={"authorization": f"Bearer {token}"})

    assert response.status_code == refusal.http
    message = refusal.message.format(method=method, path=path)
    assert response.json()["errors"] == [{"code": refusal.code, "message": message}]
    assert ("error" in response.json()) is ("/ai/v1/" in path)


def test_the_page_covers_the_whole_table_and_every_way_is_tested() -> None:
    shown = {error_kind(error) for error in EXAMPLES}

    assert shown == set(ERROR_KINDS.values())
    assert {type(error) for error in EXAMPLES if len(forms(error)) != 1} <= WAYS.keys()
    assert {type(error) for error in EXAMPLES if None in forms(error)} == GATEWAY_WAYS.keys() | FAILURES.keys()
    assert not {kind.code for kind in (*shown, *REFUSALS)} & NEVER.keys()


def test_the_page_has_no_code_of_the_hosted_service_unsaid() -> None:
    documented = {
        3003, 3006, 3007, 3008, 3021, 3023, 3036, 3037, 3039, 3040, 3041, 3042, 4006, 5004, 5005, 5006, 5007, 5016,
        5018, 5019, 5021, 5035, 7000, 7001, 7003, 10000,
    }  # fmt: skip

    assert documented <= {kind.code for kind in (*ERROR_KINDS.values(), *REFUSALS)} | NEVER.keys()
    assert all(str(code) in errors_page() for code in documented)
