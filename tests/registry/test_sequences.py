"""Any sequence of operations does what a few lines of plain Python say, and collecting leaves exactly what is used."""

import json
import random
from dataclasses import dataclass, field

import pytest
from tests.registry.conftest import ALICE, BOB, Registry
from tests.registry.peft_folder import MODEL, config, raw, tensors

from gemlora.errors import AdapterInvalid, EngineFailed, GemloraError
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE

RANKS = {"narrow": 2, "strong": 2, "wide": 3, "seed 0": 2, "seed 1": 2, "thick": 3}
CONFIGS = {
    "narrow": json.dumps(config()).encode(),
    "strong": json.dumps(config(lora_alpha=9)).encode(),
    "wide": json.dumps(config(r=3)).encode(),
}
WEIGHTS = {
    "seed 0": raw(tensors()).content,
    "seed 1": raw(tensors(seed=1)).content,
    "thick": raw(tensors(rank=3)).content,
}
CONTENTS = CONFIGS | WEIGHTS
NAMES = ["poet", "cook", "judge"]
PUBLIC_NAMES = ["cf-public-poet", "cf-public-cook"]
OPERATIONS = {"create": 3, "attach": 12, "publish": 2, "remove": 2, "collect": 1, "fail": 2}


@dataclass
class Row:
    """What the model knows of an adapter."""

    public: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """The key in `CONTENTS` of each file."""
    ready: bool = False

    @property
    def fits(self) -> bool:
        return len({RANKS[content] for content in self.files.values()}) == 1


class Sequence:
    """A registry beside its model."""

    def __init__(self, registry: Registry, generator: random.Random) -> None:
        self.registry = registry
        self.random = generator
        self.rows: dict[tuple[str, str], Row] = {}

    async def step(self) -> None:
        operation = self.random.choices([*OPERATIONS], [*OPERATIONS.values()])[0]
        await getattr(self, operation)()
        await self.compare()

    async def create(self) -> None:
        account, name = self.random.choice([ALICE, BOB]), self.random.choice(NAMES + PUBLIC_NAMES)
        public = name in PUBLIC_NAMES
        creating = self.registry.uploads.create(account, MODEL, name, public=public)
        if self.taken(account, name, public):
            await refused(creating, "AdapterExists")
        else:
            await creating
            self.rows[account, name] = Row(public)

    async def attach(self) -> None:
        if not self.rows:
            return
        (account, name), row = self.random.choice([*self.rows.items()])
        file = self.random.choice([CONFIG_FILE, WEIGHTS_FILE])
        content = self.random.choice([*(CONFIGS if file == CONFIG_FILE else WEIGHTS)])
        wanted = Row(row.public, {**row.files, file: content})
        if row.files.get(file) == content:
            await self.upload(account, name, file, content)
        elif row.ready or (len(wanted.files) == 2 and not wanted.fits):
            await refused(self.upload(account, name, file, content), "AdapterInvalid")
        elif len(wanted.files) == 2 and (failure := self.registry.probe.failure):
            self.registry.probe.unloaded.clear()
            await refused(self.upload(account, name, file, content), type(failure).__name__)
            expected = isinstance(failure, AdapterInvalid) and not self.uses(wanted.files)
            assert bool(self.registry.probe.unloaded) == expected
        else:
            await self.upload(account, name, file, content)
            wanted.ready = len(wanted.files) == 2
            self.rows[account, name] = wanted

    async def upload(self, account: str, name: str, file: str, content: str) -> None:
        adapter = await self.registry.adapters.find(account, name)
        async with self.registry.uploads.receive() as receiver:
            await receiver.write(CONTENTS[content])
            await self.registry.uploads.attach(adapter, file, receiver, MODEL)

    async def publish(self) -> None:
        if not self.rows:
            return
        (account, name), row = self.random.choice([*self.rows.items()])
        public_name = self.random.choice(PUBLIC_NAMES)
        adapter = await self.registry.adapters.find(account, name)
        publishing = self.registry.uploads.publish(adapter, ALICE, public_name)
        if not row.ready:
            await refused(publishing, "AdapterNotReady")
        elif self.taken(ALICE, public_name, public=True):
            await refused(publishing, "AdapterExists")
        else:
            await publishing
            self.rows[ALICE, public_name] = Row(True, dict(row.files), True)

    async def remove(self) -> None:
        account, name = self.random.choice([ALICE, BOB]), self.random.choice(NAMES + PUBLIC_NAMES)
        self.registry.probe.unloaded.clear()
        row = self.rows.pop((account, name), None)
        removing = self.registry.adapters.remove(account, name)
        if row is None:
            await refused(removing, "AdapterNotFound")
        else:
            await removing
            assert bool(self.registry.probe.unloaded) == (row.ready and not self.uses(row.files))

    async def collect(self) -> None:
        await self.registry.rows.discard_unused(lambda used: self.registry.objects.discard(used, -60))
        used: set[str | None] = set()
        for account in (ALICE, BOB):
            for adapter in await self.registry.adapters.list(account):
                held = adapter.files or adapter.pending
                used |= {held.config_blob, held.weights_blob}
                used |= {adapter.files.manifest_blob} if adapter.files else set()
        stored = {path.name for path in self.registry.data.objects.rglob("*") if path.is_file()}
        assert stored == used - {None}

    async def fail(self) -> None:
        """From now on the engine likes no adapter, or likes them again."""
        self.registry.probe.failure = self.random.choice([None, None, EngineFailed("dead"), AdapterInvalid("bad")])

    def taken(self, account: str, name: str, public: bool) -> bool:
        shelf = {name for (_, name), row in self.rows.items() if row.public}
        return (account, name) in self.rows or (public and name in shelf)

    def uses(self, files: dict[str, str]) -> bool:
        return any(row.ready and row.files == files for row in self.rows.values())

    async def compare(self) -> None:
        found = {}
        for account in (ALICE, BOB):
            for adapter in await self.registry.adapters.list(account):
                files = {}
                for file in (CONFIG_FILE, WEIGHTS_FILE):
                    held = adapter.files or adapter.pending
                    if (held.config_blob if file == CONFIG_FILE else held.weights_blob) is not None:
                        stored = (await self.registry.adapters.open_file(adapter, file)).read_bytes()
                        files[file] = next(key for key, content in CONTENTS.items() if content == stored)
                found[account, adapter.name] = Row(adapter.public, files, adapter.ready)
        assert found == self.rows
        shelf = {adapter.name for adapter in await self.registry.adapters.list_public()}
        assert shelf == {name for (_, name), row in self.rows.items() if row.public}


async def refused(operation: object, error: str) -> None:
    with pytest.raises(GemloraError) as raised:
        await operation  # type: ignore[misc]
    assert type(raised.value).__name__ == error


@pytest.mark.parametrize("seed", range(8))
async def test_random_sequences(registry: Registry, seed: int) -> None:
    sequence = Sequence(registry, random.Random(seed))

    for _ in range(60):
        await sequence.step()

    assert sequence.rows
