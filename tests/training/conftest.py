"""Tiny bases to train, and examples for them."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.checkpoints import VOCABULARY, random_model, save

from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder
from gemlora.training.base import TrainableBase
from gemlora.training.batches import Split
from gemlora.training.encoding import Encoded
from gemlora.training.plan import Plan

Opened = Callable[[str, Plan], TrainableBase]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each generation."""
    found = {}
    for architecture in ("gemma1", "gemma2", "gemma3"):
        found[architecture] = tmp_path_factory.mktemp(architecture)
        save(random_model(architecture), found[architecture])
    return found


@pytest.fixture
def opened(folders: dict[str, Path]) -> Opened:
    """A base that learns, in float32."""

    def opened_base(architecture: str, plan: Plan) -> TrainableBase:
        with opened_folder(folders[architecture]) as checkpoint:
            return TrainableBase(checkpoint, plan, torch.device("cpu"), torch.float32)

    return opened_base


def sequences(count: int, seed: int) -> tuple[Encoded, ...]:
    """Sequences in which each token follows from the one before, so that there is something to learn."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        start, length = draw.randrange(8, VOCABULARY), draw.randrange(4, 12)
        ids = tuple(8 + (start + 3 * index) % (VOCABULARY - 8) for index in range(length))
        found.append(Encoded(ids, (False, False, *[True] * (length - 2))))
    return tuple(found)


@pytest.fixture
def examples() -> Split:
    return Split(sequences(40, 0), sequences(10, 1))
