"""What this server decides otherwise than the hosted validator, as one table in the order in which it decides.

A row says which inputs it is about and what becomes of the validator's verdict on them: a text, or None for accepted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.api.parts import MODEL

from gemlora.api.shapes import ShapeLimits, ShapeReader
from gemlora.errors import InvalidRequest

TEXT_ONLY = f"is not supported, {MODEL} is a text-only model"

Verdict = str | None


@dataclass(frozen=True)
class Decision:
    """`applies` gets the inputs and says which text they are refused with; None: this row is not about them."""

    name: str
    applies: Callable[[dict[str, Any]], Verdict]
    examples: tuple[dict[str, Any], ...]
    """Bodies that the validator would have accepted, and this server refuses."""


USER = {"role": "user", "content": "x"}


def joined(inputs: Any) -> Any:
    """The inputs with the text parts of contents joined, which is what the validator gets to see."""
    if not isinstance(inputs, dict) or not isinstance(inputs.get("messages"), list):
        return inputs
    return {**inputs, "messages": [_joined(message) for message in inputs["messages"]]}


def foreign_part(inputs: Any) -> Verdict:
    """A part that is no text is refused before anything else."""
    for place, part in _parts(inputs):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            return f"'{place}' of type {kind[:32]!r} {TEXT_ONLY}"
    return None


def _joined(message: Any) -> Any:
    parts = message.get("content") if isinstance(message, dict) else None
    if not isinstance(parts, list) or not parts or not all(map(_is_text, parts)):
        return message
    return {**message, "content": "\n".join(part["text"] for part in parts)}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _parts(inputs: Any) -> Iterator[tuple[str, Any]]:
    messages = inputs.get("messages") if isinstance(inputs, dict) else None
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            yield f"/messages/{index}/content/{number}", part


def _is_prompt(inputs: dict[str, Any]) -> bool:
    """Which form accepted inputs have: an empty prompt beside messages is none."""
    return bool(inputs.get("prompt"))


def _image(inputs: dict[str, Any]) -> Verdict:
    return f"'/image' {TEXT_ONLY}" if inputs.get("image") is not None else None


def _few_tokens(inputs: dict[str, Any]) -> Verdict:
    return "'/max_tokens' must be >= 1" if inputs.get("max_tokens", 1) < 1 else None


def _no_messages(inputs: dict[str, Any]) -> Verdict:
    if _is_prompt(inputs):
        return None
    messages = inputs["messages"]
    if not isinstance(messages, list):
        return f"Type mismatch of '/messages', 'array' not in {_types(messages)}"
    if not messages:
        return "Length of '/messages' must be >= 1 not met"
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"Type mismatch of '/messages/{index}', 'object' not in {_types(message)}"
    return None


def _odd_lora(inputs: dict[str, Any]) -> Verdict:
    name = inputs.get("lora", "")
    return None if isinstance(name, str) else f"Type mismatch of '/lora', 'string' not in {_types(name)}"


def _odd_stop(inputs: dict[str, Any]) -> Verdict:
    stop = inputs.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list):
        return f"Type mismatch of '/stop', 'array' not in {_types(stop)}"
    if len(stops) > 16:
        return "Length of '/stop' must be <= 16 not met"
    for index, one in enumerate(stops):
        if not isinstance(one, str):
            return f"Type mismatch of '/stop/{index}', 'string' not in {_types(one)}"
        if not 1 <= len(one) <= 1024:
            return f"'/stop/{index}' must have from 1 to 1024 characters"
    return None


def _odd_shape(inputs: dict[str, Any]) -> Verdict:
    """What answers cannot be held to; `test_shapes.py` tests the reader for itself."""
    try:
        ShapeReader(ShapeLimits()).read(inputs)
    except InvalidRequest as error:
        return str(error)
    return None


def _types(value: Any) -> str:
    match value:
        case None:
            return "'null'"
        case bool():
            return "'boolean'"
        case str():
            return "'string'"
        case int() | float():
            return "'number','integer'" if float(value).is_integer() else "'number'"
        case list():
            other = next(
                (item for item in value if isinstance(item, bool) or not isinstance(item, str | int | float)), None
            )
            return "'array','binary'" if other is None else "'array'"
        case _:
            return "'object'"


DECISIONS = (
    Decision(
        "an image on text-only weights",
        _image,
        ({"prompt": "x", "image": [1, 2]}, {"messages": [USER], "image": "AAAA"}, {"prompt": "x", "image": False}),
    ),
    Decision(
        "no token to generate",
        _few_tokens,
        ({"prompt": "x", "max_tokens": 0}, {"messages": [USER], "max_tokens": -1}),
    ),
    Decision(
        "no messages, or what is none",
        _no_messages,
        (
            {"messages": []},
            {"messages": ["x"]},
            {"messages": [5]},
            {"messages": [None, USER]},
            {"messages": {"0": USER}},
        ),
    ),
    Decision(
        "an adapter's name that is no text",
        _odd_lora,
        ({"messages": [USER], "lora": 5}, {"messages": [USER], "lora": None}),
    ),
    Decision(
        "stop strings that cannot be compared with",
        _odd_stop,
        ({"prompt": "x", "stop": 5}, {"prompt": "x", "stop": ["x", None]}, {"messages": [USER], "stop": [""]}),
    ),
    Decision(
        "tools and schemas that answers cannot be held to",
        _odd_shape,
        (
            {"messages": [USER], "tools": [{}]},
            {"messages": [USER], "tools": {"0": {"name": "f"}}},
            {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"not": {}}}},
            {"prompt": "x", "response_format": "json"},
        ),
    ),
)


def decided(inputs: Any, verdict: Verdict) -> Verdict:
    """What this server says where the validator says `verdict` on the inputs with their text parts joined."""
    if (refusal := foreign_part(inputs)) is not None:
        return refusal
    if verdict is not None:
        return verdict
    refusals = (decision.applies(joined(inputs)) for decision in DECISIONS)
    return next((refusal for refusal in refusals if refusal is not None), None)
