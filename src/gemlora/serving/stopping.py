"""Ends a text where a stop string begins. Knows nothing of tokens or transports."""

from collections.abc import Sequence


class StopStrings:
    """Cuts one answer at the stop string that is complete first; of those that end together, at the longest.

    The texts of `push` and `finish`, put together, are the same however the answer is cut into calls. What may be the
    beginning of a stop string is held back until that is known.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are not empty strings."""
        self._stops = tuple(stops)
        self._held = ""
        self.any = bool(stops)
        """Whether there is something to stop at."""
        self.found = False
        """Whether the answer has ended; nothing that is pushed then counts."""

    def push(self, text: str) -> str:
        """The text that comes before every stop string for certain; possibly none."""
        if not self._stops or self.found:
            return "" if self.found else text
        text = self._held + text
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.found = True
            self._held = ""
            return text[: min(ends)[1]]
        certain = len(text) - max(_overlap(text, stop) for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """What was held back at the end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins, but does not end."""
    most = min(len(text), len(stop) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(stop[:length])), 0)
