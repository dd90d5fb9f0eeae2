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
MAX_COUNTED = 4
"""Each counted repetition may multiply the size of the program by three."""

Matcher = Callable[[str], bool]

_TOKEN = re.compile(
    r"""(?P<quantifier> [*+?] | (?P<counted> \{[0-3](,[0-3]?)?\} ) )
    | (?P<wildcard> \\[dwsDWS] | \[\^?(?:[A-Za-z0-9_.:,]|\\[.dws\-]|[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9])+\] | \. )
    | (?P<plain> \\b | \\[-._()\[\]{}|*+?^$/:\\] | \(\?: | [A-Za-z0-9_\-/:,=()|^$] )""",
    re.VERBOSE,
)


class PatternInvalid(ValueError):
    """A pattern that cannot be evaluated safely, or not with the meaning that it has in Python."""


def whole_matcher(pattern: str) -> Matcher:
    """Match whole names, as PEFT reads a `target_modules` text. Raises `PatternInvalid`."""
    _check_syntax(pattern)
    return _compile(f"^(?:{pattern})$")


def suffix_matcher(pattern: str) -> Matcher:
    """Match from some dot to the end, as PEFT reads the keys of `rank_pattern`. Raises `PatternInvalid`."""
    _check_syntax(pattern)
    return _compile(rf"^(?:.*\.)?(?:{pattern})$")


def _check_syntax(pattern: str) -> None:
    if len(pattern) > MAX_LENGTH:
        raise PatternInvalid(f"is longer than {MAX_LENGTH} characters")
    position = wildcards = counted = quantifiers = 0
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None:
            raise PatternInvalid(f"uses unsupported syntax at character {position}")
        if token["quantifier"]:
            quantifiers += 1
            if quantifiers > 2 or (quantifiers == 2 and token["quantifier"] != "?"):
                raise PatternInvalid(f"repeats a repetition at character {position}")
        else:
            quantifiers = 0
        wildcards += token["wildcard"] is not None
        counted += token["counted"] is not None
        position = token.end()
    if wildcards > MAX_WILDCARDS:
        raise PatternInvalid(f"has more than {MAX_WILDCARDS} wildcards")
    if counted > MAX_COUNTED:
        raise PatternInvalid(f"has more than {MAX_COUNTED} counted repetitions")


def _compile(pattern: str) -> Matcher:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python
    except SchemaError:
        raise PatternInvalid("is not a valid regular expression") from None
