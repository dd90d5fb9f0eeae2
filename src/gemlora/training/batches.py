"""Which examples are learnt together, and in which order: a function of the seed, the epoch and their lengths alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gemlora.training.encoding import Encoded

POOL = 16
"""Batches' worth of examples that are sorted by length together, so that little is padded."""

ROOM_TOKENS = 4096
"""Tokens, padding included, that are computed at once; a batch with more is computed in parts."""


@dataclass(frozen=True, slots=True)
class Split:
    """The examples that are learnt, and those that are only watched."""

    learnt: tuple[Encoded, ...]
    held_out: tuple[Encoded, ...]


def split(examples: Sequence[Encoded], share: float, seed: int) -> Split:
    """Hold out a share of the examples, drawn by the seed; at least one is held out if there is a share."""
    order = list(range(len(examples)))
    random.Random(f"held out {seed}").shuffle(order)  # noqa: S311
    count = max(1, round(share * len(examples))) if share and len(examples) > 1 else 0
    held_out = set(order[:count])
    learnt = tuple(example for index, example in enumerate(examples) if index not in held_out)
    return Split(learnt, tuple(examples[index] for index in sorted(held_out)))


def epoch_batches(examples: Sequence[Encoded], size: int, seed: int, epoch: int) -> list[list[Encoded]]:
    """All examples once, in batches of `size` of similar lengths; the last one of a pool may be smaller."""
    draw = random.Random(f"epoch {seed} {epoch}")  # noqa: S311
    order = list(examples)
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size], key=lambda example: len(example.ids))
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    draw.shuffle(batches)
    return batches


def parts(batch: Sequence[Encoded]) -> list[list[Encoded]]:
    """A batch in parts that are computed at once."""
    found: list[list[Encoded]] = []
    longest = 0
    for example in sorted(batch, key=lambda example: len(example.ids)):
        longest = len(example.ids)
        if not found or (len(found[-1]) + 1) * longest > ROOM_TOKENS:
            found.append([])
        found[-1].append(example)
    return found
