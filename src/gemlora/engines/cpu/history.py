"""The tokens that a sequence has seen, as the penalties want them."""

from collections.abc import Iterable, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 64


class TokenHistory:
    """Each different token of prompt and output once, with the number of times that it occurs in the output.

    It grows by one token at a time; nothing is recounted.
    """

    def __init__(self, prompt: Iterable[int], output: Iterable[int]) -> None:
        self._place: dict[int, int] = {}
        self._tokens = np.zeros(_FIRST_CAPACITY, np.int32)
        self._counts = np.zeros(_FIRST_CAPACITY, np.int32)
        for token in prompt:
            self._add(token, 0)
        for token in output:
            self._add(token, 1)

    @property
    def tokens(self) -> NDArray[np.int32]:
        """[E] the different tokens, in the order of their first occurrence."""
        return self._tokens[: len(self._place)]

    @property
    def counts(self) -> NDArray[np.int32]:
        """[E] how often each occurs in the output."""
        return self._counts[: len(self._place)]

    def append(self, token: int) -> None:
        """Count one more output token."""
        self._add(token, 1)

    def followed_by(self, tokens: Sequence[int]) -> "TokenHistory":
        """The history after more output tokens; itself if there are none."""
        if not tokens:
            return self
        history = copy(self)
        history._place, history._tokens, history._counts = self._place.copy(), self._tokens.copy(), self._counts.copy()
        for token in tokens:
            history.append(token)
        return history

    def _add(self, token: int, count: int) -> None:
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[place] = token
        self._counts[place] += count
