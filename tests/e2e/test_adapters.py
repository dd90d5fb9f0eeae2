"""Adapters that are added by the command line while a real server runs."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.documents import LOCAL, REPOSITORY, code_blocks
from tests.e2e.peft_folder import write_peft_folder
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, GEMLORA, RunningServer

GREEDY = {"prompt": "The sea is", "raw": True, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_peft_folder(tmp_path_factory.mktemp("adapters") / "poet", seed=1)


@pytest.fixture(scope="module")
def poet(server: RunningServer, folder: Path) -> Iterator[str]:
    """The name of an adapter that was added while the server runs."""
    added = server.command_line("adapters", "add", "poet", str(folder))
    assert added.returncode == 0, added.stderr
    yield "poet"
    removed = server.command_line("adapters", "remove", "poet")
    assert removed.returncode == 0, removed.stderr


def test_an_adapter_changes_the_answer_and_the_header_says_so(server: RunningServer, poet: str) -> None:
    base = server.run(GREEDY)
    adapted = server.run(GREEDY | {"lora": poet})

    assert base.headers["gemlora-adapter"] == "none"
    assert re.fullmatch(r"poet@[0-9a-f]+", adapted.headers["gemlora-adapter"])
    assert adapted.json()["result"]["response"] != base.json()["result"]["response"]


def test_an_adapter_answers_to_its_id_as_to_its_name(server: RunningServer, poet: str) -> None:
    adapters = json.loads(server.command_line("adapters", "list", "--json").stdout)
    (adapter,) = (adapter for adapter in adapters if adapter["name"] == poet)

    by_name, by_id = server.run(GREEDY | {"lora": poet}), server.run(GREEDY | {"lora": adapter["id"]})

    assert by_id.json() == by_name.json()
    assert by_id.headers["gemlora-adapter"] == by_name.headers["gemlora-adapter"]


def test_an_adapter_of_the_wrong_shape_is_refused_with_the_reason(
    server: RunningServer, folder: Path, tmp_path: Path
) -> None:
    configuration = json.loads((folder / "adapter_config.json").read_text()) | {"r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(configuration))
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())

    added = server.command_line("adapters", "add", "broken", str(tmp_path))

    assert added.returncode != 0
    assert "q_proj" in added.stderr
    assert server.run(GREEDY | {"lora": "broken"}).status_code == 404


def test_a_removed_adapter_is_unknown_at_once(server: RunningServer, folder: Path) -> None:
    assert server.command_line("adapters", "add", "short-lived", str(folder)).returncode == 0
    assert server.run(GREEDY | {"lora": "short-lived"}).status_code == 200
    assert server.command_line("adapters", "remove", "short-lived").returncode == 0

    refused = server.run(GREEDY | {"lora": "short-lived"})

    assert refused.status_code == 404
    assert refused.json()["errors"][0]["code"] == 3037


def test_the_readme_s_lora_lines_run(server: RunningServer, tmp_path: Path) -> None:
    write_peft_folder(tmp_path / "pirate-adapter", seed=2)
    (lines,) = [block for block in code_blocks(REPOSITORY / "README.md", "bash") if "adapters add" in block]

    finished = subprocess.run(
        ["bash", "-ec", lines.replace(LOCAL, server.url)],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{GEMLORA.parent}:{os.environ['PATH']}",
            "GEMLORA_DATA_DIR": str(server.data_dir),
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT_ID,
            "CLOUDFLARE_AUTH_TOKEN": API_TOKEN,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert json.loads(finished.stdout.splitlines()[-1])["success"] is True
