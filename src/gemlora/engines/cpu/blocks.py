"""Which blocks of the KV cache are free and how many use the others. It knows their numbers, not their content."""

from collections.abc import Iterable

BLOCK_SIZE = 32
"""Tokens per block."""


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK_SIZE)


class BlockPool:
    """Hands out the blocks 0 … total − 1. What was freed last is used first, so untouched memory stays untouched."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._users = [0] * total

    @property
    def free(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free)

    def users(self, block: int) -> int:
        """How many hold the block; 0 if it is free."""
        return self._users[block]

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, each with one user. Raises `ValueError` if there are fewer."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._users[block] = 1
        return blocks

    def share(self, block: int) -> None:
        """Let one more user hold a block. Raises `ValueError` if nobody does."""
        if not self._users[block]:
            raise ValueError(f"block {block} is not taken")
        self._users[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Give blocks back; the last user frees one. Raises `ValueError` for one that is not taken.

        The first of several is the first to be allocated again.
        """
        for block in reversed([*blocks]):
            if not self._users[block]:
                raise ValueError(f"block {block} is not taken")
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)
