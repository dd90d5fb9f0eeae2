"""Which tokens are computed in the next step. It knows sequences and blocks, no weights and no clients.

Sequences that decode come first, one token each and what is guessed to follow; the rest of the step's tokens goes to
prompts, cut to fit. Both go by arrival. A sequence gets the blocks of all its known tokens when it is admitted and
grows block by block; when none is left, the newest running sequence gives up its blocks and is computed again later.
The oldest is never preempted and fits the pool alone, so it always ends, and with it, one after the other, do all.
Guesses take no block that another sequence could need soon.
"""

from bisect import insort
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Several
from operator import attrgetter
from types import MappingProxyType

from gemlora.engines.cpu.batch import Chunk
from gemlora.engines.cpu.blocks import BLOCK_SIZE, BlockPool, blocks_for
from gemlora.engines.cpu.sequence import Sequence
from gemlora.errors import PromptTooLong

_by_arrival = attrgetter("arrival")

NO_DRAFTS: Mapping[Sequence, Several[int]] = MappingProxyType({})

DRAFTS_SHARE = 4
"""One in so many of the tokens that decoding leaves free may be guessed; the others are for prompts."""


class Scheduler:
    """Waiting and running sequences, both in order of arrival."""

    def __init__(self, pool: BlockPool, max_sequences: int, step_tokens: int) -> None:
        """At most `max_sequences` run at once and at most `step_tokens` tokens are computed in a step.

        No more than `step_tokens` run either, as one is only admitted when the others leave it a token.
        """
        self._pool = pool
        self._most_running = max_sequences
        self._step_tokens = step_tokens
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self.preemptions = 0

    @property
    def blocks(self) -> int:
        """Blocks in all."""
        return self._pool.total

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return self._pool.free

    @property
    def capacity(self) -> int:
        """Tokens of the longest sequence that can be computed: it has all blocks."""
        return self._pool.total * BLOCK_SIZE

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Sequences without blocks: new ones and preempted ones."""
        return tuple(self._waiting)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that hold blocks."""
        return tuple(self._running)

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its turn. Raises `PromptTooLong` if all blocks together could not hold it."""
        if len(sequence.tokens) > self.capacity:
            raise PromptTooLong(len(sequence.tokens), self.capacity)
        insort(self._waiting, sequence, key=_by_arrival)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, in whatever state it is, and free its blocks."""
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        self._free(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks; it is computed again later."""
        self._running.remove(sequence)
        self._free(sequence)
        insort(self._waiting, sequence, key=_by_arrival)
        self.preemptions += 1

    def next_chunks(self, drafts: Mapping[Sequence, Several[int]] = NO_DRAFTS) -> list[Chunk]:
        """What to compute next; empty only if no sequence is ready. All blocks of the chunks are allocated.

        `drafts` are guesses for sequences that decode; they are cut to fit.
        """
        decoding = list(self._decoding())
        budget = self._step_tokens - len(decoding)
        chunks = self._with_drafts(decoding, drafts, budget // DRAFTS_SHARE)
        budget -= sum(len(chunk.draft) for chunk in chunks)
        prefilling = self._prefilling()
        while budget and (sequence := next(prefilling, None)):
            chunks.append(Chunk(sequence, min(sequence.remaining, budget)))
            budget -= chunks[-1].length
        return chunks

    def _with_drafts(
        self, decoding: Several[Sequence], drafts: Mapping[Sequence, Several[int]], most: int
    ) -> list[Chunk]:
        """One token of each sequence with its draft, at most `most` drafted tokens together."""
        chunks = []
        for sequence in decoding:
            draft = self._fitting(sequence, drafts.get(sequence, ())[:most])
            most -= len(draft)
            chunks.append(Chunk(sequence, 1, draft))
        return chunks

    def _decoding(self) -> Iterator[Sequence]:
        """Running sequences that need one token, each with a block for it."""
        for sequence in self.running:
            if sequence.remaining == 1 and self._grow(sequence):
                yield sequence

    def _fitting(self, sequence: Sequence, draft: Several[int]) -> tuple[int, ...]:
        """As much of a draft as there are blocks for, if a spare one for each that runs is left."""
        missing = blocks_for(len(sequence.tokens) + len(draft)) - len(sequence.blocks)
        if 0 < missing <= self._pool.free - len(self._running):
            sequence.blocks += self._pool.allocate(missing)
        return tuple(draft[: len(sequence.blocks) * BLOCK_SIZE - len(sequence.tokens)])

    def _prefilling(self) -> Iterator[Sequence]:
        """Running sequences that need more than one token, then those that can be admitted, while they are wanted."""
        yield from [sequence for sequence in self._running if sequence.remaining > 1]
        for sequence in self.waiting:
            if not sequence.ready:
                continue
            if not self._admit(sequence):
                break
            yield sequence

    def _grow(self, sequence: Sequence) -> bool:
        """Make sure that its tokens have blocks, at the cost of newer sequences; False if it was itself the newest."""
        missing = max(blocks_for(len(sequence.tokens)) - len(sequence.blocks), 0)
        while sequence.blocks and missing > self._pool.free:
            self.preempt(self._running[-1])
        if not sequence.blocks:
            return False
        sequence.blocks += self._pool.allocate(missing)
        return True

    def _admit(self, sequence: Sequence) -> bool:
        """Start a waiting sequence if there is room, with a spare block for each that runs: they will soon grow."""
        needed = blocks_for(len(sequence.tokens))
        if len(self._running) == self._most_running:
            return False
        if self._running and needed + len(self._running) > self._pool.free:
            return False
        sequence.blocks = self._pool.allocate(needed)
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_by_arrival)
        return True

    def _free(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0
