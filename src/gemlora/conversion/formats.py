"""What exported tensors are stored as, and how their rows are computed for it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import ml_dtypes
import numpy as np

from gemlora.engines.cpu.weights.checkpoint import Checkpoint, Floats, Tensor, dequantised
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.engines.cpu.weights.tensor_names import is_norm
from gemlora.errors import WeightsInvalid

FormatName = Literal["huggingface", "gguf"]
DtypeName = Literal["bfloat16", "float16", "float32"]

DTYPES: dict[DtypeName, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}

CHUNK_WEIGHTS = 1 << 22
"""Weights computed at once."""


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor as it is written; `spelling` is the format's name of it."""

    spelling: str
    tensor: Tensor
    dtype: np.dtype[Any]
    shift: float = 0.0
    """Added to every number: Hugging Face folders hold norms without Gemma's 1."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K) or (K,)."""
        return self.tensor.shape

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def chunks(self) -> Iterator[bytes]:
        """The tensor's bytes. Raises `WeightsInvalid` if a number is not finite in its type."""
        rows = self.shape[0] if len(self.shape) > 1 else 1
        step = max(1, CHUNK_WEIGHTS // self.shape[-1])
        for start in range(0, rows, step):
            yield self._stored(dequantised(self.tensor.rows(start, min(start + step, rows)))).tobytes()

    def _stored(self, values: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            stored = (values + np.float32(self.shift)).astype(self.dtype) if self.shift else values.astype(self.dtype)
        if not np.isfinite(stored).all():
            raise WeightsInvalid(f"{self.spelling} holds numbers that are not finite as {self.dtype.name}")
        return stored


def counting(progress: Progress, total: int) -> Callable[[int], None]:
    """Takes the size of each chunk that was written, and reports the sum."""
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress("Writing", done, total)

    return count


def is_quantised(checkpoint: Checkpoint) -> bool:
    """Whether some of the weights are whole numbers with scales."""
    return any(tensor.storage.group is not None for name, tensor in checkpoint.tensors.items() if not is_norm(name))
