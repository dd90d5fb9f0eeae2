"""One answer: an engine's tokens as text and calls, as they come or folded into a whole."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from structlog.typing import FilteringBoundLogger

from gemlora.engines.contract import Engine, FinishReason, GenerateRequest, Output
from gemlora.errors import EngineFailed, OutOfCapacity
from gemlora.serving.answers import NOTHING, AnswerReader
from gemlora.serving.choosing import Served
from gemlora.serving.prompt import ToolCall
from gemlora.telemetry.metrics import GenerationMetrics

CALLED = "tool_calls"
"""Why an answer of calls ended."""


class Decoder(Protocol):
    """Turns one sequence's tokens into text as they come."""

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain by now; possibly none."""
        ...

    def finish(self) -> str:
        """What was held back."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of the answer's text, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Ending:
    """The last thing that a stream yields. `called`: the answer is calls."""

    usage: Usage
    finish_reason: FinishReason
    called: bool = False

    @property
    def reason(self) -> str:
        """Why the answer ended, in the wire's word; calls are whole, whatever ended them."""
        return CALLED if self.called else self.finish_reason.value


Part: TypeAlias = Piece | ToolCall | Ending


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, which is empty if it is calls."""

    text: str
    calls: tuple[ToolCall, ...]
    ending: Ending


Parts: TypeAlias = AsyncGenerator[Part, None]


class Generation:
    """An accepted request: what serves it, and its answer.

    Where it would have to wait, `make_way` lets what is less urgent end first. `follow` passes the answer on, and
    `answered` hears of one that has tokens.
    """

    def __init__(
        self,
        request: GenerateRequest,
        served: Served,
        engine: Engine,
        decoder: Decoder,
        reader: AnswerReader,
        reject_if_busy: bool,
        metrics: GenerationMetrics,
        log: FilteringBoundLogger,
        make_way: Callable[[], Awaitable[None]] | None = None,
        follow: Callable[[Parts], Parts] | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        self.served = served
        self._request = request
        self._engine = engine
        self._decoder = decoder
        self._reader = reader
        self._reject_if_busy = reject_if_busy
        self._metrics = metrics
        self._log = log
        self._make_way = make_way
        self._follow = follow
        self._answered = answered

    def pieces(self) -> Parts:
        """Yield the text as it comes, or whole calls, then the `Ending`. To be called once; closing frees the sequence.

        Raises what `Engine.generate` raises, and `OutOfCapacity` if the request would have to wait and will not.
        """
        parts = self._parts()
        return parts if self._follow is None else self._follow(parts)

    async def _parts(self) -> Parts:
        tokens = 0
        called = False
        outcome = "aborted"
        started = last = time.monotonic()
        self._metrics.requests_in_flight.inc()
        try:
            if self._make_way is not None and self._engine.busy:
                await self._make_way()
            if self._reject_if_busy and self._engine.busy:  # not earlier: the engine counts the request from here on
                raise OutOfCapacity("The engine is busy")
            async with aclosing(self._engine.generate(self._request)) as outputs:
                async for output in outputs:
                    now = time.monotonic()
                    latency = self._metrics.token_seconds if tokens else self._metrics.first_token_seconds
                    latency.observe(now - last)
                    last = now
                    text, calls, counted, finish_reason = self._take(output)
                    tokens += counted
                    if text:
                        yield Piece(text)
                    for call in calls:
                        called = True
                        yield call
                    if finish_reason is not None:
                        outcome = finish_reason.value
                        yield Ending(Usage(len(self._request.prompt), tokens), finish_reason, called)
                        return
            raise EngineFailed("The engine ended an answer without saying why")
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._metrics.requests_in_flight.dec()
            self._metrics.count_generation(len(self._request.prompt), tokens, outcome)
            if tokens and self._answered is not None:
                self._answered()
            self._log.info(
                "generation ended",
                outcome=outcome,
                output_tokens=tokens,
                seconds=round(time.monotonic() - started, 4),
            )

    def _take(self, output: Output) -> tuple[str, tuple[ToolCall, ...], int, FinishReason | None]:
        """What an output adds to the answer, of how many of its tokens, and how the answer ends if it does.

        An output may have several tokens, as it happens; those behind a stop string do not count.
        """
        text, calls = NOTHING
        groups = [(token,) for token in output.tokens] if self._reader.may_stop else [output.tokens]
        for counted, tokens in enumerate(groups, 1):
            told, made = self._reader.push(self._decoder.push(tokens))
            text, calls = text + told, calls + made
            if self._reader.stopped:
                return text, calls, counted, FinishReason.STOP
        if output.finish_reason is not None:
            for told, made in (self._reader.push(self._decoder.finish()), self._reader.finish()):
                text, calls = text + told, calls + made
        finish_reason = FinishReason.STOP if self._reader.stopped else output.finish_reason
        return text, calls, len(output.tokens), finish_reason


async def fold(pieces: AsyncGenerator[Part, None]) -> Answer:
    """The whole answer."""
    parts: list[Part] = []
    async with aclosing(pieces):
        async for part in pieces:
            parts.append(part)
            if isinstance(part, Ending):
                return whole(parts)
    raise EngineFailed("The answer has no end")


def whole(parts: Sequence[Part]) -> Answer:
    """The answer whose parts these are, with its ending."""
    texts = [part.text for part in parts if isinstance(part, Piece)]
    calls = tuple(part for part in parts if isinstance(part, ToolCall))
    (ending,) = (part for part in parts if isinstance(part, Ending))
    return Answer("".join(texts), calls, ending)
