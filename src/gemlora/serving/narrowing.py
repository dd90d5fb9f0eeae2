"""Rewrites checked JSON schemas into narrower ones that the engine's grammars enforce."""

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from gemlora.errors import ConstraintInvalid
from gemlora.serving.alternatives import exclude_each_other

Schema: TypeAlias = bool | dict[str, Any]
Path: TypeAlias = tuple[str, ...]

EXACT: Final = (1 << 53) - 1
"""The largest whole number that every reader of JSON tells from its neighbours."""

SHARE_DIGITS: Final = 6
"""The part of a narrow range that is given up at a bound: one in a million, at most ten."""

PRECISION: Final = 1e-12
"""How close to a bound numbers are told from it, relative to it."""

LARGEST: Final = 10**15
"""Bounds of numbers lie within this: the grammar of a bounded number has no exponents."""

DEFINITIONS: Final = ("$defs", "definitions")
BY_NAME: Final = frozenset({"properties", "patternProperties", *DEFINITIONS})
LISTED: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SINGLE: Final = frozenset({"items", "additionalProperties"})


def invalid(path: Path, text: str) -> ConstraintInvalid:
    """The refusal of what a request has at a place."""
    return ConstraintInvalid(f"'/{'/'.join(path)}' {text}")


def rewritten(schema: Schema, path: Path, change: Callable[[dict[str, Any], Path], Schema]) -> Schema:
    """The schema with a change made to each schema in it, the inner ones first."""
    if isinstance(schema, bool):
        return schema
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        at = (*path, keyword)
        if keyword in BY_NAME:
            value = {name: rewritten(one, (*at, name), change) for name, one in value.items()}
        elif keyword in LISTED:
            value = [rewritten(one, (*at, str(index)), change) for index, one in enumerate(value)]
        elif keyword in SINGLE:
            value = rewritten(value, at, change)
        result[keyword] = value
    return change(result, path)


def without_one_of(schema: dict[str, Any], path: Path, *, root: Schema) -> Schema:
    """With `anyOf` for `oneOf`, which is the same if no value meets two of the alternatives."""
    if "oneOf" not in schema:
        return schema
    if not exclude_each_other(schema["oneOf"], root):
        raise invalid(
            (*path, "oneOf"),
            "has alternatives that one value could meet together: use anyOf, or let them differ in their type or in a "
            "required property that is a const or an enum",
        )
    alternatives = {"anyOf": schema["oneOf"]}
    rest = {keyword: value for keyword, value in schema.items() if keyword != "oneOf"}
    return {**rest, "allOf": [*rest.get("allOf", ()), alternatives]} if "anyOf" in rest else {**rest, **alternatives}


def bounded(schema: dict[str, Any], path: Path) -> Schema:
    """With bounds of numbers that grammars can enforce, and whole numbers that stay exact."""
    kinds = schema.get("type")
    whole = kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds)
    limit = EXACT if whole else LARGEST
    result = {"minimum": -limit, "maximum": limit} if whole else {}
    for low, high in (("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")):
        if schema.get(low, 0) > limit or schema.get(high, 0) < -limit:
            raise invalid(path, f"allows no number within ±{limit:,}")
    for keyword, value in schema.items():
        bound = keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        result[keyword] = max(-limit, min(limit, value)) if bound else value
    return result if whole else _exclusive(result, path)


def _exclusive(schema: dict[str, Any], path: Path) -> dict[str, Any]:
    """With a bound a little inside of an exclusive one that is whole and less than 1 from the opposite bound.

    The grammar of such a range allows the bound itself.
    """
    result = dict(schema)
    for side, inner, opposite, sign in (("Minimum", max, "Maximum", 1), ("Maximum", min, "Minimum", -1)):
        bound = schema.get(f"exclusive{side}")
        far = [schema[name] for name in (opposite.lower(), f"exclusive{opposite}") if name in schema]
        if bound is None or bound != int(bound) or not far:
            continue
        if 0 < (width := min(sign * (value - bound) for value in far)) < 1:
            share = max(10.0 ** (math.floor(math.log10(width)) - SHARE_DIGITS), abs(bound) * PRECISION)
            if share >= width:
                raise invalid(path, "has bounds that are too close to each other")
            result[side.lower()] = inner(bound + sign * share, schema.get(side.lower(), bound + sign * share))
    return result


def closed(schema: dict[str, Any], _path: Path) -> Schema:
    """An object that lists properties, and does not say that there may be others, has no others.

    Only for schemas that alone hold for a value: two that hold together would leave nothing.
    """
    names = schema.get("properties")
    opens = ("additionalProperties", "patternProperties", "minProperties")
    if (
        names is None
        or any(keyword in schema for keyword in opens)
        or not set(schema.get("required", ())) <= set(names)
    ):
        return schema
    return {**schema, "additionalProperties": False}
