"""Inputs of text generation, the same for the same seed: valid ones, changed at random places in ways that matter.

Values are those that a JSON text can say. Lengths and numbers lie at the bounds that the schema names, and beside them.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

SCHEMA_FILE = files("gemlora.api") / "schemas" / "gemma-7b-it-lora.input.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
PROMPT, MESSAGES = (alternative["properties"] for alternative in SCHEMA["oneOf"])

LONGEST = PROMPT["prompt"]["maxLength"]
OWN_MEMBERS = ("lora", "raw", "stop", "options", "response_format", "tool_choice", "tools", "foo")
"""What clients send in either form, whether the form's schema has it or not."""

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 5, 50, 51, 256, 0.0, -0.0, 1.0, 2.0, 0.5, 1.5, 1e-8, 5.0001, 1.9999999999999998, 2.0000000000000004,
    9999999999, 10000000000, 9999999999.0, 9999999999.5, 1e10, 1e30, 1e308, -1e308, 5e-324, 2**53, 2**53 + 1,
    10**17, 10**18 - 1, 10**18, 10**40, -(10**40), 4.000000000000001, 1e15 + 0.5,
)  # fmt: skip
TEXTS = (
    "", "x", " ", "true", "false", "null", "5", "\x00", "é", "\u2028", "😀", "👩‍👩‍👧", "𐀀", "\ufeffx", "a/b", "user",
    "assistant", "system", "tool", "text", "l" * 1025, "\\", '"', "<bos>", "constructor", "[object Object]",
)  # fmt: skip
KEYS = (
    "role", "content", "type", "text", "name", "code", "0", "1", "-1", "01", "length", "constructor", "__proto__",
    "4294967294", "4294967295", "toString", "a/b", "/", "", "properties", "description", "prompt", "é", "2",
)  # fmt: skip


class Bodies:
    """An endless supply. Few are long, because a long one costs as much as a thousand others."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._changes: tuple[Callable[[Any], Any], ...] = (
            self._replaced, self._replaced, self._replaced, self._dropped, self._added, self._added, self._wrapped,
            self._reordered, self._both_forms, self._in_parts,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Any]:
        while True:
            body: Any = self.valid()
            for _ in range(self._random.choice((0, 1, 1, 1, 2, 2, 3, 5))):
                body = self._random.choice(self._changes)(body)
            yield body

    def valid(self) -> dict[str, Any]:
        """A body of one of the forms with some of its members."""
        form, needed = self._random.choice(((PROMPT, "prompt"), (MESSAGES, "messages")))
        chosen = [name for name in form if name == needed or self._random.random() < 0.25]
        self._random.shuffle(chosen)
        return {name: self._fitting(form[name]) for name in chosen}

    def value(self, depth: int = 0) -> Any:
        """Anything."""
        kind = self._random.choice(("number", "number", "text", "text", "constant", "list", "object", "long"))
        if depth > 3 and kind in ("list", "object"):
            kind = "number"
        match kind:
            case "number":
                return self._random.choice(NUMBERS)
            case "text":
                return self._random.choice(TEXTS)
            case "constant":
                return self._random.choice((None, True, False))
            case "list":
                return self._list(depth)
            case "long" if self._random.random() < 0.02:
                return self._long()
            case "long":
                return {"role": "user", "content": "x"}
            case _:
                names = self._random.sample(KEYS, self._random.randrange(5))
                return {name: self.value(depth + 1) for name in names}

    def _list(self, depth: int) -> list[Any]:
        length = self._random.randrange(5)
        match self._random.choice(("numbers", "texts", "parts", "null first", "any", "any")):
            case "numbers":
                return [self._random.choice(NUMBERS) for _ in range(length)]
            case "texts":
                return [self._random.choice((*TEXTS, 5)) for _ in range(length)]
            case "parts":
                return self._parts()
            case "null first":
                return [5, None, *(self.value(depth + 1) for _ in range(length))]
            case _:
                return [self.value(depth + 1) for _ in range(length)]

    def _parts(self) -> list[Any]:
        """Contents as OpenAI's clients send them, right or nearly so."""
        kinds, texts = ("text",) * 6 + ("image_url", 5, None), ("x", "é", "", "x", "y", 5)
        parts = [{"type": self._random.choice(kinds), "text": self._random.choice(texts)} for _ in "ab"]
        return self._random.choice((parts, parts, parts[:1], [*parts, "x"]))

    def _long(self) -> str:
        """A text about as long as the longest one, in UTF-16 units or in characters."""
        filling = self._random.choice(("x", "é", "😀", "\u2028"))
        length = LONGEST + self._random.choice((-1, 0, 1))
        if filling == "😀" and self._random.random() < 0.7:
            return filling * (length // 2) + "x" * (length % 2)
        return filling * length

    def _fitting(self, schema: dict[str, Any]) -> Any:
        """A value that the schema means."""
        if "oneOf" in schema:
            return self._fitting(self._random.choice(schema["oneOf"]))
        match schema.get("type"):
            case "string":
                return self._random.choice(TEXTS[1:])
            case "boolean":
                return self._random.random() < 0.5
            case "integer":
                return self._random.randint(schema.get("minimum", 1), schema.get("maximum", 400))
            case "number":
                return self._random.choice((schema.get("minimum", 0), schema.get("maximum", 255), 1, 0.5))
            case "array":
                return [self._fitting(schema["items"]) for _ in range(self._random.randrange(1, 4))]
            case _:
                members = {name: self._fitting(inner) for name, inner in schema.get("properties", {}).items()}
                if "additionalProperties" in schema:
                    names = self._random.sample(KEYS, self._random.randrange(4))
                    members |= {name: self._fitting(schema["additionalProperties"]) for name in names}
                return members

    def _places(self, value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield path
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                yield from self._places(value[key], (*path, key))

    def _place(self, body: Any) -> tuple[Any, ...]:
        return self._random.choice([*self._places(body)])

    def _replaced(self, body: Any) -> Any:
        path = self._place(body)
        return _with(body, path, self.value()) if path or self._random.random() < 0.1 else body

    def _wrapped(self, body: Any) -> Any:
        path = self._place(body)
        inner = _at(body, path)
        return _with(
            body,
            path,
            self._random.choice(([inner], [inner, inner], {"0": inner}, {"b": inner, "10": inner, "9": inner})),
        )

    def _dropped(self, body: Any) -> Any:
        path = self._place(body)
        if not path:
            return body
        changed = copy.deepcopy(body)
        del _at(changed, path[:-1])[path[-1]]
        return changed

    def _added(self, body: Any) -> Any:
        objects = [path for path in self._places(body) if isinstance(_at(body, path), dict)]
        if not objects:
            return body
        path = self._random.choice([(), *objects]) if isinstance(body, dict) else self._random.choice(objects)
        names = (*PROMPT, *MESSAGES, *OWN_MEMBERS) if not path else KEYS
        return _with(body, (*path, self._random.choice(names)), self.value())

    def _in_parts(self, body: Any) -> Any:
        contents = [path for path in self._places(body) if path[-1:] == ("content",)]
        return _with(body, self._random.choice(contents), self._parts()) if contents else body

    def _reordered(self, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        names = [*body]
        self._random.shuffle(names)
        return {name: body[name] for name in names}

    def _both_forms(self, body: Any) -> Any:
        return {**body, **self.valid()} if isinstance(body, dict) else body


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy that has `value` there."""
    if not path:
        return value
    changed = copy.deepcopy(body)
    _at(changed, path[:-1])[path[-1]] = value
    return changed
