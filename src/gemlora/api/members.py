"""Members of JSON bodies that no published schema describes."""

from gemlora.api.validation import Json, type_mismatch
from gemlora.errors import IncompleteRequest, InvalidRequest


def members(body: Json) -> dict[str, Json]:
    """The members of a body. Raises `InvalidRequest` if it is no object."""
    if not isinstance(body, dict):
        raise InvalidRequest(type_mismatch((), "object", body))
    return body


def required(wanted: dict[str, Json], key: str) -> Json:
    """A member that must be there, whatever its type. Raises `IncompleteRequest`."""
    if key not in wanted:
        raise IncompleteRequest(f"Request is missing headers or body: {key}")
    return wanted[key]


def string(wanted: dict[str, Json], key: str) -> str:
    """A member that must be a string. Raises `IncompleteRequest` or `InvalidRequest`."""
    value = required(wanted, key)
    if not isinstance(value, str):
        raise InvalidRequest(type_mismatch((key,), "string", value))
    return value
