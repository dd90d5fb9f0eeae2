"""Messages or a prompt to token ids in Gemma's chat format. Knows nothing of HTTP and runs no template of a model file.

The format is `<bos>`, then for each turn `<start_of_turn>ROLE\\nTEXT<end_of_turn>\\n`, then the model's turn opened.
The markers are ids, and what stands between them is encoded as text: a marker that a message spells stays text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gemlora.errors import InvalidRequest, PromptTooLong
from gemlora.serving.tokenizer import Tokenizer

MODEL_ROLES: Final = frozenset({"assistant", "model"})
RESULT_ROLES: Final = frozenset({"tool", "function"})
SYSTEM_ROLE: Final = "system"
TURN_MARKERS: Final = 2
LEADING_BOS: Final = re.compile(r"\A(?:<bos>)+")


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

    @property
    def has_only_text(self) -> bool:
        """Whether it says nothing but its content."""
        return not self.tool_calls and self.role not in RESULT_ROLES


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


@dataclass(frozen=True, slots=True)
class Room:
    """The window that a prompt shares with its answer, and how many tokens the answer may have."""

    context_window: int
    max_tokens: int

    def require(self, tokens: int) -> None:
        """Raise `PromptTooLong` if a prompt of at least so many tokens leaves none for the answer."""
        if tokens >= self.context_window:
            raise PromptTooLong(tokens + self.max_tokens, self.context_window)


def render(prompt: Prompt, tokenizer: Tokenizer, room: Room) -> tuple[int, ...]:
    """The ids that the engine continues: exactly one `<bos>`, then the conversation or the raw text.

    Raises `InvalidRequest` if there are no messages, and `PromptTooLong` as soon as it is certain: what cannot fit is
    never encoded whole.
    """
    if not prompt.messages:
        raise InvalidRequest("messages: at least one message is needed")
    ids = [tokenizer.special.bos]
    if prompt.raw:
        ids += _raw_ids(prompt, tokenizer, room)
    else:
        ids += _chat_ids(_turns(prompt.messages, tokenizer, room), tokenizer, room)
    room.require(len(ids))
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn as it is being collected: `texts` are the paragraphs said in it."""

    role: str
    texts: list[str]


def _raw_ids(prompt: Prompt, tokenizer: Tokenizer, room: Room) -> list[int]:
    """The contents as they are, without the `<bos>` that they may start with themselves."""
    text = LEADING_BOS.sub("", "\n".join(message.text for message in prompt.messages))
    room.require(1 + tokenizer.least(len(text)))
    return tokenizer.encode(text, control_tokens=True)


def _chat_ids(turns: Sequence[_Turn], tokenizer: Tokenizer, room: Room) -> list[int]:
    start, end = tokenizer.special.start_of_turn, tokenizer.special.end_of_turn
    line_end = tokenizer.encode("\n", control_tokens=False)
    answer = [start, *tokenizer.encode("model\n", control_tokens=False)]
    texts = [f"{turn.role}\n{_paragraphs(turn.texts)}" for turn in turns]
    least = [TURN_MARKERS + len(line_end) + tokenizer.least(len(text)) for text in texts]
    missing = sum(least)
    ids: list[int] = []
    for text, tokens in zip(texts, least, strict=True):
        room.require(1 + len(ids) + missing + len(answer))
        ids += [start, *tokenizer.encode(text, control_tokens=False), end, *line_end]
        missing -= tokens
    return ids + answer


def _turns(messages: Sequence[Message], tokenizer: Tokenizer, room: Room) -> list[_Turn]:
    """The conversation as turns of user and model in alternation, the user first.

    System messages, wherever they stand, go in front of the first turn. Neighbours of the same role become one turn.
    A conversation that the model begins gets a user turn before it, which holds the system text or nothing.
    Texts that surely do not fit are not collected: results repeat their function's name, however long it is.
    """
    called = {call.id: call.name for message in messages for call in message.tool_calls if call.id}
    system: list[str] = []
    turns: list[_Turn] = []
    characters = 0
    for message in messages:
        text = _text(message, called)
        characters += len(text)
        room.require(tokenizer.least(characters) + TURN_MARKERS * len(turns))
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
