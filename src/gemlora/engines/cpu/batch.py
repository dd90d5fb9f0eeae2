"""The tokens of one forward pass, as the arrays that the kernels read.

Letters: T rows (tokens), S sequences, B blocks of the longest sequence, R rows whose logits are wanted.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass, replace

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
    greedy: bool  # every chunk that completes takes the most likely token

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
        widest = max([len(chunk.sequence.blocks) for chunk in ordered])
        tokens: list[int] = []
        positions: list[int] = []
        sequence_of_row: list[int] = []
        logit_rows: list[int] = []
        tables, runs = [], []
        greedy = True
        for index, chunk in enumerate(ordered):
            sequence, rows = chunk.sequence, chunk.rows
            tokens += sequence.tokens[sequence.computed : sequence.computed + chunk.length]
            tokens += chunk.draft
            positions += range(sequence.computed, sequence.computed + rows)
            sequence_of_row += [index] * rows
            tables.append(sequence.blocks + [0] * (widest - len(sequence.blocks)))
            runs.append((sequence.adapter, rows))
            if chunk.completes:
                logit_rows += range(len(tokens) - len(chunk.draft) - 1, len(tokens))
                greedy = greedy and sequence.takes_most_likely
        return cls(
            tuple(ordered), np.array(tokens, np.int32), np.array(positions, np.int32),
            np.array(sequence_of_row, np.int32), np.array(tables, np.int32), Segments.of(runs),
            np.array(logit_rows, np.int32), greedy,
        )  # fmt: skip


def _adapter_key(sequence: Sequence) -> str:
    return "" if sequence.adapter is None else sequence.adapter.digest
