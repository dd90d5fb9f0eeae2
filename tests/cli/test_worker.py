"""`gemlora worker init` writes the whole template, and nothing over somebody's work."""

import json
from pathlib import Path

from typer.testing import CliRunner

from gemlora.cli.worker import app

TEMPLATE_FILES = {
    ".gitignore",
    "README.md",
    "config.capnp",
    "package.json",
    "src/index.ts",
    "src/streaming.ts",
    "start.mjs",
    "tsconfig.json",
    "wrangler/ai.js",
    "wrangler/wrangler.toml",
}


def written_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_init_writes_the_template_into_a_new_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "deep" / "my-worker")])

    assert result.exit_code == 0, result.output
    assert written_files(tmp_path / "deep" / "my-worker") == TEMPLATE_FILES
    assert "npm install" in result.output


def test_init_accepts_an_empty_folder(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path)]).exit_code == 0
    assert written_files(tmp_path) == TEMPLATE_FILES


def test_init_writes_nothing_into_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("mine")

    result = CliRunner().invoke(app, ["init", str(tmp_path)])

    assert result.exit_code == 1
    assert "nothing was written" in result.output
    assert written_files(tmp_path) == {"package.json"}
    assert (tmp_path / "package.json").read_text() == "mine"


def test_the_template_runs_on_the_packages_that_the_tests_install(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["init", str(tmp_path)])
    tests = json.loads((Path(__file__).parents[1] / "node" / "package.json").read_text())
    template = json.loads((tmp_path / "package.json").read_text())

    assert template["dependencies"].items() <= tests["dependencies"].items()
