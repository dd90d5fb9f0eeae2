"""The native form of a whole answer, the same for one that is waited for and one of a batch."""

from typing import Any

from gemlora.serving.service import Ending, Usage


def whole(text: str, ending: Ending) -> dict[str, Any]:
    """The result of a run that is not streamed."""
    return {"response": text, "usage": usage_counts(ending.usage), "finish_reason": ending.finish_reason.value}


def usage_counts(usage: Usage) -> dict[str, Any]:
    """Usage as the wire has it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
