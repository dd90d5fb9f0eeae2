"""Thousands of damaged bodies over the whole application: each is served or refused with a reason, none breaks it."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from tests.api.parts import MODEL
from tests.api.real_parts import FINETUNES, SHELF, RealParts, create, ready

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE

ODD_VALUES: list[Any] = [
    None, True, 0, -1, 10**25, 1e308, "", "\0", "\u202e", "a" * 300, "cf-public-x", "../x", [], {}, [[]], {"a": {}}
]  # fmt: skip
ODD_BYTES = [b"", b"\0", b'"', b"\r\n", b"\r\n\r\n", b"--", b";", b"=", b"{", b"]", b"\\u", b"\xff\xfe", b"%00", b"--b"]


def damaged(generator: random.Random, valid: bytes) -> bytes:
    """With one to three pieces cut out, doubled or replaced."""
    for _ in range(generator.randint(1, 3)):
        start = generator.randrange(len(valid) + 1)
        end = min(len(valid), start + generator.randrange(24))
        middle = generator.choice([*ODD_BYTES, valid[start:end] * 2, generator.randbytes(3)])
        valid = valid[:start] + middle + valid[end:]
    return valid


def forms(generator: random.Random, files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Content types and bodies of uploads, most of them damaged somewhere."""
    for _ in range(1500):
        name = generator.choice([CONFIG_FILE, WEIGHTS_FILE])
        content = files[name]
        if generator.random() < 0.4:
            content = damaged(generator, content)
        parts = [
            f'Content-Disposition: form-data; name="file_name"\r\n\r\n{name}\r\n'.encode(),
            b'Content-Disposition: form-data; name="file"; filename="x"\r\nContent-Type: a/b\r\n\r\n'
            + content
            + b"\r\n",
        ]
        generator.shuffle(parts)
        body = b"".join(b"--b\r\n" + part for part in parts) + b"--b--\r\n"
        if generator.random() < 0.6:
            body = damaged(generator, body)
        kind = b"multipart/form-data; boundary=b"
        if generator.random() < 0.2:
            kind = damaged(generator, kind).replace(b"\r", b"").replace(b"\n", b"")
        yield kind.decode("latin-1"), body


def creations(generator: random.Random) -> Iterator[bytes]:
    """Bodies that ask for a finetune, all of them odd."""
    for index in range(1500):
        wanted = {"model": MODEL, "name": f"odd-{index}", "description": "words", "public": False}
        if generator.random() < 0.5:
            wanted[generator.choice(list(wanted))] = generator.choice(ODD_VALUES)
            yield json.dumps(wanted).encode()
        else:
            yield damaged(generator, json.dumps(wanted).encode())


def check(response: httpx.Response, outcomes: Counter[str]) -> None:
    """A success or a refusal in the documented form."""
    body = response.json()
    outcomes["served" if response.status_code == 200 else "refused"] += 1
    assert response.status_code in (200, 400, 403, 404), response.text
    assert body["success"] is (response.status_code == 200)
    if response.status_code != 200:
        (error,) = body["errors"]
        assert error["code"] in (3003, 3037, 5004, 5006, 5007, 10000), response.text
        assert len(error["message"]) < 1000


async def test_damaged_forms_are_refused_and_what_was_there_stays(
    client: httpx.AsyncClient, parts: RealParts, files: dict[str, bytes]
) -> None:
    generator = random.Random(3)
    await ready(client, "poet", files)
    before = (await client.get(f"{FINETUNES}/poet")).text
    outcomes: Counter[str] = Counter()
    for index, (kind, body) in enumerate(forms(generator, files)):
        if index % 20 == 0:
            draft = await create(client, f"draft-{index}")
        finetune = generator.choice(["poet", draft])
        response = await client.post(
            f"{FINETUNES}/{finetune}/finetune-assets", content=body, headers=[(b"content-type", kind.encode("latin-1"))]
        )
        check(response, outcomes)

    assert min(outcomes["served"], outcomes["refused"]) > 100, outcomes
    assert (await client.get(f"{FINETUNES}/poet")).text == before
    for name, content in files.items():
        assert (await client.get(f"{FINETUNES}/poet/finetune-assets/{name}")).content == content
    listed = (await client.get(FINETUNES)).json()["result"]
    shown = [(await client.get(f"{FINETUNES}/{item['id']}")).json()["result"] for item in listed]
    assert all(item["ready"] == (len(item["files"]) == 2) for item in shown)
    assert not [line for line in parts.log_lines if line["level"] == "error"]


async def test_odd_creations_are_refused_or_make_exactly_what_they_say(
    client: httpx.AsyncClient, parts: RealParts
) -> None:
    outcomes: Counter[str] = Counter()
    made = []
    for body in creations(random.Random(4)):
        response = await client.post(FINETUNES, content=body)
        check(response, outcomes)
        if response.status_code == 200:
            made.append(response.json()["result"])

    assert min(outcomes["served"], outcomes["refused"]) > 100, outcomes
    listed = (await client.get(FINETUNES)).json()["result"]
    assert [item["name"] for item in listed] == [item["name"] for item in made]
    assert not [line for line in parts.log_lines if line["level"] == "error"]


async def test_odd_names_for_the_shelf_are_refused(operator: httpx.AsyncClient, files: dict[str, bytes]) -> None:
    await ready(operator, "source", files, SHELF)
    outcomes: Counter[str] = Counter()
    generator = random.Random(5)
    for _ in range(200):
        body = damaged(generator, b'{"name": "cf-public-poet"}')
        check(await operator.post(f"{SHELF}/source/publish", content=body), outcomes)
    for value in ODD_VALUES:
        check(await operator.post(f"{SHELF}/source/publish", json={"name": value}), outcomes)

    assert outcomes["refused"] > 100
    shelf = (await operator.get(f"{SHELF}/public?limit=1000")).json()["result"]
    assert all(item["name"].startswith("cf-public-") for item in shelf)
