"""Whatever three accounts do in whatever order, each runs, sees and changes its own adapters alone."""

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from tests.api.parts import ALICE, BOB, MODEL
from tests.api.real_parts import FINETUNES, OPERATOR, RUN, RealParts, create, peft_files, real_parts, refusal, upload
from tests.registry.peft_folder import PeftFolder, tensors

from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.uploads import adapter_digest

ACCOUNTS = {"alice": ALICE, "bob": BOB, "operator": OPERATOR}
NAMES = ("poet", "cook", ALICE, MODEL, "none", "a" * 64)
"""Some are what an account, a model, a label or a digest is called."""
SHELF = "cf-public-poet"
CONTENTS = 3
STEPS = 60
OPERATIONS = {"make": 4, "start": 2, "attach": 4, "delete": 2, "publish": 1, "run": 8, "collect": 1}


@dataclass
class Finetune:
    """What the model knows of one: `files` are the contents' numbers by file name."""

    id: str
    files: dict[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return len(self.files) == 2


class History:
    """A server beside its model."""

    def __init__(self, parts: RealParts, contents: list[dict[str, bytes]], seed: int) -> None:
        self.parts = parts
        self.contents = contents
        self.random = random.Random(seed)
        self.clients = {account: parts.client(account) for account in ACCOUNTS}
        self.owned: dict[str, dict[str, Finetune]] = {account: {} for account in ACCOUNTS}
        self.gone = ["never-there"]

    def any(self) -> tuple[str, httpx.AsyncClient, str]:
        """An account, its client and one of the names."""
        account = self.random.choice([*ACCOUNTS])
        return account, self.clients[account], self.random.choice(NAMES)

    def path(self, account: str) -> str:
        return FINETUNES.replace(ALICE, ACCOUNTS[account])

    async def start(self) -> None:
        account, client, name = self.any()
        if name in self.owned[account]:
            answer = await client.post(self.path(account), json={"model": MODEL, "name": name})
            assert refusal(answer)[:2] == (400, 5004)
        else:
            self.owned[account][name] = Finetune(await create(client, name, self.path(account)))

    async def make(self) -> None:
        account, client, name = self.any()
        if name in self.owned[account]:
            return
        finetune = self.owned[account][name] = Finetune(await create(client, name, self.path(account)))
        content = self.random.randrange(CONTENTS)
        for file_name, data in self.contents[content].items():
            assert (await upload(client, finetune.id, file_name, data, self.path(account))).is_success
            finetune.files[file_name] = content

    async def attach(self) -> None:
        account, client, name = self.any()
        content, file_name = self.random.randrange(CONTENTS), self.random.choice([CONFIG_FILE, WEIGHTS_FILE])
        data = self.contents[content][file_name]
        answer = await upload(client, name.replace("/", "%2F"), file_name, data, self.path(account))
        finetune = self.owned[account].get(name)
        if finetune is None:
            assert refusal(answer)[:2] == (404, 3037)
        elif finetune.ready and self.contents[finetune.files[file_name]][file_name] != data:
            assert refusal(answer)[:2] == (400, 5004)
        else:
            assert answer.is_success, answer.text
            finetune.files[file_name] = content

    async def delete(self) -> None:
        account, client, name = self.any()
        answer = await client.delete(f"{self.path(account)}/{name.replace('/', '%2F')}")
        finetune = self.owned[account].pop(name, None)
        assert answer.status_code == (404 if finetune is None else 200)
        if finetune is not None:
            self.gone.append(finetune.id)

    async def publish(self) -> None:
        shelf = self.owned["operator"]
        if SHELF in shelf:
            assert (await self.clients["operator"].delete(f"{self.path('operator')}/{SHELF}")).is_success
            self.gone.append(shelf.pop(SHELF).id)
            return
        ready = [finetune for finetune in shelf.values() if finetune.ready]
        if ready:
            finetune = self.random.choice(ready)
            path = f"{self.path('operator')}/{finetune.id}/publish"
            answer = await self.clients["operator"].post(path, json={"name": SHELF})
            assert answer.is_success, answer.text
            shelf[SHELF] = Finetune(answer.json()["result"]["id"], dict(finetune.files))

    async def run(self) -> None:
        """By a name, an own id, another account's id or one that is gone."""
        account, client, name = self.any()
        own = self.owned[account]
        others = [one.id for other in ACCOUNTS if other != account for one in self.owned[other].values()]
        asked = self.random.choice([name, name, SHELF, *(one.id for one in own.values()), *others, self.gone[-1]])
        visible = own | ({SHELF: self.owned["operator"][SHELF]} if SHELF in self.owned["operator"] else {})
        found = [(named, one) for named, one in visible.items() if asked in (named, one.id)]
        answer = await client.post(
            RUN.replace(ALICE, ACCOUNTS[account]), json={"prompt": "x", "max_tokens": 2, "lora": asked}
        )
        if not found:
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, 3037)
            return
        ((named, finetune),) = found
        if not finetune.ready:
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 3039)
            return
        assert answer.is_success, answer.text
        label, _, digest = answer.headers["gemlora-adapter"].rpartition("@")
        assert unquote(label) == named
        assert self.digest(finetune).startswith(digest)
        assert self.parts.engine.requests[-1].adapter.digest == self.digest(finetune)

    async def collect(self) -> None:
        await self.parts.registry.discard_unused()

    def digest(self, finetune: Finetune) -> str:
        """Of the finetune's two files."""
        config, weights = (
            hashlib.sha256(self.contents[finetune.files[file_name]][file_name]).hexdigest()
            for file_name in (CONFIG_FILE, WEIGHTS_FILE)
        )
        return adapter_digest(config, weights)

    async def compare(self) -> None:
        """Each account's list with the model's."""
        for account, client in self.clients.items():
            listed = (await client.get(self.path(account))).json()["result"]
            expected = {name: finetune.id for name, finetune in self.owned[account].items()}
            assert {one["name"]: one["id"] for one in listed} == expected
        shelf = (await self.clients["alice"].get(f"{FINETUNES}/public")).json()["result"]
        assert [one["name"] for one in shelf] == [SHELF] * (SHELF in self.owned["operator"])


@pytest.mark.parametrize("seed", range(8))
async def test_every_history_is_what_a_few_lines_of_python_say(tmp_path: Path, seed: int) -> None:
    contents = [
        peft_files(PeftFolder(tensors=tensors(seed=number)), at=tmp_path / str(number)) for number in range(CONTENTS)
    ]
    async with real_parts(tmp_path / "data") as parts:
        history = History(parts, contents, seed)
        for _ in range(STEPS):
            operation = history.random.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
            await getattr(history, operation)()
            await history.compare()
