"""The programs that the page shows, taken from it and run as they stand."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from playwright.sync_api import expect
from tests.e2e.documents import REPOSITORY
from tests.e2e.playground.browser import Playground
from tests.e2e.playground.test_shape import SCHEMA, WEATHER, answers_with_calls, by_schema, give, with_tools
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, GEMLORA, RunningServer
from tests.e2e.test_workers import running_worker

QUESTION = """It's "quoted", $HOME `id` \\ and {braces}: süß 🦀"""
SYSTEM = "Be brief."
PARAMETERS = {"max_tokens": 8, "temperature": 0, "top_k": 5, "repetition_penalty": 1.5}
PYTHON = ("Python requests", "Python cloudflare", "Python openai")
LANGUAGES = ("curl", *PYTHON)
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
    expect(dialog.locator("#code-text")).not_to_contain_text(API_TOKEN)
    copied = playground.copied(dialog.locator("#code-copy"))
    dialog.get_by_label("Show the token").check()
    assert dialog.locator("#code-text").text_content() == copied
    playground.page.keyboard.press("Escape")
    return copied


def asked(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The body of the request, with turns before the question."""
    messages = [{"role": "system", "content": SYSTEM}, *turns, {"role": "user", "content": QUESTION}]
    return {"messages": messages, "lora": "pirate", **PARAMETERS, **more}


def expected(server: RunningServer) -> str:
    return server.text(asked())


def printed(*command: str | Path, **options: object) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, **options)  # type: ignore[call-overload]
    assert finished.returncode == 0, finished.stderr
    output: str = finished.stdout
    return output


def output(language: str, program: str) -> str:
    """What a program prints. Python's share this process: their libraries take a second to import."""
    if language == "curl":
        return printed("bash", "-c", program)
    with redirect_stdout(io.StringIO()) as stream:
        exec(compile(program, language, "exec"), {"__name__": "__main__"})
    return stream.getvalue()


def test_the_curl_line(chat: Playground, playground_server: RunningServer) -> None:
    answer = json.loads(printed("bash", "-c", code(chat, "curl")))

    assert answer["result"]["response"] == expected(playground_server)


def test_the_python_programs(chat: Playground, playground_server: RunningServer) -> None:
    programs = [code(chat, language) for language in PYTHON]

    with ThreadPoolExecutor(len(programs)) as pool:
        outputs = list(pool.map(lambda program: printed(sys.executable, "-c", program), programs))
    assert outputs == [expected(playground_server) + "\n"] * len(programs)


@pytest.mark.parametrize("raw", [False, True])
def test_prompts_too(chat: Playground, playground_server: RunningServer, raw: bool) -> None:
    chat.page.get_by_role("radio", name="Prompt").check()
    chat.page.get_by_role("checkbox", name="raw").set_checked(raw)

    more = {"raw": True} if raw else {}
    answer = playground_server.text({"prompt": QUESTION, "lora": "pirate", **PARAMETERS, **more})
    for language in LANGUAGES:
        text = output(language, code(chat, language))
        shown = json.loads(text)["result"]["response"] if language == "curl" else text.removesuffix("\n")
        assert shown == answer, language


def test_programs_that_ask_by_a_schema(chat: Playground, playground_server: RunningServer) -> None:
    by_schema(chat)
    chat.set(max_tokens=60)

    more = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}, "max_tokens": 60}
    whole = playground_server.run(asked(**more)).json()["result"]["response"]
    jsonschema.validate(whole, SCHEMA)
    for language in LANGUAGES:
        answer = json.loads(output(language, code(chat, language)))
        assert (answer["result"]["response"] if language == "curl" else answer) == whole, language


def test_programs_with_calls_and_results_in_the_conversation(
    chat: Playground, playground_server: RunningServer
) -> None:
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    with_tools(chat)
    chat.set(max_tokens=60)
    answers_with_calls(chat, call, call)
    give(chat, chat.ask("Rome?"), "sunny", '{"sky": "blue"}')
    chat.page.get_by_label("Your message").fill(QUESTION)

    turns = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "name": "weather", "content": "sunny"},
        {"role": "tool", "name": "weather", "content": '{"sky": "blue"}'},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
    ]
    more = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60}
    calls = playground_server.run(asked(*turns, **more)).json()["result"]["tool_calls"]
    for language in LANGUAGES:
        text = output(language, code(chat, language))
        shown = json.loads(text)["result"]["tool_calls"] if language == "curl" else ast.literal_eval(text)
        if language == "Python openai":
            shown = [{**call, "arguments": json.loads(call["arguments"])} for call in shown]
        assert shown == calls, language


def test_programs_with_tools_that_need_not_be_called(chat: Playground, playground_server: RunningServer) -> None:
    with_tools(chat, choice="none")

    answer = expected(playground_server)
    for language in LANGUAGES:
        text = output(language, code(chat, language))
        shown = json.loads(text)["result"]["response"] if language == "curl" else text.removesuffix("\n")
        assert shown == answer, language


def test_openai_s_completions_are_asked_without_tools_and_the_program_says_so(
    chat: Playground, playground_server: RunningServer
) -> None:
    with_tools(chat)
    chat.page.get_by_role("radio", name="Prompt").check()
    chat.page.get_by_role("checkbox", name="raw").check()
    program = code(chat, "Python openai")

    assert "completions take no tools" in program
    text = playground_server.text({"prompt": QUESTION, "raw": True, "lora": "pirate", **PARAMETERS})
    assert output("Python openai", program) == text + "\n"


def test_openai_s_completions_too_are_held_to_json(chat: Playground, playground_server: RunningServer) -> None:
    by_schema(chat)
    chat.set(max_tokens=60)
    chat.page.get_by_role("radio", name="Prompt").check()
    chat.page.get_by_role("checkbox", name="raw").check()

    jsonschema.validate(json.loads(output("Python openai", code(chat, "Python openai"))), SCHEMA)


def test_the_worker_gets_json_as_an_object(chat: Playground, tmp_path: Path) -> None:
    by_schema(chat)
    chat.set(max_tokens=60)
    answer = worker_answer(code(chat, "Worker"), tmp_path)

    jsonschema.validate(answer["response"], SCHEMA)


def test_the_worker(chat: Playground, playground_server: RunningServer, tmp_path: Path) -> None:
    answer = worker_answer(code(chat, "Worker"), tmp_path)

    assert answer["response"] == expected(playground_server)


def worker_answer(program: str, tmp_path: Path) -> Any:
    folder = tmp_path / "my-worker"
    subprocess.run([GEMLORA, "worker", "init", folder], check=True, timeout=60)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "src/index.ts").write_text(program)
    variables, _, command = program.splitlines()[0].removeprefix("// ").rpartition(" npm ")
    environment = dict(variable.split("=", 1) for variable in variables.split())

    with running_worker(folder, ["npm", command], **environment) as address:
        return requests.get(address, timeout=120).json()


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
    said = printed("bash", "-c", code(chat, "wrangler upload"), cwd=tmp_path, env=environment)

    assert "my-adapter" in said
    assert playground_server.run({"prompt": "x", "max_tokens": 1, "lora": "my-adapter"}).status_code == 200


def test_what_cannot_be_sent_is_no_program_and_the_page_says_why(chat: Playground) -> None:
    chat.set(temperature=6)
    chat.page.get_by_role("button", name="View code").click()
    dialog = chat.page.get_by_role("dialog")

    expect(dialog.get_by_role("alert")).to_contain_text("temperature")
    expect(dialog.get_by_role("button", name="Copy")).to_be_hidden()
    dialog.get_by_role("button", name="Close").click()
    chat.set(temperature=0)
    chat.page.get_by_role("button", name="View code").click()
    expect(dialog.get_by_role("alert")).to_be_hidden()
    expect(dialog.locator("#code-text")).to_contain_text('"temperature":0')


def test_the_tabs_follow_the_arrow_keys(chat: Playground) -> None:
    chat.page.get_by_role("button", name="View code").click()
    chat.page.get_by_role("tab", name="curl").focus()
    for key, name in (("ArrowRight", "Python requests"), ("ArrowLeft", "curl"), ("ArrowLeft", "wrangler upload")):
        chat.page.keyboard.press(key)
        expect(chat.page.get_by_role("tab", selected=True)).to_have_text(name)
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_role("dialog")).to_have_count(0)
