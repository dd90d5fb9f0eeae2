"""What of an answer is text and what is calls, however it is cut."""

import json
import random

import pytest

from gemlora.errors import ConstraintUnmet
from gemlora.serving.answers import AnswerReader, Calls, Either, Text
from gemlora.serving.prompt import ToolCall
from gemlora.serving.stopping import StopStrings

ROME = '{"name": "weather", "parameters": {"city": "Rome\\n{"}}'
NOON = '{"name": "time", "parameters": {}}'
READ = {ROME: ToolCall("weather", json.dumps({"city": "Rome\n{"})), NOON: ToolCall("time", "{}")}
CUTS = 20


def pieces(text: str, seed: int) -> list[str]:
    """The text in pieces, some of them empty."""
    chance = random.Random(seed)
    ends = sorted(chance.randint(0, len(text)) for _ in range(seed))
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def read(reader: AnswerReader, parts: list[str]) -> tuple[str, list[ToolCall]]:
    """All that a reader tells of an answer, up to where it stopped."""
    text, calls = "", []
    for part in parts:
        more, called = reader.push(part)
        text, calls = text + more, [*calls, *called]
        if reader.stopped:
            break
    more, called = reader.finish()
    return text + more, [*calls, *called]


@pytest.mark.parametrize("cut", range(CUTS))
def test_text_ends_before_a_stop_string(cut: int) -> None:
    reader = Text(StopStrings(("END",)))

    assert reader.may_stop
    assert read(reader, pieces("one ENtwo END three", cut)) == ("one ENtwo ", [])
    assert reader.stopped


def test_text_without_stop_strings_never_stops() -> None:
    reader = Text(StopStrings(()))

    assert read(reader, ["one ", "two"]) == ("one two", [])
    assert not reader.may_stop
    assert not reader.stopped


@pytest.mark.parametrize("marker", ["", "@call "])
@pytest.mark.parametrize("cut", range(CUTS))
def test_each_line_of_calls_is_one_call(marker: str, cut: int) -> None:
    answer = f"{marker}{ROME}\n{marker}{NOON}"

    assert read(Calls(marker), pieces(answer, cut)) == ("", [READ[ROME], READ[NOON]])


def test_a_call_is_told_when_its_line_is_complete() -> None:
    reader = Calls("")

    assert reader.push(ROME) == ("", ())
    assert reader.push("\n" + NOON[:-1]) == ("", (READ[ROME],))
    assert reader.push(NOON[-1]) == ("", ())
    assert reader.finish() == ("", (READ[NOON],))


@pytest.mark.parametrize("answer", ["", ROME[:-1], f"{ROME}\n", "[]"])
def test_calls_that_are_not_whole_are_unmet(answer: str) -> None:
    with pytest.raises(ConstraintUnmet):
        read(Calls(""), [answer])


@pytest.mark.parametrize("marker", ["", "@call "])
@pytest.mark.parametrize("cut", range(CUTS))
def test_an_answer_that_begins_like_a_call_is_calls_and_any_other_is_text(marker: str, cut: int) -> None:
    def reader() -> Either:
        return Either(Calls(marker), Text(StopStrings(("END",))))

    called, said = f"{marker}{ROME}", "I say {END"
    assert read(reader(), pieces(called, cut)) == ("", [READ[ROME]])
    assert read(reader(), pieces(said, cut)) == ("I say {", [])


def test_stop_strings_count_until_calls_have_begun() -> None:
    reader = Either(Calls(""), Text(StopStrings(("Rome",))))

    assert reader.may_stop
    reader.push(ROME)
    assert not reader.may_stop
    assert not reader.stopped


def test_an_empty_answer_is_empty_text() -> None:
    reader = Either(Calls(""), Text(StopStrings(())))

    assert reader.push("") == ("", ())
    assert reader.finish() == ("", ())
