"""How the servers' streams say what they have to say. All are server-sent events with JSON in `data`."""

from collections.abc import Callable
from typing import Any, NamedTuple

Event = dict[str, Any]


class Heard(NamedTuple):
    """What one event says: whether it brings text, and the token counts once they are known."""

    text: bool
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def gemlora(event: Event) -> Heard:
    """Workers AI's events; the last one has the usage."""
    return _with_usage(bool(event.get("response")), event)


def llama_cpp(event: Event) -> Heard:
    """The events of llama.cpp's /completion; the last one has the counts."""
    if event.get("stop"):
        return Heard(bool(event.get("content")), event["tokens_evaluated"], event["tokens_predicted"])
    return Heard(bool(event.get("content") or event.get("tokens")))


def openai(event: Event) -> Heard:
    """The events of /v1/completions with `include_usage`."""
    return _with_usage(any(choice.get("text") for choice in event.get("choices", ())), event)


def _with_usage(text: bool, event: Event) -> Heard:
    usage = event.get("usage")
    return Heard(text, usage["prompt_tokens"], usage["completion_tokens"]) if usage else Heard(text)


DIALECTS: dict[str, Callable[[Event], Heard]] = {"gemlora": gemlora, "llama.cpp": llama_cpp, "openai": openai}
