"""Aliases over HTTP: written like an adapter's name on every route that generates, changed at once, never dropping."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jsonschema_rs
import pytest
from tests.api.parts import MODEL
from tests.api.real_parts import FINETUNES, RUN, RealParts, peft_files, ready, real_parts, refusal

ALIASES = FINETUNES.replace("finetunes", "aliases")
BOT = f"{ALIASES}/support%20bot"
CHAT = FINETUNES.replace("finetunes", "v1/chat/completions")
NAME, BASE = "support bot", "cf-public-base"
USER = [{"role": "user", "content": "x"}]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[RealParts]:
    async with real_parts(tmp_path / "data") as parts, parts.client() as alice:
        await ready(alice, "new", peft_files(at=tmp_path / "peft"))
        yield parts


@pytest.fixture
async def alice(parts: RealParts) -> AsyncIterator[httpx.AsyncClient]:
    async with parts.client() as client:
        yield client


def pointing(**weights: float) -> list[dict[str, object]]:
    return [{"version": BASE if name == "base" else name, "weight": weight} for name, weight in weights.items()]


async def put(client: httpx.AsyncClient, method: str = "PUT", **weights: float) -> None:
    path, named = (ALIASES, {"name": NAME}) if method == "POST" else (BOT, {})
    response = await client.request(method, path, json={**named, "versions": pointing(**weights)})
    assert response.status_code == 200, response.text


def version(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    label = response.headers["gemlora-alias"]
    assert label.startswith("support%20bot; revision=")
    served: str = label.rpartition("version=")[2]
    assert response.headers["gemlora-adapter"].partition("@")[0] == {BASE: "none"}.get(served, served)
    return served


async def test_every_route_takes_an_alias_where_it_takes_an_adapter(alice: httpx.AsyncClient) -> None:
    await put(alice, "POST", new=1)
    inputs = {"messages": USER, "lora": NAME}
    binding = {"headers": {"cf-consn-model-id": MODEL}, "json": {"inputs": inputs, "options": {}}}

    assert version(await alice.post(RUN, json=inputs)) == "new"
    assert version(await alice.post(RUN, json={**inputs, "stream": True})) == "new"
    assert version(await alice.post(RUN, params={"lora": NAME}, json={"messages": USER})) == "new"
    assert version(await alice.post("/run?version=3", **binding)) == "new"
    assert version(await alice.post(CHAT, json={"model": f"{MODEL}:{NAME}", "messages": USER})) == "new"
    plain = await alice.post(RUN, json={"messages": USER, "lora": "new"})
    assert "gemlora-alias" not in plain.headers
    assert plain.headers["gemlora-adapter"].startswith("new@")


async def test_a_conversation_and_a_seeded_request_keep_their_version(alice: httpx.AsyncClient) -> None:
    await put(alice, "POST", new=50, base=50)

    async def served(affinity: str | None, **inputs: object) -> str:
        headers = {} if affinity is None else {"x-session-affinity": affinity}
        return version(await alice.post(RUN, headers=headers, json={"prompt": "x", "lora": NAME, **inputs}))

    talks = [[await served(f"talk {number}", prompt=f"{turn}") for turn in range(2)] for number in range(12)]
    assert all(first == second for first, second in talks)
    assert {first for first, _ in talks} == {"new", BASE}
    seeded = [[await served(None, seed=seed) for _ in range(2)] for seed in range(1, 13)]
    assert all(first == second for first, second in seeded)
    assert {first for first, _ in seeded} == {"new", BASE}
    assert {await served(None) for _ in range(30)} == {"new", BASE}


async def test_a_rollback_takes_effect_with_the_next_request_and_drops_none(
    alice: httpx.AsyncClient, parts: RealParts
) -> None:
    await put(alice, "POST", base=1)
    await put(alice, new=1)
    requests = [asyncio.create_task(alice.post(RUN, json={"prompt": "x", "lora": NAME})) for _ in range(20)]
    await asyncio.sleep(0)

    back = await alice.post(f"{BOT}/rollback", json={})

    assert version(await alice.post(RUN, json={"prompt": "x", "lora": NAME})) == BASE
    assert {version(response) for response in await asyncio.gather(*requests)} <= {"new", BASE}
    nothing = {"shadow": 0, "shadow_runs": {"run": 0, "dropped": 0, "failed": 0}}
    assert back.json()["result"]["versions"] == [{"version": BASE, "weight": 1, "outcomes": 0, "mean": None, **nothing}]
    log = (await alice.get(f"{BOT}/revisions")).json()
    assert [(one["action"], one["made_by"], one["note"]) for one in log["result"]] == [
        ("rollback", "alice", "to revision 1"), ("set", "alice", ""), ("create", "alice", ""),
    ]  # fmt: skip
    assert log["result_info"]["total_count"] == 3


async def test_a_test_that_finds_the_candidate_worse_rolls_back(alice: httpx.AsyncClient) -> None:
    test = {
        "control": BASE, "candidate": "new", "metric": "solved", "effect": 0.5, "on_worse": "rollback",
    }  # fmt: skip
    body = {"name": NAME, "versions": pointing(base=1, new=1), "test": test}
    created = (await alice.post(ALIASES, json=body)).json()["result"]
    assert created["test"]["verdict"] == "running"
    for _ in range(created["test"]["sample"]):
        await alice.post(f"{BOT}/outcomes", json={"version": BASE, "value": 1, "revision": 1})
        last = await alice.post(f"{BOT}/outcomes", json={"version": "new", "value": 0, "revision": 1})
        if last.json()["result"]["revision"] > 1:
            break

    assert version(await alice.post(RUN, json={"prompt": "x", "lora": NAME})) == BASE
    now, before = (await alice.get(f"{BOT}/revisions")).json()["result"]
    assert (now["made_by"], now["action"], now["note"]) == ("test", "rollback", f"new is worse than {BASE} in solved")
    assert before["test"]["verdict"] == "worse"
    assert before["versions"][1]["mean"] == 0


async def test_what_is_pointed_to_stays_and_others_see_nothing(alice: httpx.AsyncClient, parts: RealParts) -> None:
    await put(alice, "POST", new=1)

    assert refusal(await alice.delete(f"{FINETUNES}/new"))[:2] == (409, 3045)
    assert refusal(await alice.post(FINETUNES, json={"model": MODEL, "name": NAME}))[:2] == (400, 5004)
    async with parts.client("bob") as bob:
        theirs = BOT.replace("a" * 32, "b" * 32)
        assert refusal(await bob.get(theirs)) == (404, 7003, f"Alias {NAME} not found")
        foreign = await bob.post(RUN.replace("a" * 32, "b" * 32), json={"prompt": "x", "lora": NAME})
        assert foreign.status_code == 404
    assert (await alice.delete(BOT)).json()["result"].keys() == {"id"}
    assert (await alice.delete(f"{FINETUNES}/new")).status_code == 200


WRONG = [
    ("POST", ALIASES, {"name": "other"}, 3003),
    ("POST", ALIASES, {"name": NAME, "versions": pointing(base=1)}, 5004),
    ("POST", ALIASES, {"name": "cf-public-x", "versions": pointing(base=1)}, 5006),
    ("POST", ALIASES, {"name": "other", "versions": pointing(nobody=1)}, 3037),
    *(("PUT", BOT, {"versions": versions}, 5006) for versions in ({}, [1], [], pointing(new=0), pointing(new=-1))),
    ("PUT", BOT, {"versions": [{"version": "new", "weight": True}]}, 5006),
    ("PUT", BOT, {"versions": [{"version": "new", "weight": 10**400}]}, 5006),
    ("PUT", BOT, {"versions": [{"version": "new"}]}, 3003),
    ("PUT", BOT, {"versions": pointing(new=1), "note": 5}, 5006),
    ("PUT", BOT, {"versions": pointing(new=1), "test": 5}, 5006),
    ("POST", f"{BOT}/promote", {"version": "nobody"}, 7003),
    ("POST", f"{BOT}/rollback", {}, 7003),
    *(("POST", f"{BOT}/rollback", {"revision": revision}, 5006) for revision in (0, 1.5, "1")),
    *(("POST", f"{BOT}/outcomes", {"version": "new", "value": value}, 5006) for value in (2, "1", None, True)),
    ("POST", f"{BOT}/outcomes", {"version": "nobody", "value": 1}, 7003),
]


async def test_what_is_wrong_is_refused_and_changes_nothing(alice: httpx.AsyncClient) -> None:
    await put(alice, "POST", new=1)
    before = (await alice.get(BOT)).json()

    for method, path, body, code in WRONG:
        assert refusal(await alice.request(method, path, json=body))[1] == code, (path, body)
    test = {"control": "new", "candidate": BASE, "metric": "m", "effect": 0.5}
    for change in ({"sample": 3}, {"sample": 500.5}, {"better": "up"}, {"on_worse": 1}, {"effect": 0}, {"alpha": None}):
        body = {"versions": pointing(new=1, base=1), "test": {**test, **change}}
        assert refusal(await alice.put(BOT, json=body))[1] == 5006, change

    assert (await alice.get(BOT)).json() == before


async def test_an_alias_points_to_as_many_versions_as_its_document_says(
    alice: httpx.AsyncClient, parts: RealParts, tmp_path: Path
) -> None:
    for name in ("newer", "newest"):
        await ready(alice, name, peft_files(at=tmp_path / name))
    described = {"$ref": "#/components/schemas/AliasShares", "components": parts.document["components"]}
    shares = jsonschema_rs.validator_for(described)

    for names, status in ((("new", "newer", "newest"), 200), (("new", "newer", "newest", "base"), 400)):
        versions = pointing(**dict.fromkeys(names, 1))
        response = await alice.post(ALIASES, json={"name": NAME, "versions": versions})
        assert response.status_code == status, response.text
        assert shares.is_valid(versions) is (status == 200)


async def test_answers_are_as_described(alice: httpx.AsyncClient, parts: RealParts) -> None:
    described = parts.document

    def check(name: str, value: object) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
        jsonschema_rs.validator_for(schema).validate(value)

    test = {"control": "new", "candidate": BASE, "metric": "m", "effect": 0.5}
    body = {"name": NAME, "versions": pointing(new=1, base=1), "test": test, "note": "why"}
    check("Alias", (await alice.post(ALIASES, json=body)).json()["result"])
    for one in (await alice.get(ALIASES)).json()["result"]:
        check("Alias", one)
    for one in (await alice.get(f"{BOT}/revisions")).json()["result"]:
        check("AliasRevision", one)
