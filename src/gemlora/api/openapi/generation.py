"""Inputs of text generation as this server accepts them: the page's schema with its validator's laxities and ours.

The validator of the hosted service is laxer than JSON Schema says, and this server refuses some of what it lets pass.
Both is written out here, so that any JSON Schema validator comes to the server's verdict.
"""

import copy
from typing import Any

from gemlora.api.inputs import LONGEST_STOP, MOST_STOPS, TEXT_PARTS
from gemlora.api.openapi.shape_inputs import SHAPE_MEMBERS, SHAPE_RULES
from gemlora.api.openapi.shapes import COUNT, NULL, TEXT, UUID, Schema, members, one_of, sequence
from gemlora.engines.contract import FinishReason
from gemlora.serving.generation import CALLED

PART: Schema = {"anyOf": [members({"type": {"const": kind}, kind: TEXT}) for kind in TEXT_PARTS]}
STOP_STRING: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
STOP: Schema = {
    "description": "The answer ends before the first of these that is complete.",
    "anyOf": [STOP_STRING, sequence(STOP_STRING, maxItems=MOST_STOPS), NULL],
}
SCALARS: Schema = {"type": ["null", "boolean", "number"]}
PLAIN_ITEM: Schema = {"type": ["string", "number"]}
CALL_MEMBERS: dict[str, Schema] = {
    "tool_calls": {"description": "Of the assistant: its calls, in either form. What is no call is ignored."},
    "tool_call_id": {"description": "Of a tool: whose result it is."},
    "name": {"description": "Of a tool: its name."},
}
"""What else messages may have."""
OPTIONS: Schema = {
    "description": "`rejectIfBusy`: whether to refuse rather than to wait for others. `lora`: used where neither the "
    "inputs nor the query name an adapter. `queueRequest`: whether the `requests` of a batch are answered later.",
    "if": {"type": "object"},
    "then": {"properties": {"lora": TEXT}},
}
LONGEST_PREFIX = 4
"""Of what stands before a null that ends the validator's look at a list; longer ones are not written out."""


def run_inputs(page: Schema) -> Schema:
    """One request's inputs, those of the run route and of the binding, from the page's input schema."""
    prompt, messages = (_properties(alternative) for alternative in page["oneOf"])
    needed = {"role": TEXT, "content": _content(messages["messages"]["items"]["properties"]["content"])}
    message = members(needed, CALL_MEMBERS)
    texts, functions = prompt["prompt"], _lax(messages["functions"]["items"])
    sampling = {name: schema for name, schema in prompt.items() if name in messages}
    ours = {**sampling, **_ours(sampling)}
    return {
        "type": "object",
        "description": "Either a prompt or messages. Other members are ignored.",
        "oneOf": [
            {
                "title": "Prompt",
                "properties": {"prompt": texts, "raw": prompt["raw"], "lora": prompt["lora"], **ours},
                "required": ["prompt"],
                **SHAPE_RULES,
                "not": _form(messages=_lax_messages(members(needed)), functions=functions, tools={"not": TEXT}),
            },
            {
                "title": "Messages",
                "properties": {
                    "messages": {**sequence(message, minItems=1), "description": messages["messages"]["description"]},
                    "functions": functions,
                    "raw": {"description": f"{prompt['raw']['description']} True is also the text 'true'."},
                    "lora": prompt["lora"],
                    **ours,
                },
                "required": ["messages"],
                **SHAPE_RULES,
                "not": _form(prompt=texts, raw=prompt["raw"], lora=prompt["lora"]),
            },
        ],
        "not": _with_foreign_part(),
    }


def _properties(alternative: Schema) -> dict[str, Any]:
    properties: dict[str, Any] = copy.deepcopy(alternative["properties"])
    return properties


def _ours(sampling: dict[str, Schema]) -> dict[str, Schema]:
    """What this server refuses, or reads, otherwise than the page says."""
    return {
        "image": {**NULL, "description": "Nothing else on text-only weights."},
        "max_tokens": {**sampling["max_tokens"], "minimum": 1},
        "stop": STOP,
        "options": OPTIONS,
        **SHAPE_MEMBERS,
    }


def _content(text: Schema) -> Schema:
    """A text, or text parts that are joined."""
    return {"anyOf": [text, sequence(PART, minItems=1)]}


def _lax(item: Schema) -> Schema:
    """What passes where a list of such items is wanted."""
    item = {**item, "type": "object"}
    return {"anyOf": [sequence(item), {"type": "object", "additionalProperties": item}, SCALARS, *_unlooked()]}


def _lax_messages(message: Schema) -> Schema:
    item = {**message, "type": "object"}
    anything = {"type": "object", "additionalProperties": item, "minProperties": 1}
    return {"anyOf": [sequence(item), anything, *_unlooked()]}


def _unlooked() -> list[Schema]:
    """Lists whose items the validator does not look at: of texts and numbers only, up to a null if there is one."""
    ended = [
        {"type": "array", "prefixItems": [*[PLAIN_ITEM] * length, NULL], "minItems": length + 1}
        for length in range(LONGEST_PREFIX + 1)
    ]
    return [sequence(PLAIN_ITEM), *ended]


def _form(**needed: Schema) -> Schema:
    """Inputs that meet the other form too: its first member is there, and no member contradicts it."""
    return {"required": [next(iter(needed))], "properties": needed}


def _with_foreign_part() -> Schema:
    """Contents with a part that is no text are refused, whatever the form."""
    kind = {"type": "string", "not": {"enum": [*TEXT_PARTS]}}
    part = {"type": "object", "required": ["type"], "properties": {"type": kind}}
    message = {
        "type": "object",
        "required": ["content"],
        "properties": {"content": {"type": "array", "contains": part}},
    }
    return {"required": ["messages"], "properties": {"messages": {"type": "array", "contains": message}}}


USAGE: Schema = members({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT})
TEXT_ENDS = tuple(reason.value for reason in FinishReason)
FINISH_REASON: Schema = one_of(*TEXT_ENDS, CALLED)
CALL: Schema = members({"name": TEXT, "arguments": {"type": "object"}})
RESULT: Schema = members(
    {
        "response": {"description": "The text, empty beside calls; with a `response_format` of JSON the value itself."},
        "usage": USAGE,
        "finish_reason": FINISH_REASON,
    },
    {"tool_calls": sequence(CALL, minItems=1)},
)

ANSWER_HEADERS: Schema = {
    "cf-ai-req-id": {"description": "The request's id.", "required": True, "schema": UUID},
    "gemlora-adapter": {
        "description": "`NAME@DIGEST` of the adapter that served the request, named or the default, or `none`.",
        "required": True,
        "schema": TEXT,
    },
    "gemlora-alias": {
        "description": "`NAME; revision=N; version=NAME`, names percent-encoded, where the request named an alias.",
        "required": False,
        "schema": TEXT,
    },
}
RUN_HEADERS: Schema = {
    **ANSWER_HEADERS,
    "gemlora-adapter": {
        "description": f"{ANSWER_HEADERS['gemlora-adapter']['description']} Answers about batches have none.",
        "required": False,
        "schema": TEXT,
    },
}


SCHEMAS: dict[str, Schema] = {"Generated": RESULT}
