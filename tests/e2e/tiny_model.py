"""A tiny random Gemma in a folder, PEFT adapters for it, and what transformers and PEFT answer greedily."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from peft import LoraConfig
from tests.adapters import peft_model, save_peft
from tests.checkpoints import random_model, save, write_tokenizer

LINEAR_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class PeftAdapter:
    """A folder as PEFT writes it, and PEFT's model with the same weights."""

    folder: Path
    model: torch.nn.Module


@dataclass(frozen=True)
class TinyModel:
    """A checkpoint folder that `gemlora serve --weights` takes, and the float32 oracle of it."""

    folder: Path
    oracle: torch.nn.Module

    @classmethod
    def write(cls, folder: Path) -> "TinyModel":
        folder.mkdir(parents=True)
        write_tokenizer(folder / "tokenizer.model")
        pieces = tokenizer(folder)
        model = random_model("gemma3")
        marks = [i for i in range(len(pieces)) if pieces.id_to_piece(i).startswith("<")]
        with torch.no_grad():
            # A random model answers any token; single bytes and ends of turns would leave little text to compare.
            model.model.embed_tokens.weight[marks] *= 0.01
        return cls(folder, save(model, folder))

    def adapter(self, folder: Path, seed: int, **settings: Any) -> PeftAdapter:
        """A random LoRA adapter, strong enough to change greedy answers; `settings` are of PEFT's `LoraConfig`."""
        config = LoraConfig(**{"r": 4, "lora_alpha": 7, "target_modules": LINEAR_MODULES, **settings})
        model = peft_model(self.oracle, config, seed)
        return PeftAdapter(save_peft(model, folder), model)

    def greedy(self, model: torch.nn.Module, prompt: str, tokens: int) -> str:
        """What `model` (the oracle, or PEFT's over it) continues the raw prompt with."""
        pieces = tokenizer(self.folder)
        prompt_ids = [pieces.bos_id(), *pieces.encode(prompt)]
        ids = list(prompt_ids)
        with torch.inference_mode():
            for _ in range(tokens):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        return pieces.decode(ids[len(prompt_ids) :])


def tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
