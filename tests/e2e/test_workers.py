"""Workers in the real runtime, workerd, through the kit that `gemlora worker init` writes."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from tests.e2e.documents import LOCAL, REPOSITORY, code_blocks
from tests.e2e.running_server import API_TOKEN, GEMLORA, MODEL, RunningServer, free_port

CALLING_WORKER = """
export default {
  async fetch(request: Request, env: { AI: any }): Promise<Response> {
    const { model, inputs } = await request.json();
    try {
      return Response.json({ answer: await env.AI.run(model, inputs), request: env.AI.lastRequestId });
    } catch (error) {
      return Response.json({ error: `${error.name}: ${error.message}`, status: env.AI.lastRequestHttpStatusCode });
    }
  },
};
"""

FORMS_WORKER = """
const model = "@cf/google/gemma-7b-it-lora";
const inputs = { prompt: "Hello", temperature: 0, max_tokens: 4 };

export default {
  async fetch(request: Request, { AI }: { AI: any }): Promise<Response> {
    const raw = await AI.run(model, inputs, { returnRawResponse: true });
    const bytes = { body: new Blob(["picture"]).stream(), contentType: "image/png" };
    const queued = await AI.run(model, { requests: [{ ...inputs, external_reference: "a" }] }, { queueRequest: true });
    let polled = queued;
    while (!polled.responses) polled = await AI.run(model, { request_id: queued.request_id }, { queueRequest: true });
    return Response.json({
      plain: await AI.run(model, inputs),
      prefixed: await AI.run(model, inputs, { prefix: "pf", extraHeaders: { "x-session-affinity": "s" }, unknown: 1 }),
      gateway: await AI.run(model, inputs, { gateway: { id: "mine" } }),
      raw: [raw.status, raw.headers.get("content-type"), await raw.json()],
      adapter: await AI.run(model, inputs, { lora: "nobody-s" }).catch((error: Error) => error.message),
      bytes: await AI.run(model, { image: bytes }).catch((error: Error) => error.message),
      models: await AI.models({ search: "gemma" }),
      status: queued.status,
      polled: polled.responses,
    });
  },
};
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from `gemlora worker init`, with the packages that `tests/install` put beside the tests."""
    folder = tmp_path_factory.mktemp("worker") / "my-worker"
    subprocess.run([GEMLORA, "worker", "init", folder], check=True, timeout=120)
    (folder / "node_modules").symlink_to(REPOSITORY / "tests/node/node_modules")
    (folder / "src/calling.ts").write_text(CALLING_WORKER)
    (folder / "src/forms.ts").write_text(FORMS_WORKER)
    return folder


@contextmanager
def running_worker(kit: Path, command: list[str], **environment: str) -> Iterator[str]:
    """Run the kit's `command` until its socket listens; yields the Worker's address."""
    port = free_port()
    process = subprocess.Popen(
        command, cwd=kit, env=os.environ | {"PORT": str(port)} | environment, start_new_session=True
    )
    try:
        wait_until_listening(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionError:  # also reset: by a listener that was closing, or by a connection that met itself
        return False
    return True


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if is_listening(port):
            return
        time.sleep(0.05)
    raise AssertionError("the Worker did not start")


@pytest.mark.parametrize("command", ["npm start", "node start.mjs src/index.ts"])
def test_the_runtime_ends_with_the_process_that_started_it(kit: Path, command: str) -> None:
    port = free_port()
    variables = {"PORT": str(port), "GEMLORA_API_TOKEN": API_TOKEN}
    process = subprocess.Popen(command.split(), cwd=kit, env=os.environ | variables, start_new_session=True)
    try:
        wait_until_listening(process, port)
        process.terminate()
        process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while is_listening(port) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_listening(port)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def test_the_page_s_worker_runs_unchanged(server: RunningServer, kit: Path) -> None:
    with running_worker(kit, ["npm", "start"], GEMLORA_URL=server.url, GEMLORA_API_TOKEN=API_TOKEN) as address:
        response = requests.get(address, timeout=120)

    assert response.status_code == 200, response.text
    answer = response.json()
    assert isinstance(answer["response"], str)
    assert answer["usage"]["completion_tokens"] > 0


def test_the_page_s_streaming_worker_relays_events_as_they_come(server: RunningServer, kit: Path) -> None:
    with (
        running_worker(
            kit, ["npm", "run", "streaming"], GEMLORA_URL=server.url, GEMLORA_DATA_DIR=str(server.data_dir)
        ) as address,
        requests.get(address, stream=True, timeout=120) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        chunks = response.iter_content(chunk_size=None)
        body = next(chunks)
        running_after_first_chunk = server.metric("gemlora_requests_in_flight")
        body += b"".join(chunks)

    assert running_after_first_chunk >= 1
    assert body.endswith(b"data: [DONE]\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in body.decode().split("\n\n")[:-2]]
    assert all(isinstance(event["response"], str) for event in events)
    assert "".join(event["response"] for event in events)
    assert events[-1]["usage"]["completion_tokens"] > 0


@pytest.fixture(scope="module")
def calling_worker(server: RunningServer, kit: Path) -> Iterator[str]:
    """A Worker that makes the call it is asked for and returns what came back or was thrown."""
    command = ["node", "start.mjs", "src/calling.ts"]
    with running_worker(kit, command, GEMLORA_URL=server.url, GEMLORA_API_TOKEN=API_TOKEN) as address:
        yield address


@pytest.mark.parametrize(
    ("model", "inputs", "error", "status"),
    [
        (MODEL, {"prompt": "x", "max_tokens": "many"}, "AiError: 5006: Error: oneOf at '/' not met", 400),
        ("@cf/google/none", {"prompt": "x"}, "AiError: 5007: No such model @cf/google/none or task", 400),
        (MODEL, {"prompt": "x", "lora": "nobody-s"}, "AiError: 3037: Finetune nobody-s not found", 404),
    ],
)
def test_a_worker_catches_the_documented_errors(
    calling_worker: str, model: str, inputs: dict[str, object], error: str, status: int
) -> None:
    caught = requests.post(calling_worker, json={"model": model, "inputs": inputs}, timeout=120).json()

    assert caught["error"].startswith(error)
    assert caught["status"] == status


def test_a_wrong_token_is_an_authentication_error_in_the_worker(server: RunningServer, kit: Path) -> None:
    command = ["node", "start.mjs", "src/calling.ts"]
    with running_worker(kit, command, GEMLORA_URL=server.url, GEMLORA_API_TOKEN="wrong") as address:
        caught = requests.post(address, json={"model": MODEL, "inputs": {"prompt": "x"}}, timeout=120).json()

    assert caught == {"error": "InferenceUpstreamError: 10000: Authentication error", "status": 401}


def test_a_second_worker_from_the_same_folder_leaves_the_first_alone(
    calling_worker: str, server: RunningServer, kit: Path
) -> None:
    call = {"model": MODEL, "inputs": {"prompt": "x", "max_tokens": 1}}
    with running_worker(kit, ["npm", "start"], GEMLORA_URL=server.url, GEMLORA_API_TOKEN="wrong"):
        answers = [requests.post(calling_worker, json=call, timeout=120).json() for _ in range(5)]

    assert all("answer" in answer for answer in answers)


def test_the_binding_knows_the_id_of_its_last_request(calling_worker: str) -> None:
    call = {"model": MODEL, "inputs": {"prompt": "x", "max_tokens": 1}}

    answer = requests.post(calling_worker, json=call, timeout=120).json()

    assert len(answer["request"]) == 36


def test_every_form_of_a_call_is_answered(server: RunningServer, kit: Path) -> None:
    command = ["node", "start.mjs", "src/forms.ts"]
    with running_worker(kit, command, GEMLORA_URL=server.url, GEMLORA_API_TOKEN=API_TOKEN) as address:
        response = requests.get(address, timeout=120)
        assert response.status_code == 200, response.text
        seen = response.json()

    plain = seen["plain"]
    assert plain["usage"]["completion_tokens"] == 4
    assert seen["prefixed"] == seen["gateway"] == plain
    assert seen["raw"] == [200, "application/json", plain]
    assert seen["adapter"].startswith("3037: Finetune nobody-s not found")
    assert seen["bytes"].startswith("5006: Error: ")
    assert [model["name"] for model in seen["models"]] == [MODEL]
    assert seen["status"] == "queued"
    (answered,) = seen["polled"]
    assert (answered["external_reference"], answered["result"]) == ("a", plain)


def test_the_template_s_miniflare_example_runs(server: RunningServer, kit: Path) -> None:
    *_, example = code_blocks(kit / "README.md", "js")
    (kit / "example.mjs").write_text(example.replace(LOCAL.removeprefix("http://"), f"127.0.0.1:{server.port}"))

    finished = subprocess.run(
        ["node", "example.mjs"],
        cwd=kit,
        env=os.environ | {"GEMLORA_API_TOKEN": API_TOKEN},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert "completion_tokens: 8" in finished.stdout
