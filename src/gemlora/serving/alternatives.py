"""Whether the alternatives of a `oneOf` exclude each other, as far as that can be seen from types and constants."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

MOST_ALTERNATIVES: Final = 64
"""Each is compared with each."""
MOST_STEPS: Final = 8
"""References and properties that are followed."""

KINDS: Final = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
"""All values; a number is an integer or a fraction."""


def exclude_each_other(alternatives: Sequence[Any], root: Any) -> bool:
    """Whether surely no value meets two of the schemas. `root` is where their references point into."""
    if len(alternatives) > MOST_ALTERNATIVES:
        return False
    pairs = ((one, other) for index, one in enumerate(alternatives) for other in alternatives[index + 1 :])
    return all(_disjoint(one, other, root, MOST_STEPS) for one, other in pairs)


def _disjoint(one: Any, other: Any, root: Any, steps: int) -> bool:
    if one is False or other is False:
        return True
    if steps == 0 or not isinstance(one, dict) or not isinstance(other, dict):
        return False
    for schema, against in ((one, other), (other, one)):
        if "$ref" in schema and _disjoint(_target(schema["$ref"], root), against, root, steps - 1):
            return True
        for keyword in ("anyOf", "oneOf"):
            inner = schema.get(keyword)
            if isinstance(inner, list) and all(_disjoint(each, against, root, steps - 1) for each in inner):
                return True
    kinds = _kinds(one) & _kinds(other)
    if not kinds:
        return True
    values, others = _values(one), _values(other)
    if values is not None and others is not None and values.isdisjoint(others):
        return True
    return kinds == {"object"} and _differ_in_a_property(one, other, root, steps)


def _differ_in_a_property(one: Mapping[str, Any], other: Mapping[str, Any], root: Any, steps: int) -> bool:
    """Whether one of them requires a property that cannot be what both say of it."""
    mine, others = one.get("properties", {}), other.get("properties", {})
    required = {*one.get("required", ()), *other.get("required", ())}
    return any(_disjoint(mine[key], others[key], root, steps - 1) for key in required & mine.keys() & others.keys())


def _kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    kinds = KINDS
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        kinds = frozenset(kind for name in names for kind in (("integer", "fraction") if name == "number" else (name,)))
    constants = _constants(schema)
    return kinds if constants is None else kinds & frozenset(map(_kind, constants))


def _constants(schema: Mapping[str, Any]) -> Sequence[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    enum = schema.get("enum")
    return enum if isinstance(enum, list) else None


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    constants = _constants(schema)
    return None if constants is None else frozenset(json.dumps(_plain(value), sort_keys=True) for value in constants)


def _plain(value: Any) -> Any:
    """With whole numbers written in one way."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "fraction"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _target(reference: Any, root: Any) -> Any:
    """What a reference points at; none or one outside is true, of which nothing can be said."""
    value = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return True
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(value, dict) or name not in value:
            return True
        value = value[name]
    return value
