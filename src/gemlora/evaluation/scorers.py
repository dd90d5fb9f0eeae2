"""How good an answer is, as a number: what is built in, and functions of the user's own."""

import importlib
import json
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlora.errors import EvaluationInvalid
from gemlora.evaluation.cases import Case, Cases

Score = Callable[[Case, str], float]

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores an answer to a case, higher is better; those built in from 0 to 1."""

    name: str
    score: Score
    needs_expected: bool = True


def exact(case: Case, answer: str) -> float:
    """1 if the answer is an accepted one, spaces around both aside."""
    return float(answer.strip() in {accepted.strip() for accepted in case.accepted})


def exact_any_case(case: Case, answer: str) -> float:
    """The same for upper and lower case alike."""
    return float(answer.strip().casefold() in {accepted.strip().casefold() for accepted in case.accepted})


def f1(case: Case, answer: str) -> float:
    """The best F1 of the words in common with an accepted answer, as the evaluation script of SQuAD 1.1 computes it
    (Rajpurkar et al. 2016, `evaluate-v1.1.py`); two texts without any word are equal, as in version 2.0.
    """
    return max(_f1(_words(accepted), _words(answer)) for accepted in case.accepted)


def json_valid(case: Case, answer: str) -> float:
    """1 if the answer is JSON and nothing else, and meets the case's `schema` if it has one."""
    try:
        value = parse_json(answer)
    except ValueError:
        return 0.0
    return float("schema" not in case.content or _meets(case, value))


def json_fields(case: Case, answer: str) -> float:
    """The share of the expected object's fields, nested ones too, that the answer has with an equal value.

    Fields that were not expected do not count; of several accepted objects the best counts.
    """
    try:
        given = dict(_fields(parse_json(answer)))
    except ValueError:
        return 0.0
    return max(_fields_in_common(accepted, given) for accepted in case.accepted)


BUILT_IN = {
    scorer.name: scorer
    for scorer in (
        Scorer("exact", exact),
        Scorer("exact_any_case", exact_any_case),
        Scorer("f1", f1),
        Scorer("json", json_valid, needs_expected=False),
        Scorer("json_fields", json_fields),
    )
}


def find_scorers(names: Sequence[str]) -> tuple[Scorer, ...]:
    """The scorers of these names, each once. Raises `EvaluationInvalid`."""
    return tuple(BUILT_IN.get(name) or _imported(name) for name in dict.fromkeys(names))


def check_cases(cases: Cases, scorers: Sequence[Scorer]) -> None:
    """Raise `EvaluationInvalid` for the first case that a scorer could not score, whatever the answer."""
    for case in cases.cases:
        for scorer in scorers:
            if scorer.needs_expected and not case.accepted:
                raise EvaluationInvalid(
                    f"{cases.name}, line {case.line}: nothing is expected, but {scorer.name} compares with that"
                )
            if scorer.score is json_fields and not all(map(_is_object, case.accepted)):
                raise EvaluationInvalid(f"{cases.name}, line {case.line}: json_fields needs an expected JSON object")
            if scorer.score is json_valid and "schema" in case.content:
                _validator(case)


def parse_json(text: str) -> Any:
    """Strict JSON. Raises `ValueError`, also for what nests too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _imported(name: str) -> Scorer:
    module, _, function = name.partition(":")
    if not module or not function:
        raise EvaluationInvalid(f"No scorer {name}: there are {', '.join(BUILT_IN)}, or name yours MODULE:FUNCTION")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the user's own module may raise anything
        raise EvaluationInvalid(f"The scorer {name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise EvaluationInvalid(f"The scorer {name} is no function")
    return Scorer(name, lambda case, answer: _own_score(name, found, case, answer), needs_expected=False)


def _own_score(name: str, function: Callable[[Any, str], Any], case: Case, answer: str) -> float:
    try:
        score = float(function(case.content, answer))
    except Exception as error:  # as above
        raise EvaluationInvalid(
            f"The scorer {name} failed at the case {case.id}: {type(error).__name__}: {error}"
        ) from error
    if not math.isfinite(score):
        raise EvaluationInvalid(f"The scorer {name} gave {score} for the case {case.id}")
    return score


def _words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def _f1(expected: Sequence[str], given: Sequence[str]) -> float:
    if not expected or not given:
        return float(not expected and not given)
    common = sum((Counter(expected) & Counter(given)).values())
    return 2 * common / (len(expected) + len(given))


def _fields(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each leaf of nested objects, by its path. Written as JSON, since `True == 1` in Python."""
    if isinstance(value, dict) and value:
        for key, member in value.items():
            yield from _fields(member, (*path, key))
    else:
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        yield path, json.dumps(plain, sort_keys=True)


def _fields_in_common(accepted: str, given: dict[tuple[str, ...], str]) -> float:
    expected = dict(_fields(json.loads(accepted)))
    return sum(given.get(path) == value for path, value in expected.items()) / len(expected)


def _is_object(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict)
    except ValueError:
        return False


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _meets(case: Case, value: Any) -> bool:
    return bool(_validator(case).is_valid(value))


def _validator(case: Case) -> Any:
    """Of the case's schema. References lead nowhere outside of it: nothing is fetched."""
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry
    except ImportError:
        raise EvaluationInvalid(
            f"Line {case.line} has a schema, and schemas need the library jsonschema: pip install 'gemlora[evaluate]'"
        ) from None
    schema = case.content["schema"]
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise EvaluationInvalid(f"Line {case.line}: schema: {error.message}") from None
    return kind(schema, registry=Registry())
