"""JSON mode and tools with real weights: a share of the soak, and OpenAI's and Cloudflare's libraries."""

import json
from collections import Counter

import cloudflare
import openai
import pydantic
import pytest
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, MODEL, RunningServer
from tests.soaks.constrained import outcomes

MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells the weather", "parameters": PARAMETERS}


class Place(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=20)
    warm: bool
    degrees: int | None


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    base_url = f"{server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/v1"
    return openai.OpenAI(base_url=base_url, api_key=API_TOKEN, max_retries=0)


def test_generated_schemas_and_tools_are_met_or_refused(server: RunningServer) -> None:
    counts = Counter(outcomes(server, 60, seed=7))

    assert counts["document"] >= 10
    assert counts["calls"] >= 5
    assert counts.total() == 60


def test_openais_library_parses_answers_into_its_models(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Place, max_tokens=200, seed=1
    )

    assert isinstance(answer.choices[0].message.parsed, Place)


def test_openais_library_gets_calls_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = {
        "model": MODEL, "messages": MESSAGES, "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": "required", "max_tokens": 60, "temperature": 0, "parallel_tool_calls": False,
    }  # fmt: skip
    choice = client.chat.completions.create(**asked).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "weather")
    assert list(json.loads(call.function.arguments)) == ["city"]

    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments
    assert final.choices[0].finish_reason == "tool_calls"


def test_cloudflares_library_gets_calls_and_values(server: RunningServer) -> None:
    with cloudflare.Cloudflare(base_url=f"{server.url}/client/v4", api_token=API_TOKEN, max_retries=0) as client:
        asked = {"account_id": ACCOUNT_ID, "messages": MESSAGES, "max_tokens": 60}
        called = client.ai.run(MODEL, **asked, tools=[WEATHER], extra_body={"tool_choice": "any"})
        response_format = {"type": "json_schema", "json_schema": PARAMETERS}
        document = client.ai.run(MODEL, **asked, response_format=response_format)

    assert {call["name"] for call in called["tool_calls"]} == {"weather"}
    assert called["response"] == ""
    assert list(document["response"]) == ["city"]
