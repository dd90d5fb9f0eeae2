"""Adapters as the kernels see them: pairs of small matrices per module, and which rows use which adapter.

Letters: K inputs and N outputs of a module, r rank, V vocabulary, E width of the embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LoraPair(NamedTuple):
    """y += scale · B (A x). `a` is [r, K]; `b` is B transposed, [r, N]. Both float32, float16 or bfloat16.

    With DoRA's `output_scale` m [N], y = m · (y + scale · B (A x)), output by output.
    """

    a: NDArray[np.generic]
    b: NDArray[np.generic]
    scale: float
    output_scale: NDArray[np.float32] | None = None


class EmbeddingPair(NamedTuple):
    """e += scale · A[:, token] B for the embedding e of a token. `a` is A transposed, [V, r]; `b` is B transposed,
    [r, E]. `output_scale` [E] as in `LoraPair`. Types as there."""

    a: NDArray[np.generic]
    b: NDArray[np.generic]
    scale: float
    output_scale: NDArray[np.float32] | None = None


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
        return sum(array.nbytes for a, b, _, m in pairs for array in (a, b, m) if array is not None)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Segments:
    """Runs of consecutive rows with the same adapter; `ends[i]` is one past the last row of run i."""

    adapters: tuple[LoraWeights | None, ...]
    ends: NDArray[np.int32]

    @property
    def adapted(self) -> bool:
        """Whether any row has an adapter."""
        return any(adapter is not None for adapter in self.adapters)

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
