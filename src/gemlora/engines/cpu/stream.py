"""One request as the client keeps it: what was asked, what came, and what its consumer has not taken yet."""

import asyncio
from array import array

from msgspec.structs import replace

from gemlora.engines.contract import FinishReason, GenerateRequest, Output
from gemlora.errors import GemloraError

SUSPICIOUS_SETBACKS = 2
MOST_SETBACKS = 3
"""Deaths of the worker while it computed the request, without one more token in between."""

MOST_DEATHS = 10
"""The same, whatever came in between."""


class Stream:
    """A request under way.

    All tokens are kept, 4 bytes each, since a restarted worker needs them; so a slow consumer costs nothing more and
    loses nothing. `sent` says whether the present worker has the request, `started` whether it computes it.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.sent = False
        self.started = False
        self._request = request
        self._tokens = array("i")
        self._taken = 0
        self._finish_reason: FinishReason | None = None
        self._error: GemloraError | None = None
        self._news = asyncio.Event()
        self._setbacks = 0
        self._deaths = 0

    @property
    def id(self) -> str:
        """The id under which the worker knows it."""
        return self._request.id

    @property
    def suspect(self) -> bool:
        """Whether workers died repeatedly while they computed it, and none got one more token out of it."""
        return self._setbacks >= SUSPICIOUS_SETBACKS

    @property
    def hopeless(self) -> bool:
        """Whether it should not be submitted once more."""
        return self._setbacks >= MOST_SETBACKS or self._deaths >= MOST_DEATHS

    @property
    def request(self) -> GenerateRequest:
        """What to submit: the request with everything that was delivered so far."""
        return replace(self._request, generated=(*self._request.generated, *self._tokens))

    def bereave(self, suspected: bool) -> None:
        """Note that the worker died which had the request."""
        if suspected:
            self._setbacks += 1
            self._deaths += 1
        self.sent = self.started = False

    def deliver(self, tokens: tuple[int, ...], finish_reason: FinishReason | None) -> None:
        """Add what the worker sent."""
        self._tokens.extend(tokens)
        self._finish_reason = finish_reason
        self._setbacks = 0
        self._news.set()

    def fail(self, error: GemloraError) -> None:
        """End it; the consumer gets the tokens that are left and then the error."""
        self._error = error
        self._news.set()

    async def next(self) -> Output:
        """All tokens that the consumer has not taken, as soon as there is one or the end is reached."""
        await self._news.wait()
        tokens = tuple(self._tokens[self._taken :])
        if self._error is not None and not tokens:
            raise self._error
        self._taken += len(tokens)
        if self._error is None:
            self._news.clear()
        return Output(tokens, self._finish_reason)
