"""How long work on weights reports how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Called again and again with growing `done`; the activities follow each other."""

    def __call__(self, activity: str, done: int, total: int) -> None:
        """`done` of `total` bytes of `activity` (`Downloading`, `Checking`, `Converting`) are finished."""
        ...


def silent(_activity: str, _done: int, _total: int) -> None:
    """Report nothing."""
