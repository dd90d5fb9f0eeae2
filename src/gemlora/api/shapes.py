"""What a body says of the answer's shape: `response_format`, `tools`, `tool_choice` and `parallel_tool_calls`.

All routes read them alike, in every form that clients send.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gemlora.api.validation import Json, type_mismatch
from gemlora.errors import InvalidRequest
from gemlora.serving.narrowing import Schema
from gemlora.serving.schemas import READERS, SchemaLimits, check_size, held
from gemlora.serving.shapes import Shape
from gemlora.serving.tools import Tool, Tools

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

ANYTHING: Final[Schema] = {"type": "object"}
"""What a document is held to, and arguments, of which nothing is said."""

CHOICES: Final = {"auto": False, "required": True, "any": True}
"""Words of `tool_choice` with tools: whether the answer must be calls."""


@dataclass(frozen=True, slots=True)
class ShapeLimits:
    """How large schemas may be, how many tools a request may have and how many calls an answer."""

    schemas: SchemaLimits = field(default_factory=SchemaLimits)
    tools: int = 128
    calls: int = 16


class ShapeReader:
    """Reads bodies within limits."""

    def __init__(self, limits: ShapeLimits) -> None:
        self._limits = limits

    def read(self, members: Mapping[str, Any]) -> Shape:
        """The answer's shape. Raises `InvalidRequest` with the place of what cannot be honoured."""
        return Shape(self.document(members.get("response_format")), self._tools(members))

    def document(self, wanted: Json) -> Schema | None:
        """The schema of `response_format`; None if the answer is free. Raises `InvalidRequest`."""
        if wanted is None:
            return None
        if not isinstance(wanted, dict):
            raise InvalidRequest(type_mismatch(("response_format",), "object", wanted))
        match wanted.get("type"):
            case "text":
                return None
            case "json_object":
                return ANYTHING
            case "json_schema":
                return self._schema(wanted.get("json_schema"))
        raise InvalidRequest("'/response_format/type' must be text, json_object or json_schema")

    def _schema(self, given: Json) -> Schema:
        """A bare schema, or one with a name as OpenAI's clients send it."""
        path: tuple[str, ...] = ("response_format", "json_schema")
        if isinstance(given, dict) and "schema" in given and given.keys().isdisjoint(READERS):
            path, given = (*path, "schema"), given["schema"]
        if not isinstance(given, dict):
            raise InvalidRequest(type_mismatch(path, "object", given))
        return held(given, path, self._limits.schemas)

    def _tools(self, members: Mapping[str, Any]) -> Tools | None:
        given = members.get("tools")
        parallel = members.get("parallel_tool_calls")
        if parallel is not None and not isinstance(parallel, bool):
            raise InvalidRequest(type_mismatch(("parallel_tool_calls",), "boolean", parallel))
        choice = _choice(members.get("tool_choice"))
        if given is None or given == []:
            if choice not in ("auto", "none"):
                raise InvalidRequest("'/tool_choice' demands a call, but there are no tools")
            return None
        tools = self._list(given)
        if choice == "none":
            return None
        if isinstance(choice, _Named):
            named = tuple(tool for tool in tools if tool.name == choice.name)
            if not named:
                raise InvalidRequest("'/tool_choice' names none of the tools")
            return Tools(named, required=True, most=1)
        return Tools(tools, CHOICES[choice], 1 if parallel is False else self._limits.calls)

    def _list(self, given: Json) -> tuple[Tool, ...]:
        if not isinstance(given, list):
            raise InvalidRequest(type_mismatch(("tools",), "array", given))
        if len(given) > self._limits.tools:
            raise InvalidRequest(f"'/tools' has more than {self._limits.tools} tools")
        check_size(given, ("tools",), self._limits.schemas)
        tools = tuple(self._tool(tool, ("tools", str(index))) for index, tool in enumerate(given))
        names: set[str] = set()
        for index, tool in enumerate(tools):
            if tool.name in names:
                raise InvalidRequest(f"'/tools/{index}' has the name of another tool, {tool.name}")
            names.add(tool.name)
        return tools

    def _tool(self, given: Json, path: tuple[str, ...]) -> Tool:
        """A tool in the flat form or in OpenAI's."""
        if not isinstance(given, dict):
            raise InvalidRequest(type_mismatch(path, "object", given))
        if given.get("type", "function") != "function":
            raise InvalidRequest(f"'/{'/'.join((*path, 'type'))}' must be function")
        function = given
        if "function" in given:
            path, function = (*path, "function"), given["function"]
            if not isinstance(function, dict):
                raise InvalidRequest(type_mismatch(path, "object", function))
        name, description, parameters = (function.get(key) for key in ("name", "description", "parameters"))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidRequest(f"'/{'/'.join((*path, 'name'))}' must have 1 to 64 letters, digits, '_', '-' or '.'")
        if description is not None and not isinstance(description, str):
            raise InvalidRequest(type_mismatch((*path, "description"), "string", description))
        return self._function(name, description or "", parameters, (*path, "parameters"))

    def _function(self, name: str, description: str, parameters: Json, path: tuple[str, ...]) -> Tool:
        if parameters is None or parameters == {}:
            return Tool(name, description, ANYTHING, ANYTHING)
        if not isinstance(parameters, dict):
            raise InvalidRequest(type_mismatch(path, "object", parameters))
        if parameters.get("type", "object") != "object":
            raise InvalidRequest(f"'/{'/'.join((*path, 'type'))}' must be object")
        schema = held({**parameters, "type": "object"}, path, self._limits.schemas)
        shown = {keyword: value for keyword, value in parameters.items() if keyword != "$schema"}
        return Tool(name, description, shown, schema)


@dataclass(frozen=True, slots=True)
class _Named:
    """A `tool_choice` of one function."""

    name: str


def _choice(choice: Json) -> str | _Named:
    """`tool_choice` in its forms: a word, a word as `type`, a function in OpenAI's form, or its name alone."""
    if choice is None:
        return "auto"
    word: Json = choice
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, dict) else function
        if isinstance(name, str):
            return _Named(name)
        word = choice.get("type")
    if isinstance(word, str) and (word == "none" or word in CHOICES):
        return word
    raise InvalidRequest("'/tool_choice' must be auto, none, required, any or a function")
