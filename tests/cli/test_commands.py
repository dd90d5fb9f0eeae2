"""The command line as a whole: quick, documented, and with one clear text for every error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from docs.generate import FOLDER, PAGES
from typer.testing import CliRunner

from gemlora import __version__
from gemlora.cli import COMMANDS, app, load_command
from gemlora.cli.serve import curl_line

HEAVY = [
    "starlette",
    "sqlalchemy",
    "numpy",
    "pydantic",
    "uvicorn",
    "alembic",
    "torch",
    "gguf",
    "tokenizers",
    "rich.progress",
]


def imported_by(*arguments: str) -> list[str]:
    program = (
        "import sys\n"
        "from gemlora.cli import main\n"
        f"sys.argv[1:] = {list(arguments)!r}\n"
        "try:\n    main()\n"
        f"except SystemExit:\n    print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return list(eval(result.stderr))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_asking_for_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported_by(*arguments) == []


@pytest.mark.parametrize("command", ["serve", "adapters"])
def test_a_commands_help_imports_no_server(command: str) -> None:
    assert set(imported_by(command, "--help")) <= {"pydantic", "rich.progress"}


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"gemlora {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_overview_says_what_the_command_says(command: str) -> None:
    assert load_command(command).get_short_help_str(200) == COMMANDS[command]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_no_command_offers_the_completion_that_gemlora_does_not_have(command: list[str]) -> None:
    assert "-completion" not in imported_help(*command)


def imported_help(*command: str) -> str:
    """What a command prints about itself, in a process of its own."""
    program = f"import sys; sys.argv[1:] = {[*command, '--help']!r}; from gemlora.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["serv"])

    assert result.exit_code == 2
    assert "serv" in result.output


@pytest.mark.parametrize("page", PAGES)
def test_the_generated_pages_are_current(page: str) -> None:
    assert (FOLDER / page).read_text() == PAGES[page](), "run: make docs"


def test_what_gemlora_refuses_is_one_clear_text(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from gemlora.cli import main; main()", "serve", "--port", "x", "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"GEMLORA_API_TOKEN": "ümlaut-s3cret"},
        check=False,
    )

    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: These settings are wrong:\n  --port 'x'")
    assert "GEMLORA_API_TOKEN (hidden)" in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize("token", ["plain", 'a"b', "a$HOME`id`", "it's", "back\\slash", "bang!", "with blanks"])
def test_the_printed_curl_line_survives_the_shell(token: str) -> None:
    line = curl_line("http://127.0.0.1:1", "0" * 32, "@cf/google/gemma-7b-it-lora", token)

    shown = subprocess.run(
        ["bash", "-c", line.replace("curl", "printf '%s\\n'", 1)], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert "\n" not in line
    assert shown[0] == f"http://127.0.0.1:1/client/v4/accounts/{'0' * 32}/ai/run/@cf/google/gemma-7b-it-lora"
    assert shown[1:4] == ["-X", "POST", "-H"]
    assert shown[4] == f"Authorization: Bearer {token}"
    assert shown[6].startswith('{ "messages": [')


def test_the_printed_curl_line_of_an_ordinary_token_looks_like_the_model_pages() -> None:
    line = curl_line("http://h:1", "a" * 32, "@cf/google/gemma-7b-it-lora", "token")

    assert line == (
        f"curl http://h:1/client/v4/accounts/{'a' * 32}/ai/run/@cf/google/gemma-7b-it-lora -X POST "
        '-H "Authorization: Bearer token" '
        '-d \'{ "messages": [{ "role": "system", "content": "You are a friendly assistant" }, '
        '{ "role": "user", "content": "Why is pizza so good" }]}\''
    )
