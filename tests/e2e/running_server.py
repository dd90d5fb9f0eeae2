"""A real `gemlora serve` as a process of its own, and how a test talks to it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

MODEL = "@cf/google/gemma-7b-it-lora"
ACCOUNT_ID = "0123456789abcdef0123456789abcdef"
API_TOKEN = "test-token"
GEMLORA = Path(sys.executable).with_name("gemlora")
BARE = ("--default-adapter", "")
"""Flags of a server with the starter weights whose base answers what names no adapter."""


@dataclass(frozen=True)
class RunningServer:
    """A server that answered `/readyz`."""

    process: psutil.Popen
    port: int
    data_dir: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def run_url(self) -> str:
        return f"{self.url}/client/v4/accounts/{ACCOUNT_ID}/ai/run/{MODEL}"

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {API_TOKEN}"}

    def run(self, body: dict[str, Any], **options: Any) -> requests.Response:
        """POST `body` to the run route."""
        return requests.post(self.run_url, json=body, headers=self.authorization, timeout=120, **options)

    def call(self, method: str, path: str, **content: Any) -> Any:
        """The result of a call below the account; `content` is what `requests` takes, such as `json`."""
        address = f"{self.url}/client/v4/accounts/{ACCOUNT_ID}{path}"
        response = requests.request(method, address, headers=self.authorization, timeout=120, **content)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    def add_adapter(self, name: str, folder: Path) -> None:
        """Upload a folder as PEFT saves it."""
        made = self.call("POST", "/ai/finetunes", json={"model": MODEL, "name": name})
        for file_name in ("adapter_config.json", "adapter_model.safetensors"):
            form = {"file_name": (None, file_name), "file": (folder / file_name).read_bytes()}
            self.call("POST", f"/ai/finetunes/{made['id']}/finetune-assets", files=form)

    def text(self, body: dict[str, Any]) -> str:
        """The generated text for `body`."""
        response = self.run(body)
        assert response.status_code == 200, response.text
        return response.json()["result"]["response"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples with these labels, whatever the others; 0 if there are none yet."""
        lines = requests.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        named = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert named or labels, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in named if all(label in line for label in wanted))

    def engine_processes(self) -> list[psutil.Process]:
        return self.process.children(recursive=True)

    def command_line(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `gemlora` with `arguments` on this server's data directory."""
        return subprocess.run(
            [GEMLORA, *arguments, "--data-dir", self.data_dir], capture_output=True, text=True, timeout=180, check=False
        )


@contextmanager
def running_server(
    data_dir: Path,
    cache_dir: Path,
    *flags: str,
    preset_access: bool = True,
    program: Sequence[str | Path] = (GEMLORA,),
) -> Iterator[RunningServer]:
    """Start a server and stop it at the end; fails with its log if it does not get ready.

    Without `preset_access` the server takes its account and token from the data directory, or makes them up.
    `program` is what stands for the command `gemlora`.
    """
    port = free_port()
    log = data_dir.with_suffix(".log")
    environment = os.environ | {"GEMLORA_CACHE_DIR": str(cache_dir)}
    if preset_access:
        environment |= {"GEMLORA_ACCOUNT_ID": ACCOUNT_ID, "GEMLORA_API_TOKEN": API_TOKEN}
    with log.open("a") as output:
        process = psutil.Popen(
            [*program, "serve", "--port", str(port), "--data-dir", data_dir, *flags],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(process, port, data_dir, log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(process)


def wait_until_ready(server: RunningServer) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.process.poll() is None:
        if ready(server):
            return
        time.sleep(0.05)
    raise AssertionError(f"the server did not get ready:\n{server.log.read_text()}")


def ready(server: RunningServer) -> bool:
    try:
        return requests.get(f"{server.url}/readyz", timeout=5).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def stop(process: psutil.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=60)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
