"""`gemlora adapters` on a data folder, by itself and from several processes at once."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cli.conftest import Command, fitting
from tests.registry.peft_folder import BASE, MODEL

from gemlora.app.application import open_records
from gemlora.settings import Settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def adapters(data: Path, gemlora: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `gemlora adapters …` on the data folder."""
    monkeypatch.setenv("GEMLORA_ENGINE", "fake")
    return lambda *arguments: gemlora("adapters", *arguments, "--data-dir", data)


def started(*arguments: object) -> subprocess.Popen[str]:
    """The same as a process of its own."""
    command = [sys.executable, "-c", "from gemlora.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"GEMLORA_ENGINE": "fake"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_add_list_and_remove(adapters: Command, tmp_path: Path) -> None:
    folder = fitting().write(tmp_path / "peft")

    added = adapters("add", "poet", folder)
    assert added.status == 0, added.errors
    assert added.output.startswith("Added poet (")
    assert added.output.endswith("rank 2, q_proj, v_proj\n")

    [adapter] = json.loads(adapters("list", "--json").output)
    assert adapter["name"] == "poet"
    table = adapters("list").output.splitlines()
    assert table[0].split() == ["NAME", "ID", "RANK", "SIZE", "MODULES"]
    assert table[1].split()[:3] == ["poet", adapter["id"], "2"]

    assert adapters("remove", adapter["id"]).status == 0
    assert json.loads(adapters("list", "--json").output) == []


def test_errors_are_one_line_and_a_status(adapters: Command, tmp_path: Path) -> None:
    broken = fitting(r=3).write(tmp_path / "broken")

    for arguments, text in [
        (("add", "poet", broken), "expected [3, 32] for the served base fake"),
        (("add", "poet", tmp_path / "nowhere"), "adapter_config.json is missing"),
        (("add", "cf-public-x", broken), "reserved"),
        (("add", "poet", broken, "--engine", "cpu", "--weights", tmp_path / "nothing.gguf"), "nothing.gguf"),
        (("remove", "poet"), "Adapter poet not found"),
    ]:
        status, output, errors = adapters(*arguments)
        assert (status, output) == (1, "")
        assert errors.startswith("Error: ")
        assert text in errors
        assert errors.count("\n") == 1


def test_a_warning_goes_to_standard_error(adapters: Command, tmp_path: Path) -> None:
    folder = fitting(base_model_name_or_path="google/gemma-2b").write(tmp_path / "peft")

    added = adapters("add", "poet", folder)

    assert added.status == 0
    assert added.errors.startswith('Warning: the adapter was trained on "google/gemma-2b"')


def test_weights_other_than_those_that_were_served_are_a_warning(adapters: Command, data: Path, tmp_path: Path) -> None:
    async def record() -> None:
        async with open_records(Settings.load({"data_dir": data})) as records:
            await records.adapter_rows.record_base(MODEL.name, BASE, datetime(2026, 3, 1, tzinfo=UTC))

    asyncio.run(record())

    added = adapters("add", "poet", fitting(base_model_name_or_path=...).write(tmp_path / "peft"))

    assert (added.status, added.errors) == (0, "Warning: checked with fake; the server last had tiny-gemma\n")


def test_processes_that_add_at_once_all_succeed(data: Path, adapters: Command, tmp_path: Path) -> None:
    folder = fitting().write(tmp_path / "peft")

    processes = [started("adapters", "add", f"poet {number}", folder, "--data-dir", data) for number in range(3)]
    errors = [process.communicate(timeout=180)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors
    listed = json.loads(adapters("list", "--json").output)
    assert sorted(adapter["name"] for adapter in listed) == ["poet 0", "poet 1", "poet 2"]


def test_looking_into_an_empty_folder_makes_no_account(adapters: Command, data: Path) -> None:
    assert json.loads(adapters("list", "--json").output) == []
    assert adapters("show", "poet").errors == "Error: Adapter poet not found\n"

    async def accounts() -> int:
        async with open_records(Settings.load({"data_dir": data})) as records:
            return await records.accounts.count()

    assert asyncio.run(accounts()) == 0
    assert not (data / "first-token").exists()


def test_processes_that_meet_in_an_empty_folder_agree_on_one_account(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"

    processes = [started("tokens", "create", "key", "--data-dir", data) for _ in range(3)]
    errors = [process.communicate(timeout=180)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors

    async def accounts() -> str:
        async with open_records(Settings.load({"data_dir": data})) as records:
            access = await records.prepare()
            assert access.token == (data / "first-token").read_text().strip()
            return (await records.accounts.authenticate(access.token)).account_id

    assert len(asyncio.run(accounts())) == 32
