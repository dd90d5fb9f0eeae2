"""The training loop: its outcome is a function of base, examples and plan, however often it was interrupted."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from zlib import crc32

import torch

from gemlora.errors import TrainingRefused
from gemlora.training import checkpoint
from gemlora.training.base import TrainableBase
from gemlora.training.batches import Split, epoch_batches, parts
from gemlora.training.checkpoint import Checkpoint, State, Tensors
from gemlora.training.encoding import Encoded
from gemlora.training.history import Evaluation, History, Step
from gemlora.training.plan import Plan

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are cut."""

DECAYS = (0.9, 0.999)
CHECKPOINT_SECONDS = 30.0
"""At most so much work is lost when a training is killed."""


class Watcher(Protocol):
    """Who shows how it goes."""

    def began(self, history: History, steps: int) -> None:
        """Before the first step, and before the first one of a resumed training."""
        ...

    def stepped(self, history: History) -> None:
        """After a step."""
        ...

    def evaluated(self, history: History) -> None:
        """After a look at the held-out examples."""
        ...


class Trainer:
    """Trains the adapter of a base; `run` gives the weights that did best on the held-out examples."""

    def __init__(
        self, base: TrainableBase, examples: Split, plan: Plan, fingerprint: str, folder: Path, watcher: Watcher
    ) -> None:
        self._base, self._examples, self._plan = base, examples, plan
        self._fingerprint, self._folder, self._watcher = fingerprint, folder, watcher
        self._parameters = base.parameters()
        self._optimizer = torch.optim.AdamW(self._parameters, betas=DECAYS, weight_decay=0.0)
        self._epoch, self._batches = 0, self._batches_of(0)
        self._per_epoch = len(self._batches)
        self._between = max(1, round(self._per_epoch / plan.evaluations))
        self._history = History()
        self._best: Tensors = {}

    @property
    def steps(self) -> int:
        """Steps of the whole plan."""
        return self._per_epoch * self._plan.epochs

    def run(self) -> tuple[Tensors, History]:
        """Train, from the folder's checkpoint if there is one.

        Raises `TrainingRefused` if the checkpoint belongs to another training or numbers stop being finite, and
        `StorageFailed` if a checkpoint cannot be written.
        """
        self._resume()
        self._watcher.began(self._history, self.steps)
        if not self._history.evaluations:
            self._evaluate()
        saved = time.monotonic()
        while (step := len(self._history.steps)) < self.steps and not self._ended():
            started = time.monotonic()
            self._step(step)
            self._history.seconds += time.monotonic() - started
            self._watcher.stepped(self._history)
            if (step + 1) % self._between == 0 or step + 1 == self.steps:
                self._evaluate()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        self._save()
        return (self._best or self._base.weights()), self._history

    def _ended(self) -> bool:
        return self._history.without_gain >= self._plan.patience

    def _step(self, step: int) -> None:
        epoch, index = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._batches_of(epoch)
        batch = self._batches[index]
        tokens = sum(example.learnt_tokens for example in batch)
        total = 0.0
        for number, together in enumerate(parts(batch)):
            with self._base.learning(crc32(f"{self._plan.seed} {step} {number}".encode())):
                loss = self._base.loss(together).total / tokens
                loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise TrainingRefused(f"The loss of step {step + 1} is not finite; a smaller --learning-rate may help")
        torch.nn.utils.clip_grad_norm_(self._parameters, LARGEST_GRADIENT)
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.rate(step, self.steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._history.steps.append(Step(step + 1, total, tokens))

    def _batches_of(self, epoch: int) -> list[list[Encoded]]:
        return epoch_batches(self._examples.learnt, self._plan.batch_size, self._plan.seed, epoch)

    def _evaluate(self) -> None:
        """Look at the held-out examples; without any, the newest weights count as the best."""
        started = time.monotonic()
        if self._examples.held_out:
            now = Evaluation(len(self._history.steps), mean_loss(self._base, self._examples.held_out))
            self._history.evaluations.append(now)
            if now is self._history.best:
                self._best = self._base.weights()
        self._history.seconds += time.monotonic() - started
        self._watcher.evaluated(self._history)

    def _save(self) -> None:
        moments = [self._optimizer.state.get(parameter, {}) for parameter in self._parameters]
        checkpoint.save(
            self._folder,
            Checkpoint(
                State(self._fingerprint, self._history),
                self._base.weights(),
                self._best,
                [moment["exp_avg"] for moment in moments if moment],
                [moment["exp_avg_sq"] for moment in moments if moment],
            ),
        )

    def _resume(self) -> None:
        saved = checkpoint.load(self._folder)
        if saved is None:
            return
        if saved.state.fingerprint != self._fingerprint:
            raise TrainingRefused(
                f"{self._folder}: holds a training of other data, another base or other settings; --restart begins anew"
            )
        self._history, self._best = saved.state.history, saved.best
        self._base.set_weights(saved.weights)
        steps = len(self._history.steps)
        for parameter, first, second in zip(
            self._parameters, saved.first_moments, saved.second_moments, strict=bool(steps)
        ):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(steps)),
                "exp_avg": first.to(parameter.device),
                "exp_avg_sq": second.to(parameter.device),
            }


def mean_loss(base: TrainableBase, examples: Sequence[Encoded]) -> float:
    """The mean cross-entropy of the examples' learnt tokens, in nats."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for together in parts(examples):
            loss = base.loss(together)
            total += loss.total.item()
            tokens += loss.tokens
    return total / tokens
