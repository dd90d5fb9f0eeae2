"""From files to files: what a training leaves can be served, and says what it is made of."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from tests.training.test_trainer import Killed, Silent

from gemlora.engines.cpu.weights.source import FolderSource
from gemlora.errors import TrainingDataInvalid, TrainingRefused
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.models import AdapterLimits, Base
from gemlora.registry.peft_config import read_config
from gemlora.registry.validation import check_adapter
from gemlora.training.base import TrainableBase
from gemlora.training.checkpoint import FILE
from gemlora.training.job import Job
from gemlora.training.plan import Plan

PLAN = Plan(rank=4, alpha=8.0, epochs=1, batch_size=2, max_tokens=64)
QUESTIONS = [
    "what is the answer",
    "the quick brown fox",
    "over the lazy dog",
    "is the fox lazy",
    "what jumps",
    "the dog",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    lines = [{"prompt": question, "completion": "the answer"} for question in QUESTIONS]
    path.write_text("\n".join(map(json.dumps, [*lines, {"text": "the quick " * 100}])))
    return path


@pytest.fixture
def job(data: Path, folders: dict[str, Path], tmp_path: Path) -> Job:
    return Job("parrot", data, FolderSource(folders["gemma3"]), "c0ffee" * 10, PLAN, tmp_path / "out")


def changed(job: Job, **changes: object) -> Job:
    fields = {name: getattr(job, name) for name in Job.__slots__}
    return Job(**{**fields, **changes})


def test_it_leaves_an_adapter_that_is_accepted(job: Job) -> None:
    told: list[str] = []
    history = job.run(Silent(), told.append)
    shapes = {"q": (128, 64), "kv": (64, 64), "up": (96, 64), "down": (64, 96)}
    kinds = {"q_proj": "q", "k_proj": "kv", "v_proj": "kv", "gate_proj": "up", "up_proj": "up", "down_proj": "down"}
    modules = {module: shapes[kind] for module, kind in kinds.items()} | {"o_proj": (64, 128)}
    base = Base("tiny", "gemma3", "0" * 64, "none", 64, 7, 320, modules, 64, True)
    config = read_config((job.folder / CONFIG_FILE).read_bytes())
    checked = check_adapter(config, job.folder / WEIGHTS_FILE, base, AdapterLimits())
    assert len(checked.manifest.modules) == 7 * 7
    assert len(history.steps) == 3
    assert told == [
        "Left out 1 examples longer than 64 tokens: lines 7",
        "Learning from 5 examples, watching 1",
    ]
    assert not (job.folder / FILE).exists()


def test_the_card_says_what_it_is_made_of(job: Job) -> None:
    history = changed(job, description="Answers everything.").run(Silent(), lambda _: None)
    card = (job.folder / "README.md").read_text()
    assert sha256(job.data.read_bytes()).hexdigest() in card
    assert "\n# parrot\n\nAnswers everything.\n\nTrained with" in card
    assert "5 examples learnt, 1 held out" in card
    assert f"{history.base.loss:.3f} to {history.best.loss:.3f}" in card  # type: ignore[union-attr]
    assert "left out: lines 7." in card
    assert (job.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((job.folder / "training.json").read_text())
    assert document["plan"]["rank"] == 4
    assert len(document["history"]["steps"]) == 3


def test_killed_and_run_again_it_leaves_the_same_adapter(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemlora.training.trainer.CHECKPOINT_SECONDS", 0.0)
    job.run(Silent(), lambda _: None)
    other = changed(job, folder=tmp_path / "other")
    with pytest.raises(Killed):
        other.run(Silent(2), lambda _: None)
    other.run(Silent(), lambda _: None)
    assert (other.folder / WEIGHTS_FILE).read_bytes() == (job.folder / WEIGHTS_FILE).read_bytes()


def test_other_data_does_not_go_on_from_a_checkpoint(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemlora.training.trainer.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        job.run(Silent(2), lambda _: None)
    job.data.write_text(job.data.read_text().replace("fox", "cat"))
    with pytest.raises(TrainingRefused, match="--restart begins anew"):
        job.run(Silent(), lambda _: None)
    assert len(changed(job, restart=True).run(Silent(), lambda _: None).steps) == 3


def test_a_finished_adapter_is_not_overwritten(job: Job) -> None:
    job.run(Silent(), lambda _: None)
    before = (job.folder / WEIGHTS_FILE).read_bytes()
    with pytest.raises(TrainingRefused, match="holds an adapter already"):
        job.run(Silent(), lambda _: None)
    assert (job.folder / WEIGHTS_FILE).read_bytes() == before
    changed(job, restart=True, plan=Plan(rank=2, epochs=1)).run(Silent(), lambda _: None)
    assert (job.folder / WEIGHTS_FILE).read_bytes() != before


def test_a_file_of_held_out_examples_is_watched_instead_of_a_share(job: Job, tmp_path: Path) -> None:
    watched = tmp_path / "watched.jsonl"
    watched.write_text(json.dumps({"prompt": "what is lazy", "completion": "the dog"}))
    told: list[str] = []
    changed(job, held_out=watched).run(Silent(), told.append)
    assert told[-1] == "Learning from 6 examples, watching 1"


def test_nothing_to_learn_is_refused(job: Job) -> None:
    with pytest.raises(TrainingDataInvalid, match="every example is longer than 8 tokens"):
        changed(job, plan=Plan(max_tokens=8)).run(Silent(), lambda _: None)


def test_a_gpu_that_is_too_small_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TrainableBase, "loss", full)
    with pytest.raises(TrainingRefused, match=r"too little memory .* --batch-size or --max-tokens"):
        job.run(Silent(), lambda _: None)
