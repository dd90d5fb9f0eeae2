"""How the model is told of functions, and how its calls are read."""

import json

import pytest

from gemlora.errors import ConstraintUnmet
from gemlora.serving.prompt import ToolCall
from gemlora.serving.tools import CALL, Tool, Tools, read_call

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = Tool("weather", "Tells the weather – now", CITY, CITY)
TIME = Tool("time", "", {"type": "object"}, {"type": "object"})


def test_a_function_is_shown_with_its_description_only_if_it_has_one() -> None:
    assert json.loads(WEATHER.shown) == {
        "name": "weather", "description": "Tells the weather – now", "parameters": CITY
    }  # fmt: skip
    assert "–" in WEATHER.shown
    assert json.loads(TIME.shown) == {"name": "time", "parameters": {"type": "object"}}


def test_a_call_is_its_head_and_its_arguments() -> None:
    assert read_call(f'{WEATHER.head}{{"city": "Rome"}}}}') == ToolCall("weather", '{"city": "Rome"}')


@pytest.mark.parametrize(
    ("required", "most", "told"),
    [
        (True, 1, f"Answer by calling, with nothing but one line of the form @{CALL}."),
        (True, 4, f"Answer by calling, with nothing but one line of the form @{CALL} for each call."),
        (
            False,
            1,
            f"To call, answer with nothing but one line of the form @{CALL}. "
            "If no function helps, answer without calling.",
        ),
        (
            False,
            4,
            f"To call, answer with nothing but one line of the form @{CALL} for each call. "
            "If no function helps, answer without calling.",
        ),
    ],
)
def test_the_model_is_told_of_all_functions_and_how_it_may_call(required: bool, most: int, told: str) -> None:
    instructions = Tools((WEATHER, TIME), required, most).instructions("@")

    assert instructions.split("\n") == ["You can call these functions:", WEATHER.shown, TIME.shown, told]


def test_arguments_keep_their_characters_and_their_order() -> None:
    call = read_call('{"name": "weather", "parameters": {"z": "Zürich", "a": [1, 2.5, null]}}')

    assert call == ToolCall("weather", '{"z": "Zürich", "a": [1, 2.5, null]}')


@pytest.mark.parametrize(
    "line",
    [
        "", "weather", "[]", "null", '"weather"', "{}", '{"name": "weather"}', '{"parameters": {}}',
        '{"name": "weather", "parameters": []}', '{"name": "weather", "parameters": null}',
        '{"name": "weather", "parameters": {}, "more": 1}', '{"name": "weather", "parameters": {}',
    ],
)  # fmt: skip
def test_what_is_no_call_is_unmet(line: str) -> None:
    with pytest.raises(ConstraintUnmet):
        read_call(line)
