"""The run route: what is asked for reaches the engine, and what comes back has the wire's form."""

import json
from typing import Any

import httpx
import pytest
from tests.api.parts import ADAPTER_ID, ALICE, BOB, BOBS_TOKEN, MODEL, RUN, Parts

from gemlora.engines.fake import FakeEngine
from gemlora.errors import AdapterInvalid, EngineFailed, OutOfCapacity
from gemlora.registry.models import DefaultAdapter

PROMPT = {"prompt": "Hello"}
MESSAGES = {"messages": [{"role": "user", "content": "Hello"}]}


async def test_the_answer_is_enveloped_with_usage_and_finish_reason(client: httpx.AsyncClient) -> None:
    response = await client.post(RUN, json=PROMPT)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["result", "success", "errors", "messages"]
    assert body["success"] is True
    assert body["errors"] == body["messages"] == []
    result = body["result"]
    assert list(result) == ["response", "usage", "finish_reason"]
    assert len(result["response"]) == 24
    usage = result["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["total_tokens"] == usage["prompt_tokens"] + 24
    assert result["finish_reason"] == "stop"


async def test_max_tokens_ends_the_answer_with_length(client: httpx.AsyncClient) -> None:
    result = (await client.post(RUN, json={**PROMPT, "max_tokens": 3})).json()["result"]

    assert result["usage"]["completion_tokens"] == 3
    assert result["finish_reason"] == "length"


@pytest.mark.parametrize("model", [MODEL, MODEL.replace("/", "%2F"), "@cf%2fgoogle/gemma-7b-it-lora"])
async def test_every_spelling_of_the_model_is_one_route(client: httpx.AsyncClient, model: str) -> None:
    response = await client.post(f"/client/v4/accounts/{ALICE}/ai/run/{model}", json=PROMPT)

    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type", [None, "application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "multipart/form-data"]
)
async def test_the_body_is_json_whatever_the_content_type_says(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}

    response = await client.post(RUN, content=json.dumps(PROMPT), headers=headers)

    assert response.status_code == 200


async def test_the_request_id_is_new_in_every_answer(client: httpx.AsyncClient) -> None:
    ids = {(await client.post(RUN, json=PROMPT)).headers["cf-ai-req-id"] for _ in range(3)}

    assert len(ids) == 3


async def test_a_refusal_names_the_request_id_of_its_header(client: httpx.AsyncClient) -> None:
    response = await client.post(RUN, json={})

    message = response.json()["errors"][0]["message"]
    assert message.endswith(f"({response.headers['cf-ai-req-id']})")


class TestSampling:
    async def test_without_parameters_the_schema_s_defaults_count(
        self, client: httpx.AsyncClient, parts: Parts
    ) -> None:
        await client.post(RUN, json=PROMPT)

        request = parts.engine.requests[0]
        assert request.max_tokens == 256
        assert request.sampling.temperature == 0.6
        assert request.sampling.top_k is None
        assert request.sampling.top_p == 1
        assert request.sampling.repetition_penalty == 1
        assert request.sampling.frequency_penalty == request.sampling.presence_penalty == 0

    @pytest.mark.parametrize("form", [PROMPT, MESSAGES])
    async def test_every_parameter_reaches_the_engine(
        self, client: httpx.AsyncClient, parts: Parts, form: dict[str, Any]
    ) -> None:
        sampling = {
            "temperature": 5,
            "top_p": 0.25,
            "top_k": 50,
            "seed": 9999999999,
            "repetition_penalty": 1.5,
            "frequency_penalty": 0.5,
            "presence_penalty": 2,
        }

        assert (await client.post(RUN, json={**form, **sampling, "max_tokens": 7})).status_code == 200

        request = parts.engine.requests[0]
        assert request.max_tokens == 7
        assert {name: getattr(request.sampling, name) for name in sampling} == sampling

    async def test_integers_may_be_written_as_javascript_writes_numbers(
        self, client: httpx.AsyncClient, parts: Parts
    ) -> None:
        content = '{"prompt":"x","max_tokens":1e30,"seed":1.0,"top_k":5.0}'

        assert (await client.post(RUN, content=content)).status_code == 200

        request = parts.engine.requests[0]
        assert request.max_tokens == 8192 - len(request.prompt)
        assert (request.sampling.seed, request.sampling.top_k) == (1, 5)
        assert isinstance(request.sampling.seed, int)

    async def test_without_a_seed_answers_differ_and_with_one_they_are_equal(self, client: httpx.AsyncClient) -> None:
        async def text(body: dict[str, Any]) -> str:
            response: str = (await client.post(RUN, json=body)).json()["result"]["response"]
            return response

        assert await text(PROMPT) != await text(PROMPT)
        assert await text({**PROMPT, "seed": 5}) == await text({**PROMPT, "seed": 5})


class TestAdapter:
    async def ran_with(self, client: httpx.AsyncClient, body: dict[str, Any], query: str = "") -> str:
        response = await client.post(RUN + query, json=body)
        assert response.status_code == 200, response.text
        label: str = response.headers["gemlora-adapter"]
        return label

    PIRATE = f"pirate@{'ab' * 32}"

    @pytest.mark.parametrize("form", [PROMPT, MESSAGES])
    @pytest.mark.parametrize("name", ["pirate", ADAPTER_ID])
    async def test_it_is_named_by_name_or_id(
        self, client: httpx.AsyncClient, parts: Parts, form: dict[str, Any], name: str
    ) -> None:
        assert await self.ran_with(client, {**form, "lora": name}) == self.PIRATE

        adapter = parts.engine.requests[0].adapter
        assert adapter is not None
        assert (adapter.digest, adapter.manifest, adapter.weights) == ("ab" * 32, "/manifest", "/weights")

    async def test_no_name_is_no_adapter(self, client: httpx.AsyncClient, parts: Parts) -> None:
        assert await self.ran_with(client, PROMPT) == "none"
        assert parts.engine.requests[0].adapter is None

    async def test_the_query_names_it_when_the_body_does_not(self, client: httpx.AsyncClient) -> None:
        assert await self.ran_with(client, PROMPT, "?lora=pirate") == self.PIRATE
        assert await self.ran_with(client, {**PROMPT, "lora": ""}, "?lora=pirate") == "none"

    async def test_the_options_name_it_when_neither_body_nor_query_does(self, client: httpx.AsyncClient) -> None:
        options = {"options": {"lora": "pirate"}}

        assert await self.ran_with(client, {**PROMPT, **options}) == self.PIRATE
        assert await self.ran_with(client, {**PROMPT, **options}, "?lora=") == "none"
        assert await self.ran_with(client, {**PROMPT, "options": None}) == "none"

    async def test_a_default_applies_only_to_templated_requests_that_name_none(self) -> None:
        parts = Parts(FakeEngine(), default_adapter=DefaultAdapter("pirate"))
        headers = {"authorization": "Bearer alice-token"}
        transport = httpx.ASGITransport(parts.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
            assert await self.ran_with(client, PROMPT) == self.PIRATE
            assert await self.ran_with(client, {**PROMPT, "lora": ""}) == "none"
            assert await self.ran_with(client, {**PROMPT, "lora": "cf-public-base"}) == "none"
            assert await self.ran_with(client, PROMPT, "?lora=cf-public-base") == "none"
            assert await self.ran_with(client, {**PROMPT, "raw": True}) == "none"
            assert await self.ran_with(client, {**PROMPT, "raw": True, "lora": "pirate"}) == self.PIRATE

    async def test_the_bare_base_has_a_name_also_where_there_is_no_default(self, client: httpx.AsyncClient) -> None:
        assert await self.ran_with(client, {**PROMPT, "lora": "cf-public-base"}) == "none"

    async def test_a_name_outside_ascii_is_percent_encoded_in_the_header(self, client: httpx.AsyncClient) -> None:
        assert await self.ran_with(client, {**PROMPT, "lora": "odd"}) == f"K%C3%A4pt%E2%80%99n%0A@{'cd' * 32}"

    async def test_a_foreign_adapter_looks_like_an_unknown_one(self, client: httpx.AsyncClient) -> None:
        url = RUN.replace(ALICE, BOB)
        headers = {"authorization": f"Bearer {BOBS_TOKEN}"}

        foreign = await client.post(url, json={**PROMPT, "lora": ADAPTER_ID}, headers=headers)
        unknown = await client.post(url, json={**PROMPT, "lora": "nothing"}, headers=headers)

        assert foreign.status_code == unknown.status_code == 404
        shape = [
            response.text.replace(response.headers["cf-ai-req-id"], "ID").replace(name, "NAME")
            for response, name in ((foreign, ADAPTER_ID), (unknown, "nothing"))
        ]
        assert shape[0] == shape[1]


class TestPrompt:
    async def prompt_of(self, client: httpx.AsyncClient, parts: Parts, body: dict[str, Any]) -> str:
        response = await client.post(RUN, json=body)
        assert response.status_code == 200, response.text
        names = {257: "<eos>", 258: "<bos>", 260: "<sot>", 261: "<eot>"}
        tokens = parts.engine.requests[-1].prompt
        return b"".join(names[t].encode() if t > 255 else bytes([t]) for t in tokens).decode()

    async def test_a_prompt_is_one_user_turn_unless_raw(self, client: httpx.AsyncClient, parts: Parts) -> None:
        turn = "<bos><sot>user\nHello<eot>\n<sot>model\n"

        assert await self.prompt_of(client, parts, PROMPT) == turn
        assert await self.prompt_of(client, parts, {**PROMPT, "raw": True}) == "<bos>Hello"

    @pytest.mark.parametrize(
        ("raw", "is_raw"), [(True, True), ("true", True), ("True", False), (1, False), (None, False)]
    )
    async def test_raw_messages_are_joined_without_turns(
        self, client: httpx.AsyncClient, parts: Parts, raw: Any, is_raw: bool
    ) -> None:
        messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]

        prompt = await self.prompt_of(client, parts, {"messages": messages, "raw": raw})

        assert (prompt == "<bos>a\nb") is is_raw

    async def test_text_parts_are_joined(self, client: httpx.AsyncClient, parts: Parts) -> None:
        content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

        prompt = await self.prompt_of(client, parts, {"messages": [{"role": "user", "content": content}]})

        assert prompt == "<bos><sot>user\na\nb<eot>\n<sot>model\n"

    async def test_tool_calls_and_results_are_part_of_the_conversation(
        self, client: httpx.AsyncClient, parts: Parts
    ) -> None:
        call = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
        messages = [
            {"role": "user", "content": "How is it?"},
            {"role": "assistant", "content": "", "tool_calls": [call, None, {"function": 5}, {"name": 5}]},
            {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "1"},
        ]

        prompt = await self.prompt_of(client, parts, {"messages": messages, "tools": []})

        assert "weather" in prompt
        assert "Rome" in prompt
        assert "sunny" in prompt

    async def test_max_tokens_is_cut_to_what_the_window_leaves(self, client: httpx.AsyncClient, parts: Parts) -> None:
        await client.post(RUN, json={"prompt": "x" * 8180, "raw": True, "max_tokens": 4096})

        assert parts.engine.requests[0].max_tokens == 8192 - 8181

    async def test_a_prompt_that_fills_the_window_is_refused(self, client: httpx.AsyncClient, parts: Parts) -> None:
        response = await client.post(RUN, json={"prompt": "x" * 8191, "raw": True, "max_tokens": 618})

        assert response.status_code == 413
        error = response.json()["errors"][0]
        assert error["code"] == 5021
        assert error["message"].startswith(
            "AiError: AiError: The estimated number of input and maximum output tokens (8810) "
            "exceeded this model context window limit (8192) ("
        )
        assert parts.engine.requests == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({"prompt": "x", "max_tokens": 0}, "'/max_tokens' must be >= 1"),
            ({"messages": [{"role": "user", "content": "x"}], "max_tokens": -5}, "'/max_tokens' must be >= 1"),
            ({"messages": []}, "Length of '/messages' must be >= 1 not met"),
            ({"messages": ["x"]}, "Type mismatch of '/messages/0', 'object' not in 'string'"),
            ({"messages": [5]}, "Type mismatch of '/messages/0', 'object' not in 'number','integer'"),
            ({"messages": [None, {}]}, "Type mismatch of '/messages/0', 'object' not in 'null'"),
            (
                {"messages": {"0": {"role": "user", "content": "x"}}},
                "Type mismatch of '/messages', 'array' not in 'object'",
            ),
            ({**MESSAGES, "lora": 5}, "Type mismatch of '/lora', 'string' not in 'number','integer'"),
            ({**MESSAGES, "lora": None}, "Type mismatch of '/lora', 'string' not in 'null'"),
            ({**PROMPT, "options": {"lora": []}}, "Type mismatch of '/options/lora', 'string' not in 'array','binary'"),
            (
                {**PROMPT, "lora": "pirate", "options": {"lora": 5}},
                "Type mismatch of '/options/lora', 'string' not in 'number','integer'",
            ),
            ({**PROMPT, "image": [1, 2]}, f"'/image' is not supported, {MODEL} is a text-only model"),
            ({**MESSAGES, "image": ""}, f"'/image' is not supported, {MODEL} is a text-only model"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
                f"'/messages/0/content/0' of type 'image_url' is not supported, {MODEL} is a text-only model",
            ),
        ],
    )
    async def test_what_the_schema_lets_pass_without_a_sensible_answer_is_bad_input(
        self, client: httpx.AsyncClient, parts: Parts, body: dict[str, Any], text: str
    ) -> None:
        response = await client.post(RUN, json=body)

        assert response.status_code == 400
        identity = response.headers["cf-ai-req-id"]
        assert response.json()["errors"] == [
            {"message": f"AiError: Bad input: Error: {text} ({identity})", "code": 5006}
        ]
        assert parts.engine.requests == []

    async def test_a_null_image_is_no_image(self, client: httpx.AsyncClient) -> None:
        assert (await client.post(RUN, json={**PROMPT, "image": None})).status_code == 200

    @pytest.mark.parametrize("content", [[], ["a"], [{"type": "text"}], [{"type": "text", "text": 5}], [{}]])
    async def test_contents_that_are_no_text_parts_are_refused_by_the_schema(
        self, client: httpx.AsyncClient, content: list[Any]
    ) -> None:
        response = await client.post(RUN, json={"messages": [{"role": "user", "content": content}]})

        assert response.status_code == 400
        assert "Type mismatch of '/messages/0/content', 'string' not in 'array'" in response.text

    async def test_an_unknown_model_is_refused_before_the_body_is_read(self, client: httpx.AsyncClient) -> None:
        response = await client.post(f"/client/v4/accounts/{ALICE}/ai/run/@cf/x", content=b"{")

        assert response.status_code == 400
        identity = response.headers["cf-ai-req-id"]
        message = f"AiError: No such model: No such model @cf/x or task ({identity})"
        assert response.json() == {
            "errors": [{"message": message, "code": 5007}],
            "success": False,
            "result": {},
            "messages": [],
        }

    async def test_an_adapter_without_files_says_so(self, client: httpx.AsyncClient) -> None:
        response = await client.post(RUN, json={**PROMPT, "lora": "half"})

        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == 3039

    async def test_a_full_engine_asks_to_come_again(self, client: httpx.AsyncClient, parts: Parts) -> None:
        parts.engine.fail_next(OutOfCapacity("full"))

        response = await client.post(RUN, json={**PROMPT, "stream": True})

        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        error = response.json()["errors"][0]
        assert error["code"] == 3040
        assert error["message"].startswith("AiError: AiError: Capacity temporarily exceeded, please try again. (")

    async def test_a_broken_adapter_ends_its_own_request_only(self, client: httpx.AsyncClient, parts: Parts) -> None:
        parts.engine.break_adapter("ab" * 32)

        broken = await client.post(RUN, json={**PROMPT, "lora": "pirate"})

        assert (broken.status_code, broken.json()["errors"][0]["code"]) == (400, 5004)
        assert (await client.post(RUN, json=PROMPT)).status_code == 200

    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_engine_failure_before_the_first_token_is_an_internal_error(
        self, client: httpx.AsyncClient, parts: Parts, stream: bool
    ) -> None:
        parts.engine.fail_next(EngineFailed("secret detail"))

        response = await client.post(RUN, json={**PROMPT, "stream": stream})

        assert response.status_code == 500
        assert response.json()["errors"][0]["code"] == 3043
        assert "secret" not in response.text

    async def test_a_failure_in_the_middle_of_a_whole_answer_is_an_error_too(
        self, client: httpx.AsyncClient, parts: Parts
    ) -> None:
        parts.engine.fail_next(AdapterInvalid("lost"), after_tokens=5)

        assert (await client.post(RUN, json=PROMPT)).status_code == 400


@pytest.mark.parametrize(
    "extra",
    [
        {"stop": None},
        {"tools": [{"name": "f"}], "tool_choice": "auto"},
        {"functions": [{"name": "f", "code": "x"}]},
        {"response_format": {"type": "text"}},
        {"reasoning_effort": "low", "chat_template_kwargs": {"a": 1}},
        {"options": {"rejectIfBusy": True}},
    ],
)
async def test_what_real_clients_add_is_accepted(client: httpx.AsyncClient, extra: dict[str, Any]) -> None:
    assert (await client.post(RUN, json={**MESSAGES, **extra})).status_code == 200
