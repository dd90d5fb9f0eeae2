"""Scores are those of their definitions, and what cannot be scored is said before anything is asked."""

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest

from gemlora.errors import EvaluationInvalid
from gemlora.evaluation.cases import Case, Cases
from gemlora.evaluation.scorers import BUILT_IN, check_cases, find_scorers


def case(*accepted: str, **content: Any) -> Case:
    return Case("c", 3, {"prompt": "p"}, accepted, {"prompt": "p", **content})


def score(name: str, case: Case, answer: str) -> float:
    return BUILT_IN[name].score(case, answer)


SQUAD = [
    # (accepted, answer, F1), as evaluate-v1.1.py computes it
    (("Denver Broncos",), "The Denver Broncos!", 1.0),
    (("in the autumn of 1990",), "1990", 0.4),
    (("a cat and a dog",), "cat dog cat", 2 / 3),
    (("1", "seventeen apples"), "seventeen", 2 / 3),
    (("the",), "a", 1.0),
    (("the",), "cat", 0.0),
    (("café",), "Café.", 1.0),
]


@pytest.mark.parametrize(("accepted", "answer", "expected"), SQUAD)
def test_f1_is_that_of_squad(accepted: tuple[str, ...], answer: str, expected: float) -> None:
    assert score("f1", case(*accepted), answer) == pytest.approx(expected)


def test_exact_takes_any_accepted_answer_and_no_other() -> None:
    one = case("Paris", " Paris.")

    assert [score("exact", one, answer) for answer in ("Paris\n", "Paris.", "paris", "In Paris")] == [1, 1, 0, 0]
    assert [score("exact_any_case", one, answer) for answer in ("PARIS", "In Paris")] == [1, 0]


def test_json_must_be_json_and_meet_the_schema() -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}

    answers = ['{"n": 1}', ' {"n": 0} ', "{}", "[1]", "n = 1", '```json\n{"n": 1}\n```', '{"n": NaN}', "[" * 100_000]
    assert [score("json", case(), answer) for answer in answers] == [1, 1, 1, 1, 0, 0, 0, 0]
    assert [score("json", case(schema=schema), answer) for answer in answers] == [1, 0, 0, 0, 0, 0, 0, 0]


def test_a_schema_fetches_nothing() -> None:
    remote = case(schema={"$ref": "http://127.0.0.1:9/schema"})

    with pytest.raises(Exception, match="Unresolvable"):
        score("json", remote, "{}")


def test_json_fields_are_counted_by_their_paths() -> None:
    one = case('{"name": "Ada", "born": {"year": 1815, "place": "London"}, "tags": [1, 2], "alive": false}')

    same = '{"alive": false, "tags": [1, 2], "name": "Ada", "born": {"place": "London", "year": 1815.0}, "more": 1}'
    assert score("json_fields", one, same) == 1
    assert score("json_fields", one, '{"name": "Ada", "born": {"year": 1816}, "alive": 0}') == 1 / 5
    assert score("json_fields", one, '{"born": "1815"}') == 0
    assert score("json_fields", one, "Ada") == 0
    assert score("json_fields", case("{}"), "{}") == 1


def test_own_functions_get_the_line_and_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scorers.py").write_text(
        "import math\n"
        "def length(case, answer): return len(answer) / case['most']\n"
        "def broken(case, answer): return case['absent']\n"
        "def endless(case, answer): return math.inf\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    (length,) = find_scorers(["my_scorers:length", "my_scorers:length"])
    assert length.score(case(most=8), "four") == 0.5
    check_cases(Cases("x", "", (case(),)), [length])
    for name, reason in [
        ("my_scorers:broken", "failed at the case c: KeyError: 'absent'"),
        ("my_scorers:endless", "gave inf for the case c"),
    ]:
        with pytest.raises(EvaluationInvalid, match=reason):
            find_scorers([name])[0].score(case(), "four")
    for name, reason in [
        ("my_scorers:absent", "cannot be imported: AttributeError"),
        ("my_scorers:number", "is no function"),
        ("absent_module:f", "cannot be imported: ModuleNotFoundError"),
        ("bleu", "No scorer bleu: there are exact, exact_any_case, f1, json, json_fields, or name yours"),
        (":f", "No scorer :f"),
    ]:
        with pytest.raises(EvaluationInvalid, match=reason):
            find_scorers([name])


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("exact", case(), "line 3: nothing is expected, but exact compares"),
        ("json_fields", case("[1]"), "line 3: json_fields needs an expected JSON object"),
        ("json_fields", case("Ada"), "line 3: json_fields needs an expected JSON object"),
        ("json", case(schema={"type": "objekt"}), "Line 3: schema: 'objekt' is not valid"),
    ],
)
def test_what_no_answer_could_be_scored_by_is_refused(name: str, wrong: Case, reason: str) -> None:
    with pytest.raises(EvaluationInvalid, match=reason):
        check_cases(Cases("x", "", (case("{}"), wrong)), find_scorers([name]))


def test_schemas_without_their_library_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("jsonschema"):
            raise ImportError(name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EvaluationInvalid, match=r"pip install 'gemlora\[evaluate\]'"):
        check_cases(Cases("x", "", (case(schema={}),)), find_scorers(["json"]))
