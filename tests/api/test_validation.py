"""The evaluator against the hosted validator's answers: the documented table, and recorded ones for odd inputs.

`validation_cases.jsonl` holds pairs of an input and the text that @cloudflare/cabidela 0.2.4 gave for it with the
model page's schema (null: accepted), chosen from 60,000 random inputs for their different texts.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from gemlora.api.validation import Json, Validator
from gemlora.errors import InvalidRequest

RECORDED = [json.loads(line) for line in (Path(__file__).parent / "validation_cases.jsonl").read_text().splitlines()]

RP = "required properties at '/' are 'prompt'"
RM = "required properties at '/' are 'messages'"
USER = {"role": "user", "content": "x"}
LONG = "x" * 131073


@pytest.fixture(scope="module")
def validator() -> Validator:
    text = (files("gemlora.api") / "schemas" / "gemma-7b-it-lora.input.json").read_text()
    return Validator(json.loads(text))


def verdict(validator: Validator, value: Json) -> str | None:
    try:
        validator.alternative(value)
    except InvalidRequest as error:
        return str(error)
    return None


def none(*reasons: str) -> str:
    return f"oneOf at '/' not met, 0 matches: {', '.join(reasons)}"


def mismatch(path: str, wanted: str, *came: str) -> str:
    names = ",".join(f"'{name}'" for name in came)
    return f"Type mismatch of '{path}', '{wanted}' not in {names}"


def both(**values: Any) -> list[dict[str, Any]]:
    """The same values in each of the two forms."""
    return [{"prompt": "x", **values}, {"messages": [USER], **values}]


TABLE: list[tuple[Any, str | None]] = [
    *[(value, none(RP, RM)) for value in ({}, [], [1], "x", "", None, 5, True)],
    ({"prompt": "x"}, None),
    ({"prompt": ""}, none("Length of '/prompt' must be >= 1 not met", RM)),
    ({"prompt": LONG}, none("Length of '/prompt' must be <= 131072", RM)),
    ({"prompt": LONG[1:]}, None),
    ({"prompt": 5}, none(mismatch("/prompt", "string", "number", "integer"), RM)),
    ({"prompt": None}, none(mismatch("/prompt", "string", "null"), RM)),
    ({"prompt": "x", "messages": [USER]}, "oneOf at '/' not met, 2 matches"),
    ({"prompt": "", "messages": [USER]}, None),
    ({"messages": []}, None),
    ({"messages": None}, none(RP, RM)),
    ({"messages": "x"}, none(RP, mismatch("/messages", "array", "string"))),
    ({"messages": ["x"]}, None),
    ({"messages": [5]}, None),
    ({"messages": [{"role": "nobody", "content": "x"}]}, None),
    ({"messages": [{**USER, "more": 1}]}, None),
    ({"messages": [{"role": "user"}]}, none(RP, "required properties at '/messages/0' are 'role,content'")),
    ({"messages": [USER, {"content": "x"}]}, none(RP, "required properties at '/messages/1' are 'role,content'")),
    ({"messages": [{"role": "user", "content": None}]}, none(RP, mismatch("/messages/0/content", "string", "null"))),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        none(RP, mismatch("/messages/0/content", "string", "array")),
    ),
    (
        {"messages": [{"role": "user", "content": ["x"]}]},
        none(RP, mismatch("/messages/0/content", "string", "array", "binary")),
    ),
    (
        {"messages": [{"role": "user", "content": 5}]},
        none(RP, mismatch("/messages/0/content", "string", "number", "integer")),
    ),
    (
        {"messages": [{"role": "user", "content": LONG}]},
        none(RP, "Length of '/messages/0/content' must be <= 131072"),
    ),
    *[(body, none(mismatch("/max_tokens", "integer", "string"))) for body in both(max_tokens="5")],
    *[(body, none(mismatch("/max_tokens", "integer", "number"))) for body in both(max_tokens=1.5)],
    *[(body, none(mismatch("/max_tokens", "integer", "null"))) for body in both(max_tokens=None)],
    *[(body, None) for value in (0, -1, 1.0, 1e30) for body in both(max_tokens=value)],
    *[(body, none("'/temperature' must be <= 5")) for value in (6, 5.0001) for body in both(temperature=value)],
    *[(body, none("'/temperature' must be >= 0")) for body in both(temperature=-1)],
    *[(body, None) for value in (0, 5, 1e-8) for body in both(temperature=value)],
    *[(body, none(mismatch("/temperature", "number", "boolean"))) for body in both(temperature=True)],
    *[(body, none("'/top_p' must be <= 2")) for body in both(top_p=3)],
    *[(body, none("'/top_k' must be >= 1")) for body in both(top_k=0)],
    *[(body, none("'/top_k' must be <= 50")) for body in both(top_k=51)],
    *[(body, none("'/seed' must be >= 1")) for body in both(seed=0)],
    *[(body, none("'/seed' must be <= 9999999999")) for value in (10**10, 1e10) for body in both(seed=value)],
    *[(body, None) for body in both(seed=9999999999)],
    *[
        (body, none(f"'/{name}' must be <= 2"))
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")
        for body in both(**{name: 3})
    ],
    *[(body, none(mismatch("/stream", "boolean", "string"))) for body in both(stream="true")],
    ({"prompt": "x", "raw": "true"}, none(mismatch("/raw", "boolean", "string"), RM)),
    ({"messages": [USER], "raw": "true"}, None),
    ({"prompt": "x", "lora": 5}, none(mismatch("/lora", "string", "number", "integer"), RM)),
    *[({"messages": [USER], "lora": value}, None) for value in ("l", 5)],
    *[(body, None) for body in both(stop=None, foo=1, response_format={})],
    *[(body, None) for value in ([1, 2], "x", 5, None, {}, [[]]) for body in both(image=value)],
    *[({"messages": [USER], "tools": value}, None) for value in ([{}], [], None, [{"a": 1}, {"b": []}])],
    ({"messages": [USER], "tools": "x"}, none(RP, mismatch("/tools", "array", "string"))),
    (
        {"messages": [USER], "functions": [{"name": "f"}]},
        none(RP, "required properties at '/functions/0' are 'name,code'"),
    ),
    *[
        (
            {"messages": {"b": {}, later: {}, "9": {}}},
            none(RP, f"required properties at '/messages/{first}' are 'role,content'"),
        )
        for later, first in (("10", "9"), ("8", "8"), ("08", "9"), ("4294967295", "9"))
    ],
    (
        {"messages": [{}], "temperature": 9},
        none("'/temperature' must be <= 5", "required properties at '/messages/0' are 'role,content'"),
    ),
]


@pytest.mark.parametrize(("value", "text"), TABLE, ids=lambda value: repr(value)[:60])
def test_every_row_of_the_documented_table(validator: Validator, value: Json, text: str | None) -> None:
    assert verdict(validator, value) == text


@pytest.mark.parametrize(("value", "text"), RECORDED, ids=range(len(RECORDED)))
def test_odd_inputs_get_the_recorded_text(validator: Validator, value: Json, text: str | None) -> None:
    assert verdict(validator, value) == text


@pytest.mark.parametrize(("value", "index"), [({"prompt": "x"}, 0), ({"messages": [USER], "prompt": ""}, 1)])
def test_it_tells_which_form_is_met(validator: Validator, value: Json, index: int) -> None:
    assert validator.alternative(value) == index


def test_lengths_count_utf16_units(validator: Validator) -> None:
    assert verdict(validator, {"prompt": "😀" * 65536}) is None
    assert verdict(validator, {"prompt": "é" * 131072}) is None
    assert verdict(validator, {"prompt": "😀" * 65536 + "é"}) == none("Length of '/prompt' must be <= 131072", RM)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"oneOf": [{"properties": {"a": {"pattern": "x"}}}]},
        {"oneOf": [{"items": {"anyOf": []}}]},
        {"oneOf": [], "allOf": []},
    ],
)
def test_a_schema_that_it_would_not_honour_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"oneOf|not implemented"):
        Validator(schema)
