"""JSON from strangers: UTF-8, no duplicate keys, no NaN or Infinity, bounded depth, an object at the top."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

MAX_DEPTH = 32
"""Objects and lists within each other, far below what Python's stack holds."""


class JsonInvalid(ValueError):
    """The text is not the JSON object that was expected."""


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse one JSON object. Raises `JsonInvalid` with the reason."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonInvalid(f"is not UTF-8 at byte {error.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except JsonInvalid:
        raise
    except RecursionError:
        raise JsonInvalid("is nested too deeply") from None
    except ValueError as error:
        raise JsonInvalid(f"is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise JsonInvalid("is not a JSON object")
    if _is_deeper(value, MAX_DEPTH):
        raise JsonInvalid("is nested too deeply")
    return value


def shown(value: object) -> str:
    """A value for an error text: JSON in ASCII, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether objects and lists lie more than `depth` within each other; without recursion."""
    level = [value]
    for _ in range(depth):
        level = [child for parent in level for child in _children(parent)]
    return any(isinstance(child, (dict, list)) for child in level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonInvalid(f"has the key {shown(key)} twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise JsonInvalid(f"contains {name}, which is not JSON")
