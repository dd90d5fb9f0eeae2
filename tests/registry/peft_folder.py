"""PEFT folders written by hand, for a small base, so that a test can make any one thing wrong."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gemlora.registry.models import AdapterLimits, Base, Model, served_model

LAYERS = 3
BASE = Base(
    name="tiny-gemma",
    family="gemma3",
    digest="d" * 64,
    quantization="none",
    context_window=64,
    layers=LAYERS,
    vocabulary=256,
    modules={
        "q_proj": (12, 8),
        "k_proj": (4, 8),
        "v_proj": (4, 8),
        "o_proj": (8, 12),
        "gate_proj": (16, 8),
        "up_proj": (16, 8),
        "down_proj": (8, 16),
    },
    hidden=8,
    tied=True,
)
LIMITS = AdapterLimits(max_rank=16, max_bytes=1 << 20)
MODEL: Model = served_model("@cf/google/gemma-7b-it-lora", "starter", BASE, LIMITS)
RANK = 2


def tensor_name(layer: int, module: str, side: str, prefix: str = "base_model.model.model.") -> str:
    parent = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"{prefix}layers.{layer}.{parent}.{module}.lora_{side}.weight"


def config(**changes: Any) -> dict[str, Any]:
    """What PEFT writes for rank 2 on q_proj and v_proj; a change to `...` drops the key."""
    keys = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-gemma",
        "r": RANK,
        "lora_alpha": 4,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    } | changes
    return {key: value for key, value in keys.items() if value is not ...}


def tensors(
    modules: tuple[str, ...] = ("q_proj", "v_proj"),
    layers: range | list[int] = range(LAYERS),
    rank: int = RANK,
    dtype: str = "float32",
    prefix: str = "base_model.model.model.",
    seed: int = 0,
    shapes: dict[str, tuple[int, int]] = BASE.modules,
) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    result = {}
    for layer in layers:
        for module in modules:
            outputs, inputs = shapes[module]
            result[tensor_name(layer, module, "A", prefix)] = generator.normal(size=(rank, inputs)).astype(dtype)
            result[tensor_name(layer, module, "B", prefix)] = generator.normal(size=(outputs, rank)).astype(dtype)
    return result


@dataclass
class RawFile:
    """A safetensors file in parts, each of which a test may replace."""

    records: dict[str, Any]
    data: bytes
    length: int | None = None
    header: bytes | None = None
    tail: bytes = b""
    padding: bytes = b""

    @property
    def content(self) -> bytes:
        header = self.header if self.header is not None else json.dumps(self.records).encode()
        header += self.padding
        length = len(header) if self.length is None else self.length
        return struct.pack("<Q", length) + header + self.data + self.tail


def raw(values: dict[str, np.ndarray]) -> RawFile:
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int8": "I8"}
    records: dict[str, Any] = {}
    data = b""
    for name, value in values.items():
        records[name] = {
            "dtype": names[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + value.nbytes],
        }
        data += value.tobytes()
    return RawFile(records, data)


@dataclass
class PeftFolder:
    """A folder that is right unless a test changes it."""

    config: dict[str, Any] = field(default_factory=config)
    tensors: dict[str, np.ndarray] = field(default_factory=tensors)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        (folder / "adapter_model.safetensors").write_bytes(raw(self.tensors).content)
        return folder
