"""What the client asks of a worker: a job outlives the worker, so that another one can go on with it."""

import asyncio
from array import array

from msgspec.structs import replace

from gemlora.engines.contract import FinishReason, GenerateRequest, Output
from gemlora.engines.cpu.frames import Command, Event, Submit
from gemlora.errors import GemloraError

SUSPICIOUS_SETBACKS = 2
MOST_SETBACKS = 3
"""Deaths of the worker while it computed the job, without one more token in between."""

MOST_DEATHS = 10
"""The same, whatever came in between."""


class Job:
    """`sent` says whether the present worker has the job, `started` whether it computes it."""

    def __init__(self, id: str) -> None:
        """`id` is the one under which the worker knows it."""
        self.id = id
        self.sent = False
        self.started = False
        self._setbacks = 0
        self._deaths = 0

    @property
    def command(self) -> Command:
        """What to send to a worker that does not have it."""
        raise NotImplementedError

    @property
    def suspect(self) -> bool:
        """Whether workers died repeatedly while they computed it, and none got anything more out of it."""
        return self._setbacks >= SUSPICIOUS_SETBACKS

    @property
    def hopeless(self) -> bool:
        """Whether it should not be sent once more."""
        return self._setbacks >= MOST_SETBACKS or self._deaths >= MOST_DEATHS

    def bereave(self, suspected: bool) -> None:
        """Note that the worker died which had the job."""
        if suspected:
            self._setbacks += 1
            self._deaths += 1
        self.sent = self.started = False

    def fail(self, error: GemloraError) -> None:
        """End it without a result."""
        raise NotImplementedError


class Inquiry(Job):
    """A command with one answer."""

    def __init__(self, id: str, command: Command) -> None:
        super().__init__(id)
        self._command = command
        self._answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    @property
    def command(self) -> Command:
        """Always the same."""
        return self._command

    def answer(self, event: Event) -> None:
        """End it with what the worker said."""
        if not self._answer.done():
            self._answer.set_result(event)

    def fail(self, error: GemloraError) -> None:
        """Let `result` raise."""
        if not self._answer.done():
            self._answer.set_exception(error)

    async def result(self) -> Event:
        """The answer, once it is there."""
        return await self._answer


class Stream(Job):
    """A request for tokens.

    All tokens are kept, 4 bytes each, since a restarted worker needs them; so a slow consumer costs nothing more and
    loses nothing.
    """

    def __init__(self, request: GenerateRequest) -> None:
        super().__init__(request.id)
        self._request = request
        self._tokens = array("i")
        self._taken = 0
        self._finish_reason: FinishReason | None = None
        self._error: GemloraError | None = None
        self._has_news = False
        self._waiting: asyncio.Future[None] | None = None

    @property
    def command(self) -> Command:
        """The request with everything that was delivered so far."""
        return Submit(replace(self._request, generated=(*self._request.generated, *self._tokens)))

    def deliver(self, tokens: tuple[int, ...], finish_reason: FinishReason | None) -> None:
        """Add what the worker sent."""
        self._tokens.extend(tokens)
        self._finish_reason = finish_reason
        self._setbacks = 0
        self._tell()

    def fail(self, error: GemloraError) -> None:
        """End it; the consumer gets the tokens that are left and then the error."""
        self._error = error
        self._tell()

    async def next(self) -> Output:
        """All tokens that the consumer has not taken, as soon as there is one or the end is reached."""
        if not self._has_news:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        tokens = tuple(self._tokens[self._taken :])
        if self._error is not None and not tokens:
            raise self._error
        self._taken += len(tokens)
        self._has_news = self._error is not None
        return Output(tokens, self._finish_reason)

    def _tell(self) -> None:
        self._has_news = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
