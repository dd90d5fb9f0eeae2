"""Guesses how a text goes on, from the text alone. It knows token ids, no model and no requests.

This is the match model of data compressors (M. Mahoney, lpaq): go on as after the latest earlier occurrence of the last
tokens, and trust it the more, the longer it has been right. Whether a guess would have been right shows with the next
token also when nobody used it, so trust costs nothing to gain and nothing to lose.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

LONGEST_COMPARISON = 16
"""Tokens before a place that are compared to say how well it matches."""

LIKELIHOODS = (0.3, 0.5, 0.75, 0.9)
"""That matches of 2 to 3, 4 to 7, 8 to 15 and more tokens predict the next one, before anything is known of the text:
about what they do in prose, or somewhat less."""

WEIGHT = 1 / 8
"""Of the latest prediction of its kind, against all earlier ones."""


class Guess(NamedTuple):
    """A token to come, and the likelihood that it and all guesses before it are right."""

    token: int
    likelihood: float


class Drafter:
    """Reads one text as it grows; a token takes constant time, and less than 1 % of the memory of its KV cache."""

    __slots__ = ("_length", "_likelihoods", "_match", "_places", "_read")

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], int] = {}  # behind the latest occurrence of two tokens
        self._read = 0
        self._match = 0  # where the token stands that should come next
        self._length = 0  # how many tokens before it are also the last ones; 0: there is no match
        self._likelihoods = [*LIKELIHOODS]

    def read(self, tokens: Sequence[int]) -> None:
        """Take in what the text has more than last time."""
        for place in range(self._read, len(tokens)):
            self._compare(tokens, place)
            if place:
                pair = (tokens[place - 1], tokens[place])
                if not self._length:
                    self._find(tokens, place, pair)
                self._places[pair] = place + 1
        self._read = len(tokens)

    def guesses(self, tokens: Sequence[int]) -> Iterator[Guess]:
        """How the text that was read goes on: nothing if nothing matches, else without end."""
        period = len(tokens) - self._match
        likelihood = 1.0
        for ahead in count() if self._length else ():
            likelihood *= self._likelihoods[_kind(self._length + ahead)]
            yield Guess(tokens[self._match + ahead % period], likelihood)

    def _compare(self, tokens: Sequence[int], place: int) -> None:
        """Go on with the match if it predicted the token at `place`, else drop it."""
        if not self._length:
            return
        right = tokens[self._match] == tokens[place]
        kind = _kind(self._length)
        self._likelihoods[kind] += (right - self._likelihoods[kind]) * WEIGHT
        self._match += 1
        self._length = self._length + 1 if right else 0

    def _find(self, tokens: Sequence[int], place: int, pair: tuple[int, int]) -> None:
        """Match the latest earlier occurrence of the two tokens that end at `place`, if there is one."""
        if (match := self._places.get(pair)) is None:
            return
        most = min(match, LONGEST_COMPARISON)
        self._match = match
        self._length = next((n for n in range(2, most) if tokens[match - 1 - n] != tokens[place - n]), most)


def _kind(length: int) -> int:
    """Which of the likelihoods is that of a match of `length` ≥ 2 tokens."""
    return min(length.bit_length() - 2, len(LIKELIHOODS) - 1)
