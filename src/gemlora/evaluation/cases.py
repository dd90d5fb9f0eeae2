"""What is asked, and what is expected: a JSONL file, one case a line."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gemlora.errors import EvaluationInvalid
from gemlora.storage.json_lines import read_json_lines

Object: TypeAlias = dict[str, Any]

ASSISTANT_ROLES = ("assistant", "model")
LAST_ROLES = ("user", "tool", "function")
EXPECTATIONS = ("expected", "completion", "the last assistant message")


@dataclass(frozen=True, slots=True)
class Case:
    """One line. `inputs` is what requests say of it: `prompt` or `messages`.

    `accepted` are the answers that count as right, as text; none if the line expects nothing. `content` is the line's
    object as it was read.
    """

    id: str
    line: int
    inputs: Object
    accepted: tuple[str, ...]
    content: Object

    @property
    def question(self) -> str:
        """What is asked, for people."""
        if "prompt" in self.inputs:
            return str(self.inputs["prompt"])
        messages = self.inputs["messages"]
        if len(messages) == 1:
            return str(messages[0]["content"])
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


@dataclass(frozen=True, slots=True)
class Cases:
    """A file of cases. `digest` is the SHA-256 of its bytes."""

    name: str
    digest: str
    cases: tuple[Case, ...]


def read_cases(path: Path) -> Cases:
    """All cases of a file; empty lines are passed over.

    Raises `EvaluationInvalid`, which names every wrong line and what is wrong with it.
    """
    lines_of_ids: dict[str, int] = {}

    def read(line: int, content: Object) -> Case:
        case = _case(content, line)
        first = lines_of_ids.setdefault(case.id, line)
        if first != line:
            raise ValueError(f"the id {case.id} is that of line {first} too")
        return case

    lines = read_json_lines(path, read, EvaluationInvalid)
    if not lines.items:
        raise EvaluationInvalid(f"{path}: holds no cases")
    return Cases(path.name, lines.digest, lines.items)


def as_text(expected: Any) -> str:
    """An accepted answer as text; what is not text is written as JSON."""
    return expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)


def _case(content: Object, line: int) -> Case:
    """Raises `ValueError` with what is wrong."""
    if not _is_unicode(content):
        raise ValueError("half of a surrogate pair stands for no character")
    if ("prompt" in content) == ("messages" in content):
        raise ValueError("expected either prompt or messages")
    inputs, answer = _prompt(content) if "prompt" in content else _conversation(content)
    given = [content.get("expected"), content.get("completion"), answer]
    expectations = {name: value for name, value in zip(EXPECTATIONS, given, strict=True) if value is not None}
    if len(expectations) > 1:
        raise ValueError(f"{' and '.join(expectations)} both say what is expected")
    return Case(
        id=_id(content, line),
        line=line,
        inputs=inputs,
        accepted=_accepted(*expectations.values()) if expectations else (),
        content=content,
    )


def _is_unicode(content: Object) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _prompt(content: Object) -> tuple[Object, None]:
    if not isinstance(content["prompt"], str) or not content["prompt"]:
        raise ValueError("prompt: expected a text that is not empty")
    return {"prompt": content["prompt"]}, None


def _conversation(content: Object) -> tuple[Object, str | None]:
    """What is asked, and the assistant's last turn if the conversation ends with it."""
    messages = content["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: expected a list that is not empty")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"messages[{place}]: expected an object with the texts role and content")
    answer = messages[-1]["content"] if messages[-1]["role"] in ASSISTANT_ROLES else None
    asked = messages if answer is None else messages[:-1]
    if not asked or asked[-1]["role"] not in LAST_ROLES:
        raise ValueError("messages: expected one of the user before the answer")
    return {"messages": asked}, answer


def _accepted(expected: Any) -> tuple[str, ...]:
    several = expected if isinstance(expected, list) else [expected]
    if not several or not all(isinstance(one, str | dict) for one in several):
        raise ValueError("expected: a text, an object, or a list of such that is not empty")
    return tuple(map(as_text, several))


def _id(content: Object, line: int) -> str:
    id = content.get("id", line)
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise ValueError("id: expected a text or a whole number")
    return str(id)
