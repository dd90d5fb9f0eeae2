"""What a shadow run is: a version of an alias answers what another one answered, and what is kept of both answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final


class Outcome(StrEnum):
    """What became of an answer that a shadow was to give."""

    RUN = "run"
    DROPPED = "dropped"
    """There was no room beside the requests, no answer to compare with, or the server stopped."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """How often a version, as a shadow, answered, was dropped, or failed."""

    run: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A version in a revision of an account's alias."""

    account_id: str
    alias_id: str
    alias: str
    revision: int
    version: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is measured of an answer; it tells nothing of the text.

    `calls` counts calls of tools, and `json` says whether the text is a JSON document.
    """

    finish_reason: str
    completion_tokens: int
    max_tokens: int
    characters: int
    calls: int
    json: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Pair:
    """The answer that a caller got, and the shadow's to the same request, or the name of the error that it met."""

    shadow: Place
    request_id: str
    made_at: datetime
    served: str
    """The version that the caller got."""
    served_facts: Facts
    shadow_facts: Facts | None
    error: str | None = None
    equal: bool = False
    texts: dict[str, Any] | None = None
    """Prompt and answers as JSON, for a person to compare; None: they are not kept, or not any more."""

    @property
    def outcome(self) -> Outcome:
        """What became of the shadow's answer."""
        return Outcome.FAILED if self.shadow_facts is None else Outcome.RUN


@dataclass(frozen=True, slots=True)
class KeptPair:
    """A pair with its number among all those of the alias, from 1."""

    serial: int
    pair: Pair


MEASURES: Final[Mapping[str, Callable[[Facts], float]]] = {
    "ended": lambda facts: float(facts.finish_reason != "length"),
    "json": lambda facts: float(facts.json),
    "length": lambda facts: min(1.0, facts.completion_tokens / facts.max_tokens),
}
"""Metrics in [0, 1] that the server measures: the answer ended by itself; it is JSON; its part of `max_tokens`."""
