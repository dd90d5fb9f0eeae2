"""Typed face of the native kernel library, and a NumPy reference of every kernel."""

from gemlora.kernels.interface import Kernels
from gemlora.kernels.lora import EmbeddingPair, LoraPair, LoraWeights, Segments
from gemlora.kernels.matrix import Format, Matrix
from gemlora.kernels.memory import aligned_rows
from gemlora.kernels.sampling import SamplingBatch

__all__ = [
    "EmbeddingPair",
    "Format",
    "Kernels",
    "LoraPair",
    "LoraWeights",
    "Matrix",
    "SamplingBatch",
    "Segments",
    "aligned_rows",
]
