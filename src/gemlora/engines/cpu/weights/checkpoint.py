"""What a checkpoint is, whatever its files look like: a configuration, a vocabulary, and rows of named tensors.

Letters: N rows (outputs), K columns (inputs), G columns per group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.weights.vocabulary import SpecialTokens
from gemlora.kernels.matrix import Format

Floats = NDArray[Any]
"""float32, float16 or bfloat16."""


class Quantized(NamedTuple):
    """w = scale · q − minimum, with a scale and a minimum for every group of a row.

    `q` is [N, K] int8; `scales` and `minimums` are [N, ceil(K / G)], both float16 or both float32.
    """

    q: NDArray[np.int8]
    scales: NDArray[Any]
    minimums: NDArray[Any] | None = None


def dequantised(rows: Floats | Quantized) -> NDArray[np.float32]:
    """Rows [N, K] of a checkpoint as the numbers that they stand for; K is a multiple of G, as GGUF files have it."""
    if not isinstance(rows, Quantized):
        return rows.astype(np.float32)
    groups = rows.q.reshape(*rows.scales.shape, -1)
    values: NDArray[np.float32] = np.multiply(groups, rows.scales[..., None], dtype=np.float32)
    if rows.minimums is not None:
        values -= rows.minimums[..., None]
    return values.reshape(rows.q.shape)


class Tensor(Protocol):
    """A weight matrix [N, K] or a vector [K] of a checkpoint."""

    @property
    def source(self) -> str:
        """The checkpoint's own name of it, for messages."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K) or (K,)."""
        ...

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the checkpoint."""
        ...

    @property
    def storage(self) -> "Storage":
        """What `rows` gives."""
        ...

    def rows(self, start: int, stop: int) -> Floats | Quantized:
        """Rows `start` to `stop` of a matrix; a vector has one row."""
        ...


@dataclass(frozen=True, slots=True)
class Storage:
    """How a tensor's weights are stored: floats of `dtype`, or whole numbers with scales of `dtype`."""

    dtype: np.dtype[Any]
    group: int | None = None
    """Weights per scale; None for floats."""
    minimums: bool = False
    bits: int = 8
    """That a whole number takes: 8, or 4 with groups of 32 or 128."""

    @property
    def format(self) -> Format:
        """What the kernels call it."""
        if self.group is None:
            return Format.of(self.dtype)
        return Format.of_bits(self.bits)


class Checkpoint(Protocol):
    """An opened checkpoint, complete and with the right shapes. `tensors` has the packed model's names."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def config(self) -> GemmaConfig:
        """The architecture."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """`layers.0.q_proj`, …: see `tensor_names.shapes`."""
        ...

    def write_vocabulary(self, folder: Path) -> SpecialTokens:
        """Write the tokenizer file into `folder`."""
        ...
