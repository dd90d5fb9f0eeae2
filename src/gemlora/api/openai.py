"""OpenAI's routes over the same text service: chat completions, completions and models, in OpenAI's own forms.

There is no envelope. Errors have the native body and OpenAI's `error` object beside it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any, TypeVar
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from gemlora.api.answers import usage_counts
from gemlora.api.authentication import caller_of
from gemlora.api.body import BodyReader
from gemlora.api.disconnect import while_connected
from gemlora.api.envelope import Call, Form, json_response
from gemlora.api.openai_inputs import Reader, Wanted
from gemlora.api.run import AFFINITY, begin_call, served_headers
from gemlora.api.sse import DONE, event
from gemlora.api.streaming import event_stream
from gemlora.api.validation import Json
from gemlora.errors import EngineFailed
from gemlora.registry.models import Catalogue, Model
from gemlora.serving.choosing import split_key
from gemlora.serving.generation import Answer, Ending, Generation, Part, Usage, fold
from gemlora.serving.json_text import parsed
from gemlora.serving.prompt import ToolCall
from gemlora.serving.service import RunRequest, TextGeneration

T = TypeVar("T")


class OpenAi:
    """The routes under `/ai/v1`."""

    def __init__(
        self,
        service: TextGeneration,
        catalogue: Catalogue,
        bodies: BodyReader,
        reader: Reader,
        stall_seconds: float,
        log: FilteringBoundLogger,
    ) -> None:
        self._service = service
        self._catalogue = catalogue
        self._bodies = bodies
        self._reader = reader
        self._stall_seconds = stall_seconds
        self._log = log

    async def chat(self, request: Request) -> Response:
        """`POST /ai/v1/chat/completions`."""
        return await self._answer(request, self._reader.chat, ChatForm)

    async def completions(self, request: Request) -> Response:
        """`POST /ai/v1/completions`."""
        return await self._answer(request, self._reader.completion, TextForm)

    async def models(self, request: Request) -> Response:
        """`GET /ai/v1/models`."""
        begin_call(request, Form.OPENAI)
        return json_response({"object": "list", "data": [_model(model) for model in self._catalogue.list()]}, 200)

    async def model(self, request: Request) -> Response:
        """`GET /ai/v1/models/{model}`, its slashes percent-encoded or not, with or without an adapter behind it."""
        begin_call(request, Form.OPENAI)
        name, _, _ = request.path_params["model"].partition(":")
        return json_response(_model(self._catalogue.get(name)), 200)

    async def _answer(
        self, request: Request, read: Callable[[Json], Wanted], form: "type[ChatForm | TextForm]"
    ) -> Response:
        call = begin_call(request, Form.OPENAI)
        wanted = await self._bodies.json(request, read)
        model = self._catalogue.get(wanted.model).name
        affinity = request.headers.get(AFFINITY) or split_key(wanted.prompts, wanted.sampling.seed)
        requests = _requests(call, caller_of(request).account_id, model, wanted, affinity)
        choices = [wanted.sampling_of(choice) for choice in range(wanted.choices)]
        starting = together([self._service.start_choices(one, choices) for one in requests])
        generations = [*chain.from_iterable(await while_connected(request.receive, starting))]
        headers = {"cf-ai-req-id": call.id, **served_headers(generations[0].served)}
        answer = form(call, model, wanted)
        if wanted.stream:
            log = self._log.bind(request_id=call.id)
            return await event_stream(request.receive, answer.events(generations), headers, self._stall_seconds, log)
        folding = together([fold(generation.pieces()) for generation in generations])
        return json_response(answer.whole(await while_connected(request.receive, folding)), 200, headers)


class ChatForm:
    """Chat completions on the wire. Every chunk of a stream has a choice and a text, empty or not."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk = "chat.completion.chunk"

    def __init__(self, call: Call, model: str, wanted: Wanted) -> None:
        self._wanted = wanted
        self._id = f"{self.prefix}-{call.id}"
        self._created = int(time.time())
        self._model = model

    def whole(self, answers: Sequence[Answer]) -> Json:
        """All answers at once. Raises `ConstraintUnmet` if one should be JSON and is not."""
        if self._wanted.shape.is_document:
            for answer in answers:
                if not answer.calls:
                    parsed(answer.text)
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        usage = self._usage([answer.ending for answer in answers])
        return {**self._named(self.kind), "choices": choices, "usage": usage_counts(usage)}

    async def events(self, generations: Sequence[Generation]) -> AsyncGenerator[bytes, None]:
        """The stream's bytes: chunks as the texts come, one for each end, usage if asked for, `[DONE]`."""
        begun: set[int] = set()
        calls = [0] * len(generations)
        endings: dict[int, Ending] = {}
        async with aclosing(merged([generation.pieces() for generation in generations])) as pieces:
            async for index, piece in pieces:
                if index not in begun:
                    begun.add(index)
                    if (opening := self._opening(index)) is not None:
                        yield self._event([opening])
                if isinstance(piece, Ending):
                    endings[index] = piece
                    yield self._event([self._delta(index, "", piece.reason)])
                elif isinstance(piece, ToolCall):
                    for delta in _call_deltas(piece, calls[index]):
                        yield self._event([self._called(index, delta)])
                    calls[index] += 1
                else:
                    yield self._event([self._delta(index, piece.text, None)])
        if len(endings) < len(generations):
            raise EngineFailed("The answer has no end")
        if self._wanted.include_usage:
            usage = self._usage([endings[index] for index in sorted(endings)])
            yield self._event([], usage=usage_counts(usage))
        yield DONE

    def _named(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _event(self, choices: list[Json], **more: Json) -> bytes:
        return event({**self._named(self.chunk), "choices": choices, **more})

    def _usage(self, endings: Sequence[Ending]) -> Usage:
        """Each prompt counts once, however many answers it has."""
        usages = [ending.usage for ending in endings]
        return Usage(
            sum(usage.prompt_tokens for usage in usages[:: self._wanted.choices]),
            sum(usage.completion_tokens for usage in usages),
        )

    def _opening(self, index: int) -> Json:
        return {
            "index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None,
        }  # fmt: skip

    def _delta(self, index: int, text: str, finish_reason: str | None) -> Json:
        return {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": finish_reason}

    def _called(self, index: int, delta: Json) -> Json:
        """A part of a call; beside it there is a text too, an empty one."""
        delta = {"content": "", "tool_calls": [delta]}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _choice(self, index: int, answer: Answer) -> Json:
        message: dict[str, Json] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message |= {"content": None, "tool_calls": [*map(_call, answer.calls)]}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.ending.reason}


class TextForm(ChatForm):
    """Completions on the wire: the same, with bare texts."""

    prefix = "cmpl"
    kind = chunk = "text_completion"

    def _echo(self, index: int) -> str:
        return self._wanted.prompts[index // self._wanted.choices].messages[0].text if self._wanted.echo else ""

    def _opening(self, index: int) -> Json:
        return self._delta(index, self._echo(index), None) if self._wanted.echo else None

    def _delta(self, index: int, text: str, finish_reason: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _choice(self, index: int, answer: Answer) -> Json:
        return self._delta(index, self._echo(index) + answer.text, answer.ending.reason)


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; the first failure ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def merged(
    streams: Sequence[AsyncGenerator[Part, None]],
) -> AsyncGenerator[tuple[int, Part], None]:
    """What several streams yield, as it comes, each with its stream's number. Closing it closes them all."""
    if len(streams) == 1:  # without a task for each piece
        async with aclosing(streams[0]) as only:
            async for piece in only:
                yield 0, piece
        return
    waiting = {asyncio.ensure_future(anext(stream, None)): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                if (found := task.result()) is not None:
                    waiting[asyncio.ensure_future(anext(streams[index], None))] = index
                    yield index, found
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


def _requests(call: Call, account_id: str, model: str, wanted: Wanted, affinity: str) -> list[RunRequest]:
    """One for each prompt, all to one version of an alias. They may wait for each other, whatever the request says."""
    return [
        RunRequest(
            id=call.id,
            account_id=account_id,
            model=model,
            prompt=prompt,
            max_tokens=wanted.max_tokens,
            adapter=wanted.lora,
            stop=wanted.stop,
            shape=wanted.shape,
            reject_if_busy=wanted.reject_if_busy and not number,
            affinity=affinity,
        )
        for number, prompt in enumerate(wanted.prompts)
    ]


def _call(call: ToolCall) -> dict[str, Json]:
    function: Json = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}


def _call_deltas(call: ToolCall, number: int) -> list[Json]:
    """A call as a stream has it: who is called, then with what."""
    return [
        {"index": number, **_call(ToolCall(call.name, ""))},
        {"index": number, "function": {"arguments": call.arguments}},
    ]


def _model(model: Model) -> Json:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": model.author}
