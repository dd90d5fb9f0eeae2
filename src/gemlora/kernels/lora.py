"""Adapters as the kernels see them: pairs of small matrices per module, and which rows use which adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LoraPair(NamedTuple):
    """y += scale · B (A x). `a` is [r, K]; `b` is B transposed, [r, N]. Both float32, float16 or bfloat16."""

    a: NDArray[np.generic]
    b: NDArray[np.generic]
    scale: float


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoraWeights:
    """One adapter, resident in memory."""

    digest: str
    pairs: dict[tuple[int, str], LoraPair]
    """Keyed by (layer, module name)."""

    @property
    def size(self) -> int:
        """Bytes of all pairs."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs.values())


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Segments:
    """Runs of consecutive rows with the same adapter; `ends[i]` is one past the last row of run i."""

    adapters: tuple[LoraWeights | None, ...]
    ends: NDArray[np.int32]

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
