"""Shadows of a real server: what it told of them survives its death, and its end saves what it had not told yet."""

import json
import time
from pathlib import Path
from typing import Any

import requests
from tests.e2e.running_server import ACCOUNT_ID, RunningServer, running_server
from tests.registry.peft_folder import PeftFolder, config, tensors

from gemlora.engines.fake import FAKE_FACTS

BASE = "cf-public-base"
SHADOWED = {
    "name": "bot",
    "versions": [{"version": BASE, "weight": 1}, {"version": "unseen", "weight": 0, "shadow": 1}],
}


def told(server: RunningServer, path: str, body: dict[str, Any] | None = None) -> Any:
    url = f"{server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/aliases{path}"
    response = requests.request("POST" if body else "GET", url, json=body, headers=server.authorization, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["result"]


def runs_of(alias: Any) -> dict[str, int]:
    runs: dict[str, int] = alias["versions"][1]["shadow_runs"]
    return runs


def test_no_run_that_was_told_is_lost_by_a_kill_and_none_at_all_by_a_stop(tmp_path: Path) -> None:
    fitting = PeftFolder(
        config(base_model_name_or_path=...), tensors(layers=range(FAKE_FACTS.layers), shapes=FAKE_FACTS.modules)
    )
    places, flags = (tmp_path / "data", tmp_path / "cache"), ("--engine", "fake", "--shadow-text-seconds", "600")
    with running_server(*places, *flags) as server:
        added = server.command_line("adapters", "add", "unseen", str(fitting.write(tmp_path / "peft")))
        assert added.returncode == 0, added.stderr
        told(server, "", SHADOWED)
        for _ in range(3):
            server.text({"prompt": "x", "lora": "bot"})
        deadline = time.monotonic() + 60
        while (before := runs_of(told(server, "/bot")))["run"] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pairs = told(server, "/bot/shadows")
        server.text({"prompt": "x", "lora": "bot"})
        server.process.kill()
        server.process.wait()

    with running_server(*places, *flags) as server:
        after_kill = runs_of(told(server, "/bot"))
        assert before == {"run": 3, "dropped": 0, "failed": 0}
        assert after_kill["run"] in (3, 4)
        assert told(server, "/bot/shadows")[-3:] == pairs
        for _ in range(5):
            server.text({"prompt": "x", "lora": "bot"})

    after_stop = runs_of(json.loads(server.command_line("aliases", "show", "bot", "--json").stdout))
    assert after_stop["failed"] == 0
    assert sum(after_stop.values()) == sum(after_kill.values()) + 5
