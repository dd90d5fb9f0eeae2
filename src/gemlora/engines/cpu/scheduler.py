"""Which tokens are computed in the next step. It knows sequences and blocks, no weights and no clients.

Sequences that decode come first, one token each and what is guessed to follow; prompts share the rest of the time that
a step should take (`pace`), the shortest remainder first. The oldest prompt gets an eighth of it in any case, so that
from then on it takes a bounded multiple of what it would take alone, however many shorter ones come. Beside short
prompts the others fill half a step at most, and short ones that come while it is computed may be inserted into it.

Admission goes by arrival. A sequence gets the blocks of all its known tokens when it is admitted, those that the prefix
cache has among them, and grows block by block; when none is left, the newest running sequence gives up its blocks and
is computed again later, as far as they are not in the cache any more. The oldest is never preempted and fits the pool
alone, so it always ends, and with it, one after the other, do all. Guesses take no block that another sequence could
need soon.
"""

from bisect import insort
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Sequence as Several
from operator import attrgetter
from types import MappingProxyType

from gemlora.engines.cpu.batch import Chunk
from gemlora.engines.cpu.blocks import BLOCK_SIZE, blocks_for
from gemlora.engines.cpu.pace import SHORT_PART, Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.sequence import Sequence
from gemlora.errors import PromptTooLong

OLDEST_PART = 0.125
"""Part of the prompts' time in each step that the oldest prompt gets."""

_by_arrival = attrgetter("arrival")

NO_DRAFTS: Mapping[Sequence, Several[int]] = MappingProxyType({})

DRAFTS_SHARE = 4
"""One in so many of the tokens that decoding leaves free may be guessed; the others are for prompts."""


class Scheduler:
    """Waiting and running sequences, both in order of arrival."""

    def __init__(self, cache: PrefixCache, max_sequences: int, pace: Pace) -> None:
        """At most `max_sequences` run at once, and no more than a step has tokens, so that all of them move."""
        self._cache = cache
        self._pace = pace
        self._most_running = min(max_sequences, pace.step_tokens)
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._planned: set[Sequence] = set()
        self.preemptions = 0

    @property
    def blocks(self) -> int:
        """Blocks in all."""
        return self._cache.total

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return self._cache.available

    @property
    def cached_blocks(self) -> int:
        """Those among them whose content is kept in case it is wanted again."""
        return self._cache.idle

    @property
    def cached_tokens(self) -> int:
        """Tokens that the prefix cache saved from being computed."""
        return self._cache.reused_tokens

    @property
    def capacity(self) -> int:
        """Tokens of the longest sequence that can be computed: it has all blocks."""
        return self._cache.total * BLOCK_SIZE

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Sequences without blocks: new ones and preempted ones."""
        return tuple(self._waiting)

    @property
    def queued(self) -> int:
        """How many of the waiting ones are ready, and wait for room."""
        return sum(sequence.ready for sequence in self._waiting)

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
        """Forget a sequence, in whatever state it is, and take its blocks."""
        (self._running if sequence in self._running else self._waiting).remove(sequence)
        self._cache.release(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks; it is computed again later."""
        self._running.remove(sequence)
        self._cache.release(sequence)
        insort(self._waiting, sequence, key=_by_arrival)
        self.preemptions += 1

    def next_chunks(self, drafts: Mapping[Sequence, Several[int]] = NO_DRAFTS) -> list[Chunk]:
        """What to compute next; empty only if no sequence is ready. All blocks of the chunks are allocated.

        `drafts` are guesses for sequences that decode; they are cut to fit.
        """
        for running in self._running:
            self._cache.store(running)
        decoding = list(self._decoding())
        chunks = self._with_drafts(decoding, drafts, (self._pace.step_tokens - len(decoding)) // DRAFTS_SHARE)
        self._admit_waiting()
        self._pace.begin(sum(chunk.rows for chunk in chunks))
        chunks += self._prompt_chunks(decoding)
        self._planned = {chunk.sequence for chunk in chunks}
        return chunks

    def inserted_chunks(self) -> list[Chunk]:
        """What to compute while the chunks of the last plan are: all of short prompts that are not among them.

        They take no block from any other sequence.
        """
        self._admit_waiting()
        others = [sequence for sequence in self._running if sequence not in self._planned]
        short = [sequence for sequence in others if self._is_short(sequence)]
        if not short:
            return []
        self._pace.begin_insertion()
        chunks = [
            Chunk(sequence, sequence.remaining)
            for sequence in sorted(short, key=attrgetter("remaining"))
            if self._pace.insert(sequence.remaining, sequence.computed)
        ]
        self._planned.update(chunk.sequence for chunk in chunks)
        return chunks

    def note(self, seconds: float) -> None:
        """Learn how long the chunks took."""
        self._pace.note(seconds)

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
        if 0 < missing <= self._cache.available - len(self._running):
            sequence.blocks += self._cache.allocate(missing)
        return tuple(draft[: len(sequence.blocks) * BLOCK_SIZE - len(sequence.tokens)])

    def _admit_waiting(self) -> None:
        """Start those that are ready, as long as there is room for the next one."""
        for sequence in self.waiting:
            if sequence.ready and not self._admit(sequence):
                break

    def _prompt_chunks(self, decoding: Collection[Sequence]) -> list[Chunk]:
        """Chunks of the running sequences that do not decode."""
        prompts = [sequence for sequence in self._running if sequence not in decoding]
        if not prompts:
            return []
        for sequence in prompts:
            self._cache.reuse(sequence)
        short = {sequence for sequence in prompts if self._is_short(sequence)}
        turns = [(sequence, OLDEST_PART, 1.0) for sequence in prompts[:1]]
        for sequence in sorted(prompts, key=attrgetter("remaining")):
            turns.append((sequence, 1.0, SHORT_PART if short and sequence not in short else 1.0))
        lengths = dict.fromkeys(prompts, 0)
        for sequence, part, fill in turns:
            done = lengths[sequence]
            lengths[sequence] += self._pace.fit(sequence.remaining - done, sequence.computed + done, part, fill)
        return [Chunk(sequence, length) for sequence, length in lengths.items() if length]

    def _is_short(self, sequence: Sequence) -> bool:
        """Whether a prompt is short, without what the prefix cache had of it. The rest of a longer one is not."""
        return self._pace.is_short(len(sequence.tokens) - sequence.reused, sequence.reused)

    def _grow(self, sequence: Sequence) -> bool:
        """Make sure that its tokens have blocks, at the cost of newer sequences; False if it was itself the newest."""
        missing = max(blocks_for(len(sequence.tokens)) - len(sequence.blocks), 0)
        while sequence.blocks and missing > self._cache.available:
            self.preempt(self._running[-1])
        if not sequence.blocks:
            return False
        sequence.blocks += self._cache.allocate(missing)
        return True

    def _admit(self, sequence: Sequence) -> bool:
        """Start a waiting sequence if there is room, with a spare block for each that runs: they will soon grow."""
        if len(self._running) == self._most_running:
            return False
        if self._running and self._cache.wanted(sequence) + len(self._running) > self._cache.available:
            return False
        self._cache.reuse(sequence)
        sequence.blocks += self._cache.allocate(blocks_for(len(sequence.tokens)) - len(sequence.blocks))
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_by_arrival)
        return True
