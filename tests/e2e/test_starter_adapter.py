"""The starter weights answer with the chat adapter that the package ships, out of the box."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.peft_folder import write_peft_folder
from tests.e2e.running_server import BARE, RunningServer, running_server

SHIPPING = """
import sys
from pathlib import Path
from gemlora.app import application
from gemlora.cli import main
from gemlora.starter.shipped import shipped_adapters
package = Path(sys.argv.pop(1))
application.shipped_adapters = lambda: shipped_adapters(package)
main()
"""
"""`gemlora` of a package that ships the adapters in this folder."""

GREEDY = {"prompt": "The sea is", "temperature": 0, "max_tokens": 8}
CHAT = re.compile(r"cf-public-chat@[0-9a-f]{64}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    package = tmp_path_factory.mktemp("package")
    write_peft_folder(package / "chat", seed=8)
    return (sys.executable, "-c", SHIPPING, str(package))


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, program: tuple[str, ...]
) -> Iterator[RunningServer]:
    """A server on a fresh data folder, with no setting but what every test's server has."""
    data_dir = tmp_path_factory.mktemp("starter") / "data"
    with running_server(data_dir, cache_dir, program=program) as server:
        yield server


def test_what_names_no_adapter_and_is_not_raw_is_answered_by_it(first: RunningServer) -> None:
    unnamed, named = first.run(GREEDY), first.run(GREEDY | {"lora": "cf-public-chat"})
    raw = first.run(GREEDY | {"raw": True})
    bare = first.run(GREEDY | {"lora": "cf-public-base"})

    assert CHAT.fullmatch(unnamed.headers["gemlora-adapter"])
    assert unnamed.headers["gemlora-adapter"] == named.headers["gemlora-adapter"]
    assert unnamed.json() == named.json()
    assert raw.headers["gemlora-adapter"] == bare.headers["gemlora-adapter"] == "none"
    assert bare.json()["result"]["response"] != unnamed.json()["result"]["response"]


def test_the_server_says_so_where_it_starts(first: RunningServer) -> None:
    assert "Requests that name no adapter and are not raw get cf-public-chat" in first.log.read_text()


def test_another_start_on_the_folder_changes_nothing_and_an_empty_setting_switches_the_default_off(
    first: RunningServer, cache_dir: Path, program: tuple[str, ...]
) -> None:
    asked = first.run(GREEDY)
    shown = first.command_line("adapters", "show", "cf-public-chat", "--json").stdout
    with running_server(first.data_dir, cache_dir, *BARE, program=program) as second:
        named, unnamed = second.run(GREEDY | {"lora": "cf-public-chat"}), second.run(GREEDY)

    assert first.command_line("adapters", "show", "cf-public-chat", "--json").stdout == shown
    assert named.json() == asked.json()
    assert unnamed.headers["gemlora-adapter"] == "none"
    assert first.log.read_text().count("starter adapter published") == 1
