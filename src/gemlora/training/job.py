"""One training from files to files: read, encode, train, write."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gemlora.engines.cpu.weights.checkpoint import Checkpoint as BaseCheckpoint
from gemlora.engines.cpu.weights.source import Source
from gemlora.errors import PromptTooLong, StorageFailed, TrainingDataInvalid, TrainingRefused
from gemlora.registry.adapters import CONFIG_FILE
from gemlora.serving.prompt import Room
from gemlora.serving.tokenizer import Tokenizer
from gemlora.training import checkpoint
from gemlora.training.base import TrainableBase, best_device, best_dtype
from gemlora.training.batches import Split, split
from gemlora.training.encoding import Encoded, encode
from gemlora.training.examples import Examples, read_examples
from gemlora.training.history import History
from gemlora.training.plan import Plan
from gemlora.training.result import Facts, write_result
from gemlora.training.trainer import Trainer, Watcher

LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be trained. `digest` is the base's; `held_out` a file of examples that are only watched."""

    name: str
    data: Path
    source: Source
    digest: str
    plan: Plan
    folder: Path
    held_out: Path | None = None
    description: str = ""
    restart: bool = False

    def run(self, watcher: Watcher, tell: Callable[[str], None]) -> History:
        """Train and write the adapter; what was killed before goes on where its last checkpoint was.

        Raises `TrainingDataInvalid`, `TrainingRefused`, `WeightsInvalid` and `StorageFailed`.
        """
        try:
            return self._run(watcher, tell)
        except torch.OutOfMemoryError as error:
            raise TrainingRefused(
                "The GPU has too little memory for this training; a smaller --batch-size or --max-tokens takes less"
            ) from error

    def _run(self, watcher: Watcher, tell: Callable[[str], None]) -> History:
        examples = read_examples(self.data)
        watched = read_examples(self.held_out) if self.held_out else None
        self._prepare_folder()
        with self.source.opened() as base:
            tokenizer = _tokenizer(base)
            learnt, left_out = self._encoded(examples, tokenizer)
            if watched is None:
                parts = split(learnt, self.plan.held_out, self.plan.seed)
            else:
                parts = Split(learnt, self._encoded(watched, tokenizer)[0])
            if left_out:
                tell(f"Left out {len(left_out)} examples longer than {self.plan.max_tokens} tokens: lines "
                     f"{', '.join(map(str, left_out[:10]))}{' …' if len(left_out) > 10 else ''}")  # fmt: skip
            tell(f"Learning from {len(parts.learnt)} examples, watching {len(parts.held_out)}")
            device = best_device()
            model = TrainableBase(base, self.plan, device, best_dtype(device))
            base_name = self.source.name or base.name
        fingerprint = self._fingerprint(examples, watched, device)
        weights, history = Trainer(model, parts, self.plan, fingerprint, self.folder, watcher).run()
        facts = Facts(
            self.name, self.description, base_name, self.digest, self.data.name, examples.digest, len(parts.learnt),
            len(parts.held_out), tuple(left_out),
        )  # fmt: skip
        write_result(self.folder, weights, model.adapter_config(), history, self.plan, facts)
        checkpoint.remove(self.folder)
        return history

    def _prepare_folder(self) -> None:
        try:
            if self.restart:
                checkpoint.remove(self.folder)
                (self.folder / CONFIG_FILE).unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{self.folder}: cannot be written: {error.strerror}") from error
        if (self.folder / CONFIG_FILE).exists():
            raise TrainingRefused(f"{self.folder}: holds an adapter already; --restart trains it anew")

    def _encoded(self, examples: Examples, tokenizer: Tokenizer) -> tuple[tuple[Encoded, ...], list[int]]:
        """The examples that fit, and the lines of those that do not."""
        room = Room(self.plan.max_tokens + 1, 0)
        fitting: list[Encoded] = []
        left_out: list[int] = []
        for example in examples.items:
            try:
                fitting.append(encode(example, tokenizer, room))
            except PromptTooLong:
                left_out.append(example.line)
        if not fitting:
            raise TrainingDataInvalid(f"{examples.path}: every example is longer than {self.plan.max_tokens} tokens")
        return tuple(fitting), left_out

    def _fingerprint(self, examples: Examples, watched: Examples | None, device: torch.device) -> str:
        """SHA-256 of all that the losses depend on."""
        facts = {
            "base": self.digest,
            "data": examples.digest,
            "held out": watched.digest if watched else None,
            "plan": self.plan.to_json(),
            "computed by": [device.type, str(best_dtype(device)), torch.get_num_threads(), *map(version, LIBRARIES)],
        }
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _tokenizer(base: BaseCheckpoint) -> Tokenizer:
    with TemporaryDirectory(prefix="gemlora-tokenizer-") as folder:
        base.write_vocabulary(Path(folder))
        return Tokenizer.load(next(Path(folder).iterdir()))
