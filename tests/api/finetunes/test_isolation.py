"""Another account's adapter is indistinguishable from an unknown one, on every route and in every field."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
from tests.api.parts import ALICE, BOB, MODEL
from tests.api.real_parts import FINETUNES, OPERATOR, SHELF, RealParts, create, ready
from tests.api.test_routes import api_routes

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE

BOBS = FINETUNES.replace(ALICE, BOB)
BOBS_RUN = f"/client/v4/accounts/{BOB}/ai/run"
UNKNOWN_ID = "99999999-8888-7777-6666-555555555555"
UNKNOWN_NAME = "ghost"
PROMPT = {"prompt": "x"}
BINDING = {"cf-consn-model-id": MODEL}
FORWARDED = {"x-forwarded": "https://workers-binding.ai/run?version=3"}
REQUEST_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Use = Callable[[httpx.AsyncClient, str], Awaitable[httpx.Response]]


@dataclass(frozen=True)
class Alices:
    """What Alice owns and Bob names: adapters with files and without, by name and by id."""

    poet: str
    draft: str

    def spelled(self) -> list[tuple[str, str]]:
        """Each way to name one, beside an unknown one of the same length."""
        return [("poets", UNKNOWN_NAME), ("draft", UNKNOWN_NAME), (self.poet, UNKNOWN_ID), (self.draft, UNKNOWN_ID)]


@pytest.fixture
async def alices(client: httpx.AsyncClient, files: dict[str, bytes]) -> Alices:
    return Alices(await ready(client, "poets", files), await create(client, "draft"))


@pytest.fixture
async def bob(parts: RealParts) -> AsyncIterator[httpx.AsyncClient]:
    async with parts.client("bob") as bob:
        yield bob


async def publish(client: httpx.AsyncClient, name: str) -> httpx.Response:
    """As the operator, whose token may publish what the operator's own account has."""
    headers = {"authorization": "Bearer operator"}
    return await client.post(f"{SHELF}/{name}/publish", json={"name": "cf-public-stolen"}, headers=headers)


def posting(path: str, body: Callable[[str], object], **headers: str) -> Use:
    return lambda client, name: client.post(path.replace("NAME", name), json=body(name), headers=headers)


def asking(method: str, path: str) -> Use:
    return lambda client, name: client.request(method, path.replace("NAME", name))


def uploading(path: str, file_name: str) -> Use:
    return lambda client, name: client.post(
        path.replace("NAME", name), data={"file_name": file_name}, files={"file": ("upload", b"{}")}
    )


RUN = f"{BOBS_RUN}/{MODEL}"
MESSAGES = {"messages": [{"role": "user", "content": "x"}]}
ASSETS = f"{BOBS}/NAME/finetune-assets"
PLACEHOLDER = FINETUNES.replace(ALICE, "your-account-id")

FIELDS: dict[str, tuple[str, Use]] = {
    "lora": (RUN, posting(RUN, lambda name: {**PROMPT, "lora": name})),
    "lora, streaming": (RUN, posting(RUN, lambda name: {**PROMPT, "lora": name, "stream": True})),
    "lora, raw": (RUN, posting(RUN, lambda name: {**PROMPT, "lora": name, "raw": True})),
    "lora, messages": (RUN, posting(RUN, lambda name: {**MESSAGES, "lora": name})),
    "lora, encoded model": (
        RUN,
        posting(RUN.replace("/google/", "%2Fgoogle%2F"), lambda name: {**PROMPT, "lora": name}),
    ),
    "?lora=": (RUN, posting(f"{RUN}?lora=NAME", lambda _: PROMPT)),
    "options.lora": (RUN, posting(RUN, lambda name: {**PROMPT, "options": {"lora": name}})),
    "binding": ("/run", posting("/run?version=3", lambda name: {"inputs": {**PROMPT, "lora": name}}, **BINDING)),
    "binding, options": (
        "/run",
        posting("/run?version=3", lambda name: {"inputs": PROMPT, "options": {"lora": name}}, **BINDING),
    ),
    "binding, query": ("/run", posting("/run?version=3&lora=NAME", lambda _: {"inputs": PROMPT}, **BINDING)),
    "gateway": (
        "/ai-gateway/run",
        posting("/ai-gateway/run", lambda name: {"inputs": {**PROMPT, "lora": name}}, **BINDING),
    ),
    "proxy": (
        f"{BOBS_RUN}/proxy",
        posting(f"{BOBS_RUN}/proxy", lambda name: {"inputs": {**PROMPT, "lora": name}}, **BINDING, **FORWARDED),
    ),
    "show": (f"{BOBS}/NAME", asking("GET", f"{BOBS}/NAME")),
    "show, slash": (f"{BOBS}/NAME", asking("GET", f"{BOBS}/NAME/")),
    "show, placeholder": (f"{BOBS}/NAME", asking("GET", f"{PLACEHOLDER}/NAME")),
    "rename": (f"{BOBS}/NAME", lambda client, name: client.patch(f"{BOBS}/{name}", json={"name": "stolen"})),
    "delete": (f"{BOBS}/NAME", asking("DELETE", f"{BOBS}/NAME")),
    "upload": (ASSETS, uploading(ASSETS, CONFIG_FILE)),
    "upload, weights": (ASSETS, uploading(ASSETS, WEIGHTS_FILE)),
    "upload, odd name": (ASSETS, uploading(ASSETS, "x")),
    "upload, no form": (ASSETS, posting(ASSETS, lambda _: {})),
    "download": (f"{ASSETS}/FILE", asking("GET", f"{ASSETS}/{CONFIG_FILE}")),
    "download, weights": (f"{ASSETS}/FILE", asking("GET", f"{ASSETS}/{WEIGHTS_FILE}")),
    "download, odd name": (f"{ASSETS}/FILE", asking("GET", f"{ASSETS}/x")),
    "download, headers": (f"{ASSETS}/FILE", asking("HEAD", f"{ASSETS}/{WEIGHTS_FILE}")),
    "publish": (f"{SHELF}/NAME/publish", publish),
}
"""Every field that names an adapter: its route, and a use of it with a name."""


def told(response: httpx.Response, name: str) -> tuple[int, list[tuple[str, str]], str]:
    """Everything that a client sees, but for the name that it sent itself and the request's id."""
    headers = [(key, REQUEST_ID.sub("ID", value)) for key, value in response.headers.items()]
    return response.status_code, headers, REQUEST_ID.sub("ID", response.text.replace(name, "NAME"))


def test_every_route_that_names_an_adapter_is_in_the_table(parts: RealParts) -> None:
    tested = {path.replace(BOB, "{account_id}").replace(OPERATOR, "{account_id}") for path, _ in FIELDS.values()}
    tested = {path.replace("NAME", "{finetune}").replace("FILE", "{file_name}") for path in tested}
    tested = {path.replace(MODEL, "{model:path}") for path in tested}

    paths = {route.path for route in api_routes(parts)}

    assert tested == {path for path in paths if "{finetune}" in path or "run" in path.split("/")}


@pytest.mark.parametrize("field", FIELDS)
async def test_a_foreign_adapter_answers_as_an_unknown_one_with_the_same_work(
    bob: httpx.AsyncClient, alices: Alices, parts: RealParts, field: str
) -> None:
    _, use = FIELDS[field]
    for foreign, unknown in alices.spelled():
        parts.statements.clear()
        expected = told(await use(bob, unknown), unknown)
        statements = list(parts.statements)
        parts.statements.clear()

        assert told(await use(bob, foreign), foreign) == expected
        assert expected[0] == 404
        assert parts.statements == statements


async def test_whatever_bob_tries_alices_adapters_stay_as_they_are(
    client: httpx.AsyncClient, bob: httpx.AsyncClient, alices: Alices, parts: RealParts
) -> None:
    before = [(await client.get(f"{FINETUNES}{rest}")).text for rest in ("", "/poets", "/draft", "/public")]
    blobs = sorted(parts.stored())

    for _, use in FIELDS.values():
        for foreign, _ in alices.spelled():
            await use(bob, foreign)

    assert [(await client.get(f"{FINETUNES}{rest}")).text for rest in ("", "/poets", "/draft", "/public")] == before
    assert sorted(parts.stored()) == blobs
    assert (await bob.get(BOBS)).json()["result"] == []


async def test_the_same_name_means_each_account_its_own(
    client: httpx.AsyncClient, bob: httpx.AsyncClient, alices: Alices, files: dict[str, bytes]
) -> None:
    bobs_poet = await ready(bob, "poets", files, BOBS)

    assert (await bob.get(f"{BOBS}/poets")).json()["result"]["id"] == bobs_poet
    assert (await client.get(f"{FINETUNES}/poets")).json()["result"]["id"] == alices.poet
    await bob.delete(f"{BOBS}/poets")
    assert (await client.post(f"{RUN.replace(BOB, ALICE)}", json={**PROMPT, "lora": "poets"})).status_code == 200


async def test_an_account_with_alices_id_in_its_path_is_closed_to_bob(bob: httpx.AsyncClient, alices: Alices) -> None:
    for name in ("poets", alices.poet, UNKNOWN_NAME):
        for method, rest in [("GET", ""), ("GET", f"/{name}"), ("DELETE", f"/{name}"), ("POST", f"/{name}/publish")]:
            response = await bob.request(method, FINETUNES + rest)

            assert response.status_code == 403
            assert response.json()["errors"] == [{"code": 10000, "message": "Authentication error"}]
