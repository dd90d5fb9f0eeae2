"""JSONL → examples to learn from. Knows nothing of tokens.

A line is one of
- `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}`: a conversation,
- `{"prompt": "…", "completion": "…"}`: one question, which `prompt` alone would ask on the wire, and its answer,
- `{"text": "…"}`: plain text, which `raw` requests continue.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlora.errors import TrainingDataInvalid
from gemlora.serving.prompt import MODEL_ROLES, SYSTEM_ROLE, Message
from gemlora.storage.json_lines import read_json_lines

USER_ROLE = "user"
ROLES = (SYSTEM_ROLE, USER_ROLE, "assistant", "model")


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation whose assistant turns are learnt, or a plain text; `line` counts from 1."""

    line: int
    messages: tuple[Message, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of one file in their order, and the SHA-256 of its bytes."""

    path: Path
    digest: str
    items: tuple[Example, ...]


def read_examples(path: Path) -> Examples:
    """Read a JSONL file; empty lines are passed over.

    Raises `TrainingDataInvalid`, which names every wrong line and what is wrong with it.
    """
    lines = read_json_lines(path, _example, TrainingDataInvalid)
    if not lines.items:
        raise TrainingDataInvalid(f"{path}: holds no examples")
    return Examples(path, lines.digest, lines.items)


def _example(number: int, record: Mapping[str, Any]) -> Example:
    """Raises `ValueError` with what is wrong."""
    for keys, read in FORMS.items():
        if keys == frozenset(record):
            return read(number, record)
    forms = ", ".join("{" + ", ".join(sorted(keys)) + "}" for keys in FORMS)
    raise ValueError(f"has the keys {{{', '.join(sorted(record))}}}; known are {forms}")


def _conversation(number: int, record: Mapping[str, Any]) -> Example:
    entries = record["messages"]
    if not isinstance(entries, list) or not entries:
        raise ValueError("messages: is not a list of at least one message")
    messages = tuple(_message(index, entry) for index, entry in enumerate(entries))
    if messages[-1].role not in MODEL_ROLES:
        raise ValueError("messages: the last one is not the assistant's, so there is nothing to learn")
    for index, message in enumerate(messages):
        if message.role in MODEL_ROLES and (index == 0 or messages[index - 1].role != USER_ROLE):
            raise ValueError(f"messages[{index}]: an assistant's message follows no user's")
    return Example(number, messages)


def _message(index: int, entry: object) -> Message:
    where = f"messages[{index}]"
    if not isinstance(entry, dict) or set(entry) != {"role", "content"}:
        raise ValueError(f"{where}: is not an object with role and content")
    if entry["role"] not in ROLES:
        raise ValueError(f"{where}: role is {json.dumps(entry['role'])}, not one of {', '.join(ROLES)}")
    return Message(entry["role"], _text(entry["content"], f"{where}.content"))


def _completion(number: int, record: Mapping[str, Any]) -> Example:
    prompt, completion = (_text(record[key], key) for key in ("prompt", "completion"))
    return Example(number, (Message(USER_ROLE, prompt), Message("assistant", completion)))


def _plain(number: int, record: Mapping[str, Any]) -> Example:
    return Example(number, text=_text(record["text"], "text"))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: is not a text, or is empty")
    return value


FORMS: Mapping[frozenset[str], Callable[[int, Mapping[str, Any]], Example]] = {
    frozenset({"messages"}): _conversation,
    frozenset({"prompt", "completion"}): _completion,
    frozenset({"text"}): _plain,
}
"""The keys of each form, and what reads it."""
