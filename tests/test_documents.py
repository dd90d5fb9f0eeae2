"""What the documents say about names that the code defines: errors, settings, commands, links and folders."""

import re
from pathlib import Path

import pytest

from gemlora.cli import COMMANDS
from gemlora.settings import CONFIG_VARIABLE, Settings

REPOSITORY = Path(__file__).parents[1]
TEMPLATE = REPOSITORY / "src/gemlora/cli/worker_template/README.md"
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted(REPOSITORY.glob("docs/*.md")), TEMPLATE]
TEMPLATE_VARIABLES = {"GEMLORA_URL"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"GEMLORA_[A-Z_]+", document.read_text())) - TEMPLATE_VARIABLES

    assert named <= {CONFIG_VARIABLE, *(f"GEMLORA_{key.upper()}" for key in Settings.model_fields)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    named = set(re.findall(r"gemlora (serve|[a-z]+ (?:add|init|list|pull|remove))\b", document.read_text()))

    assert {command.split(" ")[0] for command in named} <= COMMANDS.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_readme_s_tree_names_what_is_there() -> None:
    tree = (REPOSITORY / "README.md").read_text().split("## The tree")[1]
    top, package = re.findall(r"^├── (\S+)/", tree, re.MULTILINE), re.findall(r"^│   ├── (\S+)/", tree, re.MULTILINE)
    modules = REPOSITORY / "src/gemlora"

    assert [folder for folder in top if not (REPOSITORY / folder).is_dir()] == []
    assert {path.name for path in modules.iterdir() if (path / "__init__.py").exists()} == set(package)
