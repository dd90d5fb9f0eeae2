"""From a valid request to text: what serves it, its token ids, how they are sampled, and the text as it comes.

The non-streaming answer is the stream folded. Knows no HTTP and no engine's insides.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from gemlora.engines.contract import Engine, FinishReason, GenerateRequest, Output, Sampling
from gemlora.errors import EngineFailed, OutOfCapacity
from gemlora.registry.models import Catalogue, Model
from gemlora.serving.adapters import reference
from gemlora.serving.answers import AnswerReader
from gemlora.serving.choosing import BARE, Choosing, Served, split_key
from gemlora.serving.prompt import Prompt, Room, ToolCall
from gemlora.serving.shapes import FREE, Shape
from gemlora.serving.uses import Uses
from gemlora.telemetry.metrics import Metrics

HIGHEST_SEED = 9_999_999_999

CALLED = "tool_calls"
"""Why an answer of calls ended."""

SHORT_PROMPT = 2048
"""Characters up to which encoding is quicker than a change of threads."""

SHORT_CONVERSATION = 32
"""Messages up to which it is, whatever they say."""


class Decoder(Protocol):
    """Turns one sequence's tokens into text as they come."""

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain by now; possibly none."""
        ...

    def finish(self) -> str:
        """What was held back."""
        ...


class TextCodec(Protocol):
    """The text side of the served model. Safe to use from several threads."""

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        ...

    def encode(self, prompt: Prompt, room: Room) -> Sequence[int]:
        """The prompt's token ids. Raises `PromptTooLong` if they leave no room for an answer."""
        ...

    def decoder(self) -> Decoder:
        """A decoder for one answer."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """How a request wants its tokens drawn; the meanings are those of `Sampling`. `seed` None: any."""

    seed: int | None = None
    temperature: float = 0.6
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One valid request. `adapter` None: none is named, the model's default applies; empty or `BARE_BASE`: none.

    `adapter` may be an alias; requests of one `affinity` get one of its versions, as do those of one seed and prompt.
    The answer has the `shape` and, where it is free text, ends before the first of the `stop` strings. With
    `reject_if_busy` the request waits for no other one.
    """

    id: str
    account_id: str
    model: str
    prompt: Prompt
    max_tokens: int = 256
    sampling: SamplingChoice = SamplingChoice()
    adapter: str | None = None
    stop: tuple[str, ...] = ()
    shape: Shape = FREE
    reject_if_busy: bool = False
    affinity: str | None = None


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


class Generation:
    """An accepted request: what serves it, and its answer."""

    def __init__(
        self,
        request: GenerateRequest,
        served: Served,
        engine: Engine,
        decoder: Decoder,
        reader: AnswerReader,
        reject_if_busy: bool,
        metrics: Metrics,
        answered: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self.served = served
        self._request = request
        self._engine = engine
        self._decoder = decoder
        self._reader = reader
        self._reject_if_busy = reject_if_busy
        self._metrics = metrics
        self._answered = answered
        self._log = log

    async def pieces(self) -> AsyncGenerator[Part, None]:
        """Yield the text as it comes, or whole calls, then the `Ending`. To be called once; closing frees the sequence.

        Raises what `Engine.generate` raises, and `OutOfCapacity` if the request would have to wait and will not.
        """
        tokens = 0
        called = False
        outcome = "aborted"
        started = last = time.monotonic()
        self._metrics.requests_in_flight.inc()
        try:
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
            if tokens:
                self._answered()
            self._log.info(
                "generation ended",
                outcome=outcome,
                output_tokens=tokens,
                seconds=round(time.monotonic() - started, 4),
            )

    def _take(self, output: Output) -> tuple[str, list[ToolCall], int, FinishReason | None]:
        """What an output adds to the answer, of how many of its tokens, and how the answer ends if it does.

        An output may have several tokens, as it happens; those behind a stop string do not count.
        """
        texts: list[str] = []
        calls: list[ToolCall] = []

        def add(new: tuple[str, tuple[ToolCall, ...]]) -> None:
            texts.append(new[0])
            calls.extend(new[1])

        groups = [(token,) for token in output.tokens] if self._reader.may_stop else [output.tokens]
        for counted, tokens in enumerate(groups, 1):
            add(self._reader.push(self._decoder.push(tokens)))
            if self._reader.stopped:
                return "".join(texts), calls, counted, FinishReason.STOP
        if output.finish_reason is not None:
            add(self._reader.push(self._decoder.finish()))
            add(self._reader.finish())
        finish_reason = FinishReason.STOP if self._reader.stopped else output.finish_reason
        return "".join(texts), calls, len(output.tokens), finish_reason


class TextGeneration:
    """The service behind every route that generates text."""

    def __init__(
        self,
        catalogue: Catalogue,
        choosing: Choosing,
        engine: Engine,
        codec: TextCodec,
        uses: Uses,
        metrics: Metrics,
        log: FilteringBoundLogger,
        draw_seed: Callable[[], int] = lambda: 1 + secrets.randbelow(HIGHEST_SEED),
    ) -> None:
        self._catalogue = catalogue
        self._choosing = choosing
        self._engine = engine
        self._codec = codec
        self._uses = uses
        self._metrics = metrics
        self._log = log
        self._draw_seed = draw_seed

    async def start(self, request: RunRequest) -> Generation:
        """Accept a request; nothing is computed yet.

        Raises `ModelNotFound`, what `Choosing.named` raises, or `PromptTooLong`.
        """
        (generation,) = await self.start_choices(request, [request.sampling])
        return generation

    async def start_choices(self, request: RunRequest, choices: Sequence[SamplingChoice]) -> list[Generation]:
        """Accept a request for several answers to one prompt, which differ in how their tokens are drawn.

        They may wait for each other: only the first one heeds `reject_if_busy`. Raises what `start` does.
        """
        model = self._catalogue.get(request.model)
        served = await self._served(request, model)
        adapter = served.adapter
        room = Room(model.base.context_window, request.max_tokens)
        prompt = await self._encode(request.shape.prompt(request.prompt), room)
        drawn = [self._sampling(choice) for choice in choices]
        generate = GenerateRequest(
            id=request.id,
            prompt=prompt,
            max_tokens=min(request.max_tokens, room.context_window - len(prompt)),
            sampling=drawn[0],
            stop_tokens=self._codec.stop_tokens,
            adapter=None if adapter is None else reference(adapter),
            cache_scope=_account_key("cache scope", request.account_id),
            share_key=_account_key("share", request.account_id),
            constraint=request.shape.constraint,
        )
        return [
            self._generation(request, replace(generate, sampling=sampling), served, first=not number)
            for number, sampling in enumerate(drawn)
        ]

    def _generation(self, request: RunRequest, generate: GenerateRequest, served: Served, *, first: bool) -> Generation:
        log = self._log.bind(request_id=request.id)
        log.info(
            "generation started",
            account_id=request.account_id,
            model=request.model,
            adapter=None if served.adapter is None else served.adapter.digest,
            alias=None if served.alias is None else served.alias.alias.id,
            prompt_tokens=len(generate.prompt),
            max_tokens=generate.max_tokens,
            seed=generate.sampling.seed,
            constrained=generate.constraint is not None,
        )
        return Generation(
            generate,
            served,
            self._engine,
            self._codec.decoder(),
            request.shape.reader(request.stop),
            request.reject_if_busy and first,
            self._metrics,
            lambda: self._count(request.account_id, served),
            log,
        )

    def _count(self, account_id: str, served: Served) -> None:
        if served.adapter is not None:
            self._uses.count(account_id, served.adapter.id)

    async def _served(self, request: RunRequest, model: Model) -> Served:
        if request.adapter is None and request.prompt.raw:
            return BARE
        if request.adapter is None:
            return await self._choosing.default(request.account_id, model)
        return await self._choosing.named(request.account_id, request.adapter, model, lambda: _split_key(request))

    async def _encode(self, prompt: Prompt, room: Room) -> tuple[int, ...]:
        if _is_short(prompt):
            return tuple(self._codec.encode(prompt, room))
        return tuple(await asyncio.to_thread(self._codec.encode, prompt, room))

    def _sampling(self, choice: SamplingChoice) -> Sampling:
        return Sampling(
            seed=self._draw_seed() if choice.seed is None else choice.seed,
            temperature=choice.temperature,
            top_k=choice.top_k,
            top_p=choice.top_p,
            repetition_penalty=choice.repetition_penalty,
            frequency_penalty=choice.frequency_penalty,
            presence_penalty=choice.presence_penalty,
        )


def _split_key(request: RunRequest) -> str:
    return request.affinity or split_key([request.prompt], request.sampling.seed)


async def fold(pieces: AsyncGenerator[Part, None]) -> Answer:
    """The whole answer."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Ending):
                return Answer("".join(texts), tuple(calls), piece)
            if isinstance(piece, ToolCall):
                calls.append(piece)
            else:
                texts.append(piece.text)
    raise EngineFailed("The answer has no end")


def _is_short(prompt: Prompt) -> bool:
    return (
        len(prompt.messages) <= SHORT_CONVERSATION
        and all(message.has_only_text for message in prompt.messages)
        and sum(len(message.text) for message in prompt.messages) <= SHORT_PROMPT
    )


def _account_key(purpose: str, account_id: str) -> bytes:
    return hashlib.sha256(f"gemlora {purpose}\n{account_id}".encode()).digest()
