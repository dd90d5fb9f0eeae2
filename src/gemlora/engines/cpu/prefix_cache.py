"""Full blocks of the KV cache that sequences with the same beginning share, and which of them stay when none uses them.

A block is found by its content (`prefix_key`) and never written again, so sharing copies nothing. The cache holds each
of its blocks like one more user; blocks without another user are idle and leave when their room is wanted: those of a
scope that holds more than its share first, then the least recently used. A sequence lets its blocks go from the last
to the first, and whoever holds a block holds its parent, so that a block leaves before its parent does.
"""

from dataclasses import dataclass

from gemlora.engines.cpu.blocks import BLOCK_SIZE, BlockPool, blocks_for
from gemlora.engines.cpu.prefix_key import block_key, root_key
from gemlora.engines.cpu.sequence import Sequence


@dataclass(frozen=True, slots=True, eq=False)
class CachedBlock:
    """A full block with the tokens of its keys and values, behind those of its parent.

    `scope` is that of the request which computed it.
    """

    key: bytes
    scope: bytes
    parent: "CachedBlock | None"
    tokens: tuple[int, ...]
    block: int

    def holds(self, parent: "CachedBlock | None", scope: bytes, tokens: tuple[int, ...]) -> bool:
        """Whether this is the content that was looked for, and no other with the same key."""
        return self.parent is parent and self.scope == scope and self.tokens == tokens


Idle = dict[CachedBlock, int]
"""Idle blocks of one scope and when they became idle, the least recent first."""


class PrefixCache:
    """The blocks of all sequences; those whose content is known are shared."""

    def __init__(
        self, pool: BlockPool, base: str, *, most_idle: int, largest_share: float = 0.5, enabled: bool = True
    ) -> None:
        """`base` is the digest of the weights. At most `most_idle` blocks are kept that no sequence uses.

        A scope may have `largest_share` of the idle blocks before its own leave first. If not `enabled`, blocks are
        handed out as before and nothing is shared.
        """
        self._pool = pool
        self._base = base
        self._most_idle = most_idle
        self._largest_share = largest_share
        self._enabled = enabled
        self._cached: dict[bytes, CachedBlock] = {}
        self._cached_at: dict[int, CachedBlock] = {}
        self._idle: dict[bytes, Idle] = {}
        self._uses = 0
        self.idle = 0
        """Blocks that are kept though no sequence uses them."""
        self.reused_tokens = 0
        """Tokens that did not have to be computed."""

    @property
    def total(self) -> int:
        """Blocks in all."""
        return self._pool.total

    @property
    def available(self) -> int:
        """Blocks that no sequence holds."""
        return self._pool.free + self.idle

    def allocate(self, count: int) -> list[int]:
        """Take `count` available blocks, idle ones last. Raises `ValueError` if there are fewer."""
        while self._pool.free < count and self.idle:
            self._evict()
        return self._pool.allocate(count)

    def wanted(self, sequence: Sequence) -> int:
        """How many available blocks a sequence without any would take to hold all its tokens."""
        in_use = sum(self._pool.users(cached.block) > 1 for cached in self._find(sequence))
        return blocks_for(len(sequence.tokens)) - in_use

    def reuse(self, sequence: Sequence) -> None:
        """Let a sequence go on behind the cached blocks that follow on what it has computed, if there are any."""
        if sequence.computed % BLOCK_SIZE or not (found := self._find(sequence)):
            return
        first = sequence.computed // BLOCK_SIZE
        unneeded = sequence.blocks[first : first + len(found)]
        sequence.blocks[first : first + len(found)] = [self._take(cached) for cached in found]
        self._pool.release(unneeded)
        sequence.computed += len(found) * BLOCK_SIZE
        sequence.reused += len(found) * BLOCK_SIZE
        sequence.shared = first + len(found)
        self.reused_tokens += len(found) * BLOCK_SIZE

    def store(self, sequence: Sequence) -> None:
        """Share the sequence's blocks that are full by now."""
        if not self._serves(sequence):
            return
        for index in range(sequence.shared, sequence.computed // BLOCK_SIZE):
            self._store(sequence, index)
            sequence.shared = index + 1

    def release(self, sequence: Sequence) -> None:
        """Take all blocks of a sequence; the full ones stay cached. It has computed nothing then."""
        self.store(sequence)
        self._pool.release(sequence.blocks)
        for block in reversed(sequence.blocks):
            cached = self._cached_at.get(block)
            if cached is not None and self._pool.users(block) == 1:
                self._uses += 1
                self._idle.setdefault(cached.scope, {})[cached] = self._uses
                self.idle += 1
        while self.idle > self._most_idle:
            self._evict()
        sequence.blocks = []
        sequence.computed = sequence.reused = sequence.shared = 0

    def _serves(self, sequence: Sequence) -> bool:
        """Probes shall measure what is computed, and nobody needs their blocks again."""
        return self._enabled and sequence.probing is None

    def _find(self, sequence: Sequence) -> list[CachedBlock]:
        """The cached blocks behind what is computed; the last token is left, its logits are wanted."""
        found: list[CachedBlock] = []
        if not self._serves(sequence):
            return found
        first = sequence.computed // BLOCK_SIZE
        parent = self._parent(sequence, first)
        if first and parent is None:
            return found
        for index in range(first, (len(sequence.tokens) - 1) // BLOCK_SIZE):
            cached = self._cached.get(self._key(sequence, index))
            if cached is None or not cached.holds(parent, sequence.request.cache_scope, _tokens(sequence, index)):
                break
            found.append(cached)
            parent = cached
        return found

    def _store(self, sequence: Sequence, index: int) -> None:
        """Cache a full block of a sequence, or let it use the one that has the same content already."""
        parent = self._parent(sequence, index)
        if index and parent is None:
            return
        key, scope, block = self._key(sequence, index), sequence.request.cache_scope, sequence.blocks[index]
        tokens = _tokens(sequence, index)
        cached = self._cached.get(key)
        if cached is None:
            self._cached[key] = self._cached_at[block] = CachedBlock(key, scope, parent, tokens, block)
            self._pool.share(block)
        elif cached.holds(parent, scope, tokens):
            sequence.blocks[index] = self._take(cached)
            self._pool.release([block])

    def _take(self, cached: CachedBlock) -> int:
        """Let one more sequence use a cached block."""
        if self._pool.users(cached.block) == 1:
            self._forget_idle(cached)
        self._pool.share(cached.block)
        return cached.block

    def _evict(self) -> None:
        """Free one idle block."""
        largest = max(self._idle.values(), key=len)
        if len(largest) <= self._largest_share * self.idle:
            largest = min(self._idle.values(), key=lambda idle: next(iter(idle.values())))
        cached = next(iter(largest))
        self._forget_idle(cached)
        del self._cached[cached.key], self._cached_at[cached.block]
        self._pool.release([cached.block])

    def _forget_idle(self, cached: CachedBlock) -> None:
        idle = self._idle[cached.scope]
        del idle[cached]
        if not idle:
            del self._idle[cached.scope]
        self.idle -= 1

    def _parent(self, sequence: Sequence, index: int) -> CachedBlock | None:
        """The block before, unless it is not cached because of a collision."""
        return self._cached_at.get(sequence.blocks[index - 1]) if index else None

    def _key(self, sequence: Sequence, index: int) -> bytes:
        keys = sequence.keys
        if not keys:
            request = sequence.request
            adapter = None if request.adapter is None else request.adapter.digest
            keys.append(root_key(request.cache_scope, request.share_key, self._base, adapter))
        while len(keys) <= index + 1:
            keys.append(block_key(keys[-1], _tokens(sequence, len(keys) - 1)))
        return keys[index + 1]


def _tokens(sequence: Sequence, index: int) -> tuple[int, ...]:
    """The tokens of a full block."""
    return tuple(sequence.tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
