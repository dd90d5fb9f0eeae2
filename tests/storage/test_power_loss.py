"""Whatever a power loss leaves of the data folder: what was acknowledged is there whole, and nothing torn is shown."""

import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.storage import file_calls
from tests.storage.power_loss import State, states
from tests.storage.stored_blobs import CONTENTS, Blobs, opened

from gemlora.storage.objects import digest_of

STATES = 60
"""How many states are tried of each recording."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return file_calls.build(tmp_path_factory.mktemp("library"))


def recorded(library: Path, folder: Path, kills: Iterable[int]) -> list[file_calls.Call]:
    """The calls of lives of the program that end by a kill at each number, and of one to its end."""
    data, log = folder / "data", folder / "log"
    data.mkdir(parents=True)
    for kill in (*kills, 0):
        finished = file_calls.run_preloaded(library, "tests.storage.stored_blobs", str(data), str(log), str(kill))
        assert finished.returncode == (file_calls.KILL if kill else 0), finished.stderr
    return list(file_calls.read_log(log, data))


async def check(blobs: Blobs, state: State) -> None:
    """What was acknowledged holds; every blob that can be seen is whole; the folder is as good as any."""
    names = await blobs.names()
    told = dict(reversed(line.split()) for line in state.acknowledged)
    for digest, claim in told.items():
        assert claim == "changing" or (digest in names) == (claim == "present"), (claim, digest)
    assert all(map(blobs.objects.verify, names))
    shown = {path.name: path for path in (blobs.folder / "objects").glob("??/*")}
    assert all(digest_of(path) == digest for digest, path in shown.items())
    added = await blobs.add(CONTENTS[0])
    await blobs.collect()
    left = {path.name for path in (blobs.folder / "objects").rglob("*") if path.is_file()}
    assert left == names | {added}


async def try_states(library: Path, folder: Path, kills: Iterable[int] = ()) -> list[file_calls.Call]:
    """Open some of the states that the recorded calls may leave; returns the calls."""
    generator = random.Random(str(kills))
    calls = recorded(library, folder / "recorded", kills)
    every = [*states(calls, generator, 5)]
    assert len(every) > STATES
    for state in generator.sample(every, STATES):
        state.write(folder / "state")
        async with opened(folder / "state") as blobs:
            await check(blobs, state)
        shutil.rmtree(folder / "state")
    return calls


async def test_a_power_loss_loses_nothing_acknowledged_and_tears_nothing(library: Path, memory: Path) -> None:
    """Also after kills: what they leave is not safe yet, although the next process sees it."""
    calls = await try_states(library, memory / "not killed")
    objects, _incoming, *folders_of_blobs = [n for n, call in enumerate(calls, 1) if call.kind == "mkdir"]
    for number in (objects, folders_of_blobs[0], folders_of_blobs[-1]):
        await try_states(library, memory / f"killed after {number}", [number + 1])
