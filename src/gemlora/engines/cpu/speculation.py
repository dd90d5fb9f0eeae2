"""Which guesses are worth a row in the next step. What comes of them changes no token, only how many a step yields."""

from collections.abc import Iterator, Mapping
from heapq import merge
from itertools import islice

from gemlora.engines.cpu.constraining import ConstrainedText
from gemlora.engines.cpu.drafting import Guess
from gemlora.engines.cpu.sequence import Sequence

ROW_COST = 0.1
"""What one more row adds to a step, as a part of a step with one row. A step reads every weight once, about a byte for
each multiplication of a row, so it is the machine's bandwidth over its multiplications."""

FORCED_LIKELIHOOD = 0.95
"""That a token is drawn which spells what a grammar demands: seldom the same text is cut into others."""

MOST_ROWS = 32
"""Rows of a step above which nothing is guessed; the logits of a row take a megabyte."""


class Speculation:
    """Drafts for the sequences that decode in a step."""

    def __init__(self, draft_tokens: int) -> None:
        """At most `draft_tokens` are guessed for a sequence; with 0 no text is read at all."""
        self._most = draft_tokens

    def drafts(self, rooms: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """The guesses that raise the tokens to be expected per second, likeliest first.

        `rooms` are the sequences that decode, each with the number of tokens that may be guessed for it.
        """
        drafts: dict[Sequence, list[int]] = {}
        rows = len(rooms)
        if not self._most or rows >= MOST_ROWS:
            return drafts
        expected = float(rows)
        guesses = (_guesses(sequence, min(room, self._most)) for sequence, room in rooms.items())
        for sequence, guess in merge(*guesses, key=_unlikeliness):
            if rows == MOST_ROWS or guess.likelihood * (1 + ROW_COST * (rows - 1)) <= ROW_COST * expected:
                break
            drafts.setdefault(sequence, []).append(guess.token)
            rows += 1
            expected += guess.likelihood
        return drafts


def _guesses(sequence: Sequence, most: int) -> Iterator[tuple[Sequence, Guess]]:
    sequence.drafter.read(sequence.tokens)
    guesses = _forced(sequence.text) or sequence.drafter.guesses(sequence.tokens)
    for guess in islice(guesses, most):
        yield sequence, guess


def _forced(text: ConstrainedText | None) -> list[Guess]:
    """What the grammar demands next, spelled as it mostly is."""
    forced = [] if text is None else text.forced()
    return [Guess(token, FORCED_LIKELIHOOD**ahead) for ahead, token in enumerate(forced, 1)]


def _unlikeliness(entry: tuple[Sequence, Guess]) -> float:
    return -entry[1].likelihood
