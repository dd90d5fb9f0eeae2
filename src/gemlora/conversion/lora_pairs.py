"""LoRA pairs that a conversion made, and the PEFT folder that holds them.

Letters: N outputs and K inputs of a module, r rank.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlora.conversion.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from gemlora.conversion.low_rank import TOLERANCE, Factors, Matrix, difference
from gemlora.conversion.safetensors_output import ArrayEntry, write_safetensors
from gemlora.engines.cpu.weights.folder import sync
from gemlora.errors import AdapterInvalid
from gemlora.registry.peft_config import read_config
from gemlora.registry.safetensors_header import read_header
from gemlora.registry.tensor_names import EMBEDDING, claim

PREFIX = "base_model.model."
"""What PEFT puts before the names of modules."""


@dataclass(frozen=True, slots=True)
class LoraPair:
    """y += scale · B (A x): `b` [N, r] and `a` [r, K] in float32."""

    b: NDArray[np.float32]
    a: NDArray[np.float32]
    scale: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.a)


@dataclass(frozen=True, slots=True)
class LoraPairs:
    """An adapter by the names of its modules, such as `model.layers.3.self_attn.q_proj`."""

    kind: str
    """What it was converted from, for people."""
    pairs: Mapping[str, LoraPair]
    base_name: str | None
    difference: float
    """The largest one of any module's B A to what it stands for, relative to the largest number."""

    @property
    def rank(self) -> int:
        """The highest of any module."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def size(self) -> int:
        """Bytes of all pairs."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs.values())


def verified_pair(name: str, factors: Factors, scale: float, change: Matrix) -> tuple[LoraPair, float]:
    """The factors as a pair, and how far scale · B A is from `change` [N, K], which it stands for.

    Raises `AdapterInvalid` if that is more than the rounding of float32.
    """
    b, a = (np.ascontiguousarray(factor, np.float32) for factor in factors)
    error = difference(b @ a, change.astype(np.float32))
    if not error <= TOLERANCE:
        raise AdapterInvalid(f"{name}: the converted pair differs from the original by {error:.2g} of its size")
    return LoraPair(b, a, scale), error


def check_rank(pairs: LoraPairs, most: int) -> None:
    """Raises `AdapterInvalid` if a pair's rank is higher than `most`."""
    for name, pair in pairs.pairs.items():
        if pair.rank > most:
            raise AdapterInvalid(
                f"{name}: as LoRA this {pairs.kind} has rank {pair.rank}, more than max_adapter_rank, {most}"
            )


def write_pairs(pairs: LoraPairs, folder: Path) -> None:
    """Fill the empty folder as PEFT saves one. Raises `AdapterInvalid` if a module is none that LoRA may change."""
    entries = [
        ArrayEntry(f"{PREFIX}{name}.{end}", part)
        for name, pair in pairs.pairs.items()
        for end, part in zip(_ends(name), (pair.a, pair.b), strict=True)
    ]
    config = json.dumps(_config(pairs), indent=2).encode()
    (folder / CONFIG_FILE).write_bytes(config)
    write_safetensors(folder / WEIGHTS_FILE, entries)
    read_config(config)
    claim(read_header(folder / WEIGHTS_FILE))
    for path in (*folder.iterdir(), folder):
        sync(path)


def _ends(name: str) -> tuple[str, str]:
    if name.rsplit(".", 1)[-1] == EMBEDDING:
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


def _config(pairs: LoraPairs) -> dict[str, Any]:
    """The most common rank and alpha for all, patterns for the modules that have others."""
    ranks = {name: pair.rank for name, pair in pairs.pairs.items()}
    alphas = {name: pair.scale * pair.rank for name, pair in pairs.pairs.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": pairs.base_name,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(pairs.pairs),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
