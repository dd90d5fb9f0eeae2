"""OpenAI's routes: the same answers as the native ones, in OpenAI's forms."""

import asyncio
import gc
import json
from typing import Any

import httpx
import pytest
from tests.api.parts import ALICE, MODEL, READ_ONLY_TOKEN, RUN, Parts
from tests.api.real_server import RealServer, eventually, run_request

from gemlora.api.openai import merged
from gemlora.engines.fake import FakeEngine
from gemlora.errors import EngineFailed, OutOfCapacity

V1 = f"/client/v4/accounts/{ALICE}/ai/v1"
CHAT, COMPLETIONS = f"{V1}/chat/completions", f"{V1}/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]
ASKED = {"model": MODEL, "messages": MESSAGES, "seed": 7}


async def post(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def native(client: httpx.AsyncClient, **body: Any) -> Any:
    return (await client.post(RUN, json={"seed": 7, **body})).json()["result"]


async def streamed(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT) -> list[Any]:
    response = await client.post(path, json={**body, "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    *lines, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def refused(client: httpx.AsyncClient, body: Any, path: str = CHAT) -> str:
    response = await client.post(path, json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return str(error["message"])


async def test_a_chat_completion_is_the_native_answer_in_openais_form(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=ASKED)

    answer, expected = response.json(), await native(client, messages=MESSAGES)
    assert list(answer) == ["id", "object", "created", "model", "choices", "usage"]
    assert answer["id"] == f"chatcmpl-{response.headers['cf-ai-req-id']}"
    assert (answer["object"], answer["model"]) == ("chat.completion", MODEL)
    assert answer["usage"] == expected["usage"]
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": expected["response"], "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert response.headers["gemlora-adapter"] == "none"


async def test_every_chunk_has_a_choice_and_a_text(client: httpx.AsyncClient) -> None:
    chunks = await streamed(client, ASKED)

    whole = await post(client, ASKED)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(choices) == len(chunks)
    assert [choice["delta"].get("role") for choice in choices[:2]] == ["assistant", None]
    assert "".join(choice["delta"]["content"] for choice in choices) == whole["choices"][0]["message"]["content"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert not any("usage" in chunk for chunk in chunks)


async def test_usage_comes_last_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    *_, last = await streamed(client, {**ASKED, "n": 2, "stream_options": {"include_usage": True}})

    assert last["choices"] == []
    assert last["usage"] == (await post(client, {**ASKED, "n": 2}))["usage"]


async def test_null_is_as_good_as_absent(client: httpx.AsyncClient, parts: Parts) -> None:
    nulls = dict.fromkeys(
        ["max_tokens", "temperature", "top_p", "top_k", "n", "stop", "stream", "stream_options", "tools", "logprobs",
         "frequency_penalty", "presence_penalty", "lora", "response_format", "user", "logit_bias"]
    )  # fmt: skip

    assert (await post(client, {**ASKED, **nulls}))["choices"] == (await post(client, ASKED))["choices"]
    first, second = parts.engine.requests
    assert (first.max_tokens, first.sampling) == (second.max_tokens, second.sampling)
    assert first.max_tokens == 256


async def test_parameters_reach_the_engine(client: httpx.AsyncClient, parts: Parts) -> None:
    await post(
        client,
        {**ASKED, "max_completion_tokens": 9, "max_tokens": 5, "temperature": 1e-8, "top_p": 0.5, "top_k": 3,
         "seed": -1, "frequency_penalty": -2, "presence_penalty": 1.5, "repetition_penalty": 1.2},
    )  # fmt: skip

    (request,) = parts.engine.requests
    sampling = request.sampling
    assert request.max_tokens == 9
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (1e-8, 0.5, 3, 2**64 - 1)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) == (-2, 1.5, 1.2)


@pytest.mark.parametrize(
    "named", [{"lora": "pirate"}, {"model": f"{MODEL}:pirate"}, {"model": f"{MODEL}:half", "lora": "pirate"}]
)
async def test_an_adapter_is_named_by_lora_or_behind_the_model(
    client: httpx.AsyncClient, named: dict[str, str]
) -> None:
    response = await client.post(CHAT, json={**ASKED, **named})

    assert response.headers["gemlora-adapter"] == f"pirate@{'ab' * 32}"
    assert (
        response.json()["choices"][0]["message"]["content"]
        == (await native(client, messages=MESSAGES, lora="pirate"))["response"]
    )
    assert response.json()["model"] == MODEL


async def test_several_choices_are_different_and_the_first_is_the_only_one_s(
    client: httpx.AsyncClient, parts: Parts
) -> None:
    alone, several = await post(client, ASKED), await post(client, {**ASKED, "n": 8})

    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert texts[0] == alone["choices"][0]["message"]["content"]
    assert len(set(texts)) == 8
    assert [choice["index"] for choice in several["choices"]] == list(range(8))
    usage, single = several["usage"], alone["usage"]
    assert usage["prompt_tokens"] == single["prompt_tokens"]
    assert usage["completion_tokens"] == 8 * single["completion_tokens"]
    seeds = {request.sampling.seed for request in parts.engine.requests[1:]}
    assert len(seeds) == 8

    chunks = await streamed(client, {**ASKED, "n": 8})
    joined = [""] * 8
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        joined[choice["index"]] += choice["delta"]["content"]
    assert joined == texts


async def test_a_completion_continues_the_text_itself(client: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "Once upon", "seed": 7}
    expected = await native(client, prompt="Once upon", raw=True)

    answer = await post(client, body, COMPLETIONS)
    echoed = await post(client, {**body, "echo": True}, COMPLETIONS)

    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": expected["response"], "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == expected["usage"]
    assert echoed["choices"][0]["text"] == "Once upon" + expected["response"]
    for asked, whole in ((body, answer), ({**body, "echo": True}, echoed)):
        chunks = await streamed(client, asked, COMPLETIONS)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]


async def test_several_prompts_have_their_answers_in_order(client: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": ["a", "b"], "seed": 7, "n": 2}

    answer = await post(client, body, COMPLETIONS)

    texts = [choice["text"] for choice in answer["choices"]]
    for index, prompt in enumerate("ab"):
        alone = await post(client, {**body, "prompt": prompt}, COMPLETIONS)
        assert texts[2 * index : 2 * index + 2] == [choice["text"] for choice in alone["choices"]]
    assert answer["usage"]["prompt_tokens"] == 2 * 2  # <bos> and a letter each


@pytest.mark.parametrize("stop", ["e", ["xyz", "e"]])
async def test_an_answer_ends_before_a_stop_string(client: httpx.AsyncClient, parts: Parts, stop: Any) -> None:
    expected = (await native(client, messages=MESSAGES))["response"].partition("e")[0]

    answer = await post(client, {**ASKED, "stop": stop})
    assert answer["choices"][0]["message"]["content"] == expected
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(expected) + 1
    assert (await native(client, messages=MESSAGES, stop=stop))["response"] == expected
    assert "".join(c["choices"][0]["delta"]["content"] for c in await streamed(client, {**ASKED, "stop": stop})) == (
        expected
    )
    assert parts.engine.live == 0


async def test_a_stop_string_that_never_comes_holds_nothing_back_at_the_end(client: httpx.AsyncClient) -> None:
    whole = await post(client, ASKED)
    last = whole["choices"][0]["message"]["content"][-1]

    assert (await post(client, {**ASKED, "stop": [last + "?"]}))["choices"] == whole["choices"]


async def test_models_are_listed_and_shown(client: httpx.AsyncClient) -> None:
    listed = (await client.get(f"{V1}/models")).json()

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL]
    for spelling in (MODEL, MODEL.replace("/", "%2F"), f"{MODEL}:pirate"):
        assert (await client.get(f"{V1}/models/{spelling}")).json() == listed["data"][0]
    assert (await client.get(f"{V1}/models/none")).json()["error"]["code"] == "model_not_found"


async def test_contents_may_be_null_or_parts_and_developers_are_the_system(
    client: httpx.AsyncClient, parts: Parts
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    parted = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]

    await post(client, {**ASKED, "messages": parted})
    await native(client, messages=plain)

    first, second = parts.engine.requests
    assert first.prompt == second.prompt


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": None}, "Type mismatch of '/model', 'string' not in 'null'"),
        ({"messages": "hi"}, "Type mismatch of '/messages', 'array' not in 'string'"),
        ({"messages": []}, "Length of '/messages' must be >= 1 not met"),
        ({"messages": ["hi"]}, "Type mismatch of '/messages/0', 'object' not in 'string'"),
        ({"messages": [{"content": "x"}]}, "Type mismatch of '/messages/0/role', 'string' not in 'null'"),
        ({"messages": [{"role": "user", "content": 5}]}, "Type mismatch of '/messages/0/content'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text-only model"),
        ({"n": 0}, "'/n' must be >= 1"),
        ({"n": 9}, "'/n' must be <= 8"),
        ({"n": True}, "Type mismatch of '/n', 'number' not in 'boolean'"),
        ({"n": 1.5}, "Type mismatch of '/n', 'integer' not in 'number'"),
        ({"max_tokens": 0}, "'/max_tokens' must be >= 1"),
        ({"temperature": 6}, "'/temperature' must be <= 5"),
        ({"temperature": "hot"}, "Type mismatch of '/temperature', 'number' not in 'string'"),
        ({"frequency_penalty": -3}, "'/frequency_penalty' must be >= -2"),
        ({"stream": "yes"}, "Type mismatch of '/stream', 'boolean' not in 'string'"),
        ({"stream_options": 1}, "Type mismatch of '/stream_options', 'object'"),
        ({"lora": 5}, "Type mismatch of '/lora', 'string'"),
        ({"stop": 5}, "Type mismatch of '/stop', 'array'"),
        ({"stop": [5]}, "Type mismatch of '/stop/0', 'string'"),
        ({"stop": ""}, "'/stop/0' must have from 1 to 1024 characters"),
        ({"stop": ["x"] * 17}, "Length of '/stop' must be <= 16 not met"),
        ({"model": "x" * 2000}, "Length of '/model' must be <= 1024 not met"),
        ({"logprobs": True}, "'/logprobs' is not supported"),
        ({"tool_choice": "required"}, "'/tool_choice' demands a call, but there are no tools"),
        ({"modalities": ["text", "audio"]}, "'/modalities' other than text"),
        ({"functions": [{"name": "f"}]}, "'/functions' is not supported"),
        ({"max_tokens": -2}, "'/max_tokens' must be >= 1"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(client: httpx.AsyncClient, change: Any, text: str) -> None:
    assert text in await refused(client, {**ASKED, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompt": None}, "'/prompt' must be a text or a list of texts"),
        ({"prompt": []}, "'/prompt' must be a text or a list of texts"),
        ({"prompt": [1, 2]}, "Type mismatch of '/prompt/0', 'string'"),
        ({"prompt": ["x"] * 9}, "at most 8 answers"),
        ({"prompt": ["x"] * 3, "n": 3}, "at most 8 answers"),
        ({"best_of": 4}, "'/best_of' is not supported"),
        ({"logprobs": 0}, "'/logprobs' is not supported"),
        ({"suffix": "end"}, "'/suffix' is not supported"),
        ({"tools": [{"name": "f"}]}, "'/tools' are only supported in chat completions"),
    ],
)
async def test_completions_refuse_by_name_too(client: httpx.AsyncClient, change: Any, text: str) -> None:
    assert text in await refused(client, {"model": MODEL, "prompt": "x", **change}, COMPLETIONS)


async def test_errors_have_both_bodies(client: httpx.AsyncClient, parts: Parts) -> None:
    unknown = await client.post(CHAT, json={**ASKED, "model": "gpt-4o"})
    assert unknown.json()["errors"][0]["code"] == 5007
    assert unknown.json()["error"] == {
        "message": "No such model gpt-4o or task", "type": "invalid_request_error", "param": None,
        "code": "model_not_found",
    }  # fmt: skip
    wrong = (await client.post(CHAT, json={**ASKED, "n": 0})).json()
    assert wrong["error"]["message"] == "'/n' must be >= 1"
    assert "Error: '/n' must be >= 1" in wrong["errors"][0]["message"]
    long = await client.post(CHAT, json={**ASKED, "messages": [{"role": "user", "content": "x" * 9000}]})
    assert (long.status_code, long.json()["error"]["code"]) == (413, "context_length_exceeded")
    missing = await client.post(CHAT, json={**ASKED, "lora": "none such"})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    parts.engine.fail_next(OutOfCapacity("full"))
    full = await client.post(CHAT, json=ASKED)
    assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
    for headers, status, kind in (
        ({"authorization": "Bearer wrong"}, 401, "authentication_error"),
        ({"authorization": f"Bearer {READ_ONLY_TOKEN}"}, 403, "permission_error"),
    ):
        response = await client.post(CHAT, json=ASKED, headers=headers)
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    nowhere = await client.post(f"{V1}/embeddings", json={})
    assert nowhere.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_one_failing_choice_fails_the_request_and_ends_the_others(stream: bool) -> None:
    parts = Parts(FakeEngine(length=1000, token_seconds=0.001))
    parts.engine.fail_next(EngineFailed("broken"))
    async with RealServer.running(parts) as server:
        body = json.dumps({**ASKED, "n": 3, "stream": stream, "max_tokens": 1000}).encode()
        answer = await server.exchange(run_request(body, "Connection: close", target=CHAT))
        await eventually(lambda: parts.engine.live == 0)

    assert b"[DONE]" not in answer
    assert answer.startswith(b"HTTP/1.1 500")


async def test_several_that_fail_together_are_all_heard() -> None:
    unheard = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    gate = asyncio.Event()

    async def failing() -> Any:
        await gate.wait()
        raise EngineFailed("broken")
        yield

    streams = merged([failing() for _ in range(4)])
    asyncio.get_running_loop().call_soon(gate.set)
    with pytest.raises(EngineFailed):
        await anext(streams)
    gc.collect()
    await asyncio.sleep(0)
    assert not unheard


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_all_choices(choices: int, stream: bool) -> None:
    parts = Parts(FakeEngine(length=100_000, token_seconds=0.001))
    body = json.dumps({**ASKED, "n": choices, "stream": stream, "max_tokens": 100_000}).encode()
    async with RealServer.running(parts) as server:
        async with server.connection() as (_, writer):
            writer.write(run_request(body, target=CHAT))
            await eventually(lambda: parts.engine.live == choices)
        await eventually(lambda: parts.engine.live == 0)


async def test_a_failure_in_the_middle_closes_the_stream_without_done() -> None:
    parts = Parts(FakeEngine(length=1000, token_seconds=0.001))
    parts.engine.fail_next(EngineFailed("broken"), after_tokens=5)
    body = json.dumps({**ASKED, "n": 3, "stream": True, "max_tokens": 1000}).encode()
    async with RealServer.running(parts) as server:
        answer = await server.exchange(run_request(body, "Connection: close", target=CHAT))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" not in answer
    assert parts.engine.live == 0


async def test_an_empty_answer_opens_and_ends(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.engine._length = 0
    chunks = await streamed(client, ASKED)
    assert [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]] == ["", ""]


@pytest.mark.parametrize("count", [1, 2])
async def test_closing_merged_streams_closes_each(count: int) -> None:
    closed = []

    async def stream(number: int) -> Any:
        try:
            while True:
                await asyncio.sleep(0)
                yield number
        finally:
            closed.append(number)

    streams = merged([stream(number) for number in range(count)])
    assert {(await anext(streams))[0] for _ in range(2 * count)} == set(range(count))
    await streams.aclose()
    assert sorted(closed) == [*range(count)]


@pytest.mark.parametrize("path", [RUN, CHAT])
async def test_a_request_may_refuse_to_wait(path: str) -> None:
    parts = Parts(FakeEngine(capacity=1, length=10_000, token_seconds=0.001))
    body = {"model": MODEL, "messages": MESSAGES}
    async with RealServer.running(parts) as server:

        async def status(options: Any) -> bytes:
            asked = json.dumps({**body, "options": options, "max_tokens": 1}).encode()
            return (await server.exchange(run_request(asked, "Connection: close", target=path)))[:12]

        assert await status({"rejectIfBusy": True}) == b"HTTP/1.1 200"
        async with server.connection() as (_, writer):
            writer.write(run_request(json.dumps({**body, "max_tokens": 10_000}).encode(), target=path))
            await eventually(lambda: parts.engine.live == 1)
            assert await status({"rejectIfBusy": True}) == b"HTTP/1.1 429"
            assert len(parts.engine.requests) == 2
