"""A request to an alias, and what is known of the answers that a version and its shadow gave to it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gemlora.aliases.records import Chosen, Version
from gemlora.aliases.shadows import Facts, Pair, Place
from gemlora.engines.contract import GenerateRequest
from gemlora.errors import ConstraintUnmet
from gemlora.registry.models import Model
from gemlora.serving.generation import Answer
from gemlora.serving.json_text import parsed
from gemlora.serving.prompt import Prompt
from gemlora.serving.shapes import Shape


@dataclass(frozen=True, slots=True)
class Question:
    """A request to an alias: as the engine got it, and what else its shadows need."""

    generate: GenerateRequest
    chosen: Chosen
    model: Model
    prompt: Prompt
    shape: Shape
    stop: tuple[str, ...]

    def place(self, version: Version) -> Place:
        """Where the version stands."""
        alias = self.chosen.alias
        return Place(alias.account_id, alias.id, alias.name, alias.current.number, version.name)


@dataclass(frozen=True, slots=True)
class Observed:
    """An answer and the seconds that it took."""

    answer: Answer
    seconds: float


def paired(
    question: Question,
    version: Version,
    served: Observed,
    found: Observed | Exception,
    made_at: datetime,
    *,
    with_texts: bool,
) -> Pair:
    """What is kept of the caller's answer and of the version's, or of the error that it met instead."""
    most = question.generate.max_tokens
    shadow = found if isinstance(found, Observed) else None
    return Pair(
        shadow=question.place(version),
        request_id=question.generate.id,
        made_at=made_at,
        served=question.chosen.version.name,
        served_facts=_facts(served, most),
        shadow_facts=None if shadow is None else _facts(shadow, most),
        error=None if shadow is not None else type(found).__name__,
        equal=shadow is not None and _said(shadow.answer) == _said(served.answer),
        texts=_texts(question.prompt, served, shadow) if with_texts else None,
    )


def _said(answer: Answer) -> tuple[str, list[tuple[str, str]]]:
    """All that the answer says; the ids of calls are made up."""
    return answer.text, [(call.name, call.arguments) for call in answer.calls]


def _facts(observed: Observed, max_tokens: int) -> Facts:
    answer = observed.answer
    return Facts(
        finish_reason=answer.ending.reason,
        completion_tokens=answer.ending.usage.completion_tokens,
        max_tokens=max_tokens,
        characters=len(answer.text),
        calls=len(answer.calls),
        json=_is_json(answer.text),
        seconds=round(observed.seconds, 4),
    )


def _is_json(text: str) -> bool:
    try:
        parsed(text)
    except ConstraintUnmet:
        return False
    return True


def _texts(prompt: Prompt, served: Observed, shadow: Observed | None) -> dict[str, Any]:
    return {
        "messages": [{"role": message.role, "content": message.text} for message in prompt.messages],
        "served": _text(served.answer),
        "shadow": None if shadow is None else _text(shadow.answer),
    }


def _text(answer: Answer) -> dict[str, Any]:
    return {
        "response": answer.text,
        "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in answer.calls],
    }
