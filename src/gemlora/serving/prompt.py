"""Messages or a prompt to token ids in Gemma's chat format. Knows nothing of HTTP and runs no template of a model file.

The format is `<bos>`, then for each turn `<start_of_turn>ROLE\\nTEXT<end_of_turn>\\n`, then the model's turn opened.
The markers are ids, and what stands between them is encoded as text: a marker that a message spells stays text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gemlora.errors import InvalidRequest
from gemlora.serving.tokenizer import Tokenizer

MODEL_ROLES: Final = frozenset({"assistant", "model"})
RESULT_ROLES: Final = frozenset({"tool", "function"})
SYSTEM_ROLE: Final = "system"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that the assistant made; `arguments` is JSON text."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `content` is a text or the text parts of one. `name` and `tool_call_id` say which call a tool's result answers.
    """

    role: str
    content: str | tuple[str, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one text, parts joined with newlines."""
        return self.content if isinstance(self.content, str) else "\n".join(self.content)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a request asks to continue: a conversation, or with `raw` a text that gets no turns.

    The wire's `prompt` is one user message here, raw or not.
    """

    messages: tuple[Message, ...]
    raw: bool = False

    @classmethod
    def of_text(cls, text: str, *, raw: bool = False) -> "Prompt":
        """The wire's `prompt`: one user turn, or with `raw` the text itself."""
        return cls((Message("user", text),), raw)


def render(prompt: Prompt, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that the engine continues: exactly one `<bos>`, then the conversation or the raw text.

    Raises `InvalidRequest` if there are no messages.
    """
    if not prompt.messages:
        raise InvalidRequest("messages: at least one message is needed")
    bos = tokenizer.special.bos
    ids = _raw_ids(prompt, tokenizer) if prompt.raw else _chat_ids(_turns(prompt.messages), tokenizer)
    return (bos, *ids)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn as it is being collected: `texts` are the paragraphs said in it."""

    role: str
    texts: list[str]


def _raw_ids(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The contents as they are, without the `<bos>` that they may start with themselves."""
    ids = tokenizer.encode("\n".join(message.text for message in prompt.messages), control_tokens=True)
    first = next((i for i, token in enumerate(ids) if token != tokenizer.special.bos), len(ids))
    return ids[first:]


def _chat_ids(turns: Sequence[_Turn], tokenizer: Tokenizer) -> list[int]:
    start, end = tokenizer.special.start_of_turn, tokenizer.special.end_of_turn
    line_end = tokenizer.encode("\n", control_tokens=False)
    ids: list[int] = []
    for turn in turns:
        text = f"{turn.role}\n{_paragraphs(turn.texts)}"
        ids += [start, *tokenizer.encode(text, control_tokens=False), end, *line_end]
    return [*ids, start, *tokenizer.encode("model\n", control_tokens=False)]


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    """The conversation as turns of user and model in alternation, the user first.

    System messages, wherever they stand, go in front of the first turn. Neighbours of the same role become one turn.
    A conversation that the model begins gets a user turn before it, which holds the system text or nothing.
    """
    called = {call.id: call.name for message in messages for call in message.tool_calls if call.id}
    system: list[str] = []
    turns: list[_Turn] = []
    for message in messages:
        text = _text(message, called)
        if message.role == SYSTEM_ROLE:
            system.append(text)
            continue
        role = "model" if message.role in MODEL_ROLES else "user"
        if not turns or turns[-1].role != role:
            turns.append(_Turn(role, []))
        turns[-1].texts.append(text)
    if not turns or turns[0].role != "user":
        turns.insert(0, _Turn("user", []))
    turns[0].texts[:0] = system
    return turns


def _text(message: Message, called: Mapping[str, str]) -> str:
    """What a message says in its turn; `called` names the function of each call id."""
    text = message.text.strip()
    if message.role in RESULT_ROLES:
        name = message.name or called.get(message.tool_call_id or "")
        return f"Result of {name}:\n{text}" if name else f"Result:\n{text}"
    return _paragraphs([text, "\n".join(map(_call, message.tool_calls))])


def _call(call: ToolCall) -> str:
    """A call as Gemma's function calling guide has the model write it."""
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "parameters": {call.arguments.strip() or "{}"}}}'


def _paragraphs(texts: Sequence[str]) -> str:
    return "\n\n".join(text for text in texts if text)
