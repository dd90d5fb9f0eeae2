"""The tokens of one forward pass, as the arrays that the kernels read.

Letters: T rows (tokens), S sequences, B blocks of the longest sequence, R rows whose logits are wanted.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import Segments


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `length` tokens of a sequence, behind those that are computed.

    One that completes may go on with a draft: tokens that perhaps come next.
    """

    sequence: Sequence
    length: int
    draft: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Tokens that are computed."""
        return self.length + len(self.draft)

    @property
    def completes(self) -> bool:
        """Whether the chunk reaches the sequence's last token, so that its successor can be sampled."""
        return self.length == self.sequence.remaining


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step, ordered so that rows with the same adapter are neighbours."""

    chunks: tuple[Chunk, ...]
    tokens: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T]
    sequence_of_row: NDArray[np.int32]  # [T], index into block_tables
    block_tables: NDArray[np.int32]  # [S, B]
    segments: Segments
    logit_rows: NDArray[np.int32]  # [R], distinct: of each chunk that completes, in order, its last token and its draft

    def of_logit_rows(self) -> "Batch":
        """The logit rows alone, R rows of the same chunks; the batch itself if these are all of its rows, in order."""
        rows = self.logit_rows
        if len(rows) == len(self.tokens) and rows.tolist() == list(range(len(rows))):
            return self
        return replace(
            self,
            tokens=self.tokens[rows],
            positions=self.positions[rows],
            sequence_of_row=self.sequence_of_row[rows],
            segments=self.segments.of_rows(rows),
            logit_rows=np.arange(len(rows), dtype=np.int32),
        )

    @classmethod
    def of(cls, chunks: Several[Chunk]) -> "Batch":
        """Lay out the chunks, those with the same adapter side by side."""
        ordered = sorted(chunks, key=lambda chunk: _adapter_key(chunk.sequence))
        starts = [chunk.sequence.computed for chunk in ordered]
        lengths = [chunk.rows for chunk in ordered]
        ends = accumulate(lengths)
        widest = max([len(chunk.sequence.blocks) for chunk in ordered])
        tables = np.array(
            [chunk.sequence.blocks + [0] * (widest - len(chunk.sequence.blocks)) for chunk in ordered], np.int32
        )
        return cls(
            chunks=tuple(ordered),
            tokens=_array(
                (*c.sequence.tokens[s : s + c.length], *c.draft) for c, s in zip(ordered, starts, strict=True)
            ),
            positions=_array(range(s, s + n) for s, n in zip(starts, lengths, strict=True)),
            sequence_of_row=_array((row,) * n for row, n in enumerate(lengths)),
            block_tables=tables,
            segments=Segments.of([(chunk.sequence.adapter, chunk.rows) for chunk in ordered]),
            logit_rows=_array(
                range(end - len(c.draft) - 1, end) for end, c in zip(ends, ordered, strict=True) if c.completes
            ),
        )


def _array(parts: Iterable[Iterable[int]]) -> NDArray[np.int32]:
    """The numbers of all parts, made an array at once: most parts have a single one."""
    return np.array([*chain.from_iterable(parts)], np.int32)


def _adapter_key(sequence: Sequence) -> str:
    return "" if sequence.adapter is None else sequence.adapter.digest
