"""Messages or a prompt to token ids in Gemma's chat format. Knows nothing of HTTP and runs no template of a model file.

A turn is `<start_of_turn>ROLE\\nTEXT<end_of_turn>\\n` with the markers as ids and everything between them encoded
as plain text, so a marker spelled in a message never becomes one.
"""

from dataclasses import dataclass


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
