"""Thousands of generated inputs, each with the verdict and the text of the hosted service's own validator.

The validator is the npm package that the service uses; one process of it answers all inputs.
"""

import itertools
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.api.bodies import SCHEMA, SCHEMA_FILE, Bodies
from tests.api.decisions import DECISIONS, Decision, Verdict, decided, foreign_part, joined
from tests.api.parts import MODEL

from gemlora.api.body import parse
from gemlora.api.inputs import InputReader
from gemlora.api.shapes import ShapeLimits, ShapeReader
from gemlora.api.validation import Validator
from gemlora.errors import InvalidRequest

NODE = Path(__file__).parents[1] / "node"
COUNT = 12000
SEED = 1

Case = tuple[Any, Verdict, Verdict]
"""Inputs, and what the hosted validator says about them as they are and with their text parts joined."""


def hosted(values: Iterable[Any]) -> list[Verdict]:
    """What the hosted service's validator says about each."""
    lines = "".join(json.dumps(value) + "\n" for value in values)
    process = subprocess.run(
        [NODE / "node_modules/.bin/node", NODE / "cabidela.mjs", str(SCHEMA_FILE)],
        input=lines, capture_output=True, text=True, check=True,
    )  # fmt: skip
    verdicts: list[Verdict] = json.loads(process.stdout)
    return verdicts


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    # Through JSON and back, as the server gets them.
    bodies = [parse(json.dumps(body).encode()) for body in itertools.islice(Bodies(SEED), COUNT)]
    verdicts = hosted([*bodies, *map(joined, bodies)])
    return [*zip(bodies, verdicts[:COUNT], verdicts[COUNT:], strict=True)]


def refusal(check: Any) -> Verdict:
    try:
        check()
    except InvalidRequest as error:
        return str(error)
    return None


def shown(value: Any) -> str:
    return json.dumps(value)[:2000]


def test_the_evaluator_says_what_the_hosted_validator_says(cases: list[Case]) -> None:
    validator = Validator(SCHEMA)
    differences = [
        f"{shown(body)}\n  hosted: {verdict}\n  here:   {here}"
        for body, verdict, _ in cases
        if (here := refusal(lambda body=body: validator.alternative(body))) != verdict
    ]

    assert len(differences) == 0, f"{len(differences)} of {COUNT}:\n" + "\n".join(differences[:5])


def test_the_decisions_are_the_only_differences(cases: list[Case]) -> None:
    reader = InputReader(SCHEMA, ShapeReader(ShapeLimits()))
    differences = [
        f"{shown(body)}\n  decided: {wanted}\n  here:    {here}"
        for body, _, verdict in cases
        if (here := refusal(lambda body=body: reader.read(body, MODEL))) != (wanted := decided(body, verdict))
    ]

    assert len(differences) == 0, f"{len(differences)} of {COUNT}:\n" + "\n".join(differences[:5])


def test_the_inputs_are_of_many_kinds(cases: list[Case]) -> None:
    """Each decision is met by generated inputs, and so are hundreds of different texts."""
    accepted = [body for body, verdict, _ in cases if verdict is None]

    assert 1000 < len(accepted) < COUNT - 1000
    assert len({verdict for _, verdict, _ in cases}) > 500
    assert sum(foreign_part(body) is not None for body, *_ in cases) > 10
    assert sum(before != after for _, before, after in cases) > 10
    for decision in DECISIONS:
        assert sum(decision.applies(body) is not None for body in accepted) > 10, decision.name


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.name)
def test_each_decision_refuses_what_the_hosted_validator_accepts(decision: Decision) -> None:
    reader = InputReader(SCHEMA, ShapeReader(ShapeLimits()))

    assert hosted(decision.examples) == [None] * len(decision.examples)
    for example in decision.examples:
        text = refusal(lambda example=example: reader.read(example, MODEL))
        assert text is not None
        assert text == decision.applies(example)


def test_text_parts_are_accepted_where_the_hosted_validator_refuses_them() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}]}

    assert hosted([body]) == [
        "oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt', "
        "Type mismatch of '/messages/0/content', 'string' not in 'array'"
    ]
    assert refusal(lambda: InputReader(SCHEMA, ShapeReader(ShapeLimits())).read(body, MODEL)) is None
