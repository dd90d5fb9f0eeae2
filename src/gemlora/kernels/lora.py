"""Adapters as the kernels see them: pairs of small matrices per module, and which rows use which adapter.

Letters: K inputs and N outputs of a module, r rank, V vocabulary, E width of the embedding.

Factors lie in panels of 16 inputs (A) or outputs (B), or of 64 if they are `SCALED_BYTES`, each panel with all ranks
one after the other, so that a row reads every factor once from its beginning to its end. Inputs past K and outputs
past N are zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gemlora.kernels.matrix import PANEL, pack_float_rows

SCALED_PANEL = 64
"""Inputs or outputs whose weights of one rank share a scale."""

SCALED_BYTES = np.dtype([("scale", ml_dtypes.bfloat16), ("numbers", np.int8, (SCALED_PANEL,))])
"""Whole numbers −127 … 127 times their scale: 66 bytes for 64 weights, none more than half a step off."""


class LoraPair(NamedTuple):
    """y += scale · B (A x). `a` is A in panels, [ceil(K / 16), r, 16]; `b` is B in panels, [ceil(N / 16), r, 16]. Both
    float32, float16 or bfloat16, or `SCALED_BYTES` [ceil(K / 64), r] and [ceil(N / 64), r]. `inputs` is K, `outputs` N.

    With DoRA's `output_scale` m [N], y = m · (y + scale · B (A x)), output by output.
    """

    a: NDArray[np.generic]
    b: NDArray[np.generic]
    inputs: int
    outputs: int
    scale: float
    output_scale: NDArray[np.float32] | None = None


class EmbeddingPair(NamedTuple):
    """e += scale · A[:, token] B for the embedding e of a token. `a` is A transposed, [V, r], in floats; `b` is B in
    panels as in `LoraPair`. `outputs` is E, `output_scale` [E] as there."""

    a: NDArray[np.generic]
    b: NDArray[np.generic]
    outputs: int
    scale: float
    output_scale: NDArray[np.float32] | None = None


def in_panels(factor: NDArray[np.generic]) -> NDArray[np.generic]:
    """Pack A [r, K], or B transposed [r, N]: [P, r, 16]."""
    return pack_float_rows(factor.T).view(factor.dtype).reshape(-1, len(factor), PANEL)


def in_scaled_bytes(factor: NDArray[np.generic]) -> NDArray[np.void]:
    """Round A [r, K], or B transposed [r, N], of finite numbers to `SCALED_BYTES` [ceil(K / 64), r]."""
    rank, columns = factor.shape
    padded = np.zeros((rank, -(-columns // SCALED_PANEL), SCALED_PANEL), np.float32)
    padded.reshape(rank, -1)[:, :columns] = factor
    panels = padded.transpose(1, 0, 2)
    scales = (np.abs(panels).max(axis=2) / np.float32(127)).astype(ml_dtypes.bfloat16)
    steps = scales.astype(np.float32)[..., None]
    rounded = np.empty(scales.shape, SCALED_BYTES)
    rounded["scale"] = scales
    numbers = np.divide(panels, steps, out=np.zeros_like(panels), where=steps > 0)
    rounded["numbers"] = np.rint(numbers).clip(-127, 127)
    return rounded


def from_panels(panels: NDArray[np.generic], columns: int) -> NDArray[np.generic]:
    """What `in_panels` or `in_scaled_bytes` packed, [r, columns]; float32 from the latter."""
    if panels.dtype == SCALED_BYTES:
        scaled = cast("NDArray[np.void]", panels)
        panels = scaled["numbers"].astype(np.float32) * scaled["scale"].astype(np.float32)[..., None]
    return panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, :columns]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoraWeights:
    """One adapter, resident in memory."""

    digest: str
    pairs: dict[tuple[int, str], LoraPair]
    """Keyed by (layer, module name)."""
    embedding: EmbeddingPair | None = None
    head: LoraPair | None = None
    """On the output head; the embedding that may be the same matrix stays as it is."""

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        pairs = [*self.pairs.values(), *(pair for pair in (self.embedding, self.head) if pair is not None)]
        arrays = (array for pair in pairs for array in (pair.a, pair.b, pair.output_scale))
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Segments:
    """Runs of consecutive rows with the same adapter; `ends[i]` is one past the last row of run i."""

    adapters: tuple[LoraWeights | None, ...]
    ends: NDArray[np.int32]
    adapted: bool = field(init=False)
    """Whether any row has an adapter. Every module of a step asks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapted", any(adapter is not None for adapter in self.adapters))

    def runs(self) -> Iterator[tuple[slice, LoraWeights]]:
        """The rows of each run that has an adapter."""
        start = 0
        for adapter, end in zip(self.adapters, self.ends.tolist(), strict=True):
            if adapter is not None:
                yield slice(start, end), adapter
            start = end

    def of_rows(self, rows: NDArray[np.int32]) -> "Segments":
        """The runs of some of the rows, in their order."""
        return Segments.of([(self.adapters[run], 1) for run in np.searchsorted(self.ends, rows, side="right")])

    @classmethod
    def of(cls, runs: Sequence[tuple[LoraWeights | None, int]]) -> "Segments":
        """From (adapter, number of rows) in row order; neighbours with the same adapter become one run."""
        adapters: list[LoraWeights | None] = []
        ends: list[int] = []
        for adapter, length in runs:
            start = ends[-1] if ends else 0
            if adapters and adapters[-1] is adapter:
                ends[-1] = start + length
            else:
                adapters.append(adapter)
                ends.append(start + length)
        return cls(tuple(adapters), np.asarray(ends, np.int32))
