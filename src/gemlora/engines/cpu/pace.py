"""How many prompt tokens fit into a step that shall not take long, learned from the steps before.

A step's length is what decoding sequences feel between two tokens; only short prompts need not wait for its end, they
are computed between two of its layers. The time of a step is modelled as a sum: so much for any step, for every
sequence that decodes, for every token of a prompt, and for every token that one of these looks back on.
"""

from collections.abc import Sequence as Several

FIRST_GUESS = (0.004, 0.001, 0.001, 0.0000003)
"""Seconds per step, per decoding row, per prompt token and per pair of a prompt token and a token before its chunk."""

MEMORY = 0.9
"""What a step's weight in the estimate falls to with every later step."""

INERTIA = 0.01
"""Seconds of a step that hold an estimate where it is as much as a measured step of that length moves it."""

LEAST = 0.001
"""Part of the first guess below which no estimate falls."""

LARGEST_SURPRISE = 2.0
"""A step counts as at most so many times as long as predicted: it may have been interrupted."""

SMALLEST_STEP = 32
"""Rows for which a step reads the weights in any case; with fewer it would do little else on large models."""

SMALLEST_PROMPT_SHARE = 16
"""Prompt tokens for which there is room however many sequences decode."""

SHORT_PART = 0.5
"""Part of a step's time up to which a prompt is short. All that are inserted into one may take as much together, the
fixed time of the first insertion not counted; beside short prompts others may fill as much of a step's room."""

OVERRUN = 0.25
"""How far a chunk that completes its prompt may exceed the step's time: the remainder would cost a step of its own."""


class Pace:
    """Plans one step after the other: `begin`, `fit` for each prompt, `note` when it was computed.

    `insert` is asked while it is computed.
    """

    def __init__(self, step_tokens: int, step_seconds: float) -> None:
        """A step has at most `step_tokens` rows and should take `step_seconds`."""
        self.step_tokens = step_tokens
        self._step_seconds = step_seconds
        self._estimate = StepTime(FIRST_GUESS)
        self._decoding = self._tokens = self._pairs = 0
        self._room = self._insertable = 0.0
        self._insertable_tokens = 0
        self._insertions = 0

    def begin(self, decoding: int) -> None:
        """Start to plan a step with this many rows of sequences that decode."""
        step, row, token, _ = self._estimate.seconds
        least = max(SMALLEST_STEP - decoding, SMALLEST_PROMPT_SHARE) * token
        self._room = max(self._step_seconds - step - row * decoding, least)
        self._decoding, self._tokens, self._pairs = decoding, 0, 0
        self._insertable, self._insertable_tokens, self._insertions = self._longest_short(), self.step_tokens, 0

    def is_short(self, tokens: int, context: int) -> bool:
        """Whether a prompt of `tokens` behind `context` others should not wait for longer ones."""
        return self._prompt_seconds(tokens, context) <= self._longest_short()

    def fit(self, tokens: int, context: int, part: float = 1.0, fill: float = 1.0) -> int:
        """How many of a prompt's next `tokens`, behind `context` others, are computed in this step; they count now.

        `part` of the step's room is all that they may take of it, but the first of a step always gets one. They fill
        the room no further than to `fill` of it.
        """
        _, _, token, pair = self._estimate.seconds
        each = token + pair * context
        left = fill * self._room - token * self._tokens - pair * self._pairs
        rows = max(self.step_tokens - self._decoding - self._tokens, 0)
        if part < 1:
            left, rows = min(left, part * self._room), min(rows, -int(-part * rows // 1))
        if tokens * each > left + OVERRUN * self._room * part:
            tokens = max(int(left / each), 0 if self._tokens else 1)
        tokens = min(tokens, rows)
        self._tokens += tokens
        self._pairs += tokens * context
        return tokens

    def begin_insertion(self) -> None:
        """Something is to be computed within the step; all but the first time that costs what any step does."""
        self._insertable -= self._estimate.seconds[0] if self._insertions else 0
        self._insertions += 1

    def insert(self, tokens: int, context: int) -> bool:
        """Whether so much of a prompt, its rest, may be computed within the step, beside what was planned; it counts
        then."""
        seconds = self._prompt_seconds(tokens, context) + (self._estimate.seconds[1] if self._insertions > 1 else 0)
        if seconds > self._insertable or tokens > self._insertable_tokens:
            return False
        self._insertable -= seconds
        self._insertable_tokens -= tokens
        return True

    def note(self, seconds: float) -> None:
        """Learn from the time that the planned step took, without what was inserted."""
        self._estimate.add((1, self._decoding, self._tokens, self._pairs), seconds)

    def _prompt_seconds(self, tokens: int, context: int) -> float:
        _, _, token, pair = self._estimate.seconds
        return tokens * (token + pair * context)

    def _longest_short(self) -> float:
        _, _, token, _ = self._estimate.seconds
        return SHORT_PART * max(self._step_seconds, SMALLEST_STEP * token)


class StepTime:
    """Seconds per unit of each kind of work: a least-squares fit that forgets."""

    def __init__(self, guess: tuple[float, ...]) -> None:
        self.seconds = guess
        self._least = [LEAST * each for each in guess]
        self._inertia = [(INERTIA / each) ** 2 for each in guess]
        self._products = [[0.0] * len(guess) for _ in guess]
        self._times = [0.0] * len(guess)

    def predict(self, work: Several[float]) -> float:
        """Seconds for so much of each kind of work."""
        return sum(amount * each for amount, each in zip(work, self.seconds, strict=True))

    def add(self, work: Several[float], seconds: float) -> None:
        """Take a measured step into account: one sweep of coordinate descent towards the new optimum.

        Of work that was none of the step's nothing is learned, and nothing forgotten.
        """
        seconds = min(seconds, LARGEST_SURPRISE * self.predict(work))
        estimate = [*self.seconds]
        for i, amount in enumerate(work):
            if not amount:
                continue
            self._times[i] = MEMORY * self._times[i] + amount * seconds
            row = [MEMORY * product + amount * other for product, other in zip(self._products[i], work, strict=True)]
            self._products[i] = row
            error = self._times[i] - sum([product * each for product, each in zip(row, estimate, strict=True)])
            estimate[i] = max(estimate[i] + error / (row[i] + self._inertia[i]), self._least[i])
        self.seconds = tuple(estimate)
