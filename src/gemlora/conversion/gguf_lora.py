"""LoRA in a GGUF file, as llama.cpp's convert_lora_to_gguf writes it, and as llama-adapter.cpp reads it.

Gemma's query and key rows are in their usual order there. Every pair has A [r, K] and B [N, r] but that of the
embedding, whose A is [V, r]. The scale is alpha / r, or 1 where alpha is 0 or missing.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gemlora.conversion.lora_pairs import LoraPair, LoraPairs
from gemlora.conversion.low_rank import Factors
from gemlora.engines.cpu.weights.ggml_blocks import BLOCK_TYPES
from gemlora.engines.cpu.weights.gguf_checkpoint import FLOAT_TYPES, StoredTensor
from gemlora.engines.cpu.weights.gguf_config import GENERATIONS
from gemlora.engines.cpu.weights.gguf_file import MAGIC, GgufHeader
from gemlora.engines.cpu.weights.huggingface_export import floats, spelled
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.tensor_names import GGUF_NAMES
from gemlora.errors import AdapterInvalid, WeightsInvalid
from gemlora.registry.tensor_names import EMBEDDING

KIND = "GGUF LoRA"
_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>[a-z_]+\.weight)\.lora_(?P<side>[ab])")
_PARTS = {spelling: name for name, spelling in GGUF_NAMES.items()}
_REFUSED = {
    "adapter.alora.invocation_tokens": "it acts only behind certain tokens (activated LoRA)",
}


def is_gguf(path: Path) -> bool:
    """Whether a file begins like one."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf_lora(path: Path) -> LoraPairs:
    """The pairs of the file.

    Raises `AdapterInvalid` if it is no LoRA for Gemma or holds more than pairs, `WeightsInvalid` if it is damaged.
    """
    with Pieces([path]) as pieces:
        header = GgufHeader.read(pieces)
        generation = _generation(header.metadata, path)
        alpha = header.metadata.get("adapter.lora.alpha", 0.0)
        sides: dict[str, dict[str, StoredTensor]] = {}
        for name, entry in header.tensors.items():
            module, side = _place(name, generation)
            if entry.type not in FLOAT_TYPES and entry.type not in BLOCK_TYPES:
                raise WeightsInvalid(f"{path}: tensor {name} has type {entry.type.name}, which is not supported")
            sides.setdefault(module, {})[side] = StoredTensor(entry, pieces)
        if not sides:
            raise AdapterInvalid(f"{path} holds no LoRA pair")
        pairs: dict[str, LoraPair] = {}
        for module, tensors in sides.items():
            factors = _factors(module, tensors)
            b, a = (np.ascontiguousarray(factor, np.float32) for factor in factors)
            pairs[module] = LoraPair(b, a, alpha / factors.rank if alpha else 1.0)
    return LoraPairs(KIND, pairs, None, 0.0)


def _generation(metadata: Mapping[str, Any], path: Path) -> int:
    for key, value in (("general.type", "adapter"), ("adapter.type", "lora")):
        if metadata.get(key) != value:
            raise AdapterInvalid(f"{path}: {key} is {metadata.get(key)!r}, not {value!r}: this is no LoRA")
    for key, reason in _REFUSED.items():
        if key in metadata:
            raise AdapterInvalid(f"{path}: {key}: {reason}, which no plain LoRA does")
    architecture = metadata.get("general.architecture")
    if architecture not in GENERATIONS:
        raise AdapterInvalid(f"{path}: general.architecture is {architecture!r}, not one of {', '.join(GENERATIONS)}")
    return GENERATIONS[architecture]


def _place(name: str, generation: int) -> tuple[str, str]:
    """The module that a tensor belongs to, and whether it is its `a` or `b`."""
    match = _NAME.fullmatch(name)
    if match is None or match["part"] not in _PARTS:
        why = "norms are no LoRA pairs, and llama.cpp ignores them" if name.endswith("_norm.weight") else "is unknown"
        raise AdapterInvalid(f"tensor {name}: {why}")
    part = _PARTS[match["part"]]
    full = part if match["layer"] is None else f"layers.{match['layer']}.{part}"
    return spelled(full, generation).removesuffix(".weight"), match["side"]


def _factors(module: str, tensors: Mapping[str, StoredTensor]) -> Factors:
    if set(tensors) != {"a", "b"}:
        raise AdapterInvalid(f"{module}: lora_{'b' if 'a' in tensors else 'a'} is missing")
    a, b = floats(tensors["a"]), floats(tensors["b"])
    if a.ndim != 2 or b.ndim != 2:
        raise AdapterInvalid(f"{module}: lora_a and lora_b are no matrices")
    if module.endswith(EMBEDDING):
        a = a.T
    if a.shape[0] != b.shape[1]:
        raise AdapterInvalid(f"{module}: lora_a has rank {a.shape[0]}, and lora_b {b.shape[1]}")
    return Factors(b, a)
