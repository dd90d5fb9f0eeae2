"""Short names for what most schemas are made of."""

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MOMENT: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
NULL: Schema = {"type": "null"}
NO_SURROGATES = "Half a surrogate pair is refused."


def ref(name: str) -> Schema:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def members(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object; others than these members may be there too."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": [*required]}


def sequence(items: Schema, **bounds: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **bounds}


def one_of(*values: str) -> Schema:
    """One of a few texts."""
    return {"type": "string", "enum": [*values]}


def or_null(schema: Schema) -> Schema:
    """What may also be null."""
    return {"anyOf": [schema, NULL]}


def enveloped(result: Schema, info: Schema | None = None) -> Schema:
    """An answer of the REST routes."""
    body: dict[str, Schema] = {
        "result": result,
        "success": {"const": True},
        "errors": {"type": "array", "maxItems": 0},
        "messages": {"type": "array", "maxItems": 0},
    }
    return members(body if info is None else {**body, "result_info": info})


def json_content(schema: Schema) -> Schema:
    """A body in JSON."""
    return {"application/json": {"schema": schema}}
