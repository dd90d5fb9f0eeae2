"""Commands that run in the test's own process, and what they act on."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.e2e.running_server import API_TOKEN, RunningServer, running_server
from tests.registry.peft_folder import PeftFolder, config, tensors

from gemlora.cli import main
from gemlora.engines.fake import FAKE_FACTS


class Result(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.errors
        return json.loads(self.output)


Command = Callable[..., Result]


@pytest.fixture
def gemlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a command in this process, whose environment has no settings of gemlora's; the folder is the test's own."""
    for variable in os.environ:
        if variable.startswith("GEMLORA_"):
            monkeypatch.delenv(variable)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["gemlora", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Result(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real server with the fake engine."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder / "data", folder / "cache", "--engine", "fake", "--log-level", "debug") as server:
        yield server


def targets(server: RunningServer) -> Mapping[str, tuple[object, ...]]:
    """The flags of both ways to reach the server."""
    return {
        "data folder": ("--data-dir", server.data_dir),
        "server": ("--url", server.url, "--token", API_TOKEN),
    }


def fitting(**changes: object) -> PeftFolder:
    """An adapter for what the fake engine serves."""
    return PeftFolder(config(**changes), tensors(layers=range(FAKE_FACTS.layers), shapes=FAKE_FACTS.modules))


def write_cases(folder: Path, cases: list[dict[str, Any]]) -> Path:
    """A file for `gemlora evaluate`."""
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path
