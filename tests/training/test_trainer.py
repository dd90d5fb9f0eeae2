"""A training learns, stops when nothing more is gained, and goes on after any interruption as if there was none."""

from pathlib import Path

import pytest
import torch
from tests.training.conftest import Opened

from gemlora.errors import TrainingRefused
from gemlora.training import checkpoint, trainer
from gemlora.training.batches import Split
from gemlora.training.checkpoint import FILE, Tensors
from gemlora.training.history import Evaluation, History
from gemlora.training.plan import Plan
from gemlora.training.trainer import Trainer

PLAN = Plan(rank=4, alpha=8.0, learning_rate=0.02, epochs=4, dropout=0.1, patience=100)


class Killed(BaseException):
    """Stands for the end of the process."""


class Silent:
    """A watcher that may kill the training after a step."""

    def __init__(self, last_step: int | None = None) -> None:
        self._last_step = last_step

    def began(self, history: History, steps: int) -> None:
        pass

    def stepped(self, history: History) -> None:
        if len(history.steps) == self._last_step:
            raise Killed

    def evaluated(self, history: History) -> None:
        pass


@pytest.fixture(autouse=True)
def _save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    """Tiny products gain nothing by threads, and their waiting for each other is slow on busy machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(
    opened: Opened, examples: Split, folder: Path, plan: Plan = PLAN, last_step: int | None = None, name: str = "same"
) -> tuple[Tensors, History]:
    folder.mkdir(exist_ok=True)
    return Trainer(opened("gemma3", plan), examples, plan, name, folder, Silent(last_step)).run()


def test_a_training_learns(opened: Opened, examples: Split, tmp_path: Path) -> None:
    _, history = train(opened, examples, tmp_path)
    assert len(history.steps) == 20
    assert history.base is not None
    assert history.best is not None
    assert history.best.loss < history.base.loss - 0.5


def test_killed_anywhere_it_ends_with_the_same_numbers(opened: Opened, examples: Split, tmp_path: Path) -> None:
    weights, history = train(opened, examples, tmp_path / "whole")
    for last_step in (1, 7, 8, 20):
        with pytest.raises(Killed):
            train(opened, examples, tmp_path / "killed", last_step=last_step)
    resumed, again = train(opened, examples, tmp_path / "killed")
    assert (again.steps, again.evaluations) == (history.steps, history.evaluations)
    assert all(torch.equal(resumed[name], one) for name, one in weights.items())
    assert resumed.keys() == weights.keys()


def test_the_weights_that_did_best_are_kept(opened: Opened, examples: Split, tmp_path: Path) -> None:
    plan = Plan(rank=4, learning_rate=0.5, warmup=0.0, epochs=4, patience=2)
    weights, history = train(opened, examples, tmp_path, plan)
    assert history.best is not None
    assert len(history.steps) < 20
    assert history.without_gain == 2
    base = opened("gemma3", plan)
    base.set_weights(weights)
    assert trainer.mean_loss(base, examples.held_out) == pytest.approx(history.best.loss)


def test_without_held_out_examples_the_last_weights_count(opened: Opened, examples: Split, tmp_path: Path) -> None:
    weights, history = train(opened, Split(examples.learnt, ()), tmp_path)
    assert history.evaluations == []
    assert checkpoint.load(tmp_path).weights.keys() == weights.keys()  # type: ignore[union-attr]


def test_a_checkpoint_of_another_training_is_refused(opened: Opened, examples: Split, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(opened, examples, tmp_path, last_step=3)
    with pytest.raises(TrainingRefused, match="other data, another base or other settings"):
        train(opened, examples, tmp_path, name="other")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"{" * 100])
def test_a_damaged_checkpoint_is_refused(damage: object, opened: Opened, examples: Split, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(opened, examples, tmp_path, last_step=3)
    (tmp_path / FILE).write_bytes(damage((tmp_path / FILE).read_bytes()))  # type: ignore[operator]
    with pytest.raises(TrainingRefused, match="is damaged"):
        train(opened, examples, tmp_path)


def test_numbers_that_are_not_finite_end_a_training(opened: Opened, examples: Split, tmp_path: Path) -> None:
    base = opened("gemma3", PLAN)
    base.set_weights({name: torch.full_like(one, torch.nan) for name, one in base.weights().items()})
    with pytest.raises(TrainingRefused, match="is not finite; a smaller --learning-rate may help"):
        Trainer(base, Split(examples.learnt, ()), PLAN, "same", tmp_path, Silent()).run()


def test_the_best_look_is_not_the_base() -> None:
    history = History(evaluations=[Evaluation(0, 1.0), Evaluation(5, 3.0), Evaluation(10, 2.0), Evaluation(15, 2.5)])
    assert history.best == Evaluation(10, 2.0)
    assert history.without_gain == 1
