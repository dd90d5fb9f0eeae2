"""Files of JSON objects, one a line, as people write them: read whole, or refused with every line that is wrong."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

from gemlora.errors import GemloraError

Item = TypeVar("Item")

SHOWN_ERRORS = 10
"""Wrong lines that a refusal lists; it counts the others."""


@dataclass(frozen=True, slots=True)
class JsonLines(Generic[Item]):
    """What the lines of a file were read as, in their order. `digest` is the SHA-256 of its bytes."""

    digest: str
    items: tuple[Item, ...]


def read_json_lines(
    path: Path, read: Callable[[int, dict[str, Any]], Item], refusal: type[GemloraError]
) -> JsonLines[Item]:
    """Read each line's object by `read`, which gets the line's number too, from 1; empty lines are passed over.

    `read` raises `ValueError` with what is wrong. Raises `refusal`, which names every wrong line.
    """
    try:
        data = path.read_bytes()
        # Not splitlines: JSON strings may hold other marks that end a line.
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise refusal(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        before = data[: error.start].count(b"\n")
        raise refusal(f"{path}, line {before + 1}: is not UTF-8") from error
    items: list[Item] = []
    errors: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            items.append(read(number, _object(line)))
        except ValueError as error:
            errors.append(f"{path}, line {number}: {error}")
        except RecursionError:
            errors.append(f"{path}, line {number}: is nested too deeply")
    if errors:
        more = len(errors) - SHOWN_ERRORS
        raise refusal("\n".join(errors[:SHOWN_ERRORS] + ([f"… and {more} more"] if more > 0 else [])))
    return JsonLines(sha256(data).hexdigest(), tuple(items))


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value
