"""A server of the playground's own with the starter weights, one browser for all tests, a fresh page for each test.

The browser ends with this folder: while Playwright runs, no other test of the process can use asyncio.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright
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
        playground_server.add_adapter(name, folder)
    return tuple(folders)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def context(browser: Browser, playground_server: RunningServer) -> BrowserContext:
    """All pages' cookies, storage and cache; a test sees to it that the playground keeps nothing but its files."""
    context = browser.new_context(locale="en-GB", permissions=["clipboard-read", "clipboard-write"])
    context.new_page().goto(f"{playground_server.url}/playground/icon.svg")  # keeps the pages' process alive
    return context


@pytest.fixture
def playground(context: BrowserContext, playground_server: RunningServer) -> Iterator[Playground]:
    """A page at a desk's size, not signed in."""
    with opened(context, playground_server) as page:
        yield page
