"""How many answers an account got from each adapter, counted in memory from the server's start on."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Use:
    """Answers since a moment."""

    answers: int
    since: datetime


class Uses:
    """The counts of one server. What came through an alias or as the default counts like what was named."""

    def __init__(self, since: datetime) -> None:
        self._since = since
        self._answers: Counter[tuple[str, str]] = Counter()

    def count(self, account_id: str, adapter_id: str) -> None:
        """Note an answer."""
        self._answers[account_id, adapter_id] += 1

    def of(self, account_id: str, adapter_id: str) -> Use:
        """What the account had from the adapter."""
        return Use(self._answers[account_id, adapter_id], self._since)
