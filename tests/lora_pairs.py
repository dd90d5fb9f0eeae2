"""LoRA as the kernels take it, from factors in floats."""

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.config import GemmaConfig
from gemlora.kernels import EmbeddingPair, LoraPair, LoraWeights
from gemlora.kernels.lora import in_panels


def linear_pair(
    a: NDArray[np.generic], b: NDArray[np.generic], scale: float, output_scale: NDArray[np.float32] | None = None
) -> LoraPair:
    """Of `a` [r, K] and `b`, B transposed [r, N], in their own float types."""
    return LoraPair(in_panels(a), in_panels(b), a.shape[1], b.shape[1], scale, output_scale)


def embedding_pair(
    a: NDArray[np.generic], b: NDArray[np.generic], scale: float, output_scale: NDArray[np.float32] | None = None
) -> EmbeddingPair:
    """Of `a`, A transposed [V, r], and `b`, B transposed [r, E], in their own float types."""
    return EmbeddingPair(a, in_panels(b), b.shape[1], scale, output_scale)


def random_adapter(config: GemmaConfig, seed: int) -> LoraWeights:
    """One of rank 4 that changes every module."""
    random = np.random.default_rng(seed)

    def pair(outputs: int, inputs: int) -> LoraPair:
        a = random.standard_normal((4, inputs), np.float32) * np.float32(inputs**-0.5)
        return linear_pair(a, random.standard_normal((4, outputs), np.float32), 0.3)

    layers = range(len(config.layers))
    pairs = {(layer, name): pair(*shape) for layer in layers for name, shape in config.modules.items()}
    return LoraWeights(str(seed), pairs)
