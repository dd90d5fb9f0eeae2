"""Steps of few rows, repeated in one call of the kernels.

A step calls ten kernels a layer. Each call takes Python a few microseconds, since the weights that went through the
caches meanwhile left nothing of the interpreter there: together up to a twelfth of a step of one row. So the kernels of
a step are recorded, once for every number of rows and kind of step, over arrays that stay; later steps fill those and
repeat the record.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.batch import Batch
from gemlora.engines.cpu.blocks import blocks_for
from gemlora.kernels import Kernels, Segments
from gemlora.kernels.interface import Calls

MOST_ROWS = 32
"""Rows of a step that is recorded; the kernels of larger ones take much longer than the calls."""

Caches = Sequence[NDArray[np.generic]]
Step = TypeVar("Step")
Compute = Callable[[Batch, Caches, Step], object]
"""Makes the calls of kernels that a step consists of, over the arrays of the batch, of the caches and of the step."""


class _Recorded(NamedTuple, Generic[Step]):
    calls: Calls
    step: Step


class Replay(Generic[Step]):
    """Steps whose arrays are filled anew each time. Not thread-safe."""

    def __init__(self, kernels: Kernels, room: Callable[[int], Step], context: int) -> None:
        """`room` gives the arrays of a step with so many rows, which may be the same for all numbers of rows."""
        self._kernels = kernels
        self._room = room
        self._tokens, self._positions, self._sequence_of_row = np.zeros((3, MOST_ROWS), np.int32)
        self._most_blocks: int = blocks_for(context)
        self._block_tables = np.zeros((MOST_ROWS, self._most_blocks), np.int32)
        self._caches: Caches | None = None
        self._recorded: dict[tuple[int, bool, bool], _Recorded[Step]] = {}

    def takes(self, batch: Batch) -> bool:
        """Whether the batch is small enough. Every sequence has a row."""
        return len(batch.tokens) <= MOST_ROWS and batch.block_tables.shape[1] <= self._most_blocks

    def run(self, compute: Compute[Step], batch: Batch, caches: Caches) -> Step:
        """Compute the batch. `compute` is always the same function. What is returned holds until the next call."""
        if caches is not self._caches:
            self._recorded, self._caches = {}, caches
        rows, (sequences, blocks) = len(batch.tokens), batch.block_tables.shape
        self._tokens[:rows] = batch.tokens
        self._positions[:rows] = batch.positions
        self._sequence_of_row[:rows] = batch.sequence_of_row
        self._block_tables[:sequences, :blocks] = batch.block_tables
        key = rows, batch.segments.adapted, batch.greedy
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._recorded[key] = self._record(compute, batch, caches)
        else:
            recorded.calls(batch.segments)
        return recorded.step

    def _record(self, compute: Compute[Step], batch: Batch, caches: Caches) -> _Recorded[Step]:
        rows = len(batch.tokens)
        step = self._room(rows)
        fixed = replace(
            batch,
            chunks=(),
            tokens=self._tokens[:rows],
            positions=self._positions[:rows],
            sequence_of_row=self._sequence_of_row[:rows],
            block_tables=self._block_tables,
        )

        def calls(segments: Segments) -> None:
            compute(replace(fixed, segments=segments), caches, step)

        return _Recorded(self._kernels.record(calls, batch.segments), step)
