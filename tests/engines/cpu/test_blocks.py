import pytest

from gemlora.engines.cpu.blocks import BLOCK_SIZE, BlockPool, blocks_for


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (BLOCK_SIZE, 1), (BLOCK_SIZE + 1, 2)])
def test_a_started_block_counts_as_a_whole_one(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens) == blocks


def test_blocks_are_handed_out_once_until_they_come_back() -> None:
    pool = BlockPool(5)
    first, second = pool.allocate(2), pool.allocate(3)
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert pool.free == 0
    pool.release(first)
    assert pool.free == 2
    assert sorted(pool.allocate(2)) == sorted(first)


def test_what_was_used_before_is_used_again_before_untouched_memory() -> None:
    pool = BlockPool(100)
    for _ in range(10):
        blocks = pool.allocate(3)
        assert max(blocks) < 3
        pool.release(blocks)


def test_more_than_there_is_cannot_be_allocated() -> None:
    pool = BlockPool(2)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 are free"):
        pool.allocate(3)
    assert pool.free == 2


def test_a_shared_block_is_free_when_its_last_user_gives_it_back() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    pool.share(blocks[0])
    pool.release(blocks)
    assert (pool.free, pool.users(blocks[0]), pool.users(blocks[1])) == (1, 1, 0)
    pool.release(blocks[:1])
    assert pool.free == 2


def test_a_free_block_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="is not taken"):
        BlockPool(2).share(0)


def test_a_block_cannot_be_released_twice() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(ValueError, match="is not taken"):
        pool.release(blocks)
