"""OpenAI's routes in the document."""

from gemlora.api.envelope import Form
from gemlora.api.openai_inputs import HIGHEST_TOP_K, LONGEST_MODEL, MOST_CHOICES, UNSUPPORTED
from gemlora.api.openapi.failures import GENERATING
from gemlora.api.openapi.generation import (
    ANSWER_HEADERS,
    CALL_MEMBERS,
    FINISH_REASON,
    PART,
    STOP,
    TEXT_ENDS,
    USAGE,
)
from gemlora.api.openapi.operation import Operation, answer, path
from gemlora.api.openapi.shape_inputs import SHAPE_MEMBERS, SHAPE_RULES
from gemlora.api.openapi.shapes import (
    BOOLEAN,
    COUNT,
    NULL,
    TEXT,
    Schema,
    json_content,
    members,
    one_of,
    or_null,
    ref,
    sequence,
)
from gemlora.api.openapi.streams import generated
from gemlora.errors import ModelNotFound

EMPTY: Schema = {"enum": [None, False, 0, "", [], {}], "description": "Not supported: nothing may be asked for."}
LOGPROBS: Schema = {**NULL, "description": "Not supported."}


def _number(lowest: float, highest: float, description: str) -> Schema:
    return {"type": ["number", "null"], "minimum": lowest, "maximum": highest, "description": description}


def _integer(description: str, **bounds: int) -> Schema:
    return {"type": ["integer", "null"], "description": description, **bounds}


def _token_limit(description: str) -> Schema:
    return {"anyOf": [_integer(description, minimum=1), {"const": -1, "description": "As if it were not there."}]}


def _shared(model: Schema) -> dict[str, Schema]:
    """What both kinds of completions take."""
    return {
        "model": model,
        **dict.fromkeys(UNSUPPORTED, EMPTY),
        "lora": {**or_null(TEXT), "description": "An adapter; wins over the one behind a colon in `model`."},
        "n": _integer("Answers of each prompt.", minimum=1, maximum=MOST_CHOICES),
        "max_tokens": _token_limit("The most tokens of an answer."),
        "stream": or_null(BOOLEAN),
        "stream_options": or_null(members({}, {"include_usage": or_null(BOOLEAN)})),
        "temperature": _number(0, 5, "Below 0.00001 the most likely token is taken."),
        "top_p": _number(0, 2, "1 and more is off."),
        "top_k": _integer("Below 1 is off.", minimum=-1, maximum=HIGHEST_TOP_K),
        "seed": _integer("The same seed gives the same text."),
        "repetition_penalty": _number(0, 2, "0 and 1 are off; counts the prompt and the output."),
        "frequency_penalty": _number(-2, 2, "Counts the output."),
        "presence_penalty": _number(-2, 2, "Counts the output."),
        "stop": STOP,
        "response_format": SHAPE_MEMBERS["response_format"],
        "options": {"description": "`rejectIfBusy`: whether to refuse rather than to wait for others."},
    }


def chat(model: Schema) -> Schema:
    """The body of a chat completion."""
    content = {"anyOf": [TEXT, NULL, sequence(PART, minItems=1)]}
    message = members({"role": TEXT}, {"content": content, **CALL_MEMBERS})
    optional = _shared(model) | {
        **SHAPE_MEMBERS,
        "max_completion_tokens": _token_limit("The same as `max_tokens`, and wins."),
        "modalities": {"enum": [None, [], ["text"]]},
    }
    return _body({"model": model, "messages": sequence(message, minItems=1)}, optional) | SHAPE_RULES


def completion(model: Schema) -> Schema:
    """The body of a completion."""
    prompt = {"anyOf": [TEXT, sequence(TEXT, minItems=1, maxItems=MOST_CHOICES)]}
    best_of = {"description": "As many as `n`.", "type": ["integer", "null"]}
    optional = _shared(model) | {
        "echo": or_null(BOOLEAN),
        "best_of": best_of,
        "logprobs": LOGPROBS,
        "tools": {**EMPTY, "description": "In chat completions only."},
    }
    return _body({"model": model, "prompt": prompt}, optional) | {
        "description": f"At most {MOST_CHOICES} answers, those of all prompts together.",
        "anyOf": [_choices(count) for count in range(1, MOST_CHOICES + 1)],
    }


def _choices(count: int) -> Schema:
    """What `n` of a completion allows beside it."""
    asked: Schema = {"const": count} if count > 1 else {"enum": [None, 1]}
    return {
        "properties": {"n": asked, "best_of": {"enum": [None, count]}, "prompt": {"maxItems": MOST_CHOICES // count}},
        "required": ["n"] if count > 1 else [],
    }


def _body(required: dict[str, Schema], optional: dict[str, Schema]) -> Schema:
    return members(required, {name: schema for name, schema in optional.items() if name not in required})


def model_name(names: list[str]) -> Schema:
    """A model, perhaps with an adapter behind a colon."""
    return {**TEXT, "maxLength": LONGEST_MODEL, "pattern": f"^({_alternatives(names)})(:.*)?$"}


def _alternatives(names: list[str]) -> str:
    """In a pattern. ECMAScript knows fewer escapes than Python writes."""
    return "|".join(name.replace(".", r"\.") for name in names)


def operations(names: list[str]) -> dict[str, dict[str, Operation]]:
    """By path below the base of OpenAI's clients, and method."""
    completed = {"chat/completions": ("ChatCompletion", chat), "completions": ("Completion", completion)}
    posts = {
        f"/{path}": {
            "post": Operation(
                f"A {path.rstrip('s').replace('/', ' ')}, whole or as a stream",
                generated(ref(name), f"{name}Chunk", ANSWER_HEADERS), GENERATING, Form.OPENAI,
                json_content(build(model_name(names))),
            )
        }
        for path, (name, build) in completed.items()
    }  # fmt: skip
    with_adapter = {**TEXT, "pattern": f"^({_alternatives(names)}):.*$"}
    one = path(
        "model",
        {"anyOf": [one_of(*names), with_adapter], "examples": names},
        "Its name, perhaps with an adapter behind a colon.",
    )
    listed = members({"object": {"const": "list"}, "data": sequence(ref("OpenAIModel"))})
    return posts | {
        "/models": {"get": Operation("All models", answer(listed), form=Form.OPENAI)},
        "/models/{model}": {
            "get": Operation(
                "One model", answer(ref("OpenAIModel")), frozenset({ModelNotFound}), Form.OPENAI, parameters=(one,)
            )
        },
    }


_CALL = members({
    "id": TEXT, "type": {"const": "function"},
    "function": members({"name": TEXT, "arguments": {**TEXT, "contentMediaType": "application/json"}}),
})  # fmt: skip
_ASSISTANT: dict[str, Schema] = {"role": {"const": "assistant"}, "refusal": NULL}
_MESSAGE: Schema = {
    "anyOf": [
        members({**_ASSISTANT, "content": TEXT}),
        members({**_ASSISTANT, "content": NULL, "tool_calls": sequence(_CALL, minItems=1)}),
    ]
}
_CHOICE: dict[str, Schema] = {"index": COUNT, "logprobs": NULL}


def _whole(kind: str, choice: Schema) -> Schema:
    named: dict[str, Schema] = {"id": TEXT, "object": {"const": kind}, "created": COUNT, "model": TEXT}
    return members({**named, "choices": sequence(choice, minItems=1), "usage": USAGE})


SCHEMAS: dict[str, Schema] = {
    "ChatCompletion": _whole(
        "chat.completion", members({**_CHOICE, "finish_reason": FINISH_REASON, "message": _MESSAGE})
    ),
    "Completion": _whole("text_completion", members({**_CHOICE, "finish_reason": one_of(*TEXT_ENDS), "text": TEXT})),
    "OpenAIModel": members({"id": TEXT, "object": one_of("model"), "created": COUNT, "owned_by": TEXT}),
}
