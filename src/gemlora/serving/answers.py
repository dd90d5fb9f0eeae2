"""Reads an answer's text as it comes: what of it is told as text, and which calls it makes."""

from typing import Final, Protocol

from gemlora.serving.prompt import ToolCall
from gemlora.serving.stopping import StopStrings
from gemlora.serving.tools import read_call

NOTHING: Final[tuple[str, tuple[ToolCall, ...]]] = ("", ())


class AnswerReader(Protocol):
    """Reads one answer. What `push` and `finish` return is the same however the answer is cut into calls of them."""

    @property
    def may_stop(self) -> bool:
        """Whether the text may end the answer before the engine does."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether it has."""
        ...

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """The text and the calls that are certain by now."""
        ...

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What was held back. Raises `ConstraintUnmet` if that is not whole."""
        ...


class Text:
    """All of the answer, up to a stop string, is text."""

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops

    @property
    def may_stop(self) -> bool:
        """Whether there are stop strings."""
        return self._stops.any

    @property
    def stopped(self) -> bool:
        """Whether one was found."""
        return self._stops.found

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """See `AnswerReader`."""
        return self._stops.push(text), ()

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """See `AnswerReader`."""
        return self._stops.finish(), ()


class Calls:
    """The answer is calls, one a line. A call is told when its line is complete, never in part."""

    may_stop = stopped = False

    def __init__(self, marker: str) -> None:
        """`marker` stands before each call."""
        self._marker = marker
        self._held = ""

    def begins(self, text: str) -> bool:
        """Whether an answer that begins so is calls; the first character tells."""
        return text[0] == (self._marker or "{")[0]

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """See `AnswerReader`."""
        *lines, self._held = (self._held + text).split("\n")
        return "", tuple(map(self._call, lines))

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """See `AnswerReader`."""
        line, self._held = self._held, ""
        return "", (self._call(line),)

    def _call(self, line: str) -> ToolCall:
        return read_call(line.removeprefix(self._marker))


class Either:
    """The answer is calls or text, as it begins."""

    def __init__(self, calls: Calls, text: Text) -> None:
        self._calls = calls
        self._text = text
        self._chosen: AnswerReader | None = None

    @property
    def may_stop(self) -> bool:
        """See `AnswerReader`."""
        return (self._chosen or self._text).may_stop

    @property
    def stopped(self) -> bool:
        """See `AnswerReader`."""
        return (self._chosen or self._text).stopped

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """See `AnswerReader`."""
        if self._chosen is None:
            if not text:
                return NOTHING
            self._chosen = self._calls if self._calls.begins(text) else self._text
        return self._chosen.push(text)

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """See `AnswerReader`."""
        return (self._chosen or self._text).finish()
