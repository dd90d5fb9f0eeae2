"""Operations on a registry in a process that is killed at a chosen step, and what must hold in the next process."""

import asyncio
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import obstore
from obstore.store import S3Store
from sqlalchemy import text
from tests.backends import KEY
from tests.faults import Steps
from tests.registry.conftest import ALICE, Registry, add_accounts, make_registry
from tests.registry.peft_folder import MODEL

from gemlora.errors import AdapterExists, AdapterNotFound
from gemlora.registry.adapters import CONFIG_FILE, FILE_NAMES, WEIGHTS_FILE, Adapters
from gemlora.registry.records import Adapter, PendingFiles
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.local_objects import LocalObjects
from gemlora.storage.object_cache import ObjectCache
from gemlora.storage.s3_objects import S3Objects, open_bucket

BYSTANDER = "bystander"
"""An adapter that no operation touches."""

VICTIM = "victim"
PUBLIC = "cf-public-victim"
CHUNK = 4096
"""Bytes; an upload arrives in pieces of this size."""

NO_GRACE = -60.0
"""Seconds: blobs whose change lies in the clock's last tick are old enough too."""

CONTEXT = multiprocessing.get_context("forkserver")
"""Its processes are forked from one that has opened nothing: no threads or connections are copied."""
CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Place:
    """Where a registry keeps everything, for every process that opens it."""

    data_dir: Path
    database_url: str | None = None
    bucket: str | None = None
    endpoint: str | None = None

    def store(self) -> S3Store:
        return open_bucket(self.bucket or "", "", self.endpoint, "us-east-1", KEY, "hidden-secret")

    def files(self) -> set[str]:
        """The digests of all blobs that are stored, and the names of unfinished ones."""
        local = {path.name for path in (self.data_dir / "objects").rglob("*") if path.is_file()}
        if self.bucket is None:
            return local
        unfinished = {path.name for path in (self.data_dir / "cache" / "objects" / "incoming").glob("*")}
        return local | unfinished | {entry["path"] for page in obstore.list(self.store()) for entry in page}


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Registry]:
    """The registry as a new process finds it."""
    data = DataFolder.open(place.data_dir)
    url = place.database_url
    database = await (Database.open(data.database) if url is None else Database.open_postgres(url))
    try:
        if place.bucket is None:
            yield make_registry(data, database, LocalObjects(data.objects))
        else:
            cache = ObjectCache(place.data_dir / "cache" / "objects", 1 << 30)
            yield make_registry(data, database, S3Objects(place.store(), cache))
    finally:
        await database.close()


async def prepare(place: Place, folder: Path) -> None:
    """A registry with one adapter that every operation must leave alone."""
    async with opened(place) as registry:
        await add_accounts(registry.database)
        await registry.uploads.add(ALICE, MODEL, BYSTANDER, folder)


Acknowledge = Callable[[str], None]
Operation = Callable[[Registry, Path, Acknowledge], Awaitable[None]]
"""Can be repeated after a kill, as a client would; acknowledges only what has returned."""


async def upload(
    registry: Registry, folder: Path, acknowledge: Acknowledge, files: tuple[str, ...] = FILE_NAMES
) -> None:
    """Three requests."""
    with suppress(AdapterExists):
        await registry.uploads.create(ALICE, MODEL, VICTIM)
    acknowledge("created")
    for name in files:
        adapter = await registry.adapters.find(ALICE, VICTIM)
        async with registry.uploads.receive() as receiver:
            content = (folder / name).read_bytes()
            for start in range(0, len(content), CHUNK):
                await receiver.write(content[start : start + CHUNK])
            await registry.uploads.attach(adapter, name, receiver, MODEL)
        acknowledge(f"{name} {sha256(folder / name)}")


async def upload_weights_first(registry: Registry, folder: Path, acknowledge: Acknowledge) -> None:
    await upload(registry, folder, acknowledge, (WEIGHTS_FILE, CONFIG_FILE))


async def add(registry: Registry, folder: Path, acknowledge: Acknowledge) -> None:
    with suppress(AdapterExists):
        await registry.uploads.add(ALICE, MODEL, VICTIM, folder)
    acknowledge("ready")


async def publish(registry: Registry, _folder: Path, acknowledge: Acknowledge) -> None:
    adapter = await registry.adapters.find(ALICE, BYSTANDER)
    with suppress(AdapterExists):
        await registry.uploads.publish(adapter, ALICE, PUBLIC)
    acknowledge("published")


async def remove(registry: Registry, _folder: Path, acknowledge: Acknowledge) -> None:
    acknowledge("removing")
    with suppress(AdapterNotFound):
        await registry.adapters.remove(ALICE, VICTIM)
    acknowledge("removed")


async def collect(registry: Registry, _folder: Path, acknowledge: Acknowledge) -> None:
    await Adapters(registry.rows, registry.objects, registry.probe, NO_GRACE).discard_unused()
    acknowledge("collected")


async def nothing(_registry: Registry, _folder: Path, _acknowledge: Acknowledge) -> None:
    pass


async def leave_garbage(registry: Registry, folder: Path, acknowledge: Acknowledge) -> None:
    """Blobs that nothing refers to, and one that was not finished."""
    await add(registry, folder, acknowledge)
    await remove(registry, folder, acknowledge)
    with registry.objects.receive() as incoming:
        incoming.write(b"half")
        incoming.path.with_name("unfinished").write_bytes(b"half")


async def leave_other_weights(registry: Registry, folder: Path, acknowledge: Acknowledge) -> None:
    """An adapter that waits for its config, and has weights that will be replaced."""
    await upload(registry, folder.with_name("bystander"), acknowledge, (WEIGHTS_FILE,))


@dataclass(frozen=True)
class Scenario:
    """An operation that is killed, and what the registry looks like before it."""

    operate: Operation
    prepare: Operation = nothing


SCENARIOS = {
    "upload": Scenario(upload),
    "upload, replacing weights": Scenario(upload_weights_first, leave_other_weights),
    "add": Scenario(add),
    "publish": Scenario(publish),
    "remove": Scenario(remove, add),
    "collect": Scenario(collect, leave_garbage),
}


def run_until_killed(place: Place, name: str, folder: Path, step: int, acknowledged: Connection) -> None:
    """Do it, but die before step number `step` (0: never): a watched call, a probe or an acknowledgement."""

    def reach(number: int) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    async def act() -> None:
        async with opened(place) as registry:
            with Steps(reach) as steps:

                def acknowledge(message: str) -> None:
                    steps.take()
                    acknowledged.send(message)

                async def probed() -> None:
                    steps.take()

                registry.probe.act = probed
                acknowledged.send("started")
                await SCENARIOS[name].operate(registry, folder, acknowledge)
            acknowledged.send("finished")
            os._exit(0)

    asyncio.run(act())


@dataclass(frozen=True)
class Trial:
    """One killed operation: what its process acknowledged before it died, or `finished`."""

    acknowledged: list[str]

    @property
    def finished(self) -> bool:
        return "finished" in self.acknowledged


def attempt(place: Place, name: str, folder: Path, step: int, seconds: float | None) -> Trial:
    """Run the operation in a process of its own that dies at `step`, or `seconds` after it began."""
    receiving, sending = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=run_until_killed, args=(place, name, folder, step, sending))
    process.start()
    sending.close()
    acknowledged = []
    with receiving, suppress(EOFError):
        acknowledged.append(receiving.recv())
        if seconds is not None:
            time.sleep(seconds)
            process.kill()
        while True:
            acknowledged.append(receiving.recv())
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    assert acknowledged[:1] == ["started"]
    return Trial(acknowledged[1:])


async def check(registry: Registry, place: Place, folder: Path, acknowledged: list[str]) -> None:
    """Everything acknowledged is there, whole and usable; nothing torn is shown."""
    if place.database_url is None:
        async with registry.database.reading() as connection:
            assert await connection.scalar(text("PRAGMA integrity_check")) == "ok"
    own = {adapter.name: adapter for adapter in await registry.adapters.list(ALICE)}
    for adapter in own.values():
        await check_whole(registry, adapter)
    assert own[BYSTANDER].ready
    assert set(own) <= {BYSTANDER, VICTIM, PUBLIC}
    assert {adapter.name for adapter in await registry.adapters.list_public()} == {PUBLIC} & set(own)
    if "published" in acknowledged:
        assert PUBLIC in own
    if "removing" in acknowledged:
        acknowledged = acknowledged[acknowledged.index("removing") + 1 :]
    check_victim(own.get(VICTIM), folder, acknowledged)


def check_victim(victim: Adapter | None, folder: Path, acknowledged: list[str]) -> None:
    """It is what was acknowledged last, or what the operation that was killed would have made of it."""
    if "removed" in acknowledged:
        assert victim is None
    blobs = dict(message.split() for message in acknowledged if " " in message)
    if "created" in acknowledged or "ready" in acknowledged:
        assert victim is not None
    if victim is not None:
        for name in FILE_NAMES:
            assert held_blob(victim, name) in (blobs.get(name), sha256(folder / name))
        assert victim.ready or not ("ready" in acknowledged or len(blobs) == len(FILE_NAMES))


async def check_whole(registry: Registry, adapter: Adapter) -> None:
    """Every file that it shows can be read and has its bytes; a ready one fits what an engine expects."""
    for name in FILE_NAMES:
        blob = held_blob(adapter, name)
        if blob is not None:
            assert registry.objects.verify(blob)
            assert sha256(await registry.adapters.open_file(adapter, name)) == blob
    if adapter.files is None:
        assert None in (adapter.pending.config_blob, adapter.pending.weights_blob)
        return
    assert adapter.pending == PendingFiles()
    assert registry.objects.verify(adapter.files.manifest_blob)
    ready = await registry.adapters.resolve(ALICE, adapter.name, MODEL)
    assert (ready.id, ready.digest) == (adapter.id, adapter.files.digest)
    await registry.probe.probe(ready)


def held_blob(adapter: Adapter, name: str) -> str | None:
    held = adapter.files or adapter.pending
    return held.config_blob if name == CONFIG_FILE else held.weights_blob


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def start_over(registry: Registry, place: Place) -> None:
    """Back to the bystander alone; proves that one collection leaves no blob that nothing refers to."""
    for name in (VICTIM, PUBLIC):
        with suppress(AdapterNotFound):
            await registry.adapters.remove(ALICE, name)
    await collect(registry, place.data_dir, lambda _: None)
    files = (await registry.adapters.find(ALICE, BYSTANDER)).files
    assert files is not None
    assert place.files() == {files.config_blob, files.weights_blob, files.manifest_blob}
    for folder in registry.data.objects.iterdir():
        # So that the next process makes it again, which is a step too.
        with suppress(OSError):
            folder.rmdir()


async def survive(place: Place, name: str, folder: Path, step: int = 0, seconds: float | None = None) -> Trial:
    """Kill the operation once, check what is left, do it again to its end, check again."""
    acknowledged: list[str] = []
    async with opened(place) as registry:
        await SCENARIOS[name].prepare(registry, folder, acknowledged.append)
    trial = await asyncio.to_thread(attempt, place, name, folder, step, seconds)
    acknowledged += trial.acknowledged
    async with opened(place) as registry:
        await check(registry, place, folder, acknowledged)
        await SCENARIOS[name].operate(registry, folder, acknowledged.append)
        await check(registry, place, folder, acknowledged)
        await start_over(registry, place)
    return trial
