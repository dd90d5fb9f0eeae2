"""The composed server as a process: starts, serves, drains on a signal, and refuses to start with a reason."""

import asyncio
import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gemlora.api.guarded import GuardedRoute
from gemlora.app.application import is_loopback, open_application
from gemlora.app.backend import starting_backend
from gemlora.app.importing import import_uncollected
from gemlora.engines.cpu.weights.progress import silent
from gemlora.errors import StorageFailed
from gemlora.settings import Settings
from gemlora.storage.data import DataFolder
from gemlora.storage.local_objects import LocalObjects
from gemlora.storage.servers import RunningServer, find_server
from gemlora.telemetry.logs import create_logger

ACCOUNT = "0123456789abcdef0123456789abcdef"
RUN = f"/client/v4/accounts/{ACCOUNT}/ai/run/@cf/google/gemma-7b-it-lora"
PUBLIC = {
    "/", "/playground/{name}", "/client/v4/sign-in", "/livez", "/readyz", "/startupz", "/metrics", "/openapi.json",
}  # fmt: skip

SLOW_SERVER = """
import json, sys
from gemlora.app.server import serve
from gemlora.engines import fake
from gemlora.engines.cpu.weights.progress import silent
from gemlora.settings import Settings

class Slow(fake.FakeEngine):
    def __init__(self, facts):
        super().__init__(facts, token_seconds=float(sys.argv[2]))

fake.FakeEngine = Slow
settings = Settings(**json.loads(sys.argv[1]))
serve(settings, lambda announcement: print(announcement.url, flush=True), silent)
"""

EAGER_SERVER = """
import sys
from gemlora.app.server import serve
from gemlora.engines import fake
from gemlora.engines.cpu.weights.progress import silent
from gemlora.settings import Settings

class Seeing(fake.FakeEngine):
    async def start(self):
        raise SystemExit(str([name for name in sys.argv[2:] if name in sys.modules]))

fake.FakeEngine = Seeing
serve(Settings(engine="fake", port=0, data_dir=sys.argv[1]), print, silent)
"""

COUNTING_SERVER = """
import gc, os, signal, sys
from gemlora.app.server import serve
from gemlora.engines.cpu.weights.progress import silent
from gemlora.settings import Settings

collected = []

def count(phase, info):
    application = sys.modules.get("gemlora.app.application")
    if application is not None and not hasattr(application, "run"):
        collected.append(phase)

def announce(announcement):
    print(len(collected), gc.isenabled(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

gc.callbacks.append(count)
serve(Settings(engine="fake", port=0, data_dir=sys.argv[1]), announce, silent)
"""

SERVER_MODULES = (
    "gemlora.app.application", "gemlora.cli.progress", "gemlora.engines.cpu.client",
    "gemlora.engines.cpu.weights.prepare",
)  # fmt: skip
FORMATS = ("alembic", "gguf", "huggingface_hub", "httpx2", "obstore", "tokenizers", "torch")
"""Libraries for what a start from the cache does not do: migrations, conversions, downloads, buckets."""


@dataclass
class Process:
    process: subprocess.Popen[str]
    url: str

    def stop(self, signum: int = signal.SIGTERM) -> None:
        self.process.send_signal(signum)

    def wait_for_answering(self) -> None:
        """Until one answer is on its way."""
        while "gemlora_requests_in_flight 1.0" not in httpx.get(self.url + "/metrics", timeout=60).text:
            time.sleep(0.02)

    def wait_for_refusing(self) -> None:
        """Until nothing listens any more."""
        with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
            while True:
                httpx.get(self.url + "/livez", timeout=60)
                time.sleep(0.02)

    def post(self, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": "Bearer token"}
        return httpx.post(self.url + RUN, json=body, headers=headers, timeout=60)


@contextmanager
def slow_server(data_dir: Path, token_seconds: float, **settings: Any) -> Iterator[Process]:
    """A server whose answers have 24 tokens. At half a second each, one takes twelve seconds if nothing cuts it."""
    values = {
        "engine": "fake", "port": 0, "account_id": ACCOUNT, "api_token": "token", "data_dir": str(data_dir), **settings
    }  # fmt: skip
    arguments = [sys.executable, "-c", SLOW_SERVER, json.dumps(values), str(token_seconds)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GEMLORA_")}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield Process(process, process.stdout.readline().strip())
        finally:
            process.kill()


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_finish_and_refuses_new_connections(tmp_path: Path, signum: int) -> None:
    with slow_server(tmp_path, 0.05) as server:
        thread, results = in_thread(lambda: server.post({"prompt": "x"}))
        server.wait_for_answering()
        server.stop(signum)
        server.wait_for_refusing()
        thread.join()

        assert results[0].status_code == 200
        assert len(results[0].json()["result"]["response"]) == 24
        assert server.process.wait(60) == 0


def test_servers_on_one_data_folder_are_found_while_they_run(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path).servers
    with slow_server(tmp_path, 0) as first, slow_server(tmp_path, 0) as second:
        assert find_server(folder) == RunningServer(second.url, second.process.pid)
        second.process.kill()
        second.process.wait(60)
        assert find_server(folder) == RunningServer(first.url, first.process.pid)
        first.stop()
        assert first.process.wait(60) == 0
        assert find_server(folder) is None


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with slow_server(tmp_path, 0.5) as server:

        def stream() -> int:
            try:
                return server.post({"prompt": "x"}).status_code
            except httpx.TransportError:
                return 0

        thread, results = in_thread(stream)
        server.wait_for_answering()
        server.stop()
        server.wait_for_refusing()
        server.stop()

        assert server.process.wait(60) == 0
        thread.join()
        assert results == [0]


def test_what_outlives_the_drain_time_is_cut(tmp_path: Path) -> None:
    with slow_server(tmp_path, 0.5, drain_seconds=0) as server:
        thread, results = in_thread(lambda: server.post({"prompt": "x"}))
        server.wait_for_answering()
        server.stop()

        assert server.process.wait(60) == 0
        thread.join()
        assert results[0].status_code == 408
        assert results[0].json()["errors"][0]["code"] == 3008


def test_a_port_that_is_taken_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"engine": "fake", "port": port, "data_dir": str(tmp_path / "data")}
        result = subprocess.run(
            [sys.executable, "-c", SLOW_SERVER, json.dumps(settings), "0"], capture_output=True, text=True, timeout=60
        )

    assert result.returncode == 1
    assert f"--port {port}: Address already in use" in result.stderr
    assert not (tmp_path / "data").exists()


def test_the_engine_starts_before_the_rest_of_the_server_is_imported(tmp_path: Path) -> None:
    rest = ("numpy", "prometheus_client", "sqlalchemy", "starlette", "structlog", "uvicorn", *FORMATS)
    arguments = [sys.executable, "-c", EAGER_SERVER, str(tmp_path / "data"), *rest]

    assert subprocess.run(arguments, capture_output=True, text=True, timeout=60).stderr == "[]\n"


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        (SERVER_MODULES, ("numpy", "ml_dtypes", "rich.progress", *FORMATS)),
        (
            ("gemlora.engines.cpu.worker",),
            ("asyncio", "pydantic", "sentencepiece", "sqlalchemy", "starlette", *FORMATS),
        ),
    ],
)
def test_a_start_from_the_cache_imports_only_what_it_needs(modules: tuple[str, ...], unneeded: tuple[str, ...]) -> None:
    program = f"import sys, {', '.join(modules)}; print([name for name in {unneeded!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout == "[]\n"


def test_no_garbage_is_collected_while_the_server_is_imported(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", COUNTING_SERVER, str(tmp_path / "data")]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout == "0 True\n"


def test_after_an_import_that_fails_garbage_is_collected_again() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_uncollected("gemlora.no_such_module")

    assert gc.isenabled()


async def test_every_route_of_the_whole_application_is_authorised_or_public(tmp_path: Path) -> None:
    settings = Settings(engine="fake", data_dir=tmp_path, account_id=ACCOUNT, api_token="token")
    async with (
        starting_backend(settings, silent) as backend,
        open_application(settings, backend, create_logger("error")) as application,
    ):
        transport = httpx.ASGITransport(application.api)
        headers = {"authorization": "Bearer token"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
            assert (await client.post(RUN, json={"prompt": "x"})).status_code == 200
            assert "gemlora" in (await client.get("/")).text
        open_routes = set()
        for route in application.api.routes:
            assert isinstance(route, GuardedRoute)
            if route.guard is None:
                open_routes.add(route.path)

    assert open_routes == PUBLIC


async def test_unused_files_are_collected_again_and_again_also_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = iter([StorageFailed("The database failed")])

    class Failing(LocalObjects):
        def discard(self, referenced: frozenset[str], grace_seconds: float) -> int:
            for failure in failing:
                raise failure
            return super().discard(referenced, grace_seconds)

    monkeypatch.setattr("gemlora.app.application.LocalObjects", Failing)
    settings = Settings(engine="fake", data_dir=tmp_path, collect_seconds=0.01, blob_grace_seconds=0)
    log = io.StringIO()
    async with (
        starting_backend(settings, silent) as backend,
        open_application(settings, backend, create_logger("info", "json", log)),
    ):
        for digit in "ab":
            await asyncio.to_thread(leave_unused, tmp_path / "objects" / (2 * digit) / (64 * digit))
        async with asyncio.timeout(20):
            while log.getvalue().count("unused blobs deleted") < 2:  # noqa: ASYNC110 - told after the blob has gone
                await asyncio.sleep(0.01)

    events = [json.loads(line)["event"] for line in log.getvalue().splitlines()]
    assert events == ["unused blobs not deleted", "unused blobs deleted", "unused blobs deleted"]


def leave_unused(blob: Path) -> None:
    """Store a blob that nothing refers to, and wait until it has gone."""
    blob.parent.mkdir()
    blob.touch()
    deadline = time.monotonic() + 20
    while blob.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_the_link_that_signs_in_is_for_addresses_of_this_machine(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here
