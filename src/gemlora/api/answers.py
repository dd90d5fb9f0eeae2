"""The native form of a whole answer, the same for one that is waited for and one of a batch."""

import json
from typing import Any

from gemlora.api.inputs import Inputs
from gemlora.api.validation import Json
from gemlora.serving.generation import Answer, Usage
from gemlora.serving.json_text import parsed
from gemlora.serving.prompt import ToolCall


def whole(answer: Answer, wanted: Inputs) -> dict[str, Json]:
    """An answer as the wire has it: a document as its value, everything else as text."""
    document = wanted.shape.is_document and not answer.calls
    calls: dict[str, Json] = {"tool_calls": [*map(called, answer.calls)]} if answer.calls else {}
    return {
        "response": parsed(answer.text) if document else answer.text,
        **calls,
        "usage": usage_counts(answer.ending.usage),
        "finish_reason": answer.ending.reason,
    }


def called(call: ToolCall) -> Json:
    """A call in the native form."""
    return {"name": call.name, "arguments": json.loads(call.arguments)}


def usage_counts(usage: Usage) -> dict[str, Any]:
    """Usage as the wire has it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
