"""The application over real accounts and a real registry: a database and blobs in a temporary folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
from sqlalchemy import event
from tests.api.parts import ALICE, BOB, MODEL, START, Parts
from tests.registry.peft_folder import BASE, PeftFolder

from gemlora.accounts.records import Account, Scope, Token
from gemlora.accounts.repository import AccountRepository
from gemlora.accounts.service import Accounts, token_digest
from gemlora.aliases.pairs import PairRepository
from gemlora.aliases.repository import AliasRepository
from gemlora.aliases.service import Aliases, AliasLimits
from gemlora.aliases.shadowing import KeepingRules, ShadowRecords
from gemlora.api.limits import Limits
from gemlora.batches.repository import BatchRepository
from gemlora.engines.contract import ModelFacts
from gemlora.engines.fake import FAKE_FACTS, FakeEngine
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE, Adapters
from gemlora.registry.holdings import AdapterHoldings
from gemlora.registry.models import AdapterLimits
from gemlora.registry.records import ReadyAdapter
from gemlora.registry.repository import AdapterRepository
from gemlora.registry.uploads import Uploads
from gemlora.serving.batches import Batches, BatchRules
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.telemetry.logs import create_logger

OPERATOR = "0" * 32
FINETUNES = f"/client/v4/accounts/{ALICE}/ai/finetunes"
SHELF = FINETUNES.replace(ALICE, OPERATOR)
RUN = f"/client/v4/accounts/{ALICE}/ai/run/{MODEL}"
DOCUMENTED = ["id", "model", "name", "description", "created_at", "modified_at"]
"""Members of every finetune, in their order."""
EVERY_SCOPE = frozenset(Scope)
OWN_SCOPES = EVERY_SCOPE - {Scope.ADMIN}
FACTS = msgspec.structs.replace(
    FAKE_FACTS, name=BASE.name, layers=BASE.layers, vocabulary=BASE.vocabulary, modules=BASE.modules,
    hidden=BASE.hidden, tied=BASE.tied,
)  # fmt: skip

TOKENS = {
    "alice": (ALICE, OWN_SCOPES, "valid"),
    "bob": (BOB, OWN_SCOPES, "valid"),
    "operator": (OPERATOR, EVERY_SCOPE, "valid"),
    "alice-revoked": (ALICE, EVERY_SCOPE, "revoked"),
    "alice-expired": (ALICE, EVERY_SCOPE, "expired"),
    **{f"alice-{scope.value}": (ALICE, frozenset({scope}), "valid") for scope in Scope},
    **{f"alice-not-{scope.value}": (ALICE, EVERY_SCOPE - {scope}, "valid") for scope in Scope},
}
"""Account, scopes and state of each token; the token's text is the key."""


@dataclass
class FakeProbe:
    """The engine's part in an upload."""

    difference: float = 1.0
    failure: Exception | None = None
    probed: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)

    async def probe(self, adapter: ReadyAdapter) -> float:
        if self.failure is not None:
            raise self.failure
        self.probed.append(adapter.digest)
        return self.difference

    async def unload(self, digest: str) -> None:
        self.unloaded.append(digest)


class RealParts(Parts):
    """An application and what is behind it."""

    def __init__(
        self, data: DataFolder, database: Database, limits: Limits | None, largest: AdapterLimits, facts: ModelFacts
    ) -> None:
        self.data = data
        self.database = database
        self.probe = FakeProbe()
        self.objects = LocalObjects(data.objects)
        rows, alias_rows = AdapterRepository(database), AliasRepository(database)
        self.registry = Adapters(rows, self.objects, self.probe)
        super().__init__(
            FakeEngine(facts),
            limits,
            accounts=Accounts(AccountRepository(database), data.first_token, AdapterHoldings(self.registry)),
            adapters=self.registry,
            uploads=Uploads(rows, self.objects, self.probe),
            aliases=Aliases(alias_rows, AliasLimits(3, 3), create_logger("error")),
            batches=Batches(BatchRepository(database), BatchRules(pause_seconds=0.02), create_logger("error")),
            shadows=ShadowRecords(
                alias_rows, PairRepository(database), KeepingRules(text_seconds=60), create_logger("error")
            ),
            adapter_limits=largest,
        )
        self.statements: list[str] = []
        event.listen(database._engine.sync_engine, "before_cursor_execute", self._note)

    def client(self, token: str | None = "alice") -> httpx.AsyncClient:
        """Speaks to the application in process."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.api), base_url="http://gemlora", headers=headers)

    def stored(self) -> list[Path]:
        """All files in the folder of blobs, unfinished ones too."""
        return [path for path in self.data.objects.rglob("*") if path.is_file()]

    def _note(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        self.statements.append(statement)


@asynccontextmanager
async def real_parts(
    folder: Path,
    limits: Limits | None = None,
    largest: int = 1 << 20,
    facts: ModelFacts = FACTS,
    highest_rank: int = 256,
    most: int | None = None,
) -> AsyncIterator[RealParts]:
    """Parts in an empty folder, with the accounts and tokens of `TOKENS`."""
    data = DataFolder.open(folder)
    database = await Database.open(data.database)
    try:
        async with AccountRepository(database).changing() as changes:
            for account_id in (ALICE, BOB, OPERATOR):
                await changes.make_first(Account(account_id, account_id[0], START))
            for text, (account_id, scopes, state) in TOKENS.items():
                revoked = START if state == "revoked" else None
                expires = START + timedelta(days=1) if state == "expired" else None
                token = Token(text, account_id, text, scopes, START, expires, revoked)
                await changes.add_token(token, token_digest(text))
        yield RealParts(data, database, limits, AdapterLimits(highest_rank, largest, most), facts)
    finally:
        await database.close()


def peft_files(folder: PeftFolder | None = None, *, at: Path) -> dict[str, bytes]:
    """The two files of an adapter that fits."""
    written = (folder or PeftFolder()).write(at)
    return {name: (written / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}


async def create(client: httpx.AsyncClient, name: str, path: str = FINETUNES) -> str:
    """Create a finetune and return its id."""
    response = await client.post(path, json={"model": MODEL, "name": name})
    assert response.status_code == 200, response.text
    finetune_id: str = response.json()["result"]["id"]
    return finetune_id


async def upload(
    client: httpx.AsyncClient, finetune: str, file_name: str, content: bytes, path: str = FINETUNES
) -> httpx.Response:
    """Upload one file as a form."""
    return await client.post(
        f"{path}/{finetune}/finetune-assets", data={"file_name": file_name}, files={"file": ("upload", content)}
    )


async def ready(client: httpx.AsyncClient, name: str, files: dict[str, bytes], path: str = FINETUNES) -> str:
    """Create a finetune with both files and return its id."""
    finetune_id = await create(client, name, path)
    for file_name, content in files.items():
        response = await upload(client, finetune_id, file_name, content, path)
        assert response.status_code == 200, response.text
    return finetune_id


def refusal(response: httpx.Response) -> tuple[int, int, str]:
    """Status, code and text of an error; checks its form."""
    body = response.json()
    assert list(body) == ["result", "success", "errors", "messages"]
    assert (body["result"], body["success"], body["messages"]) == (None, False, [])
    (error,) = body["errors"]
    return response.status_code, error["code"], error["message"]
