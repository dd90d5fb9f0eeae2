"""What a model wrote becomes a value only if every reader of JSON would get the same."""

import json
import math

import pytest

from gemlora.errors import ConstraintUnmet
from gemlora.serving.json_text import DEEPEST, parsed


@pytest.mark.parametrize("value", [None, True, 0, -1.5, 1e300, "é\n😀", [], {}, {"a": [1, {"b": "c"}]}])
def test_json_becomes_its_value(value: object) -> None:
    assert parsed(json.dumps(value)) == value
    assert parsed(f" {json.dumps(value, ensure_ascii=False, indent=1)}\n") == value


def test_whole_numbers_stay_exact() -> None:
    assert parsed(str(2**80 + 1)) == 2**80 + 1


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "[1, 2,]", "{'a': 1}", "word", "1 2", '"a', "1" * 5000])
def test_what_is_broken_or_cut_is_unmet(text: str) -> None:
    with pytest.raises(ConstraintUnmet, match="no JSON that can be told"):
        parsed(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[-1e999]", '{"a": NaN}'])
def test_numbers_that_json_does_not_have_are_unmet(text: str) -> None:
    with pytest.raises(ConstraintUnmet):
        parsed(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_values_are_as_deep_as_they_can_be_written_again(opening: str, closing: str) -> None:
    def nested(levels: int) -> str:
        return opening * levels + "0" + closing * levels

    assert json.dumps(parsed(nested(DEEPEST - 1)), separators=(",", ":")) == nested(DEEPEST - 1)
    for levels in (DEEPEST, DEEPEST + 1, 100_000):
        with pytest.raises(ConstraintUnmet):
            parsed(nested(levels))


def test_a_long_flat_value_is_not_deep() -> None:
    assert math.fsum(parsed(json.dumps([1] * 10_000))) == 10_000
