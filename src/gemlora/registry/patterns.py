"""Module name patterns of PEFT's config, matched in linear time.

PEFT takes regular expressions and runs them with Python's `re`, which a hostile pattern keeps busy for ever. Here they
run in Rust's `regex`, which pydantic brings along and which never backtracks. Only syntax that both read alike is
accepted, and only so much of it that no pattern becomes a large program.
"""

import re
from collections.abc import Callable

from pydantic_core import SchemaError, SchemaValidator, core_schema

MAX_LENGTH = 1024
MAX_WILDCARDS = 64
MAX_COUNTED = 3
"""Each counted repetition may multiply the size of the program by three."""

Matcher = Callable[[str], bool]

_TOKEN = re.compile(
    r"""(?P<quantifier> [*+?] | (?P<counted> \{[0-3](,[0-3]?)?\} ) )
    | (?P<wildcard> \\[dwDW] | \[\^?(?:[A-Za-z0-9_.:,]|\\[.dw\-]|[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9])+\] | \. )
    | (?P<plain> \\b | \\[-._()\[\]{}|*+?^$/:\\] | \(\?: | \((?!\?) | [A-Za-z0-9_\-/:,=)|^$] )""",
    re.VERBOSE,
)

_PLAIN = re.compile("[A-Za-z0-9_.]*")
_CLASSES = {r"\d": "0-9", r"\D": "^0-9", r"\w": "0-9A-Za-z_", r"\W": "^0-9A-Za-z_"}


class PatternInvalid(ValueError):
    """A pattern that cannot be evaluated safely, or not with the meaning that it has in Python."""


def whole_matcher(pattern: str) -> Matcher:
    """Match whole names, as PEFT reads a `target_modules` text. Raises `PatternInvalid`."""
    return _compile(f"^(?:{_translated(pattern)})$")


def suffix_matcher(pattern: str) -> Matcher:
    """Match from some dot to the end, as PEFT reads the keys of `rank_pattern`. Raises `PatternInvalid`."""
    return _compile(rf"^(?:.*\.)?(?:{_translated(pattern)})$")


def is_plain(pattern: str) -> bool:
    """Whether the pattern has no operators beside the dot, so that it costs next to nothing."""
    return _PLAIN.fullmatch(pattern) is not None


def _translated(pattern: str) -> str:
    """The pattern for Rust; names are ASCII, so its classes may be too."""
    if len(pattern) > MAX_LENGTH:
        raise PatternInvalid(f"is longer than {MAX_LENGTH} characters")
    parts: list[str] = []
    position = wildcards = counted = repetitions = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None:
            raise PatternInvalid(f"uses unsupported syntax at character {position}")
        repetitions = repetitions + 1 if token["quantifier"] else 0
        if repetitions > 2 or (repetitions == 2 and token[0] != "?"):
            raise PatternInvalid(f"repeats a repetition at character {position}")
        wildcards += token["wildcard"] is not None
        counted += token["counted"] is not None
        parts.append(_ascii_classes(token[0]))
        position = token.end()
    if wildcards > MAX_WILDCARDS:
        raise PatternInvalid(f"has more than {MAX_WILDCARDS} wildcards")
    if counted > MAX_COUNTED:
        raise PatternInvalid(f"has more than {MAX_COUNTED} counted repetitions")
    translated = "".join(parts)
    _compile(translated)  # alone, so that its parentheses cannot pair with those around it
    return translated


def _ascii_classes(token: str) -> str:
    if token in _CLASSES:
        return f"[{_CLASSES[token]}]"
    if token.startswith("["):
        return token.replace(r"\d", "0-9").replace(r"\w", "0-9A-Za-z_")
    return token


def _compile(pattern: str) -> Matcher:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError:
        raise PatternInvalid("is not a valid regular expression") from None
