"""JSON schemas that answers can be held to: what a grammar enforces passes, everything else is refused by its place.

The result of `held` keeps only keywords that the engine's grammars enforce, and may be narrower than the schema: what
meets it also meets the schema. Knows nothing of grammars.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from gemlora.errors import ConstraintInvalid
from gemlora.serving.narrowing import (
    DEFINITIONS,
    EXACT,
    Path,
    Schema,
    bounded,
    closed,
    invalid,
    rewritten,
    without_one_of,
)

ANNOTATIONS: Final = frozenset(
    {
        "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema",
        "$id", "id", "$comment", "$anchor", "contentMediaType", "contentEncoding", "discriminator", "externalDocs",
        "enumNames", "markdownDescription", "propertyOrdering", "strict",
    }
)  # fmt: skip
"""Keywords that say nothing about what is valid; so do those that begin with `x-`."""

UNENFORCED: Final = frozenset(
    {
        "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "propertyNames",
        "unevaluatedProperties", "unevaluatedItems", "uniqueItems", "contains", "minContains", "maxContains",
        "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "contentSchema", "nullable",
    }
)  # fmt: skip
"""Keywords of JSON Schema and OpenAPI that no grammar here enforces."""

HARMLESS: Final[Mapping[str, tuple[Any, ...]]] = {
    "uniqueItems": (False,),
    "nullable": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
}
"""Values of such keywords with which they forbid nothing."""

TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")

FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)  # fmt: skip

UNENFORCED_FORMATS: Final = frozenset(
    {
        "idn-email", "idn-hostname", "iri", "iri-reference", "uri-reference", "uri-template", "json-pointer",
        "relative-json-pointer", "regex",
    }
)  # fmt: skip
"""The other formats of JSON Schema. What else libraries write there is a note: `int32`, `password`, `path`."""

IN_PLACE: Final = ("anyOf", "oneOf", "allOf", "$ref")

CONTROL: Final = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that the grammars' strings cannot have: JSON has no short escape for them."""


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """How large a schema may be, or the tools of a request together.

    `items` bounds numbers of items, properties and alternatives, `length` those of characters.
    """

    size: int = 64 << 10
    depth: int = 32
    properties: int = 1000
    values: int = 1000
    items: int = 1000
    length: int = 65_536


def check_size(value: Any, path: Path, limits: SchemaLimits) -> None:
    """Raise `ConstraintInvalid` if the JSON of a schema, or of several together, is too long."""
    if (size := len(json.dumps(value, ensure_ascii=False).encode())) > limits.size:
        raise invalid(path, f"has {size:,} bytes, more than the {limits.size:,} that are allowed")


def held(schema: Any, path: Path, limits: SchemaLimits) -> Schema:
    """The schema that answers are held to. `path` is its place in the request, for the texts of refusals.

    Raises `ConstraintInvalid` with the place of what is no schema, too large, or cannot be enforced.
    """
    check_size(schema, path, limits)
    if schema is False:
        raise invalid(path, "allows nothing")
    reading = _Reading(path, limits)
    result = reading.schema(schema, (), 1)
    reading.check_references()
    result = rewritten(result, path, partial(without_one_of, root=result))
    result = rewritten(result, path, bounded)
    return result if reading.merges else rewritten(result, path, closed)


class _Reading:
    """One schema as it is read. Paths below are those within the schema."""

    def __init__(self, place: Path, limits: SchemaLimits) -> None:
        self._place = place
        self._limits = limits
        self._properties = self._values = 0
        self._seen: set[Path] = set()
        self._references: list[tuple[Path, Path]] = []
        self.merges = False
        """Whether somewhere two schemas hold for the same value: then none of them may be narrowed for itself."""

    def invalid(self, path: Path, text: str) -> ConstraintInvalid:
        """The refusal of what is at a place."""
        return invalid((*self._place, *path), text)

    def schema(self, schema: Any, path: Path, depth: int) -> Schema:
        """A schema and those in it."""
        if isinstance(schema, bool):
            self._seen.add(path)
            return schema
        if not isinstance(schema, dict):
            raise self.invalid(path, "must be a schema: an object, true or false")
        if depth > self._limits.depth:
            raise self.invalid(path, f"is nested more than {self._limits.depth} deep")
        self._seen.add(path)
        result: dict[str, Any] = {}
        for keyword, value in _modern(schema).items():
            if _forbids_nothing(keyword, value):
                continue
            at = (*path, keyword)
            if keyword in UNENFORCED:
                raise self.invalid(at, "is not supported: answers could not be held to it")
            if keyword not in READERS:
                raise self.invalid(at, "is no keyword of JSON Schema that is known here")
            result[keyword] = READERS[keyword](self, value, at, depth)
        assertions = result.keys() - set(DEFINITIONS)
        if "allOf" in result or (len(assertions) > 1 and not assertions.isdisjoint(IN_PLACE)):
            self.merges = True
        if result.get("minProperties", 0) > len(result.get("required", ())) + 1:
            text = "demands several properties beside the required ones; answers could name one twice"
            raise self.invalid((*path, "minProperties"), text)
        return result

    def schemas(self, value: Any, path: Path, depth: int) -> list[Schema]:
        """The schemas of a list."""
        if not isinstance(value, list) or not value:
            raise self.invalid(path, "must be a list of schemas that is not empty")
        if len(value) > self._limits.items:
            raise self.invalid(path, f"has more than {self._limits.items:,} schemas")
        return [self.schema(one, (*path, str(index)), depth + 1) for index, one in enumerate(value)]

    def named(self, value: Any, path: Path, depth: int) -> dict[str, Schema]:
        """The schemas of an object."""
        if not isinstance(value, dict):
            raise self.invalid(path, "must be an object of schemas")
        self._properties += len(value)
        if self._properties > self._limits.properties:
            raise self.invalid(path, f"makes more than {self._limits.properties:,} properties")
        for name in value:
            self._check_characters(name, (*path, name))
        return {name: self.schema(one, (*path, name), depth + 1) for name, one in value.items()}

    def inner(self, value: Any, path: Path, depth: int) -> Schema:
        """A schema one level deeper."""
        return self.schema(value, path, depth + 1)

    def patterned(self, value: Any, path: Path, depth: int) -> dict[str, Schema]:
        """Schemas by patterns of names."""
        schemas = self.named(value, path, depth)
        for pattern in schemas:
            self.pattern(pattern, (*path, pattern), depth)
        return schemas

    def kind(self, value: Any, path: Path, _depth: int) -> Any:
        """`type`."""
        kinds = value if isinstance(value, list) and value else [value]
        if not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
            raise self.invalid(path, f"must be one of {', '.join(TYPES)}, or a list of these")
        return value

    def constant(self, value: Any, path: Path, _depth: int) -> Any:
        """`const`, and each value of `enum`."""
        if isinstance(value, str):
            self._check_characters(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > EXACT:
            raise self.invalid(path, f"is a number beyond {EXACT}, which is not written exactly")
        elif isinstance(value, list):
            for index, one in enumerate(value):
                self.constant(one, (*path, str(index)), _depth)
        elif isinstance(value, dict):
            for name, one in value.items():
                self._check_characters(name, (*path, name))
                self.constant(one, (*path, name), _depth)
        return value

    def values(self, value: Any, path: Path, depth: int) -> Any:
        """`enum`."""
        if not isinstance(value, list) or not value:
            raise self.invalid(path, "must be a list that is not empty")
        self._values += len(value)
        if self._values > self._limits.values:
            raise self.invalid(path, f"makes more than {self._limits.values:,} values")
        return [self.constant(one, (*path, str(index)), depth) for index, one in enumerate(value)]

    def names(self, value: Any, path: Path, _depth: int) -> Any:
        """`required`."""
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.invalid(path, "must be a list of names")
        for index, name in enumerate(value):
            self._check_characters(name, (*path, str(index)))
        return list(dict.fromkeys(value))

    def reference(self, value: Any, path: Path, _depth: int) -> str:
        """`$ref`, within the schema."""
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            raise self.invalid(path, "must point into the same schema, as '#/$defs/name'")
        parts = unquote(value).split("/")[1:]
        self._references.append((path, tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)))
        return value

    def pattern(self, value: Any, path: Path, _depth: int) -> str:
        """A regular expression; the engine says if it is none, or one that looks around."""
        if not isinstance(value, str):
            raise self.invalid(path, "must be a regular expression")
        return value

    def format(self, value: Any, path: Path, _depth: int) -> str:
        """`format`."""
        if not isinstance(value, str):
            raise self.invalid(path, "must be a text")
        if value in UNENFORCED_FORMATS:
            raise self.invalid(path, f"is not supported: answers can be held to {', '.join(sorted(FORMATS))}")
        return value

    def number(self, value: Any, path: Path, _depth: int) -> Any:
        """A bound of numbers."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.invalid(path, "must be a number")
        return value

    def divisor(self, value: Any, path: Path, _depth: int) -> Any:
        """`multipleOf`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= EXACT:
            raise self.invalid(path, "must be a number above 0")
        return value

    def least(self, value: Any, path: Path, _depth: int) -> int:
        """How many there must be at least."""
        most = self._limits.length if path[-1] == "minLength" else self._limits.items
        if (count := self._count(value, path)) > most:
            raise self.invalid(path, f"must be at most {most:,}")
        return count

    def most(self, value: Any, path: Path, _depth: int) -> int:
        """How many there may be at most."""
        limit = self._limits.length if path[-1] == "maxLength" else self._limits.items
        return min(self._count(value, path), limit)

    def check_references(self) -> None:
        """Whether there is a schema wherever one is pointed at."""
        for path, target in self._references:
            if target not in self._seen:
                raise self.invalid(path, "points at no schema")

    def _count(self, value: Any, path: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
            raise self.invalid(path, "must be a whole number, 0 or more")
        return int(value)

    def _check_characters(self, text: str, path: Path) -> None:
        if CONTROL.search(text):
            raise self.invalid(path, "has a control character, which answers cannot have")


def _forbids_nothing(keyword: str, value: Any) -> bool:
    if keyword == "format":
        return isinstance(value, str) and value not in FORMATS | UNENFORCED_FORMATS
    return keyword in ANNOTATIONS or keyword.startswith("x-") or value in HARMLESS.get(keyword, ())


def _modern(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as drafts before 2020-12 describe them, in its words."""
    if isinstance(schema.get("items"), list):
        older = {"items": "prefixItems", "additionalItems": "items"}
        return {older.get(keyword, keyword): value for keyword, value in schema.items()}
    return {keyword: value for keyword, value in schema.items() if keyword != "additionalItems"}


READERS: Final[Mapping[str, Callable[[_Reading, Any, Path, int], Any]]] = {
    "type": _Reading.kind,
    "const": _Reading.constant,
    "enum": _Reading.values,
    "properties": _Reading.named,
    "patternProperties": _Reading.patterned,
    "additionalProperties": _Reading.inner,
    "required": _Reading.names,
    "minProperties": _Reading.least,
    "maxProperties": _Reading.most,
    "items": _Reading.inner,
    "prefixItems": _Reading.schemas,
    "minItems": _Reading.least,
    "maxItems": _Reading.most,
    "minLength": _Reading.least,
    "maxLength": _Reading.most,
    "pattern": _Reading.pattern,
    "format": _Reading.format,
    "minimum": _Reading.number,
    "maximum": _Reading.number,
    "exclusiveMinimum": _Reading.number,
    "exclusiveMaximum": _Reading.number,
    "multipleOf": _Reading.divisor,
    "anyOf": _Reading.schemas,
    "oneOf": _Reading.schemas,
    "allOf": _Reading.schemas,
    "$ref": _Reading.reference,
    "$defs": _Reading.named,
    "definitions": _Reading.named,
}
"""What is read of each keyword that answers are held to."""
