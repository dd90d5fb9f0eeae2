"""Batches are a function of seed and epoch, and take every example once."""

from gemlora.training.batches import ROOM_TOKENS, epoch_batches, parts, split
from gemlora.training.encoding import Encoded


def encoded(length: int) -> Encoded:
    return Encoded(tuple(range(length)), (False, *[True] * (length - 1)))


EXAMPLES = [encoded(2 + index * 7 % 50) for index in range(333)]


def test_an_epoch_takes_every_example_once() -> None:
    batches = epoch_batches(EXAMPLES, 8, 1, 0)
    assert sorted(one.ids for batch in batches for one in batch) == sorted(one.ids for one in EXAMPLES)
    assert all(len(batch) <= 8 for batch in batches)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert epoch_batches(EXAMPLES, 8, 1, 0) == epoch_batches(EXAMPLES, 8, 1, 0)
    assert epoch_batches(EXAMPLES, 8, 1, 0) != epoch_batches(EXAMPLES, 8, 1, 1)
    assert epoch_batches(EXAMPLES, 8, 1, 0) != epoch_batches(EXAMPLES, 8, 2, 0)


def test_little_is_padded() -> None:
    padded = sum(len(batch) * max(len(one.ids) for one in batch) for batch in epoch_batches(EXAMPLES, 8, 1, 0))
    assert padded < 1.2 * sum(len(one.ids) for one in EXAMPLES)


def test_what_is_held_out_is_not_learnt() -> None:
    examples = [encoded(length) for length in range(2, 102)]
    halves = split(examples, 0.1, 0)
    assert len(halves.held_out) == 10
    assert {*halves.learnt} | {*halves.held_out} == {*examples}
    assert not {*halves.learnt} & {*halves.held_out}
    assert split(examples, 0.1, 0) == halves != split(examples, 0.1, 1)
    assert split(examples, 0, 0).held_out == ()
    assert len(split(examples[:3], 0.01, 0).held_out) == 1


def test_large_batches_are_computed_in_parts() -> None:
    batch = [encoded(length) for length in (1500, 30, 1500, 1500, 20)]
    found = parts(batch)
    assert sorted(one.ids for part in found for one in part) == sorted(one.ids for one in batch)
    assert len(found) > 1
    assert all(len(part) * max(len(one.ids) for one in part) <= ROOM_TOKENS for part in found)
    assert parts([encoded(2 * ROOM_TOKENS)]) == [[encoded(2 * ROOM_TOKENS)]]
