"""LoRA pairs as the kernels take them, from factors in floats."""

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels import EmbeddingPair, LoraPair
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
