"""The soak `make soak-constrained`: generated schemas and tools through the API of a server with the starter weights.

Every answer parses and is valid by `jsonschema`, one that `max_tokens` cuts is an error or a stream without an end, and
none hangs.
"""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import requests
from tests.e2e.running_server import ACCOUNT_ID, BARE, MODEL, RunningServer, running_server

CASES = 320
CLIENTS = 8
ANSWER_SECONDS = 180
RESULT = Path(__file__).parents[2] / "benchmarks/results/constrained.json"

WORDS = ("name", "city", "price", "tags", "count", "open", "note", "size", "when", "kind")
PROMPTS = (
    "Tell me about Rome.",
    "What is the weather in Oslo and Lima?",
    "Sell me a bicycle.",
    "Hi!",
    "Plan my Monday.",
)
ROUTES = ("run", "chat")


class Cases:
    """Schemas, tools and requests by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def request(self) -> dict[str, Any]:
        """The body of a request to the run route or, but for the model, of a chat completion."""
        chance = self._random
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": chance.choice(PROMPTS)}],
            "max_tokens": chance.choice((12, 40, 80, 120)),
            "temperature": chance.choice((0, 0.6, 1.5)),
            "seed": chance.randint(1, 10**9),
            "stream": chance.random() < 0.3,
        }
        kind = chance.random()
        if kind < 0.1:
            body["response_format"] = {"type": "json_object"}
        elif kind < 0.6:
            body["response_format"] = {"type": "json_schema", "json_schema": self.schema()}
        if kind > 0.55:
            body["tools"] = [self.tool(number) for number in range(chance.randint(1, 3))]
            body["tool_choice"] = chance.choice(("auto", "required", {"name": body["tools"][0]["name"]}))
            body["parallel_tool_calls"] = chance.random() < 0.5
        return body

    def tool(self, number: int) -> dict[str, Any]:
        """A function."""
        parameters = self._random.choice(({}, None, self.object(2), self.object(1)))
        return {"name": f"do_{self._random.choice(WORDS)}_{number}", "description": "Does it", "parameters": parameters}

    def schema(self) -> dict[str, Any]:
        """A schema of a document."""
        schema = self.object(3)
        if self._random.random() < 0.2:
            schema["properties"]["next"] = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
        return schema

    def object(self, depth: int) -> dict[str, Any]:
        """A schema of an object."""
        names = self._random.sample(WORDS, self._random.randint(1, 4))
        schema: dict[str, Any] = {"type": "object", "properties": {name: self.value(depth - 1) for name in names}}
        schema["required"] = self._random.sample(names, self._random.randint(0, len(names)))
        if self._random.random() < 0.3:
            schema["additionalProperties"] = self._random.choice((False, {"type": "integer"}))
        return schema

    def value(self, depth: int) -> Any:
        """A schema of a value."""
        chance = self._random
        simple = [
            {"type": "string"}, {"type": "string", "maxLength": chance.randint(0, 9)}, {"type": "boolean"},
            {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"}, {"type": "string", "format": "date"},
            {"type": "integer", "minimum": chance.randint(-9, 9)}, {"type": "number", "maximum": 99.5},
            {"enum": ["red", 1, None, [2]]}, {"type": ["string", "null"]}, {"const": "x\"\\é"},
            {"type": "integer", "multipleOf": 5, "exclusiveMinimum": 0}, {"type": "number"}, {},
            {"type": "string", "format": chance.choice(("email", "uri", "uuid", "duration", "date-time"))},
            {"type": "string", "pattern": r"^\d+\.\d+$"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        ]  # fmt: skip
        if depth <= 0 or chance.random() < 0.5:
            return chance.choice(simple)
        inner = self.value(depth - 1)
        return chance.choice(
            [
                self.object(depth), {"type": "array", "items": inner, "maxItems": chance.randint(0, 4)},
                {"type": "array", "prefixItems": [inner], "minItems": 1, "items": False},
                {"anyOf": [inner, {"type": "null"}]}, {"oneOf": [{"type": "boolean"}, {"type": "string"}]},
                {"type": "object", "additionalProperties": inner, "minProperties": 1, "maxProperties": 3},
            ]
        )  # fmt: skip


def outcomes(server: RunningServer, cases: int, seed: int) -> Iterator[str]:
    """What became of each case, in order. Raises `AssertionError` for what must not be."""
    generated = Cases(seed)
    bodies = [generated.request() for _ in range(cases)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        yield from clients.map(
            lambda numbered: outcome(server, ROUTES[numbered[0] % 2], numbered[1]), enumerate(bodies)
        )


def outcome(server: RunningServer, route: str, body: dict[str, Any]) -> str:
    """Ask and check: `document`, `calls`, `text`, `unmet` or `closed`."""
    openai = route == "chat"
    url = f"{server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/v1/chat/completions" if openai else server.run_url
    asked = {**body, "model": MODEL} if openai else body
    response = requests.post(url, json=asked, headers=server.authorization, timeout=ANSWER_SECONDS, stream=True)
    content = _read(response)
    told = f"{json.dumps(asked)}\n{response.status_code} {content}"
    if response.status_code != 200:
        assert response.status_code == 400, told
        assert json.loads(content)["errors"][0]["code"] == 5024, told
        return "unmet"
    if body["stream"]:
        *lines, _ = content.split("\n\n")
        events = [line.removeprefix("data: ") for line in lines]
        done = bool(events) and events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        text, calls = _openai_stream(chunks) if openai else _native_stream(chunks)
    else:
        done = True
        answer = json.loads(content)
        text, calls = _openai_whole(answer) if openai else _native_whole(answer["result"], body)
    _check(text if done else None, calls, body, told)
    return "closed" if not done else "calls" if calls else "document" if "response_format" in body else "text"


def _read(response: requests.Response) -> str:
    """What came of an answer; a stream that fails is cut."""
    content = bytearray()
    try:
        for part in response.iter_content(None):
            content += part
    except requests.exceptions.ChunkedEncodingError:
        assert response.headers["content-type"] == "text/event-stream"
    return content.decode()


def _check(text: str | None, calls: list[tuple[str, Any]], body: dict[str, Any], told: str) -> None:
    """`text` None: it is not whole."""
    parameters = {tool["name"]: tool["parameters"] or {} for tool in body.get("tools", ())}
    for name, arguments in calls:
        assert isinstance(arguments, dict), told
        assert _valid(arguments, parameters[name]), told
    if calls:
        assert not text, told
        assert len(calls) == 1 or body["parallel_tool_calls"], told
    elif text is not None:
        assert body.get("tool_choice", "auto") == "auto", told
        if "response_format" in body:
            assert _valid(json.loads(text), body["response_format"].get("json_schema", {"type": "object"})), told
        else:
            assert not text.startswith("{"), told


def _valid(value: Any, schema: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def _native_whole(result: Any, body: dict[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
    calls = [(call["name"], call["arguments"]) for call in result.get("tool_calls", ())]
    document = "response_format" in body and not calls
    return json.dumps(result["response"]) if document else result["response"], calls


def _native_stream(chunks: list[Any]) -> tuple[str, list[tuple[str, Any]]]:
    calls = [(call["name"], call["arguments"]) for chunk in chunks for call in chunk.get("tool_calls", ())]
    return "".join(chunk["response"] for chunk in chunks), calls


def _openai_whole(answer: Any) -> tuple[str, list[tuple[str, Any]]]:
    message = answer["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["content"] or "", [(call["name"], json.loads(call["arguments"])) for call in calls]


def _openai_stream(chunks: list[Any]) -> tuple[str, list[tuple[str, Any]]]:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        names.setdefault(part["index"], part["function"].get("name"))
        arguments[part["index"]] = arguments.get(part["index"], "") + part["function"]["arguments"]
    calls = [(names[index], json.loads(arguments[index])) for index in sorted(names)]
    return "".join(delta["content"] for delta in deltas), calls


def main() -> None:
    """Soak and write what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cache").mkdir()
        with running_server(Path(folder) / "data", Path(folder) / "cache", *BARE) as server:
            counts = Counter(outcomes(server, CASES, seed=1))
    RESULT.write_text(json.dumps({"cases": CASES, "clients": CLIENTS, **dict(sorted(counts.items()))}, indent=1) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
