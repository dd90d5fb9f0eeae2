"""A server of the playground's own with the starter weights, a browser for each module, a fresh page for each test.

The browser ends with its module: while Playwright runs, no other test of the process can use asyncio.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.e2e.peft_folder import write_peft_folder
from tests.e2e.playground.browser import Playground, launch, opened
from tests.e2e.running_server import BARE, RunningServer, running_server


@pytest.fixture(scope="session")
def playground_server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("playground") / "data", cache_dir, *BARE) as server:
        yield server


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters as PEFT saves them."""
    base = tmp_path_factory.mktemp("adapters")
    return {name: write_peft_folder(base / name, seed) for seed, name in enumerate(("pirate", "poet"), 1)}


@pytest.fixture(scope="session")
def adapters(playground_server: RunningServer, folders: dict[str, Path]) -> tuple[str, ...]:
    """The names of the two on the server."""
    for name, folder in folders.items():
        added = playground_server.command_line("adapters", "add", name, str(folder))
        assert added.returncode == 0, added.stderr
    return tuple(folders)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def playground(browser: Browser, playground_server: RunningServer) -> Iterator[Playground]:
    """A page at a desk's size, not signed in."""
    size = {"width": 1440, "height": 900}
    with opened(browser, playground_server, viewport=size, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page
