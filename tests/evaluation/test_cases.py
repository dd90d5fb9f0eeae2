"""A file of cases is read whole, or refused with the line that is wrong."""

import hashlib
import json
from pathlib import Path

import pytest

from gemlora.errors import EvaluationInvalid
from gemlora.evaluation.cases import read_cases

USER = {"role": "user", "content": "2 + 2 ="}


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_every_form_says_what_is_asked_and_expected(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You count."}
    path = written(
        tmp_path,
        {"prompt": "2 + 2 =", "expected": "4"},
        "",
        {"id": "several", "messages": [USER], "expected": ["4", {"sum": 4}]},
        {"messages": [system, USER, {"role": "assistant", "content": "4"}]},
        {"id": 7, "prompt": "2 + 2 =", "completion": "4"},
        {"prompt": "Say something\u2028odd"},
    )

    read = read_cases(path)

    assert [(case.id, case.line, case.accepted) for case in read.cases] == [
        ("1", 1, ("4",)),
        ("several", 3, ("4", '{"sum": 4}')),
        ("4", 4, ("4",)),
        ("7", 5, ("4",)),
        ("6", 6, ()),
    ]
    assert read.cases[0].inputs == {"prompt": "2 + 2 ="}
    assert read.cases[2].inputs == {"messages": [system, USER]}
    assert read.cases[1].question == "2 + 2 ="
    assert read.cases[2].question == "system: You count.\n\nuser: 2 + 2 ="
    assert read.cases[3].content == {"id": 7, "prompt": "2 + 2 =", "completion": "4"}
    assert (read.name, read.digest) == ("cases.jsonl", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: .* at column 2"),
        ("[]", "is not a JSON object"),
        ({"expected": "4"}, "either prompt or messages"),
        ({"prompt": "a", "messages": [USER]}, "either prompt or messages"),
        ({"prompt": ""}, "prompt: expected a text that is not empty"),
        ({"prompt": 4}, "prompt: expected a text"),
        ({"messages": []}, "messages: expected a list that is not empty"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]: expected an object with the texts"),
        ({"messages": [{"role": "assistant", "content": "4"}]}, "expected one of the user before the answer"),
        ({"messages": [{"role": "system", "content": "4"}]}, "expected one of the user before the answer"),
        ({"prompt": "a", "expected": []}, "expected: a text, an object, or a list"),
        ({"prompt": "a", "expected": 4}, "expected: a text, an object, or a list"),
        ({"prompt": "a", "expected": "4", "completion": "4"}, "expected and completion both say"),
        (
            {"messages": [USER, {"role": "assistant", "content": "4"}], "expected": "4"},
            "expected and the last assistant message both say",
        ),
        ({"prompt": "a", "id": True}, "id: expected a text or a whole number"),
        ({"prompt": "a", "id": "first"}, "the id first is that of line 1 too"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, reason: str) -> None:
    path = written(tmp_path, {"id": "first", "prompt": "a"}, line)

    with pytest.raises(EvaluationInvalid, match=rf"cases.jsonl, line 2: .*{reason}"):
        read_cases(path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationInvalid, match=r"missing: cannot be read: No such file"):
        read_cases(tmp_path / "missing")
    with pytest.raises(EvaluationInvalid, match="holds no cases"):
        read_cases(written(tmp_path, "", " "))
