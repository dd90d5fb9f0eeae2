"""The shortest way that is found to end a text as its grammar demands.

A search of a few bytes at a time, depth first: what is forced, then what closes strings, objects and lists, then what
ends other values. Only where none of these leads on is the mask asked. Where the ending of a little earlier, or a part
of it, leads to the end, the search is over: a list that needs many items is spelled out once. Where that goes around,
as an address does before its `@`, a second search asks which step leads to a place that is new. The same text always
gets the same ending.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from llguidance import LLMatcher

from gemlora.engines.constraints.vocabulary import GrammarVocabulary

MOST_TRIES = 2048
"""Places that a search visits; one takes up to a tenth of a millisecond."""

MOST_REPEATS = 24
"""Equal steps in a row with which the first search gives up."""

MOST_LOOKS = 1000
"""Steps behind which the second search looks at the place; a look takes some 40 microseconds."""

MOST_VISITS = 100
"""How often the second search goes on from places that look alike."""

MOST_JOINS = 32
"""Places of a search at which it looks whether the earlier ending leads on, and tokens of that it may leave out."""

PROBE = 4
"""Tokens of the earlier ending that are tried first, and spelled anew together with what is found before them."""

MOST_MASKS = 32
"""Places at which it asks the mask, which takes about 0.1 ms."""

MOST_ALTERNATIVES = 8
"""Tokens of a mask that are tried at one place, the shortest ones, blanks last: they mostly lead nowhere."""

CLOSERS = tuple(bytes([byte]) for byte in b'}]"0,1:{[tn-')
"""What ends a value, or begins one that must still come, best first, where not any text may come."""

EXITS = tuple(bytes([byte]) for byte in b"\"'`<>}]|)\n.!?;:,#$%&*+-/=@[\\^_{~( ")
"""What may end a run of any text, the usual ones first."""

FILLER = b"q"
"""Where this letter may come, any text may: JSON has it inside of strings alone."""

QUOTE = b'"'

ENDERS = (QUOTE, b"}", b"]")
"""What ends a value."""

JOINTS = tuple(bytes([byte]) for byte in b"@.:/-_ +#%&=,;()?!*$|ZTD")
"""What patterns often demand between runs of letters and digits, or behind them."""

PROBES = tuple(dict.fromkeys((QUOTE, FILLER, *ENDERS, *CLOSERS, *JOINTS)))
"""What the second search tries. Which of them may come is what it tells places apart by."""

Place = tuple[int, ...]
"""The probes that may come next."""


class SearchExhausted(Exception):
    """No ending was found within the bounds; there may be one all the same."""


def shortest_closing(matcher: LLMatcher, vocabulary: GrammarVocabulary, earlier: Sequence[int] = ()) -> tuple[int, ...]:
    """Tokens that complete the text, none if it is complete. `matcher` stays as it is. Raises `SearchExhausted`.

    `earlier` completed the same text some tokens ago.
    """
    if matcher.is_accepting():
        return ()
    try:
        found, rest = _Search(matcher.deep_copy(), vocabulary, earlier).run()
    except SearchExhausted:
        found, rest = _SearchByPlaces(matcher.deep_copy(), vocabulary, earlier).run()
    ending, seam = [*found, *rest], len(found) + PROBE
    head = vocabulary.encode(b"".join(vocabulary.spelling(token) for token in ending[:seam]))
    merged = [*head, *ending[seam:]]
    return tuple(merged if len(merged) < len(ending) and closes(matcher, merged) else ending)


def closes(matcher: LLMatcher, tokens: list[int]) -> bool:
    """Whether these tokens complete the text. `matcher` stays as it is."""
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    copy = matcher.deep_copy()
    return copy.consume_tokens(tokens) and copy.is_accepting()


class _Search:
    repeats = MOST_REPEATS

    def __init__(self, matcher: LLMatcher, vocabulary: GrammarVocabulary, earlier: Sequence[int]) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._earlier = [*earlier]
        self._masks = MOST_MASKS

    def run(self) -> tuple[list[int], list[int]]:
        """Tokens that were found, and what then is left of the earlier ending. Raises `SearchExhausted`."""
        if (rest := self._joined()) is not None:
            return [], rest
        path: list[list[int]] = []
        branches = [self._steps()]
        for place in range(MOST_TRIES):
            step = next(branches[-1], None)
            if step is not None:
                self._matcher.consume_tokens(step)
                path.append(step)
                rest = [] if self._matcher.is_accepting() else self._joined() if place < MOST_JOINS else None
                if rest is not None:
                    return [token for step in path for token in step], rest
                branches.append(self._steps())
            elif path:
                branches.pop()
                self._matcher.rollback(len(path.pop()))
            else:
                break
            if self._matcher.is_error() or self._goes_around(path):
                break
        raise SearchExhausted

    def _goes_around(self, path: list[list[int]]) -> bool:
        """Whether the search is not worth going on with."""
        return len(path) >= self.repeats and path[-self.repeats :] == path[-1:] * self.repeats

    def _joined(self) -> list[int] | None:
        """As much of the earlier ending as completes the text from here, if any does."""
        for start in range(min(MOST_JOINS, len(self._earlier))):
            probe = self._earlier[start : start + PROBE]
            if self._matcher.validate_tokens(probe) == len(probe):
                rest = self._earlier[start:]
                if closes(self._matcher, rest):
                    return rest
        return None

    def _steps(self) -> Iterator[list[int]]:
        """What may come next, most promising first; to be asked while the matcher is at this place."""
        forced = self._vocabulary.encode(self._matcher.compute_ff_bytes())
        if forced and self._matcher.validate_tokens(forced) == len(forced):
            yield forced
            return
        yield from self._choices()
        yield from self._alternatives()

    def _choices(self) -> Iterator[list[int]]:
        """What may come where several things may, without asking the mask."""
        if filler := self._token(FILLER):
            yield from (step for step in map(self._token, EXITS) if step and self._leaves(step))
            yield filler
        else:
            yield from filter(None, map(self._token, CLOSERS))

    def _token(self, text: bytes) -> list[int]:
        """The token that spells `text`, if it may come."""
        token = self._vocabulary.token(text)
        return [] if token is None or not self._matcher.validate_tokens([token]) else [token]

    def _leaves(self, step: list[int]) -> bool:
        """Whether no longer any text may come behind `step`."""
        self._matcher.consume_tokens(step)
        leaves = self._matcher.is_accepting() or not self._token(FILLER)
        self._matcher.rollback(len(step))
        return leaves

    def _alternatives(self) -> Iterator[list[int]]:
        if not self._masks:
            return
        self._masks -= 1
        mask = np.empty(self._vocabulary.words, np.uint32)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        tokens = self._vocabulary.tokens_of(mask & self._vocabulary.ordinary)
        ranks = self._vocabulary.ranks[tokens]
        for token in tokens[np.argsort(ranks, kind="stable")[:MOST_ALTERNATIVES]].tolist():
            yield [token]


class _SearchByPlaces(_Search):
    """Takes what ends a value, else what leads where it was least often.

    So a step that only goes around, as one more digit does, comes behind one that leads on, as a dot.
    """

    repeats = MOST_TRIES

    def __init__(self, matcher: LLMatcher, vocabulary: GrammarVocabulary, earlier: Sequence[int]) -> None:
        super().__init__(matcher, vocabulary, earlier)
        self._probes = {token: text for text in PROBES if (token := vocabulary.token(text)) is not None}
        self._visits: Counter[Place] = Counter()
        self._ways: dict[tuple[Place, int], Place] = {}
        self._looks = 0

    def _choices(self) -> Iterator[list[int]]:
        place = self._place()
        self._visits[place] += 1
        if self._visits[place] > MOST_VISITS:
            return
        ends = [token for token in place if self._probes[token] in ENDERS and self._leaves([token])]
        others = [token for token in place if token not in ends]
        others.sort(key=lambda token: self._visits[self._behind(place, token)])
        yield from ([token] for token in (*ends, *others))

    def _place(self) -> Place:
        return tuple(token for token in self._probes if self._matcher.validate_tokens([token]))

    def _behind(self, place: Place, token: int) -> Place:
        """Where a step leads; behind many looks, where it led last from a place that looked alike."""
        if self._looks >= MOST_LOOKS:
            return self._ways.get((place, token), place)
        self._looks += 1
        self._matcher.consume_tokens([token])
        found = self._ways[place, token] = self._place()
        self._matcher.rollback(1)
        return found
