"""Examples are read whole, and whatever is wrong is told with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from gemlora.errors import TrainingDataInvalid
from gemlora.serving.prompt import Message
from gemlora.training.examples import Example, read_examples

USER, ANSWER = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_the_three_forms_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"messages": [{"role": "system", "content": "Be kind"}, USER, ANSWER]},
        "",
        {"prompt": "1 + 1?", "completion": "2"},
        {"text": "Once upon a time"},
    )
    assert read_examples(path).items == (
        Example(1, (Message("system", "Be kind"), Message("user", "Hello"), Message("assistant", "Hi."))),
        Example(3, (Message("user", "1 + 1?"), Message("assistant", "2"))),
        Example(4, text="Once upon a time"),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({"prompt": "a"}, "has the keys {prompt}; known are {messages}, {completion, prompt}, {text}"),
        ({"prompt": "a", "completion": 1}, "completion: is not a text"),
        ({"text": "  "}, "text: is not a text, or is empty"),
        ({"messages": []}, "messages: is not a list of at least one message"),
        ({"messages": ["a"]}, "messages[0]: is not an object with role and content"),
        ({"messages": [{"role": "cat", "content": "a"}]}, 'messages[0]: role is "cat"'),
        ({"messages": [USER]}, "the last one is not the assistant's"),
        ({"messages": [ANSWER]}, "messages[0]: an assistant's message follows no user's"),
        ({"messages": [USER, ANSWER, ANSWER]}, "messages[2]: an assistant's message follows no user's"),
    ],
)
def test_wrong_lines_are_refused_with_their_number(tmp_path: Path, line: Any, reason: str) -> None:
    with pytest.raises(TrainingDataInvalid) as refused:
        read_examples(written(tmp_path, {"text": "fine"}, line))
    assert "data.jsonl, line 2: " in str(refused.value)
    assert reason in str(refused.value)


def test_files_without_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataInvalid, match="holds no examples"):
        read_examples(written(tmp_path, "", " "))
    with pytest.raises(TrainingDataInvalid, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")
