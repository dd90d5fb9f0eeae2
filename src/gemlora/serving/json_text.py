"""JSON that a model wrote, as a value."""

import json
import math
from typing import Any, Final, NoReturn

from gemlora.errors import ConstraintUnmet

DEEPEST: Final = 256
"""Levels up to which what is parsed can be written again."""


def parsed(text: str) -> Any:
    """The value. Raises `ConstraintUnmet` if it is broken, or no reader of JSON would get it as it was meant."""
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConstraintUnmet("The answer is no JSON that can be told") from error
    if _is_deeper(value, DEEPEST):
        raise ConstraintUnmet("The answer is nested too deep")
    return value


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError("beyond the range of numbers")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True
