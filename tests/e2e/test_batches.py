"""Batches across the sudden end of a server: nothing that was acknowledged is lost."""

import time
from pathlib import Path
from typing import Any

import requests
from tests.e2e.running_server import RunningServer, running_server

REQUESTS = [{"prompt": f"number {number}", "seed": 1 + number, "max_tokens": 8} for number in range(200)]


def asked(server: RunningServer, body: dict[str, Any]) -> dict[str, Any]:
    response = requests.post(f"{server.run_url}?queueRequest=true", json=body, headers=server.authorization, timeout=60)
    assert response.status_code == 200, response.text
    return dict(response.json()["result"])


def finished(server: RunningServer, identity: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 120
    while "responses" not in (result := asked(server, {"request_id": identity})):
        assert time.monotonic() < deadline, result
        time.sleep(0.2)
    return list(result["responses"])


def test_a_batch_survives_the_death_of_its_server(tmp_path: Path, cache_dir: Path) -> None:
    flags = ("--engine", "fake", "--batch-concurrency", "1")
    with running_server(tmp_path / "data", cache_dir, *flags) as server:
        identity = asked(server, {"requests": REQUESTS})["request_id"]
        server.process.kill()
        server.process.wait(timeout=60)

    with running_server(tmp_path / "data", cache_dir, *flags) as server:
        responses = finished(server, identity)
        alone = [server.text(request) for request in REQUESTS[:3]]

    assert [response["id"] for response in responses] == list(range(len(REQUESTS)))
    assert all(response["success"] for response in responses)
    assert [response["result"]["response"] for response in responses[:3]] == alone
