"""The hosted service's input validation: its dialect of JSON Schema, its laxities and its texts, driven by a schema.

The dialect differs from JSON Schema: a failing `oneOf` below the root is no error, a list of only strings and
numbers skips the checks of its items, and a value that is no list counts as an empty one where a list is wanted.
Numbers follow JavaScript: 1.0 and 1e30 are integers, lengths count UTF-16 units. So does the order of members.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, TypeAlias

from gemlora.errors import InvalidRequest

Json: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"
Schema: TypeAlias = "dict[str, Any]"
Path: TypeAlias = "tuple[str, ...]"
Notes: TypeAlias = "dict[str, None]"  # the texts of failed alternatives, in order, each once

ANNOTATIONS = frozenset({"title", "description", "default", "format"})
CONSTRAINTS = frozenset(
    {
        "type",
        "oneOf",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
    }
)

HIGHEST_INDEX = 2**32 - 2
"""Of an array in JavaScript."""


class Absence(Enum):
    """A value that is not there, which is something else than null."""

    ABSENT = "absent"


Value: TypeAlias = "Json | Absence"


class Mismatch(Exception):
    """One alternative of a `oneOf` is not met."""


class Validator:
    """Checks values against a schema whose root is a `oneOf`."""

    def __init__(self, schema: Schema) -> None:
        """Raises `ValueError` if the schema uses a keyword that is not implemented here."""
        if "oneOf" not in schema:
            raise ValueError("the root of the schema must be a oneOf")
        _refuse_unknown_keywords(schema)
        self._schema = schema

    def alternative(self, value: Json) -> int:
        """Return the index of the root's alternative that `value` meets.

        Raises `InvalidRequest` with the hosted service's text if it meets none or several.
        """
        notes: Notes = {}
        met = _alternatives_met(self._schema, value, (), notes)
        if len(met) != 1:
            reasons = f": {', '.join(notes)}" if notes else ""
            raise InvalidRequest(f"oneOf at '/' not met, {len(met)} matches{reasons}")
        return met[0]


def pointer(path: Path) -> str:
    """The path as the texts spell it: `/messages/0/role`."""
    return "".join(f"/{part}" for part in path) or "/"


def type_mismatch(path: Path, wanted: str, value: Value) -> str:
    """The text for a value of the wrong type."""
    came = ",".join(f"'{name}'" for name in type_names(value))
    return f"Type mismatch of '{pointer(path)}', '{wanted}' not in {came}"


def type_names(value: Value) -> tuple[str, ...]:
    """All schema types that the value has."""
    match value:
        case Absence():
            return ()
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case str():
            return ("string",)
        case int():
            return ("number", "integer")
        case float():
            return ("number", "integer") if value.is_integer() else ("number",)
        case list():
            return ("array", "binary") if _is_binary(value) else ("array",)
        case _:
            return ("object",)


def _is_binary(items: list[Json]) -> bool:
    """Only strings and numbers; a null is overlooked when it is the first item that is neither."""
    first_other = next(
        (item for item in items if isinstance(item, bool) or not isinstance(item, str | int | float)), None
    )
    return first_other is None


def _alternatives_met(schema: Schema, value: Value, path: Path, notes: Notes) -> list[int]:
    """Indices of the alternatives met, one with several matching items counted for each of them."""
    met: list[int] = []
    inherited = {"type": schema["type"]} if "type" in schema else {}
    for index, alternative in enumerate(schema["oneOf"]):
        try:
            matches = _matches({**inherited, **alternative}, value, path, notes)
        except Mismatch as mismatch:
            notes[str(mismatch)] = None
            continue
        met.extend([index] * matches)
        if len(met) != 1:
            break
    return met


def _matches(schema: Schema, value: Value, path: Path, notes: Notes) -> int:
    """Count what matches; 0 means "not there" or overlooked. Raises `Mismatch` for what the dialect enforces."""
    if "oneOf" in schema:
        return int(len(_alternatives_met(schema, value, path, notes)) == 1)
    wanted = schema.get("type")
    names = type_names(value)
    if wanted == "array" and "binary" not in names and "string" not in names:
        return sum(_matches(schema["items"], item, (*path, key), notes) for key, item in _entries(value))
    if wanted == "object" or "properties" in schema:
        return int(_object_matches(schema, value, path, notes))
    if isinstance(value, Absence):
        return 0
    if wanted is not None and wanted not in names:
        raise Mismatch(type_mismatch(path, wanted, value))
    if isinstance(value, str):
        _check_length(schema, value, path)
    elif isinstance(value, int | float):
        _check_range(schema, value, path)
    return 1


def _object_matches(schema: Schema, value: Value, path: Path, notes: Notes) -> bool:
    seen = {
        name
        for name, inner in schema.get("properties", {}).items()
        if _matches(inner, _member(value, name), (*path, name), notes)
    }
    matched = bool(seen)
    if "additionalProperties" in schema and isinstance(value, dict):
        for key in _in_order(value):
            if key in seen:
                continue
            name = key.rsplit("/", 1)[-1]
            matched |= bool(_matches(schema["additionalProperties"], _member(value, name), (name,), {}))
    required = schema.get("required", ())
    if not seen.issuperset(required):
        raise Mismatch(f"required properties at '{pointer(path)}' are '{','.join(required)}'")
    return matched


def _entries(value: Value) -> Iterator[tuple[str, Json]]:
    if isinstance(value, list):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((key, value[key]) for key in _in_order(value))


def _in_order(keys: Iterable[str]) -> list[str]:
    """As JavaScript lists them: those that can be an array's indices first, by number."""
    return sorted(keys, key=lambda key: int(key) if _is_index(key) else HIGHEST_INDEX + 1)


def _is_index(key: str) -> bool:
    is_number = key.isascii() and key.isdigit() and len(key) <= len(str(HIGHEST_INDEX))
    return is_number and str(int(key)) == key and int(key) <= HIGHEST_INDEX


def _member(value: Value, name: str) -> Value:
    return value.get(name, Absence.ABSENT) if isinstance(value, dict) else Absence.ABSENT


def _check_length(schema: Schema, value: str, path: Path) -> None:
    length = len(value) if value.isascii() else len(value) + sum(character > "\uffff" for character in value)
    if length > schema.get("maxLength", length):
        raise Mismatch(f"Length of '{pointer(path)}' must be <= {schema['maxLength']}")
    if length < schema.get("minLength", length):
        raise Mismatch(f"Length of '{pointer(path)}' must be >= {schema['minLength']} not met")


def _check_range(schema: Schema, value: float, path: Path) -> None:
    if value < schema.get("minimum", value):
        raise Mismatch(f"'{pointer(path)}' must be >= {schema['minimum']}")
    if value > schema.get("maximum", value):
        raise Mismatch(f"'{pointer(path)}' must be <= {schema['maximum']}")


def _refuse_unknown_keywords(schema: Schema) -> None:
    unknown = schema.keys() - ANNOTATIONS - CONSTRAINTS
    if unknown:
        raise ValueError(f"schema keywords that are not implemented: {', '.join(sorted(unknown))}")
    inner = [*schema.get("oneOf", ()), *schema.get("properties", {}).values()]
    inner += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    for subschema in inner:
        _refuse_unknown_keywords(subschema)
