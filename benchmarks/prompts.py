"""Prompts of a given number of tokens that share no beginning with each other, for every engine the same text."""

import random
from collections.abc import Sequence

from gemlora.serving.tokenizer import Tokenizer

LEAST_LETTERS = 3
"""Letters of a word: shorter pieces merge with their neighbours more easily."""


class Prompts:
    """Draws prompts of random words, each one token. <bos>, which every engine puts in front, counts as a token.

    The same seed draws the same prompts; a run that goes on drawing never meets one again.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._words = words(tokenizer)
        self._random = random.Random(seed)

    def draw(self, tokens: int) -> str:
        """A prompt of exactly so many tokens."""
        while True:
            text = " ".join(self._random.choices(self._words, k=tokens - 1))
            if len(self._tokenizer.encode(text, control_tokens=False)) == tokens - 1:
                return text


def words(tokenizer: Tokenizer) -> Sequence[str]:
    """English-looking words that are one token both at the start of a text and behind a blank."""
    pieces = {tokenizer.piece(token) for token in range(tokenizer.size)}
    return sorted(
        piece.decode()
        for piece in pieces
        if len(piece) >= LEAST_LETTERS and piece.isalpha() and piece.islower() and b" " + piece in pieces
    )
