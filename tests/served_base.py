"""A served base without a checkpoint, for tests of adapters alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gemlora.engines.cpu.adapters import AdapterLoader, PackedFiles
from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.kernels import Matrix
from gemlora.kernels.reference import ReferenceKernels

CONFIG = GemmaConfig(
    generation=1,
    hidden=24,
    feed_forward=40,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocabulary=64,
    context=128,
    norm_epsilon=1e-6,
    attention_scale=1.0,
    embedding_scale=1.0,
    attention_softcap=None,
    logit_softcap=None,
    layers=(LayerConfig(Rope(10_000.0), None),) * 2,
)


@dataclass(frozen=True)
class Base:
    """Facts and, where a test needs them, matrices."""

    config: GemmaConfig = CONFIG
    quantize: str = "none"
    digest: str = "0" * 64
    tied: bool = True
    matrices: dict[str, Matrix] = field(default_factory=dict)
    steps: float = 0.0

    def matrix(self, name: str) -> Matrix:
        return self.matrices[name]

    def squared_checkpoint_steps(self, name: str) -> float:
        return self.steps


def random_base(seed: int = 0, **facts: Any) -> Base:
    """A base with random float32 weights for every matrix."""
    random = np.random.default_rng(seed)
    shapes = {"embedding": (CONFIG.vocabulary, CONFIG.hidden)}
    if not facts.get("tied", True):
        shapes["head"] = shapes["embedding"]
    for layer in range(len(CONFIG.layers)):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in CONFIG.modules.items()}
    matrices = {
        name: Matrix.from_floats(random.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()
    }
    return Base(matrices=matrices, **facts)


def loader(folder: Path, base: Base | None = None, dtype: Any = "auto", capacity: int = 1 << 30) -> AdapterLoader:
    """A loader that packs into `folder`."""
    return AdapterLoader(base or Base(), dtype, PackedFiles(folder, capacity), ReferenceKernels())
