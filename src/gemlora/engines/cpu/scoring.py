"""How likely the model finds texts that are given: the logits after each token, without drawing any.

It computes with the model and the kernels that serve, in this process and beside no other sequences. A row depends on
nothing but its own sequence, so these are the probabilities that a server with the same weights draws from.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import GenerateRequest, Sampling
from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.blocks import BLOCK_SIZE, BlockPool, blocks_for
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sequence import Sequence as EngineSequence
from gemlora.errors import EngineFailed, PromptTooLong
from gemlora.kernels import LoraWeights

ROWS = 128
"""Tokens of a step: their logits take 128 MiB with Gemma's vocabulary."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class GivenText:
    """A prompt and the answer behind it, neither of them empty, read with an adapter or without."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    adapter: LoraWeights | None = None


@dataclass(slots=True, eq=False)
class _Reading:
    """A text on its way: `found` are the log-probabilities so far."""

    text: GivenText
    sequence: EngineSequence
    found: list[float]


class Scoring:
    """Reads texts, several in a step. It uses the runner's blocks, so no other sequence may."""

    def __init__(self, runner: Runner, context_window: int, rows: int = ROWS) -> None:
        """`context_window` is the longest text in tokens."""
        self._runner = runner
        self._pool = BlockPool(runner.blocks)
        self._longest = min(context_window, runner.blocks * BLOCK_SIZE)
        self._rows = rows

    def log_probabilities(
        self, texts: Sequence[GivenText], progress: Callable[[int, int], None]
    ) -> list[NDArray[np.float64]]:
        """Of each text's answer, token by token, in nats; `progress` is called with how many texts are read, of all.

        Raises `PromptTooLong` before anything is computed, and `EngineFailed` for logits that are not finite.
        """
        for text in texts:
            if (length := len(text.prompt) + len(text.answer)) > self._longest:
                raise PromptTooLong(length, self._longest)
        readings = [_begin(text, number) for number, text in enumerate(texts)]
        waiting, running = deque(readings), deque[_Reading]()
        while waiting or running:
            self._step(list(self._next_chunks(waiting, running)))
            while running and not running[0].sequence.remaining:
                self._pool.release(running.popleft().sequence.blocks)
            progress(len(texts) - len(waiting) - len(running), len(texts))
        return [np.array(reading.found) for reading in readings]

    def _next_chunks(self, waiting: deque[_Reading], running: deque[_Reading]) -> Iterator[tuple[_Reading, Chunk]]:
        """In order, so that only the last text of a step is cut."""
        room = self._rows
        for reading in running:
            chunk = Chunk(reading.sequence, min(room, reading.sequence.remaining))
            room -= chunk.length
            yield reading, chunk
        while room and waiting and blocks_for(waiting[0].sequence.remaining) <= self._pool.free:
            reading = waiting.popleft()
            running.append(reading)
            reading.sequence.blocks = self._pool.allocate(blocks_for(reading.sequence.remaining))
            chunk = Chunk(reading.sequence, min(room, reading.sequence.remaining))
            room -= chunk.length
            yield reading, chunk

    def _step(self, planned: list[tuple[_Reading, Chunk]]) -> None:
        reading_of = {chunk: reading for reading, chunk in planned}
        batch = Batch.of([chunk for _, chunk in planned])
        wanted: list[tuple[_Reading, int]] = []  # whose, and the token that comes
        rows: list[int] = []
        start = 0
        for chunk in batch.chunks:
            reading, first = reading_of[chunk], chunk.sequence.computed
            prompt, answer = reading.text.prompt, reading.text.answer
            for position in range(max(first, len(prompt) - 1), first + chunk.length):
                wanted.append((reading, answer[position - len(prompt) + 1]))
                rows.append(start + position - first)
            start += chunk.length
        logits = self._runner.forward(replace(batch, logit_rows=np.asarray(rows, np.int32))).logits()
        for (reading, token), row in zip(wanted, logits, strict=True):
            reading.found.append(log_probability(row, token))
        for chunk in batch.chunks:
            chunk.sequence.computed += chunk.length


def log_probability(logits: Float32, token: int) -> float:
    """log softmax(logits [V])[token], in nats. Raises `EngineFailed` if they are not finite."""
    wide = logits.astype(np.float64)
    highest = wide.max()
    if not np.isfinite(wide).all():
        raise EngineFailed("The model's output for a text is not finite.")
    return float(wide[token] - highest - np.log(np.exp(wide - highest).sum()))


def _begin(text: GivenText, number: int) -> _Reading:
    """Nothing follows the answer's last token, so that is not computed."""
    request = GenerateRequest("", (*text.prompt, *text.answer[:-1]), 0, Sampling(seed=0), ())
    sequence = EngineSequence.start(request, number)
    sequence.adapter = text.adapter
    return _Reading(text, sequence, [])
