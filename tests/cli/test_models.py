"""`gemlora models` as processes, against a hub on loopback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType
from tests.fake_hub import FakeHub, running
from tests.gguf_files import write_gguf

from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent

REPOSITORY = "google/gemma-tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text('{"model_type": "gemma"}')
    (folder / "tokenizer.model").write_bytes(b"pieces")
    (folder / WEIGHTS).write_bytes(b"weights")
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[FakeHub]:
    with running(FakeHub(token="hf_right")) as fake:
        fake.add(REPOSITORY, published)
        yield fake


class Machine:
    """Runs the command line with a home and a hub of its own."""

    def __init__(self, hub: FakeHub, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GEMLORA_"))}
        self.environment = kept | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hub"), "NO_PROXY": "127.0.0.1", "COLUMNS": "200",
            "GEMLORA_CACHE_DIR": str(home / "cache"),
        }  # fmt: skip
        self.blobs = home / "hub" / "hub" / "models--google--gemma-tiny" / "blobs"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", "from gemlora.cli import main; main()"]
        return subprocess.Popen(
            [*program, *arguments],
            env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, error = process.communicate(timeout=180)
        return process.returncode, out, error


@pytest.fixture
def machine(hub: FakeHub, tmp_path: Path) -> Machine:
    return Machine(hub, tmp_path)


def test_what_was_pulled_is_listed_without_the_network(machine: Machine, hub: FakeHub) -> None:
    assert "No models yet" in machine.run("models", "list")[1]
    status, out, error = machine.run("models", "pull", REPOSITORY, GEMLORA_HUB_TOKEN="hf_right")
    assert status == 0, error
    assert f"gemlora serve --weights {REPOSITORY}" in out
    assert {request.token for request in hub.requests if REPOSITORY in request.path} == {"hf_right"}
    commit = next(iter(hub.repositories[REPOSITORY]))
    hub.requests.clear()
    status, out, error = machine.run("models", "list")
    assert status == 0, error
    assert REPOSITORY in out
    assert commit[:12] in out
    assert hub.requests == []


def test_list_shows_what_is_converted(machine: Machine, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", type_of=lambda _name: GGMLQuantizationType.Q8_0)
    model = PackedModel.open(prepare(str(tmp_path / "tiny.gguf"), None, None, "int8", tmp_path / "cache", silent))
    out = machine.run("models", "list")[1]
    assert "Tiny" in out
    assert "converted, int8" in out
    assert model.digest[:12] in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((REPOSITORY, "--token", "hf_wrong"), "the hub refused the token"),
        ((REPOSITORY, "--revision", "v9"), f"{REPOSITORY} has no revision v9"),
        (("google/none",), "no model google/none"),
    ],
)
def test_refusals_are_one_line(machine: Machine, arguments: tuple[str, ...], message: str) -> None:
    status, out, error = machine.run("models", "pull", *arguments)
    assert (status, out) == (1, "")
    assert message in error
    assert "Traceback" not in error


def test_a_killed_pull_goes_on_where_it_stopped(machine: Machine, hub: FakeHub, published: Path) -> None:
    size = (published / WEIGHTS).stat().st_size
    big = published / WEIGHTS
    hub.repositories[REPOSITORY] = {}
    hub.add(REPOSITORY, published, **{WEIGHTS: big.read_bytes() + bytes(30 << 20)})
    hub.stall_after = 25 << 20
    process = machine.start("models", "pull", REPOSITORY)
    deadline = time.monotonic() + 120
    while not any(part.stat().st_size >= 10 << 20 for part in machine.blobs.glob("*.part")):
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    hub.stall_after = None
    hub.requests.clear()
    status, _, error = machine.run("models", "pull", REPOSITORY)
    assert status == 0, error
    (asked,) = hub.loaded(WEIGHTS)
    assert asked is not None
    assert int(asked.removeprefix("bytes=").rstrip("-")) >= 10 << 20
    (folder,) = machine.blobs.parent.glob("snapshots/*")
    assert (folder / WEIGHTS).stat().st_size == size + (30 << 20)
