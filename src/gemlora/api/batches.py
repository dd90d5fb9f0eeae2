"""The asynchronous form of the run routes: a body with `requests` is accepted at once, one with `request_id` asks for
what became of it. Decides nothing but what is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from structlog.typing import FilteringBoundLogger

from gemlora.api.answers import whole
from gemlora.api.envelope import error_text
from gemlora.api.inputs import InputReader, adapter_beside
from gemlora.api.validation import Json, type_mismatch
from gemlora.batches.records import Answer, Answered, BatchRequest, Status
from gemlora.errors import GemloraError, InvalidRequest
from gemlora.serving.batches import LATER, Batches
from gemlora.serving.generation import fold
from gemlora.serving.service import TextGeneration

QUEUE = "queueRequest"
LONGEST_REFERENCE = 1024
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, slots=True)
class Submission:
    """Requests that shall be answered later."""

    requests: tuple[BatchRequest, ...]


@dataclass(frozen=True, slots=True)
class Poll:
    """The question how far a batch is."""

    batch_id: str


class Batching:
    """What the run routes do with batches of at most `most_requests`."""

    def __init__(self, batches: Batches, inputs: InputReader, most_requests: int) -> None:
        self._batches = batches
        self._inputs = inputs
        self._most_requests = most_requests

    def asked(self, inputs: Json, options: Json, query: Mapping[str, str], model: str) -> Submission | Poll | None:
        """What a body asks of batches; None: nothing, it is a request like others. Raises `InvalidRequest`.

        Whoever polls from a Worker does not say again that it is about a queue.
        """
        if not isinstance(inputs, dict) or "prompt" in inputs or "messages" in inputs:
            return None
        if "request_id" in inputs:
            return Poll(_text(inputs["request_id"], ("request_id",)))
        if "requests" not in inputs or not _queues(inputs, options, query):
            return None
        return self._submission(inputs["requests"], adapter_beside(query, options), model)

    async def do(self, asked: Submission | Poll, account_id: str, model: str) -> Json:
        """The result, once what was accepted is durable. Raises `OutOfCapacity` or `BatchNotFound`."""
        if isinstance(asked, Submission):
            batch = await self._batches.submit(account_id, model, asked.requests)
            return {"status": Status.QUEUED.value, "request_id": batch.id, "model": model}
        progress = await self._batches.progress(account_id, model, asked.batch_id)
        if progress.status is not Status.DONE:
            return {"status": progress.status.value, "request_id": asked.batch_id, "model": model}
        return {"responses": list(map(_response, range(len(progress.answers)), progress.answers)),
                "usage": _usage(progress.answers)}  # fmt: skip

    def _submission(self, requests: Json, adapter: str | None, model: str) -> Submission:
        if not isinstance(requests, list):
            raise InvalidRequest(type_mismatch(("requests",), "array", requests))
        if not 1 <= len(requests) <= self._most_requests:
            raise InvalidRequest(f"'/requests' must have from 1 to {self._most_requests} items")
        return Submission(
            tuple(self._request(request, index, adapter, model) for index, request in enumerate(requests))
        )

    def _request(self, request: Json, index: int, adapter: str | None, model: str) -> BatchRequest:
        path = ("requests", str(index))
        if not isinstance(request, dict):
            raise InvalidRequest(type_mismatch(path, "object", request))
        inputs = request if adapter is None or "lora" in request else {**request, "lora": adapter}
        try:
            self._inputs.read(inputs, model)
        except InvalidRequest as error:
            raise InvalidRequest(f"'/requests/{index}': {error}") from None
        reference = request.get("external_reference")
        return BatchRequest(inputs, None if reference is None else _text(reference, (*path, "external_reference")))


class BatchAnswers:
    """Answers requests of batches, as the run route would, but whole."""

    def __init__(self, service: TextGeneration, inputs: InputReader, log: FilteringBoundLogger) -> None:
        self._service = service
        self._inputs = inputs
        self._log = log

    async def answer(self, account_id: str, model: str, inputs: dict[str, Any]) -> Answer:
        """See `Answering`. A failure that would come again is an answer too."""
        request_id = str(uuid4())
        try:
            return Answer(await self._result(request_id, account_id, model, inputs), success=True)
        except LATER:
            raise
        except GemloraError as error:
            return Answer(error_text(error, request_id), success=False)

    def failed(self, error: Exception) -> Answer:
        """See `Answering`."""
        request_id = str(uuid4())
        self._log.error("request of a batch failed unexpectedly", request_id=request_id, exc_info=error)
        return Answer(error_text(error, request_id), success=False)

    async def _result(self, request_id: str, account_id: str, model: str, inputs: dict[str, Any]) -> dict[str, Json]:
        wanted = self._inputs.read(inputs, model)
        generation = await self._service.start(wanted.request(request_id, account_id, model))
        return whole(await fold(generation.pieces()), wanted)


def _queues(inputs: Mapping[str, Any], options: Json, query: Mapping[str, str]) -> bool:
    said = options.get(QUEUE) if isinstance(options, dict) else None
    return query.get(QUEUE) == "true" or said is True or inputs.get(QUEUE) is True


def _text(value: Json, path: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(type_mismatch(path, "string", value))
    if not 1 <= len(value) <= LONGEST_REFERENCE:
        raise InvalidRequest(f"'/{'/'.join(path)}' must have from 1 to {LONGEST_REFERENCE} characters")
    return value


def _response(number: int, answered: Answered) -> Json:
    answer = answered.answer
    response: dict[str, Json] = {
        "id": number,
        "result": answer.content if answer.success else {},
        "success": answer.success,
        "external_reference": answered.external_reference,
    }
    return response if answer.success else {**response, "errors": [answer.content]}


def _usage(answers: Sequence[Answered]) -> Json:
    counted = [answered.answer.content["usage"] for answered in answers if answered.answer.success]
    return {count: sum(usage[count] for usage in counted) for count in COUNTS}
