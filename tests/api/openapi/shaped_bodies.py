"""Generated inputs that say what the answer must look like, rightly or nearly so."""

from typing import Any

from tests.api.bodies import Bodies

CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMAS: tuple[Any, ...] = (
    CITY, CITY, {}, {"type": "string"}, {"enum": ["a", 1]}, {"not": {}}, {"type": "word"},
    {"schema": CITY, "name": "x"}, {"schema": CITY, "strict": True},
    {"schema": CITY, "type": "object"}, {"schema": True}, {"name": "x"}, True, None,
)  # fmt: skip
FORMATS: tuple[Any, ...] = (
    None, {"type": "text"}, {"type": "json_object"}, {"type": "json"}, {"type": None}, {}, "text",
    {"type": "json_schema"},
)  # fmt: skip
NAMES: tuple[Any, ...] = ("weather", "time", "a.b-c_1", "n" * 64, "n" * 65, "two words", "", "é", "weather\n", 5, None)
CHOICES: tuple[Any, ...] = (
    "auto", "none", "required", "any", "weather", None, {"type": "auto"}, {"type": "none"}, {"type": "any"},
    {"type": "function", "function": {"name": "weather"}}, {"type": "function", "name": "weather"}, {"name": "time"},
    {"function": "weather"}, {"type": "function"}, {"function": {}}, {"function": None, "type": "none"},
    {"function": 5, "name": "weather"}, {"function": {}, "name": "weather", "type": "required"}, {}, True,
)  # fmt: skip


class ShapedBodies(Bodies):
    """As `Bodies`, most of them with members about the answer's shape, which are changed like the others."""

    def valid(self) -> dict[str, Any]:
        """A body whose shape may be wrong by itself."""
        body = super().valid()
        body.pop("tools", None)
        made = {"response_format": self._format, "tools": self._tools, "tool_choice": self._choice,
                "parallel_tool_calls": self._parallel}  # fmt: skip
        return body | {name: make() for name, make in made.items() if self._random.random() < 0.4}

    def _parts(self) -> list[Any]:
        """Some of them what the assistant refused with."""
        parts = super()._parts()
        if self._random.random() < 0.5:
            parts[0] = {"type": "refusal", self._random.choice(("refusal", "refusal", "text")): "No."}
        return parts

    def _format(self) -> Any:
        if self._random.random() < 0.5:
            return self._random.choice(FORMATS)
        return {"type": "json_schema", "json_schema": self._random.choice(SCHEMAS)}

    def _tools(self) -> Any:
        if self._random.random() < 0.1:
            return self._random.choice(([], None, {}, "weather"))
        names = self._random.sample(NAMES[:4] if self._random.random() < 0.8 else NAMES, self._random.randrange(1, 3))
        return [self._tool(name) for name in names]

    def _tool(self, name: Any) -> Any:
        function: dict[str, Any] = {"name": name}
        if self._random.random() < 0.3:
            function["description"] = self._random.choice(("What it does", "", None, 5))
        if self._random.random() < 0.6:
            function["parameters"] = self._random.choice((CITY, CITY, CITY, {}, None, *SCHEMAS))
        kind = self._random.choice((*["function"] * 8, "tool", None))
        return self._random.choice((
            function, {**function, "type": kind}, {"type": kind, "function": function}, {"function": function},
            {**function, "function": function},
        ))  # fmt: skip

    def _choice(self) -> Any:
        return self._random.choice(CHOICES)

    def _parallel(self) -> Any:
        return self._random.choice((True, False, None, 1))
