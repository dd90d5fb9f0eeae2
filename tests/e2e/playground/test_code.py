"""The programs that the page shows, taken from it and run as they stand."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tests.e2e.documents import REPOSITORY
from tests.e2e.playground.browser import Playground
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, GEMLORA, RunningServer
from tests.e2e.test_workers import running_worker

QUESTION = """It's "quoted", $HOME `id` \\ and {braces}: süß 🦀"""
SYSTEM = "Be brief."
PARAMETERS = {"max_tokens": 8, "temperature": 0, "top_k": 5, "repetition_penalty": 1.5}
NODE_MODULES = REPOSITORY / "tests/node/node_modules"


@pytest.fixture
def chat(playground: Playground, adapters: tuple[str, ...]) -> Playground:
    playground.sign_in()
    playground.set(**PARAMETERS)
    playground.page.locator("#adapter").select_option("pirate")
    playground.page.get_by_label("System message").fill(SYSTEM)
    playground.page.get_by_label("Your message").fill(QUESTION)
    return playground


def code(playground: Playground, language: str) -> str:
    """What the button copies; the page shows the same once it may show the token."""
    playground.page.get_by_role("button", name="View code").click()
    dialog = playground.page.get_by_role("dialog")
    dialog.get_by_role("tab", name=language, exact=True).click()
    assert API_TOKEN not in dialog.inner_text()
    dialog.get_by_role("button", name="Copy").click()
    dialog.get_by_role("button", name="Copied").wait_for()
    copied: str = playground.page.evaluate("navigator.clipboard.readText()")
    dialog.get_by_label("Show the token").check()
    assert dialog.locator("#code-text").text_content() == copied
    return copied


def expected(server: RunningServer) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    return server.text({"messages": messages, "lora": "pirate", **PARAMETERS})


def printed(*command: str | Path, **options: object) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **options)  # type: ignore[call-overload]
    assert finished.returncode == 0, finished.stderr
    output: str = finished.stdout
    return output


def test_the_curl_line(chat: Playground, playground_server: RunningServer) -> None:
    answer = json.loads(printed("bash", "-c", code(chat, "curl")))

    assert answer["result"]["response"] == expected(playground_server)


@pytest.mark.parametrize("language", ["Python requests", "Python cloudflare", "Python openai"])
def test_the_python_programs(chat: Playground, playground_server: RunningServer, language: str) -> None:
    assert printed(sys.executable, "-c", code(chat, language)) == expected(playground_server) + "\n"


@pytest.mark.parametrize("language", ["curl", "Python requests", "Python cloudflare", "Python openai"])
@pytest.mark.parametrize("raw", [False, True])
def test_prompts_too(chat: Playground, playground_server: RunningServer, language: str, raw: bool) -> None:
    chat.page.get_by_role("radio", name="Prompt").check()
    chat.page.get_by_role("checkbox", name="raw").set_checked(raw)
    program = code(chat, language)
    output = printed(*(["bash", "-c"] if language == "curl" else [sys.executable, "-c"]), program)

    more = {"raw": True} if raw else {}
    answer = playground_server.text({"prompt": QUESTION, "lora": "pirate", **PARAMETERS, **more})
    assert (json.loads(output)["result"]["response"] if language == "curl" else output.removesuffix("\n")) == answer


def test_the_worker(chat: Playground, playground_server: RunningServer, tmp_path: Path) -> None:
    program = code(chat, "Worker")
    folder = tmp_path / "my-worker"
    subprocess.run([GEMLORA, "worker", "init", folder], check=True, timeout=60)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "src/index.ts").write_text(program)
    variables, _, command = program.splitlines()[0].removeprefix("// ").rpartition(" npm ")
    environment = dict(variable.split("=", 1) for variable in variables.split())

    with running_worker(folder, ["npm", command], **environment) as address:
        answer = requests.get(address, timeout=120).json()

    assert answer["response"] == expected(playground_server)


@pytest.fixture
def no_upload(playground_server: RunningServer) -> Iterator[None]:
    yield
    address = f"{playground_server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/finetunes/my-adapter"
    requests.delete(address, headers=playground_server.authorization, timeout=30)


def test_the_wrangler_upload(
    chat: Playground, playground_server: RunningServer, folders: dict[str, Path], tmp_path: Path, no_upload: None
) -> None:
    shutil.copytree(folders["poet"], tmp_path / "my-adapter")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "npx").write_text(f'#!/bin/sh\nshift\nexec node {NODE_MODULES}/wrangler4/bin/wrangler.js "$@"\n')
    (commands / "npx").chmod(0o755)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "HOME": str(tmp_path), "CI": "true"}
    environment |= {"WRANGLER_SEND_METRICS": "false", "NO_COLOR": "1"}
    output = printed("bash", "-c", code(chat, "wrangler upload"), cwd=tmp_path, env=environment)

    assert "my-adapter" in output
    assert playground_server.run({"prompt": "x", "max_tokens": 1, "lora": "my-adapter"}).status_code == 200


def test_the_tabs_follow_the_arrow_keys(chat: Playground) -> None:
    chat.page.get_by_role("button", name="View code").click()
    chat.page.get_by_role("tab", name="curl").focus()
    for key, name in (("ArrowRight", "Python requests"), ("ArrowLeft", "curl"), ("ArrowLeft", "wrangler upload")):
        chat.page.keyboard.press(key)
        assert chat.page.get_by_role("tab", selected=True).inner_text() == name
    chat.page.keyboard.press("Escape")
    assert chat.page.get_by_role("dialog").count() == 0
