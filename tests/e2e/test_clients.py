"""The programs of docs/clients.md, run as they stand: each prints the server's greedy answer, or its structure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.documents import REPOSITORY, code_blocks
from tests.e2e.node import NODE
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, RunningServer

PAGE = REPOSITORY / "docs/clients.md"
PROGRAMS = [(language, code) for language in ("sh", "python", "js") for code in code_blocks(PAGE, language)]
STRUCTURED = [code for _, code in PROGRAMS if "class Weather(" in code]
ASKED = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0, "max_tokens": 24}


def run(language: str, code: str, server: RunningServer, folder: Path) -> str:
    """What the program prints."""
    if language == "js":  # beside the packages that it imports
        command = [str(NODE), "--input-type=module", "--eval", code]
        folder = REPOSITORY / "tests/node"
    else:
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-c", code]
    programs = Path(sys.executable).parent  # what Python packages bring to the command line
    environment = os.environ | {"BASE": server.url, "ACCOUNT_ID": ACCOUNT_ID, "API_TOKEN": API_TOKEN}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    finished = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(("language", "code"), [program for program in PROGRAMS if program[1] not in STRUCTURED])
def test_a_program_of_the_page_prints_the_answer(
    language: str, code: str, tiny_server: RunningServer, tmp_path: Path
) -> None:
    printed = run(language, code, tiny_server, tmp_path)

    answer = json.loads(printed)["result"]["response"] if code.startswith("curl") else printed.removesuffix("\n")
    assert answer == tiny_server.text(ASKED) != ""


@pytest.mark.parametrize("code", STRUCTURED)
def test_a_program_that_asks_for_a_structure_gets_it(code: str, tiny_server: RunningServer, tmp_path: Path) -> None:
    answer = json.loads(run("python", code, tiny_server, tmp_path))

    assert isinstance(answer.pop("city"), str)
    assert isinstance(answer.pop("degrees"), int)
    assert answer == {}


def test_every_heading_has_a_program() -> None:
    assert len(PROGRAMS) == PAGE.read_text().count("\n## ") >= 15
