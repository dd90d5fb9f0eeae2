"""Which blocks of the KV cache are free. It knows only their numbers, not their content."""

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
        self._taken = bytearray(total)

    @property
    def free(self) -> int:
        """Blocks that can be allocated now."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks. Raises `ValueError` if there are fewer."""
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} are free")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._taken[block] = 1
        return blocks

    def release(self, blocks: list[int]) -> None:
        """Give blocks back. Raises `ValueError` for one that is not taken."""
        for block in reversed(blocks):
            if not self._taken[block]:
                raise ValueError(f"block {block} is not taken")
            self._taken[block] = 0
            self._free.append(block)
