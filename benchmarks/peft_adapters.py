"""Adapters with random weights in PEFT's folder format, for whatever takes adapters from users."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
MODULES = (*ATTENTION, *FEED_FORWARD)

SIZES = {"A": 2.0**-11, "B": 2.0**-13}
"""Weights are these times whole numbers below 128: exact in bfloat16, float16 and float32 alike."""


@dataclass(frozen=True)
class Shape:
    """What the adapters are for: `modules` maps each linear module to its (outputs, inputs)."""

    layers: int
    modules: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Pair:
    """One LoRA pair: A [rank, inputs] and B [outputs, rank]."""

    layer: int
    module: str
    a: NDArray[np.float32]
    b: NDArray[np.float32]


def pairs(shape: Shape, rank: int, seed: int, modules: Sequence[str] = MODULES) -> Iterator[Pair]:
    """The random weights of one adapter; the same seed gives the same."""
    generator = np.random.default_rng(seed)

    def draw(side: str, *size: int) -> NDArray[np.float32]:
        return generator.integers(-127, 128, size, dtype=np.int8).astype(np.float32) * np.float32(SIZES[side])

    for layer in range(shape.layers):
        for module in modules:
            outputs, inputs = shape.modules[module]
            yield Pair(layer, module, draw("A", rank, inputs), draw("B", outputs, rank))


def write_peft(folder: Path, shape: Shape, rank: int, seed: int, modules: Sequence[str] = MODULES) -> Path:
    """Write an adapter in bfloat16 as PEFT does; returns the folder, which must not be there yet."""
    folder.mkdir(parents=True)
    tensors = {}
    for pair in pairs(shape, rank, seed, modules):
        part = "self_attn" if pair.module in ATTENTION else "mlp"
        name = f"base_model.model.model.layers.{pair.layer}.{part}.{pair.module}"
        tensors[f"{name}.lora_A.weight"] = pair.a.astype(ml_dtypes.bfloat16)
        tensors[f"{name}.lora_B.weight"] = pair.b.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors")
    configuration = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank,
        "target_modules": list(modules),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    return folder
