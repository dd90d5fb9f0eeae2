"""The functions that a request offers: how the model is told of them, and how it calls them.

A call is a line of JSON, `{"name": …, "parameters": …}`, as Gemma's function calling guide has it.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from gemlora.errors import ConstraintUnmet
from gemlora.serving.json_text import parsed
from gemlora.serving.narrowing import Schema
from gemlora.serving.prompt import ToolCall

CALL: Final = '{"name": function name, "parameters": {argument name: value}}'


@dataclass(frozen=True, slots=True)
class Tool:
    """One function. `parameters` is what the model is shown, `schema` what its arguments are held to."""

    name: str
    description: str
    parameters: Any
    schema: Schema

    @property
    def head(self) -> str:
        """What a call has before its arguments."""
        return f'{{"name": {json.dumps(self.name)}, "parameters": '

    @property
    def shown(self) -> str:
        """The function as the model is told of it."""
        description = {"description": self.description} if self.description else {}
        return json.dumps({"name": self.name, **description, "parameters": self.parameters}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Tools:
    """What may be called, or with `required` must be, and how often at most."""

    tools: tuple[Tool, ...]
    required: bool
    most: int

    def instructions(self, marker: str) -> str:
        """What the model is told. `marker` stands before each call."""
        functions = "\n".join(tool.shown for tool in self.tools)
        call = f"one line of the form {marker}{CALL}"
        calls = call if self.most == 1 else f"{call} for each call"
        how = (
            f"Answer by calling, with nothing but {calls}."
            if self.required
            else f"To call, answer with nothing but {calls}. If no function helps, answer without calling."
        )
        return f"You can call these functions:\n{functions}\n{how}"


def read_call(line: str) -> ToolCall:
    """A line as the model writes calls. Raises `ConstraintUnmet` if it is none."""
    value = parsed(line)
    if (
        not isinstance(value, dict)
        or value.keys() != {"name", "parameters"}
        or not isinstance(value["parameters"], dict)
    ):
        raise ConstraintUnmet("The answer has something else than calls")
    return ToolCall(str(value["name"]), json.dumps(value["parameters"], ensure_ascii=False))
