"""Tiny bases as Hugging Face folders, with PEFT's own models over them as the oracles."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel
from tests.adapters import peft_model, save_peft
from tests.checkpoints import random_model, save
from transformers import PreTrainedModel

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Case(NamedTuple):
    """A base, its folder, and how to make an adapter of it."""

    oracle: PreTrainedModel
    folder: Path
    adapter: Callable[..., tuple[PeftModel, Path]]
    """Takes PEFT's keys; gives PEFT's unmerged model and the folder that it saved."""


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """The base of an architecture, made once, in float32."""
    torch.set_num_threads(1)

    @cache
    def make(architecture: str) -> Case:
        folder = tmp_path_factory.mktemp(architecture)
        oracle = save(random_model(architecture), folder / "base")

        def adapter(seed: int = 1, **keys: Any) -> tuple[PeftModel, Path]:
            config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": LAYERS, **keys})
            model = peft_model(oracle, config, seed)
            return model, save_peft(model, tmp_path_factory.mktemp("adapter"))

        return Case(oracle, folder / "base", adapter)

    return make
