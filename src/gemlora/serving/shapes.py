"""What an answer must look like, as a grammar for the engine and as a reader of the text that comes of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gemlora.engines.contract import Constraint
from gemlora.serving.answers import AnswerReader, Calls, Either, Text
from gemlora.serving.narrowing import Schema
from gemlora.serving.prompt import Message, Prompt
from gemlora.serving.stopping import StopStrings
from gemlora.serving.tools import Tools

LAYOUT: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
"""How JSON is laid out: as models write it, with no white space that could go on for ever, and each string in one way
only, so that a name cannot come twice under two spellings."""

CALL_MARKER: Final = "call: "
"""Tells calls from a document of JSON. Where the alternative is words, the brace that a call begins with does."""

WORDS: Final = r"WORDS: /[^\s](?s:.*)/ & ~/(\{|```(json|tool))(?s:.*)/"
"""Text that cannot be taken for a call: none that begins with white space, a brace or a fence around calls."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Free text, or one or both of a JSON document (`schema`) and calls of functions."""

    schema: Schema | None = None
    tools: Tools | None = None

    @property
    def constraint(self) -> Constraint | None:
        """The grammar, in llguidance's Lark dialect; None for free text."""
        if self.tools is not None:
            return Constraint("\n".join(self._rules(self.tools)))
        return None if self.schema is None else Constraint(f"start: {_document(self.schema)}")

    @property
    def is_document(self) -> bool:
        """Whether the answer's text, if it has any, is JSON."""
        return self.schema is not None

    def prompt(self, prompt: Prompt) -> Prompt:
        """The prompt with what the model is told of its functions; one that is raw says what it wants itself."""
        if self.tools is None or prompt.raw:
            return prompt
        return Prompt((*prompt.messages, Message("system", self.tools.instructions(self._marker))))

    def reader(self, stops: Sequence[str]) -> AnswerReader:
        """A reader for one answer. `stops` are looked for in free text only: they would cut JSON."""
        text = Text(StopStrings(() if self.is_document else stops))
        if self.tools is None:
            return text
        calls = Calls(self._marker)
        return calls if self.tools.required else Either(calls, text)

    @property
    def _marker(self) -> str:
        return CALL_MARKER if self.is_document and self.tools is not None and not self.tools.required else ""

    def _rules(self, tools: Tools) -> list[str]:
        otherwise = "WORDS |" if self.schema is None else _document(self.schema)
        start = ["start: calls"] if tools.required else ["start: calls | otherwise", f"otherwise: {otherwise}"]
        words = [WORDS] if not tools.required and self.schema is None else []
        names = [f"call_{number}" for number in range(len(tools.tools))]
        more = f' ("\\n" call){{0,{tools.most - 1}}}' if tools.most > 1 else ""
        calls = [
            f'{name}: {json.dumps(self._marker + tool.head)} {_document(tool.schema)} "}}"'
            for name, tool in zip(names, tools.tools, strict=True)
        ]
        return [*start, *words, f"calls: call{more}", f"call: {' | '.join(names)}", *calls]


FREE: Final = Shape()


def _document(schema: Schema) -> str:
    held: dict[str, Any] = {} if isinstance(schema, bool) else schema
    return f"%json {json.dumps({**held, 'x-guidance': LAYOUT})}"
