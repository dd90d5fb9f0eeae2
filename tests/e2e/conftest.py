"""One real server for all end-to-end tests that do not stop it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running_server import RunningServer, running_server


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted weights, shared by all servers of the session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("e2e") / "data", cache_dir) as server:
        yield server
