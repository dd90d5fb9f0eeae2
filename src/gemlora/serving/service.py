"""From a valid request to a generation: what serves it, its token ids, how they are sampled.

Knows no HTTP and no engine's insides.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from gemlora.engines.contract import Engine, GenerateRequest, Sampling
from gemlora.registry.models import Catalogue, Model
from gemlora.serving.adapters import reference
from gemlora.serving.choosing import BARE, Choosing, Served, split_key
from gemlora.serving.generation import Decoder, Generation, Parts
from gemlora.serving.pairing import Question
from gemlora.serving.prompt import Prompt, Room
from gemlora.serving.shadows import Shadows
from gemlora.serving.shapes import FREE, Shape
from gemlora.serving.uses import Uses
from gemlora.telemetry.metrics import Metrics

HIGHEST_SEED = 9_999_999_999

SHORT_PROMPT = 2048
"""Characters up to which encoding is quicker than a change of threads."""

SHORT_CONVERSATION = 32
"""Messages up to which it is, whatever they say."""


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


class TextGeneration:
    """The service behind every route that generates text."""

    def __init__(
        self,
        catalogue: Catalogue,
        choosing: Choosing,
        engine: Engine,
        codec: TextCodec,
        shadows: Shadows,
        uses: Uses,
        metrics: Metrics,
        log: FilteringBoundLogger,
        draw_seed: Callable[[], int] = lambda: 1 + secrets.randbelow(HIGHEST_SEED),
    ) -> None:
        self._catalogue = catalogue
        self._choosing = choosing
        self._engine = engine
        self._codec = codec
        self._shadows = shadows
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

        They may wait for each other: only the first one heeds `reject_if_busy`. Shadows answer requests for one answer.
        Raises what `start` does.
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
        follow = self._follow(request, generate, served, model) if len(drawn) == 1 else None
        return [
            self._generation(request, replace(generate, sampling=sampling), served, follow, first=not number)
            for number, sampling in enumerate(drawn)
        ]

    def _follow(
        self, request: RunRequest, generate: GenerateRequest, served: Served, model: Model
    ) -> Callable[[Parts], Parts] | None:
        """What lets shadows answer the request too; None: it has none."""
        if served.alias is None or not served.alias.shadows:
            return None
        question = Question(generate, served.alias, model, request.prompt, request.shape, request.stop)
        return partial(self._shadows.follow, question)

    def _generation(
        self,
        request: RunRequest,
        generate: GenerateRequest,
        served: Served,
        follow: Callable[[Parts], Parts] | None,
        *,
        first: bool,
    ) -> Generation:
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
            self._metrics.generations,
            log,
            self._shadows.make_way,
            follow,
            lambda: self._count(request.account_id, served),
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


def _is_short(prompt: Prompt) -> bool:
    return (
        len(prompt.messages) <= SHORT_CONVERSATION
        and all(message.has_only_text for message in prompt.messages)
        and sum(len(message.text) for message in prompt.messages) <= SHORT_PROMPT
    )


def _account_key(purpose: str, account_id: str) -> bytes:
    return hashlib.sha256(f"gemlora {purpose}\n{account_id}".encode()).digest()
