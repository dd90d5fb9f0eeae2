"""One answer that is held to its grammar, from its first token to its end.

Behind every token it is known how the text could end within the tokens that are left. A token behind which it could not
is not taken: the text then ends by the way that was known before it. With much room left this is looked at only now and
then. All of it depends on the text and its bound alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from gemlora.engines.constraints.closing import SearchExhausted, closes, shortest_closing
from gemlora.engines.constraints.vocabulary import WORD, GrammarVocabulary
from gemlora.engines.contract import FinishReason
from gemlora.errors import ConstraintUnmet

ASSURED_ROOM = 128
"""With fewer tokens left, none is taken behind which no ending is known; before, a search may find none for a while."""

RESERVE = 256
"""Tokens left besides an ending from which on every token is looked at; before, or if none is found, one in so many:"""
INTERVAL = 16


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a drawn token: the tokens that the text has more, and the reason if it has ended."""

    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None


class ConstrainedText:
    """Not thread-safe: one thread at a time may use it. A method that raises leaves it unusable."""

    def __init__(
        self, vocabulary: GrammarVocabulary, matcher: LLMatcher, stop_tokens: Sequence[int], room: int
    ) -> None:
        """An empty text of at most `room` tokens. Raises `ConstraintUnmet` if none is found that is complete."""
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._room = room
        self._stops = vocabulary.mask_of(stop_tokens)
        self._ordinary = vocabulary.ordinary & ~self._stops
        self._end = vocabulary.mask_of([vocabulary.end])
        self._misses = 0
        self._closing = self._find_closing()
        self._earlier = self._closing or ()  # the ending that was known last
        if self._closing is not None and len(self._closing) > room:
            raise ConstraintUnmet(f"The shortest answer that was found takes {len(self._closing)} tokens, not {room}.")
        if self._closing is None and room < ASSURED_ROOM:
            raise ConstraintUnmet(f"No answer of at most {room} tokens was found.")
        self._unseen = self._interval()  # tokens that are taken before an ending is looked for

    @property
    def closing(self) -> tuple[int, ...]:
        """A way to end the text. Raises `ConstraintUnmet` if none is found."""
        closing = self._find_closing() if self._closing is None else self._closing
        if closing is None:
            raise ConstraintUnmet("No way was found to complete the answer.")
        return closing

    @property
    def words(self) -> int:
        """Words of a mask."""
        return self._vocabulary.words

    def resume(self, tokens: Sequence[int]) -> Taken | None:
        """Go on behind tokens that were taken elsewhere; what is left of the text if it has its ending already."""
        if self._matcher.is_stopped():
            return Taken((), FinishReason.STOP)
        for place, token in enumerate(tokens):
            taken = self.take(token)
            if taken.finish_reason is not None:
                return Taken(taken.tokens[len(tokens) - place :], taken.finish_reason)
        return None

    def take(self, token: int) -> Taken:
        """Go on with a token that the mask allows. Raises `ConstraintUnmet`."""
        if not self._matcher.consume_token(token):
            raise self._unmet()
        room = self._room - 1
        if self._matcher.is_stopped():
            self._check()
            return Taken((token,), FinishReason.STOP)
        if self._unseen:
            self._unseen -= 1
            self._room, self._closing = room, None
            return Taken((token,))
        closing = self._closing_behind(token)
        if room >= (ASSURED_ROOM if closing is None else len(closing)):
            self._room, self._closing, self._earlier = room, closing, closing or self._earlier
            self._unseen = self._interval()
            return Taken((token,), None if room else FinishReason.LENGTH)
        if self._closing is None:
            raise ConstraintUnmet("No way was found to complete the answer within max_tokens.")
        return Taken(self._closing, FinishReason.LENGTH)

    def ends_by(self, token: int) -> bool:
        """Whether the token stands for the end of a text beside the request's stop tokens."""
        return token == self._vocabulary.end

    def possible(self, draft: Sequence[int]) -> int:
        """How many of the tokens may come one after the other."""
        return self._matcher.validate_tokens([*draft])

    def allowed(self) -> list[int]:
        """All tokens that may come next, ascending; the end is none of them."""
        mask = np.empty(self.words, np.uint32)
        self._fill(mask)
        return [*map(int, self._vocabulary.tokens_of(mask & self._ordinary))]

    def forced(self) -> list[int]:
        """Tokens that spell what alone may come next; another way to spell it may be drawn."""
        return self._matcher.compute_ff_tokens()

    def masks(self, draft: Sequence[int], masks: NDArray[np.uint32]) -> None:
        """Fill [1 + len(draft), words]: what may come behind the text and behind each token of the draft.

        Rows behind a token that may not come, or behind the end, mean nothing. Raises `ConstraintUnmet`.
        """
        consumed = 0
        for mask, token in zip(masks, (*draft, None), strict=True):
            self._fill(mask)
            if token is None or not (_has(mask, token) and _has(self._ordinary, token)):
                break
            self._matcher.consume_token(token)
            consumed += 1
            if self._matcher.is_stopped():
                break
        self._check()
        if consumed:
            self._matcher.rollback(consumed)

    def _fill(self, mask: NDArray[np.uint32]) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._check()
        mask &= self._ordinary
        if self._matcher.is_accepting():
            mask |= self._stops
            if not mask.any():
                mask |= self._end

    def _interval(self) -> int:
        """How many tokens may come before an ending must be known."""
        if self._closing is None:  # each miss is dear, and what made it may last
            self._misses += 1
            return min(INTERVAL << self._misses, self._room - ASSURED_ROOM)
        self._misses = 0
        return INTERVAL if self._room - len(self._closing) > RESERVE + INTERVAL else 0

    def _closing_behind(self, token: int) -> tuple[int, ...] | None:
        """The rest of the known ending if the token is its first, the known one if it still fits, or a new one.

        A new one ends like the last one, unless it is too long that way; if no other is found, it stays too long.
        """
        known = self._closing
        if known and token == known[0]:
            return known[1:]
        if known and (self._matcher.is_accepting() or not closes(self._matcher, [*known])):
            known = None
        if known and len(known) < self._room:
            return known
        closing = self._find_closing(self._earlier)
        if closing is not None and len(closing) >= self._room:
            return self._find_closing() or closing
        return known if closing is None else closing

    def _find_closing(self, earlier: Sequence[int] = ()) -> tuple[int, ...] | None:
        try:
            return shortest_closing(self._matcher, self._vocabulary, earlier[max(0, 1 + len(earlier) - self._room) :])
        except SearchExhausted:
            return None

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._unmet()

    def _unmet(self) -> ConstraintUnmet:
        return ConstraintUnmet(f"The answer's grammar became too complex: {self._matcher.get_error()[:200]}")


def _has(mask: NDArray[np.uint32], token: int) -> bool:
    return bool(mask[token // WORD] >> np.uint32(token % WORD) & 1)
