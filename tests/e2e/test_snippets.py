"""The model page's curl and Python examples, as the README shows them, run as processes against a real server."""

import ast
import json
import os
import subprocess
import sys

import pytest
from tests.e2e.documents import LOCAL, REPOSITORY, page_example, readme_example, statements
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, RunningServer

TEMPLATE = REPOSITORY / "src/gemlora/cli/worker_template/src"


@pytest.mark.parametrize(("file", "example"), [("index.ts", "worker"), ("streaming.ts", "worker-streaming")])
def test_the_template_holds_the_page_s_worker_unchanged(file: str, example: str) -> None:
    assert statements((TEMPLATE / file).read_text()) == page_example(example)
    assert (TEMPLATE / file).read_text() == readme_example("ts", example)


@pytest.fixture
def page_environment() -> dict[str, str]:
    """The variables that the page's examples read."""
    return os.environ | {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT_ID, "CLOUDFLARE_AUTH_TOKEN": API_TOKEN}


def test_the_page_s_curl_line_is_answered(server: RunningServer, page_environment: dict[str, str]) -> None:
    line = readme_example("bash", "curl").replace(LOCAL, server.url)

    finished = subprocess.run(
        ["bash", "-c", line], env=page_environment, capture_output=True, text=True, timeout=120, check=True
    )

    assert_is_an_answer(json.loads(finished.stdout))


def test_the_page_s_python_example_is_answered(server: RunningServer, page_environment: dict[str, str]) -> None:
    program = readme_example("python", "python").replace(LOCAL, server.url)

    finished = subprocess.run(
        [sys.executable, "-c", program], env=page_environment, capture_output=True, text=True, timeout=120, check=True
    )

    assert_is_an_answer(ast.literal_eval(finished.stdout))


def assert_is_an_answer(body: dict[str, object]) -> None:
    assert body["success"] is True
    assert body["errors"] == []
    assert body["messages"] == []
    result = body["result"]
    assert isinstance(result, dict)
    assert isinstance(result["response"], str)
    assert result["usage"]["prompt_tokens"] > 0
    assert result["usage"]["total_tokens"] == result["usage"]["prompt_tokens"] + result["usage"]["completion_tokens"]
