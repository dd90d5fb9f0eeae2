"""`gemlora train` ends with an adapter that requests can name, and asks for little before that."""

import io
import json
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console
from tests.checkpoints import random_model, save
from tests.cli.conftest import Command

from gemlora.cli.plan_options import OPTIONS
from gemlora.cli.training_view import TrainingView, loss_plot
from gemlora.training.history import Evaluation, History, Step
from gemlora.training.plan import Plan


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "the quick " * n, "completion": "fox"}) for n in range(1, 9)))
    return path


@pytest.fixture
def gemlora(gemlora: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command with an empty data folder and a tiny base."""
    save(random_model("gemma3"), tmp_path / "base")
    settings = {
        "DATA_DIR": tmp_path / "data", "WEIGHTS": tmp_path / "base", "CACHE_DIR": tmp_path / "cache",
        "QUANTIZE": "none",
    }  # fmt: skip
    for key, value in settings.items():
        monkeypatch.setenv(f"GEMLORA_{key}", str(value))
    return gemlora


def test_the_trained_adapter_is_registered(gemlora: Command, data: Path, tmp_path: Path) -> None:
    arguments = ("train", data, "--name", "fox", "--output", tmp_path / "fox", "--rank", 2, "--epochs", 1)
    result = gemlora(*arguments)
    assert result.status == 0, result.errors
    assert "Learning from 7 examples, watching 1" in result.errors
    assert "Held out, with the base alone: loss" in result.errors
    assert "Trained 1 steps" in result.errors
    assert result.output.endswith('Requests can name it now: "lora": "fox"\n')
    assert "fox" in gemlora("adapters", "list").output

    again = gemlora(*arguments)
    assert again.status == 1
    assert again.errors == "Error: An adapter named 'fox' exists already\n"


def test_wrong_data_is_told_of_before_anything_is_loaded(gemlora: Command, data: Path, tmp_path: Path) -> None:
    data.write_text('{"prompt": "a"}\n')
    result = gemlora("train", data, "--name", "fox", "--output", tmp_path / "fox")
    assert result.status == 1
    assert "data.jsonl, line 1: has the keys {prompt}" in result.errors
    assert not (tmp_path / "fox").exists()


def test_wrong_settings_are_refused(gemlora: Command, data: Path) -> None:
    result = gemlora("train", data, "--name", "fox", "--rank", 0, "--modules", "q_proj,attention")
    assert result.status == 1
    assert result.errors.startswith("Error: rank must be 1 to 256; modules must be among q_proj, ")


def test_every_field_of_the_plan_is_an_option() -> None:
    assert list(OPTIONS) == [field.name for field in fields(Plan)]


def test_a_terminal_sees_the_losses_as_a_plot() -> None:
    screen = io.StringIO()
    history = History([Step(step, 5 - step / 10, 10) for step in range(1, 31)], [Evaluation(0, 5.0)])
    with TrainingView(Console(file=screen, force_terminal=True, width=100)) as view:
        view.began(History(), 60)
        view.evaluated(history)
        view.stepped(history)
    assert "Held out, with the base alone: loss 5.0000, perplexity 148.41" in screen.getvalue()
    assert "Step 30 of 60: loss 2.0000" in screen.getvalue()
    assert "█" in screen.getvalue()


def test_the_plot_falls_with_the_losses() -> None:
    rows = loss_plot([4.0, 2.0, 1.0], width=10, height=4).split("\n")
    assert rows == ["  4.00 █  ", "  3.00 █  ", "  2.00 ██ ", "  1.00 ███"]
