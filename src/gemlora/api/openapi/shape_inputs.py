"""What a body says of the answer's shape, the same on every route: `response_format`, `tools` and how they are called.

No schema says which schemas answers can be held to, which names are taken, or how large all of it may be: the
descriptions do.
"""

from gemlora.api.openapi.shapes import BOOLEAN, NULL, TEXT, Schema, members, one_of, or_null, ref, sequence
from gemlora.api.shapes import CHOICES, NAME
from gemlora.serving.schemas import READERS, UNENFORCED, UNENFORCED_FORMATS

FREE_CHOICE = "auto"
NO_CALL = "none"

_KEYWORDS = ", ".join(f"`{keyword}`" for keyword in READERS)
_REFUSED = ", ".join(f"`{keyword}`" for keyword in sorted(UNENFORCED))
_ANSWER_SCHEMA: Schema = {
    "type": "object",
    "description": f"A schema in the terms of JSON Schema 2020-12. Answers are held to {_KEYWORDS}; annotations are "
    f"ignored. Refused is what answers cannot be held to: {_REFUSED}, keywords that are not known, the formats "
    f"{', '.join(sorted(UNENFORCED_FORMATS))}, a `pattern` that looks around or back, a `oneOf` whose alternatives do "
    "not exclude each other visibly, a `$ref` elsewhere, and schemas larger than `max_schema_bytes` and its kin of the "
    "server's settings allow.",
}
_WRAPPED: Schema = {
    "if": {"required": ["schema"], "properties": dict.fromkeys(READERS, False)},
    "then": {"properties": {"schema": ref("AnswerSchema")}},
}
_FUNCTION = members(
    {"name": {"type": "string", "pattern": f"^{NAME.pattern}$", "description": "Each name once."}},
    {
        "description": {**or_null(TEXT), "description": "What it does, for the model."},
        "parameters": {
            "description": "What its arguments are held to. None, null and an empty one allow any object.",
            "anyOf": [NULL, {"allOf": [ref("AnswerSchema"), members({}, {"type": {"const": "object"}})]}],
        },
    },
)
_KIND: Schema = {"const": "function"}
_TOOL: Schema = {
    "oneOf": [
        {**members({"function": _FUNCTION}, {"type": _KIND}), "title": "As OpenAI's clients send it"},
        {
            **_FUNCTION,
            "properties": {**_FUNCTION["properties"], "type": _KIND},
            "not": {"required": ["function"]},
            "title": "A function itself",
        },
    ]
}
_NAMED: Schema = {
    "title": "One of the tools by its name",
    "type": "object",
    "anyOf": [
        members({"function": {"anyOf": [members({"name": TEXT}), TEXT]}}),
        {**members({"name": TEXT}), "not": {"required": ["function"]}},
    ],
}


def _chosen(*words: str) -> Schema:
    """Words of `tool_choice`, alone or as a type."""
    return {"anyOf": [one_of(*words), {**members({"type": one_of(*words)}), "not": _NAMED}]}


SHAPE_MEMBERS: dict[str, Schema] = {
    "response_format": ref("ResponseFormat"),
    "tools": ref("Tools"),
    "tool_choice": ref("ToolChoice"),
    "parallel_tool_calls": {
        **or_null(BOOLEAN),
        "description": "False is one call at most. Null is true, up to `max_tool_calls` of the server's settings.",
    },
}
"""Members of a body that may have tools."""

SHAPE_RULES: Schema = {
    "if": {"required": ["tools"], "properties": {"tools": sequence({}, minItems=1)}},
    "else": {"properties": {"tool_choice": {"anyOf": [NULL, _chosen(FREE_CHOICE, NO_CALL)]}}},
}
"""What these members demand of each other: no call can be demanded without tools."""


def schemas(most_tools: int) -> dict[str, Schema]:
    """Components, with how many tools there may be."""
    return {
        "AnswerSchema": _ANSWER_SCHEMA,
        "ResponseFormat": {
            "description": "Null and text leave the answer free; else it is JSON, in a stream its text.",
            "anyOf": [
                NULL,
                members({"type": one_of("text", "json_object")}),
                members({
                    "type": {"const": "json_schema"},
                    "json_schema": {
                        "type": "object",
                        "description": "A schema, or one beside its name as `schema`.",
                        **_WRAPPED,
                        "else": ref("AnswerSchema"),
                    },
                }),
            ],
        },
        "Tools": {
            **or_null(sequence(ref("Tool"), maxItems=most_tools)),
            "description": "Functions that the answer may call, at most `max_tools` of the server's settings.",
        },
        "Tool": _TOOL,
        "ToolChoice": {
            "description": "`auto` unless something is said. A call can be demanded only if there are tools.",
            "anyOf": [NULL, _chosen(NO_CALL, *CHOICES), _NAMED],
        },
    }  # fmt: skip
