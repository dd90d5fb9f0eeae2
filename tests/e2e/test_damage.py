"""Bits that flip in stored files while no server runs: right tokens or an error with a reason, never other tokens."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import requests
from tests.e2e.running_server import ACCOUNT_ID, MODEL, RunningServer, running_server

if TYPE_CHECKING:
    from tests.e2e.tiny_model import TinyModel

RECORD = "SELECT digest, config_blob, weights_blob, manifest_blob FROM adapters WHERE name = ?"
GREEDY = {"prompt": "the fox", "raw": True, "temperature": 0, "max_tokens": 16}
REPEATS = 2
"""Adapters for each kind of damage, each damaged elsewhere."""


class Stored(NamedTuple):
    """The files of one adapter."""

    config: Path
    weights: Path
    manifest: Path
    packed: Path


def flip(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def cut(path: Path, generator: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)])


def without_packed(stored: Stored, name: str) -> Path:
    stored.packed.unlink()
    return getattr(stored, name)


REFUSED: dict[str, Callable[[Stored, random.Random], None]] = {
    "weights flipped": lambda stored, generator: flip(without_packed(stored, "weights"), generator),
    "weights cut": lambda stored, generator: cut(without_packed(stored, "weights"), generator),
    "weights and packed flipped": lambda stored, generator: [
        flip(stored.weights, generator), flip(stored.packed, generator),
    ],
    "weights of another": lambda stored, _: shutil.copyfile(stored.config, without_packed(stored, "weights")),
    "manifest flipped": lambda stored, generator: flip(stored.manifest, generator),
    "manifest cut": lambda stored, generator: cut(stored.manifest, generator),
}  # fmt: skip
MENDED: dict[str, Callable[[Stored, random.Random], None]] = {
    "nothing": lambda _stored, _generator: None,
    "packed flipped": lambda stored, generator: flip(stored.packed, generator),
    "packed cut": lambda stored, generator: cut(stored.packed, generator),
    "packed gone": lambda stored, _: stored.packed.unlink(),
    "weights flipped beside the packed file": lambda stored, generator: flip(stored.weights, generator),
    "config flipped": lambda stored, generator: flip(stored.config, generator),
}


def finetunes(server: RunningServer) -> str:
    return f"{server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/finetunes"


def upload(server: RunningServer, name: str, folder: Path) -> None:
    options = {"headers": server.authorization, "timeout": 60}
    requests.post(finetunes(server), json={"model": MODEL, "name": name}, **options).raise_for_status()
    for file_name in ("adapter_config.json", "adapter_model.safetensors"):
        requests.post(
            f"{finetunes(server)}/{name}/finetune-assets",
            data={"file_name": file_name}, files={"file": (folder / file_name).read_bytes()}, **options,
        ).raise_for_status()  # fmt: skip


class Damaged(NamedTuple):
    """A server over the damaged files, and what each adapter should answer."""

    server: RunningServer
    expected: dict[str, str]


def names(damages: dict[str, Callable[[Stored, random.Random], None]]) -> list[str]:
    return [f"{damage} {number}" for damage in damages for number in range(REPEATS)]


def stored_files(data_dir: Path, cache_dir: Path, name: str) -> Stored:
    with closing(sqlite3.connect(data_dir / "gemlora.sqlite")) as connection:
        digest, *blobs = connection.execute(RECORD, (name,)).fetchone()
    (packed,) = (cache_dir / "adapters" / digest).iterdir()
    return Stored(*(data_dir / "objects" / blob[:2] / blob for blob in blobs), packed)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, tiny_model: "TinyModel") -> Iterator[Damaged]:
    data_dir = tmp_path_factory.mktemp("damage") / "data"
    flags = ("--weights", str(tiny_model.folder), "--quantize", "none")
    generator = random.Random(6)
    expected = {}
    with running_server(data_dir, cache_dir, *flags) as server:
        for seed, name in enumerate([*names(REFUSED), *names(MENDED)]):
            upload(server, name, tiny_model.adapter(data_dir.parent / name, seed, lora_alpha=7 + seed).folder)
            expected[name] = server.text(GREEDY | {"lora": name})
        assert expected["nothing 0"] != server.text(GREEDY)
    for name in expected:
        damage = name.rsplit(" ", 1)[0]
        (REFUSED | MENDED)[damage](stored_files(data_dir, cache_dir, name), generator)
    with running_server(data_dir, cache_dir, *flags) as server:
        yield Damaged(server, expected)


@pytest.mark.parametrize("name", names(REFUSED))
def test_an_adapter_that_cannot_be_whole_is_refused_and_no_other(damaged: Damaged, name: str) -> None:
    response = damaged.server.run(GREEDY | {"lora": name})

    assert response.status_code == 400, response.text
    (error,) = response.json()["errors"]
    assert error["code"] == 5004
    assert "changed after registration" in error["message"]
    assert damaged.server.text(GREEDY | {"lora": "nothing 0"}) == damaged.expected["nothing 0"]


@pytest.mark.parametrize("name", names(MENDED))
def test_what_can_be_made_anew_answers_as_before(damaged: Damaged, name: str) -> None:
    assert damaged.server.text(GREEDY | {"lora": name}) == damaged.expected[name]


@pytest.mark.parametrize(
    ("name", "file_name"),
    [("weights flipped 0", "adapter_model.safetensors"), ("config flipped 0", "adapter_config.json")],
)
def test_a_damaged_file_is_not_downloaded(damaged: Damaged, name: str, file_name: str) -> None:
    url = f"{finetunes(damaged.server)}/{name}/finetune-assets/{file_name}"

    response = requests.get(url, headers=damaged.server.authorization, timeout=30)

    assert (response.status_code, response.json()["success"]) == (400, False)
    assert "damaged" in response.json()["errors"][0]["message"]
