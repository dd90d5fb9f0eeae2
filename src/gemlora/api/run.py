"""`POST …/ai/run/{model}`: parse, call the text service, render. Decides nothing."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import quote
from uuid import uuid4

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from gemlora.api.answers import called, usage_counts, whole
from gemlora.api.authentication import caller_of
from gemlora.api.batches import Batching, Poll, Submission
from gemlora.api.body import BodyReader
from gemlora.api.disconnect import while_connected
from gemlora.api.envelope import Call, Form, result
from gemlora.api.inputs import InputReader, Inputs, adapter_beside, rejects_if_busy
from gemlora.api.sse import DONE, event, event_of_any
from gemlora.api.streaming import event_stream
from gemlora.api.validation import Json
from gemlora.errors import EngineFailed
from gemlora.registry.models import Catalogue
from gemlora.registry.records import ReadyAdapter
from gemlora.serving.choosing import Served
from gemlora.serving.generation import Ending, Generation, Part, fold
from gemlora.serving.prompt import ToolCall
from gemlora.serving.service import TextGeneration

AFFINITY = "x-session-affinity"
"""Header of a conversation's requests, which get the same version of an alias."""


class Run:
    """The run route, and what the binding's routes share with it."""

    def __init__(
        self,
        service: TextGeneration,
        catalogue: Catalogue,
        bodies: BodyReader,
        inputs: InputReader,
        batching: Batching,
        stall_seconds: float,
        log: FilteringBoundLogger,
    ) -> None:
        self._service = service
        self._catalogue = catalogue
        self._bodies = bodies
        self._batching = batching
        self._inputs = inputs
        self._stall_seconds = stall_seconds
        self._log = log

    async def rest(self, request: Request) -> Response:
        """The model is the rest of the path, slashes percent-encoded or not."""
        call = begin_call(request, Form.REST)
        model = self._catalogue.get(request.path_params["model"]).name
        return await self.answer(
            request, call, model, lambda body: (body, member(body, "options")), request.query_params
        )

    async def answer(
        self, request: Request, call: Call, model: str, split: Callable[[Json], tuple[Json, Json]], query: QueryParams
    ) -> Response:
        """Generate and render, or do what is asked of a batch. `split` finds the inputs and the options in the body.

        The adapter is named by the inputs, else by the query, else by the options.
        """

        def read(body: Json) -> tuple[Inputs | Submission | Poll, Json]:
            inputs, options = split(body)
            asked = self._batching.asked(inputs, options, query, model)
            return asked or self._inputs.read(inputs, model), options

        wanted, options = await self._bodies.json(request, read)
        if isinstance(wanted, Submission | Poll):
            return result(await self._batching.do(wanted, caller_of(request).account_id, model), call, {})
        beside = adapter_beside(query, options)
        run_request = replace(
            wanted.request(call.id, caller_of(request).account_id, model),
            adapter=beside if wanted.lora is None else wanted.lora,
            reject_if_busy=rejects_if_busy(options),
            affinity=request.headers.get(AFFINITY),
        )
        generation = await while_connected(request.receive, self._service.start(run_request))
        headers = served_headers(generation.served)
        if wanted.stream:
            return await self._stream(request, call, generation, headers)
        answer = await while_connected(request.receive, fold(generation.pieces()))
        return result(whole(answer, wanted), call, headers)

    async def _stream(self, request: Request, call: Call, generation: Generation, headers: dict[str, str]) -> Response:
        headers = {"cf-ai-req-id": call.id, **headers}
        log = self._log.bind(request_id=call.id)
        return await event_stream(request.receive, events(generation.pieces()), headers, self._stall_seconds, log)


def begin_call(request: Request, form: Form) -> Call:
    """Note that the request has reached model code: from here on its answers carry a request id."""
    call = Call(str(uuid4()), form)
    request.state.call = call
    return call


def member(value: Json, key: str) -> Json:
    """The member of an object; null if there is none or no object."""
    return value.get(key) if isinstance(value, dict) else None


async def events(pieces: AsyncGenerator[Part, None]) -> AsyncGenerator[bytes, None]:
    """The stream's bytes: a chunk for each piece or call, an empty one for the end token, usage, `[DONE]`."""
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Ending):
                yield event({"response": ""})
                yield event({"response": "", "usage": usage_counts(piece.usage), "finish_reason": piece.reason})
                yield DONE
                return
            yield (
                event_of_any({"response": "", "tool_calls": [called(piece)]})
                if isinstance(piece, ToolCall)
                else event({"response": piece.text})
            )
    raise EngineFailed("The answer has no end")


def served_headers(served: Served) -> dict[str, str]:
    """What served an answer, and which revision and version of an alias, if one was named."""
    headers = {"gemlora-adapter": adapter_label(served.adapter)}
    if served.alias is None:
        return headers
    alias, version = served.alias.alias, served.alias.version
    label = f"{quote(alias.name, safe='')}; revision={alias.current.number}; version={quote(version.name, safe='')}"
    return headers | {"gemlora-alias": label}


def adapter_label(adapter: ReadyAdapter | None) -> str:
    """What served an answer, for the header: `NAME@DIGEST` or `none`; a name outside ASCII is percent-encoded."""
    return "none" if adapter is None else f"{quote(adapter.name, safe=' !#$&()*+,/:;=?[]^`{|}~')}@{adapter.digest}"
