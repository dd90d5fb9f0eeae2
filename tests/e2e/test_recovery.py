"""What a client sees when the engine dies, the server stops or starts again, or the client itself goes away."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import requests
from tests.e2e.peft_folder import write_peft_folder
from tests.e2e.running_server import RunningServer, ready, running_server

STORY = {"prompt": "Once upon a time", "raw": True, "seed": 7, "max_tokens": 40}
LONG = STORY | {"max_tokens": 1500, "temperature": 2.5}


def events(response: requests.Response) -> Iterator[str]:
    """The payloads of a stream's events as they come."""
    assert response.headers["content-type"] == "text/event-stream", response.text
    for line in response.iter_lines(chunk_size=1):
        if line:
            yield line.decode().removeprefix("data: ")


def text_of(payloads: list[str]) -> str:
    assert payloads[-1] == "[DONE]"
    return "".join(json.loads(payload)["response"] for payload in payloads[:-1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def given_up(server: RunningServer) -> Iterator[None]:
    """What is asked in the block is computed no longer than somebody waits for it, and leaves nothing."""
    before = server.metric("gemlora_generations_total", outcome="aborted")
    yield
    wait_until(lambda: server.metric("gemlora_generations_total", outcome="aborted") == before + 1)
    wait_until(lambda: server.metric("gemlora_engine_running") == 0)
    assert server.metric("gemlora_engine_free_blocks") == server.metric("gemlora_engine_blocks")


def test_a_stream_survives_the_death_of_the_engine(server: RunningServer) -> None:
    undisturbed = server.text(STORY)
    (engine,) = server.engine_processes()
    restarts = server.metric("gemlora_engine_restarts")

    with server.run(STORY | {"stream": True}, stream=True) as response:
        stream = events(response)
        received = [next(stream) for _ in range(5)]
        engine.kill()
        received += list(stream)

    assert text_of(received) == undisturbed
    (successor,) = server.engine_processes()
    assert successor != engine
    assert server.metric("gemlora_engine_restarts") == restarts + 1


def test_a_client_that_leaves_a_stream_frees_its_sequence(server: RunningServer) -> None:
    with given_up(server), server.run(LONG | {"stream": True}, stream=True) as response:
        stream = events(response)  # kept: whoever lets go of it leaves
        next(stream)
        assert server.metric("gemlora_requests_in_flight") == 1


def test_a_client_that_does_not_wait_for_the_answer_frees_its_sequence(server: RunningServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port)
    with given_up(server), closing(connection):
        connection.request("POST", urlsplit(server.run_url).path, json.dumps(LONG), server.authorization)
        wait_until(lambda: server.metric("gemlora_requests_in_flight") == 1)


def test_a_server_that_is_told_to_stop_finishes_its_streams_first(tmp_path: Path, cache_dir: Path) -> None:
    with running_server(tmp_path / "data", cache_dir) as server:
        with server.run(STORY | {"stream": True}, stream=True) as response:
            stream = events(response)
            received = [next(stream)]
            server.process.terminate()
            received += list(stream)
        status = server.process.wait(timeout=60)

    assert text_of(received)
    assert status == 0
    assert not psutil.pid_exists(server.process.pid)


def test_a_restarted_server_keeps_its_token_and_adapters(tmp_path: Path, cache_dir: Path) -> None:
    data_dir = tmp_path / "data"
    adapted = {"prompt": "The sea is", "raw": True, "temperature": 0, "max_tokens": 8, "lora": "poet"}
    with running_server(data_dir, cache_dir) as server:
        folder = write_peft_folder(tmp_path / "poet", seed=1)
        assert server.command_line("adapters", "add", "poet", str(folder)).returncode == 0
        before = server.run(adapted)
    assert not ready(server)

    with running_server(data_dir, cache_dir, preset_access=False) as server:
        after = server.run(adapted)

    assert after.status_code == 200, after.text
    assert after.json() == before.json()
    assert after.headers["gemlora-adapter"] == before.headers["gemlora-adapter"]


def test_the_curl_line_that_serve_prints_is_answered(tmp_path: Path, cache_dir: Path) -> None:
    with running_server(tmp_path / "data", cache_dir, preset_access=False) as server:
        (line,) = re.findall(r"^ *(curl .*)$", server.log.read_text(), re.MULTILINE)
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=True)

    assert json.loads(answer.stdout)["success"] is True
