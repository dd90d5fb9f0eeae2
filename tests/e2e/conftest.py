"""Real servers for all end-to-end tests that do not stop them: one with the starter weights, one with tiny ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.running_server import BARE, RunningServer, running_server

if TYPE_CHECKING:
    from tests.e2e.tiny_model import PeftAdapter, TinyModel


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted weights, shared by all servers of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("e2e") / "data", cache_dir, *BARE) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> "TinyModel":
    # The oracle is slow to import.
    from tests.e2e.tiny_model import TinyModel

    return TinyModel.write(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_server(
    tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, tiny_model: "TinyModel"
) -> Iterator[RunningServer]:
    """A server whose float32 model transformers and PEFT can answer for too."""
    data_dir = tmp_path_factory.mktemp("tiny-server") / "data"
    flags = ("--weights", str(tiny_model.folder), "--quantize", "none")
    with running_server(data_dir, cache_dir, *flags) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: "TinyModel") -> "PeftAdapter":
    """An adapter for the tiny server, as PEFT saves it."""
    return tiny_model.adapter(tmp_path_factory.mktemp("tiny-adapter") / "adapter", seed=3)
