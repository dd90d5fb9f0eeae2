"""`wrangler dev` with the page's Workers: 3.x with its own binding, the newest with the kit's Worker in its place."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from tests.e2e.documents import REPOSITORY, code_blocks
from tests.e2e.node import NODE_MODULES
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, GEMLORA, MODEL, RunningServer, free_port
from tests.e2e.test_workers import CALLING_WORKER, wait_until_listening
from tests.e2e.wrangler import RELEASES

BINDING = """
name = "my-worker"
main = "src/index.ts"
compatibility_date = "2025-01-01"
[ai]
binding = "AI"
"""
COMMANDS = {
    "wrangler3": ["-c", "wrangler.toml"],
    "wrangler": ["-c", "wrangler.dev.toml", "-c", "wrangler/wrangler.toml"],
}


@pytest.fixture
def kit(tmp_path: Path, tiny_server: RunningServer) -> Path:
    folder = tmp_path / "kit"
    subprocess.run([GEMLORA, "worker", "init", folder], check=True, timeout=120)
    (folder / "wrangler.toml").write_text(BINDING)
    (service,) = code_blocks(REPOSITORY / "src/gemlora/cli/worker_template/README.md", "toml")
    (folder / "wrangler.dev.toml").write_text(service)
    (folder / "wrangler/.dev.vars").write_text(f"GEMLORA_API_TOKEN={API_TOKEN}\nGEMLORA_URL={tiny_server.url}\n")
    return folder


@contextmanager
def developing(release: str, folder: Path, server: RunningServer) -> Iterator[str]:
    """The Worker's address while `wrangler dev` runs."""
    port = free_port()
    process = subprocess.Popen(
        [
            RELEASES[release], NODE_MODULES / release / "bin/wrangler.js", "dev", *COMMANDS[release],
            "--port", str(port), "--inspector-port", "0",
        ],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CLOUDFLARE_API_BASE_URL": f"{server.url}/client/v4",
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT_ID,
            "CLOUDFLARE_API_TOKEN": API_TOKEN,
            "WRANGLER_SEND_METRICS": "false",
            "CI": "true",
        },
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_until_listening(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.parametrize("release", COMMANDS)
def test_the_page_s_worker_is_answered(release: str, kit: Path, tiny_server: RunningServer) -> None:
    with developing(release, kit, tiny_server) as address:
        answer = requests.get(address, timeout=120)

    assert answer.status_code == 200, answer.text
    # Random weights may well end an answer with its first token.
    assert answer.json()["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("release", COMMANDS)
def test_the_page_s_streaming_worker_relays_the_stream(release: str, kit: Path, tiny_server: RunningServer) -> None:
    (kit / "src/streaming.ts").replace(kit / "src/index.ts")
    with developing(release, kit, tiny_server) as address:
        answer = requests.get(address, timeout=120)

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert all("response" in json.loads(event[6:]) for event in answer.text.split("\n\n")[:-2])


@pytest.mark.parametrize("release", COMMANDS)
def test_a_worker_catches_what_is_wrong(release: str, kit: Path, tiny_server: RunningServer) -> None:
    (kit / "src/index.ts").write_text(CALLING_WORKER)
    call = {"model": MODEL, "inputs": {"prompt": "x", "lora": "nobody-s"}}
    with developing(release, kit, tiny_server) as address:
        caught = requests.post(address, json=call, timeout=120)

    assert "3037: Finetune nobody-s not found" in caught.json()["error"]
