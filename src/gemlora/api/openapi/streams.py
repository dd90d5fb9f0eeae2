"""Answers as streams in the document: what each server-sent event holds."""

from gemlora.api.openapi.generation import CALL, FINISH_REASON, TEXT_ENDS, USAGE
from gemlora.api.openapi.shapes import COUNT, NULL, TEXT, Schema, members, one_of, or_null, ref, sequence
from gemlora.api.sse import DONE, MEDIA_TYPE

END = DONE.decode().strip().removeprefix("data: ")

_CHOICE: dict[str, Schema] = {"index": COUNT, "logprobs": NULL}
_CALL_PART: Schema = {
    "description": "First who is called, then with what.",
    "anyOf": [
        members({
            "index": COUNT, "id": TEXT, "type": {"const": "function"},
            "function": members({"name": TEXT, "arguments": {"const": ""}}),
        }),
        members({"index": COUNT, "function": members({"arguments": TEXT})}),
    ],
}  # fmt: skip
_DELTA = members({"content": TEXT}, {"role": {"const": "assistant"}, "tool_calls": sequence(_CALL_PART, minItems=1)})


def _chunk(kind: str, choice: Schema) -> Schema:
    named: dict[str, Schema] = {"id": TEXT, "object": {"const": kind}, "created": COUNT, "model": TEXT}
    usage = {**USAGE, "description": "In a last chunk without choices, if `stream_options` asked for it."}
    return members({**named, "choices": sequence(choice, maxItems=1)}, {"usage": usage})


SCHEMAS: dict[str, Schema] = {
    "GeneratedChunk": members(
        {"response": {**TEXT, "description": "The next piece of the text, also of JSON."}},
        {
            "tool_calls": {**sequence(CALL, minItems=1, maxItems=1), "description": "A call once it is complete."},
            "usage": {**USAGE, "description": "In the last chunk, with the reason."},
            "finish_reason": FINISH_REASON,
        },
    ),
    "ChatCompletionChunk": _chunk(
        "chat.completion.chunk", members({**_CHOICE, "delta": _DELTA, "finish_reason": or_null(FINISH_REASON)})
    ),
    "CompletionChunk": _chunk(
        "text_completion", members({**_CHOICE, "text": TEXT, "finish_reason": or_null(one_of(*TEXT_ENDS))})
    ),
}


def generated(whole: Schema, chunk: str, headers: Schema) -> dict[str, Schema]:
    """The answer, whole or as a stream of the chunks of that name."""
    data = {"contentMediaType": "application/json", "contentSchema": ref(chunk), **TEXT}
    event = members({"data": {"anyOf": [{"const": END, "description": "The end of the stream."}, data]}})
    content = {"application/json": {"schema": whole}, MEDIA_TYPE: {"itemSchema": event}}
    return {"200": {"description": "The answer.", "headers": headers, "content": content}}
