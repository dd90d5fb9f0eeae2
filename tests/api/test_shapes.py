"""JSON mode and tools on every route: how they reach the engine as a grammar, and which forms answers have."""

import json
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, MODEL, RUN, TOKEN, Parts
from tests.api.real_server import RealServer, run_request
from tests.api.scripted import ScriptedEngine

from gemlora.errors import ConstraintInvalid, ConstraintUnmet

CHAT = f"/client/v4/accounts/{ALICE}/ai/v1/chat/completions"
COMPLETIONS = f"/client/v4/accounts/{ALICE}/ai/v1/completions"
MESSAGES = [{"role": "user", "content": "Weather in Rome?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells the weather", "parameters": CITY}
TIME = {"type": "function", "function": {"name": "time", "parameters": {}}}
CALL = '{"name": "weather", "parameters": {"city": "Rome"}}'
CALLED = {"name": "weather", "arguments": {"city": "Rome"}}
SECOND = '{"name": "time", "parameters": {}}'


def asked(path: str, **body: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, **({} if path == RUN else {"model": MODEL}), **body}


class Client:
    """A client of a server whose engine says given texts."""

    def __init__(self, *texts: str) -> None:
        self.engine = ScriptedEngine(*texts)
        self.parts = Parts(self.engine)

    async def response(self, path: str = RUN, **body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.parts.api)
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return await client.post(path, json=asked(path, **body))

    async def answer(self, path: str = RUN, **body: Any) -> Any:
        response = await self.response(path, **body)
        assert response.status_code == 200, response.text
        return response.json()["result"] if path == RUN else response.json()["choices"][0]

    async def chunks(self, path: str = RUN, **body: Any) -> list[Any]:
        response = await self.response(path, stream=True, **body)
        assert response.status_code == 200, response.text
        *lines, done, _ = response.text.split("\n\n")
        assert done == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    @property
    def grammar(self) -> str:
        constraint = self.engine.requests[-1].constraint
        assert constraint is not None
        return constraint.grammar

    @property
    def prompt(self) -> str:
        return bytes(token for token in self.engine.requests[-1].prompt if token < 256).decode()


class TestDocuments:
    DOCUMENT = '{"city": "Rome", "warm": true}'

    @pytest.mark.parametrize(
        "response_format",
        [
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": CITY},
            {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        ],
    )
    async def test_the_native_answer_is_the_value_and_openais_the_text(self, response_format: Any) -> None:
        client = Client(self.DOCUMENT, self.DOCUMENT)

        native = await client.answer(response_format=response_format)
        openai = await client.answer(CHAT, response_format=response_format)

        assert native["response"] == {"city": "Rome", "warm": True}
        assert "tool_calls" not in native
        assert openai["message"]["content"] == self.DOCUMENT
        assert native["finish_reason"] == openai["finish_reason"] == "stop"
        first, second = client.engine.requests
        assert first.constraint == second.constraint
        assert client.grammar.startswith("start: %json ")
        assert ('"city"' in client.grammar) == (response_format["type"] == "json_schema")

    @pytest.mark.parametrize("path", [RUN, CHAT])
    async def test_a_stream_has_the_text(self, path: str) -> None:
        chunks = await Client(self.DOCUMENT).chunks(path, response_format={"type": "json_object"})

        pieces = [chunk["response"] if path == RUN else chunk["choices"][0]["delta"]["content"] for chunk in chunks]
        assert "".join(pieces) == self.DOCUMENT

    async def test_completions_and_raw_prompts_can_be_held_to_a_schema_too(self) -> None:
        client = Client(self.DOCUMENT, self.DOCUMENT)
        response_format = {"type": "json_schema", "json_schema": CITY}

        whole = await client.answer(COMPLETIONS, prompt="City:", response_format=response_format)
        assert whole["text"] == self.DOCUMENT
        assert "city" in client.grammar
        native = await client.answer(
            messages=[{"role": "user", "content": "City:"}], raw=True, response_format=response_format
        )
        assert native["response"]["city"] == "Rome"
        assert client.prompt == "City:"

    async def test_stop_strings_never_cut_json(self) -> None:
        answer = await Client(self.DOCUMENT).answer(response_format={"type": "json_object"}, stop=["Rome", ":"])

        assert answer["response"] == {"city": "Rome", "warm": True}

    @pytest.mark.parametrize("response_format", [None, {"type": "text"}])
    async def test_text_is_free(self, response_format: Any) -> None:
        client = Client("free")

        assert (await client.answer(response_format=response_format))["response"] == "free"
        assert client.engine.requests[0].constraint is None

    @pytest.mark.parametrize("path", [RUN, CHAT])
    @pytest.mark.parametrize("broken", ['{"city": "Ro', '{"city": 1e999}', "[" * 300 + "]" * 300, "{}{}", "[NaN]"])
    async def test_what_is_no_json_is_never_an_answer(self, path: str, broken: str) -> None:
        response = await Client(broken).response(path, response_format={"type": "json_object"})

        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == 5024
        assert "JSON Mode couldn't be met" in response.text

    @pytest.mark.parametrize("path", [RUN, CHAT])
    async def test_what_the_engine_cannot_meet_is_an_error(self, path: str) -> None:
        for error, code in ((ConstraintUnmet("too short"), 5024), (ConstraintInvalid("no such grammar"), 5006)):
            for stream in (False, True):
                client = Client(self.DOCUMENT)
                client.engine.fail_next(error)
                response = await client.response(path, response_format={"type": "json_object"}, stream=stream)
                assert response.status_code == 400
                assert response.json()["errors"][0]["code"] == code

    @pytest.mark.parametrize("path", [RUN, CHAT])
    async def test_a_stream_that_cannot_be_met_closes_without_done(self, path: str) -> None:
        engine = ScriptedEngine(self.DOCUMENT)
        engine.fail_next(ConstraintUnmet("no room"), after_tokens=9)
        body = json.dumps(asked(path, response_format={"type": "json_object"}, stream=True)).encode()
        async with RealServer.running(Parts(engine)) as server:
            answer = await server.exchange(run_request(body, "Connection: close", target=path))

        assert answer.startswith(b"HTTP/1.1 200")
        assert b"[DONE]" not in answer
        assert b'finish_reason":"' not in answer

    @pytest.mark.parametrize("path", [RUN, CHAT])
    @pytest.mark.parametrize(
        ("response_format", "text"),
        [
            ("json", "Type mismatch of '/response_format', 'object' not in 'string'"),
            ({"type": "xml"}, "'/response_format/type' must be text, json_object or json_schema"),
            ({"type": "json_schema"}, "Type mismatch of '/response_format/json_schema', 'object' not in 'null'"),
            (
                {"type": "json_schema", "json_schema": {"name": "x"}},
                "'/response_format/json_schema/name' is no keyword",
            ),
            (
                {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"a": {"not": {}}}}}},
                "'/response_format/json_schema/schema/properties/a/not' is not supported",
            ),
            ({"type": "json_schema", "json_schema": {"type": "strin"}}, "'/response_format/json_schema/type' must be"),
        ],
    )
    async def test_what_is_no_format_is_refused_with_its_place(
        self, path: str, response_format: Any, text: str
    ) -> None:
        response = await Client().response(path, response_format=response_format)

        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == 5006
        assert text in response.json()["errors"][0]["message"]


class TestTools:
    async def test_the_native_answer_has_flat_calls_with_arguments_as_values(self) -> None:
        client = Client(f"{CALL}\n{SECOND}")

        answer = await client.answer(tools=[WEATHER, TIME])

        assert list(answer) == ["response", "tool_calls", "usage", "finish_reason"]
        assert answer["response"] == ""
        assert answer["tool_calls"] == [CALLED, {"name": "time", "arguments": {}}]
        assert answer["finish_reason"] == "tool_calls"
        assert answer["usage"]["completion_tokens"] == len(CALL) + 1 + len(SECOND)

    async def test_openais_answer_has_its_form(self) -> None:
        answer = await Client(f"{CALL}\n{SECOND}").answer(CHAT, tools=[WEATHER, TIME])

        calls = answer["message"].pop("tool_calls")
        assert answer["message"] == {"role": "assistant", "content": None, "refusal": None}
        assert answer["finish_reason"] == "tool_calls"
        assert [call["type"] for call in calls] == ["function", "function"]
        assert len({call["id"] for call in calls}) == 2
        assert [call["function"] for call in calls] == [
            {"name": "weather", "arguments": '{"city": "Rome"}'}, {"name": "time", "arguments": "{}"},
        ]  # fmt: skip

    async def test_beside_text_there_are_no_calls(self) -> None:
        client = Client("It is sunny.", "It is sunny.")

        native = await client.answer(tools=[WEATHER])
        openai = await client.answer(CHAT, tools=[WEATHER])

        assert list(native) == ["response", "usage", "finish_reason"]
        assert native["response"] == openai["message"]["content"] == "It is sunny."
        assert "tool_calls" not in openai["message"]
        assert native["finish_reason"] == openai["finish_reason"] == "stop"

    async def test_a_native_stream_has_a_chunk_for_each_call(self) -> None:
        chunks = await Client(f"{CALL}\n{SECOND}").chunks(tools=[WEATHER, TIME])

        assert chunks[:3] == [
            {"response": "", "tool_calls": [CALLED]},
            {"response": "", "tool_calls": [{"name": "time", "arguments": {}}]},
            {"response": ""},
        ]
        assert chunks[3]["finish_reason"] == "tool_calls"
        assert chunks[3]["usage"]["completion_tokens"] == len(CALL) + 1 + len(SECOND)

    async def test_openais_stream_has_deltas_by_index_and_a_text_in_each(self) -> None:
        chunks = await Client(f"{CALL}\n{SECOND}").chunks(CHAT, tools=[WEATHER, TIME])

        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert {delta["content"] for delta in deltas} == {""}
        parts = [part for delta in deltas for part in delta.get("tool_calls", ())]
        assert [part["index"] for part in parts] == [0, 0, 1, 1]
        assert [part["function"].get("name") for part in parts] == ["weather", None, "time", None]
        assert parts[0]["id"] != parts[2]["id"]
        assert "".join(part["function"]["arguments"] for part in parts[:2]) == '{"city": "Rome"}'
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    @pytest.mark.parametrize("path", [RUN, CHAT])
    async def test_free_text_is_streamed_as_it_comes(self, path: str) -> None:
        chunks = await Client("Hi there").chunks(path, tools=[WEATHER])

        texts = [chunk["response"] if path == RUN else chunk["choices"][0]["delta"]["content"] for chunk in chunks]
        assert [text for text in texts if text] == list("Hi there")

    @pytest.mark.parametrize("path", [RUN, CHAT])
    async def test_a_cut_call_is_never_told(self, path: str) -> None:
        response = await Client(CALL).response(path, tools=[WEATHER], max_tokens=len(CALL) - 1)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5024)

        engine = ScriptedEngine(f"{CALL}\n{SECOND}")
        body = json.dumps(asked(path, tools=[WEATHER, TIME], stream=True, max_tokens=len(CALL) + 5)).encode()
        async with RealServer.running(Parts(engine)) as server:
            answer = await server.exchange(run_request(body, "Connection: close", target=path))
        assert b"weather" in answer
        assert b'"time"' not in answer
        assert b"[DONE]" not in answer

    async def test_calls_that_are_whole_are_calls_whatever_ended_them(self) -> None:
        answer = await Client(CALL).answer(tools=[WEATHER], max_tokens=len(CALL))

        assert (answer["tool_calls"], answer["finish_reason"]) == ([CALLED], "tool_calls")

    async def test_stop_strings_end_text_and_never_calls(self) -> None:
        client = Client(CALL, "In Rome it is sunny.")

        assert (await client.answer(tools=[WEATHER], stop="Rome"))["tool_calls"] == [CALLED]
        text = await client.answer(tools=[WEATHER], stop="Rome")
        assert (text["response"], text["usage"]["completion_tokens"]) == ("In ", len("In Rome"))

    async def test_each_choice_calls_for_itself(self) -> None:
        chunks = await Client(CALL, "No.").chunks(CHAT, tools=[WEATHER], n=2)

        reasons = {
            chunk["choices"][0]["index"]: chunk["choices"][0]["finish_reason"]
            for chunk in chunks
            if chunk["choices"][0]["finish_reason"]
        }
        assert reasons == {0: "tool_calls", 1: "stop"}

    async def test_the_model_is_told_of_the_functions_behind_the_system_text(self) -> None:
        client = Client("Hi")
        messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]

        await client.answer(messages=messages, tools=[{**WEATHER, "parameters": {**CITY, "$schema": "x"}}])

        before, _, after = client.prompt.partition("Be brief.")
        assert "weather" not in before
        assert json.dumps(WEATHER) in after
        assert after.index("Tells the weather") < after.index("Weather in Rome?")

    async def test_none_offers_nothing(self) -> None:
        client = Client("Hi")

        await client.answer(tools=[WEATHER], tool_choice="none")

        assert client.engine.requests[0].constraint is None
        assert "Tells the weather" not in client.prompt

    @pytest.mark.parametrize(
        "choice",
        [
            {"type": "function", "function": {"name": "weather"}},
            {"name": "weather"},
            {"type": "tool", "name": "weather"},
        ],
    )
    async def test_a_named_function_is_the_only_one(self, choice: Any) -> None:
        client = Client(CALL)

        assert (await client.answer(tools=[WEATHER, TIME], tool_choice=choice))["tool_calls"] == [CALLED]
        assert "time" not in client.grammar
        assert "WORDS" not in client.grammar
        assert "{0," not in client.grammar

    @pytest.mark.parametrize("choice", ["required", "any", {"type": "required"}, {"type": "any"}])
    async def test_required_leaves_no_room_for_words(self, choice: Any) -> None:
        client = Client(CALL)

        await client.answer(tools=[WEATHER, TIME], tool_choice=choice)

        assert client.grammar.startswith("start: calls\n")
        assert "WORDS" not in client.grammar
        assert "{0,15}" in client.grammar

    async def test_calls_side_by_side_can_be_declined(self) -> None:
        client = Client(CALL)

        await client.answer(tools=[WEATHER], parallel_tool_calls=False)

        assert "{0," not in client.grammar

    async def test_beside_a_document_calls_are_marked(self) -> None:
        response_format = {"type": "json_schema", "json_schema": CITY}
        client = Client(f"call: {CALL}\ncall: {SECOND}", '{"city": "Rome"}', CALL)

        called = await client.answer(tools=[WEATHER, TIME], response_format=response_format)
        assert called["tool_calls"] == [CALLED, {"name": "time", "arguments": {}}]
        document = await client.answer(tools=[WEATHER], response_format=response_format)
        assert document["response"] == {"city": "Rome"}
        assert "tool_calls" not in document
        forced = await client.answer(tools=[WEATHER], response_format=response_format, tool_choice="required")
        assert forced["tool_calls"] == [CALLED]

    async def test_functions_with_code_do_nothing(self) -> None:
        client = Client("Hi", "Hi")

        await client.answer(functions=[{"name": "add", "code": "(a, b) => a + b"}])
        await client.answer()

        first, second = client.engine.requests
        assert (first.prompt, first.constraint) == (second.prompt, second.constraint)

    @pytest.mark.parametrize("path", [RUN, CHAT])
    async def test_a_conversation_goes_on_with_calls_and_results(self, path: str) -> None:
        client = Client("Sunny.")
        call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        messages = [
            *MESSAGES,
            {"role": "assistant", "content": "" if path == RUN else None, "tool_calls": [call]},
            {"role": "tool", "content": "31 degrees", "tool_call_id": "1"},
        ]

        await client.answer(path, messages=messages, tools=[WEATHER])

        assert client.prompt.index(CALL) < client.prompt.index("Result of weather:\n31 degrees")

    @pytest.mark.parametrize("path", [RUN, CHAT])
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({"tools": [{}]}, "'/tools/0/name' must have 1 to 64"),
            ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "'/tools/0/function/name' must have"),
            ({"tools": [WEATHER, {"name": "x" * 65}]}, "'/tools/1/name' must have"),
            ({"tools": [WEATHER, WEATHER]}, "'/tools/1' has the name of another tool, weather"),
            ({"tools": ["weather"]}, "Type mismatch of '/tools/0', 'object' not in 'string'"),
            ({"tools": [{"type": "retrieval"}]}, "'/tools/0/type' must be function"),
            ({"tools": [{"type": "function", "function": 5}]}, "Type mismatch of '/tools/0/function', 'object'"),
            ({"tools": [{"name": "f", "description": 5}]}, "Type mismatch of '/tools/0/description', 'string'"),
            ({"tools": [{"name": "f", "parameters": [1]}]}, "Type mismatch of '/tools/0/parameters', 'object'"),
            ({"tools": [{"name": "f", "parameters": {"type": "array"}}]}, "'/tools/0/parameters/type' must be object"),
            (
                {"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "float"}}}}]},
                "'/tools/0/parameters/properties/a/type' must be one of",
            ),
            ({"tools": [WEATHER], "tool_choice": "time"}, "'/tool_choice' must be auto, none, required, any or"),
            ({"tools": [WEATHER], "tool_choice": {"name": "time"}}, "'/tool_choice' names none of the tools"),
            ({"tools": [], "tool_choice": "any"}, "'/tool_choice' demands a call, but there are no tools"),
            ({"tools": [WEATHER], "parallel_tool_calls": 1}, "Type mismatch of '/parallel_tool_calls', 'boolean'"),
            ({"parallel_tool_calls": "no"}, "Type mismatch of '/parallel_tool_calls', 'boolean'"),
            ({"tools": [{"name": f"f{i}"} for i in range(129)]}, "'/tools' has more than 128 tools"),
            ({"tools": [{"name": "f", "description": "x" * 70_000}]}, "'/tools' has 70,"),
        ],
    )
    async def test_what_cannot_be_honoured_is_refused_with_its_place(
        self, path: str, body: dict[str, Any], text: str
    ) -> None:
        response = await Client().response(path, **body)

        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == 5006
        assert text in response.json()["errors"][0]["message"]

    @pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}])
    async def test_parameters_that_say_nothing_allow_any_object(self, parameters: Any) -> None:
        client = Client('{"name": "f", "parameters": {"a": [1]}}')

        answer = await client.answer(tools=[{"name": "f", "parameters": parameters}])

        assert answer["tool_calls"] == [{"name": "f", "arguments": {"a": [1]}}]


async def test_choices_share_the_work_before_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("a", "b", "c")
    resolved = []
    resolve = client.parts.adapters.resolve

    async def counted(*arguments: Any) -> Any:
        resolved.append(arguments)
        return await resolve(*arguments)

    monkeypatch.setattr(client.parts.adapters, "resolve", counted)
    await client.answer(CHAT, n=3, lora="pirate")

    assert len(resolved) == 1
    prompts = [request.prompt for request in client.engine.requests]
    assert len(prompts) == 3
    assert prompts[0] is prompts[1] is prompts[2]


async def test_minus_one_token_is_no_bound_and_refusals_are_text() -> None:
    client = Client("Hi")
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]}

    await client.answer(CHAT, messages=[*MESSAGES, refusal, *MESSAGES], max_tokens=-1)

    assert client.engine.requests[0].max_tokens == 256
    assert "I will not." in client.prompt
