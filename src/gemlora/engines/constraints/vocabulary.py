"""The served vocabulary as the grammars' library wants it: the bytes of every token, in a trie."""

from collections.abc import Iterable, Sequence

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

WORD = 32
"""Tokens in a word of a mask."""

SLICES = tuple(r'[^"\\\x00-\x1F\x7F]' + repeated for repeated in ("{1,10}", "{1,30}", "+"))
"""Tokens that the library allows together where a string may go on with them. By default it has a slice of blanks
besides, which makes no mask faster and takes a sixth of the time."""

BLANK = 1 << 15

SPECIAL = b"<end>"
"""What the library calls the token that stands for the end; no text that spells it becomes that token."""


class GrammarVocabulary:
    """Made once: it takes about a second and 100 MB for a vocabulary of 262,144. Afterwards nothing in it changes."""

    def __init__(self, tokens: Sequence[bytes], end: int) -> None:
        """`tokens` are the bytes of each id: none for ids that no text may consist of, `end` among them.

        Of ids with the same bytes only the first may come.
        """
        self.end = end
        self._ids: dict[bytes, int] = {}
        for number, token in enumerate(tokens):
            if token:
                self._ids.setdefault(token, number)
        self._longest = max(map(len, self._ids))
        self._spellings = [b""] * len(tokens)
        for text, number in self._ids.items():
            self._spellings[number] = text
        self.ranks = np.array([_rank(text) for text in self._spellings], np.uint16)  # [V]
        self.words = -(-len(tokens) // WORD)
        self.ordinary = self.mask_of(self._ids.values())
        spelling = TokenizerWrapper(_Spelling(self, self._spellings))
        self.library = LLTokenizer(spelling, n_vocab=len(tokens), slices=[*SLICES])

    def token(self, text: bytes) -> int | None:
        """The token with exactly these bytes."""
        return self._ids.get(text)

    def spelling(self, token: int) -> bytes:
        """The bytes of a token; none if it may not come."""
        return self._spellings[token]

    def mask_of(self, tokens: Iterable[int]) -> NDArray[np.uint32]:
        """[words] with the bits of these tokens."""
        bits = np.zeros(self.words * WORD, np.uint8)
        bits[list(tokens)] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def tokens_of(self, mask: NDArray[np.uint32]) -> NDArray[np.intp]:
        """The tokens whose bits are set, ascending."""
        return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))

    def encode(self, text: bytes) -> list[int]:
        """Tokens that spell `text`, the longest at each place; it ends before a byte that no token has."""
        tokens: list[int] = []
        place = 0
        while place < len(text):
            ends = range(min(len(text), place + self._longest), place, -1)
            end = next((end for end in ends if text[place:end] in self._ids), None)
            if end is None:
                break
            tokens.append(self._ids[text[place:end]])
            place = end
        return tokens


def _rank(text: bytes) -> int:
    """Short tokens come first where any will do, blanks behind all others."""
    return min(len(text), BLANK) + (BLANK if text.isspace() else 0)


class _Spelling:
    """The vocabulary in the form that the library reads."""

    bos_token_id = None

    def __init__(self, vocabulary: GrammarVocabulary, spellings: Sequence[bytes]) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = vocabulary.end
        self.special_token_ids = [vocabulary.end]
        self.tokens = [*spellings]
        self.tokens[vocabulary.end] = SPECIAL

    def __call__(self, text: bytes) -> list[int]:
        """What the library takes for the model's own way to cut a text; it is used for guesses alone."""
        return self._vocabulary.encode(text)
