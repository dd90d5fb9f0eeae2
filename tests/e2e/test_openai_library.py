"""OpenAI's Python library against a real server: greedy answers are those of transformers and PEFT."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cloudflare
import openai
import pytest
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, MODEL, RunningServer

if TYPE_CHECKING:
    from tests.e2e.tiny_model import PeftAdapter, TinyModel

PROMPT = "what is the"
TOKENS = 24


@pytest.fixture(scope="module")
def client(tiny_server: RunningServer) -> Iterator[openai.OpenAI]:
    base_url = f"{tiny_server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/v1"
    with openai.OpenAI(base_url=base_url, api_key=API_TOKEN, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def adapter(tiny_server: RunningServer, tiny_adapter: "PeftAdapter") -> str:
    """Its name, once it is served."""
    with cloudflare.Cloudflare(base_url=f"{tiny_server.url}/client/v4", api_token=API_TOKEN) as uploader:
        finetunes = uploader.ai.finetunes
        created = finetunes.create(account_id=ACCOUNT_ID, model=MODEL, name="by-openai")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            content = (tiny_adapter.folder / name).read_bytes()
            finetunes.assets.create(created.id, account_id=ACCOUNT_ID, file_name=name, file=(name, content))
    return "by-openai"


def complete(client: openai.OpenAI, model: str = MODEL, **body: object) -> str:
    answer = client.completions.create(
        model=model, prompt=PROMPT, temperature=0, max_tokens=TOKENS, extra_body=body or None
    )
    return answer.choices[0].text


def test_completions_are_those_of_transformers_and_of_peft(
    client: openai.OpenAI, adapter: str, tiny_model: "TinyModel", tiny_adapter: "PeftAdapter"
) -> None:
    expected = tiny_model.greedy(tiny_adapter.model, PROMPT, TOKENS)

    assert complete(client) == tiny_model.greedy(tiny_model.oracle, PROMPT, TOKENS)
    assert complete(client, lora=adapter) == complete(client, f"{MODEL}:{adapter}") == expected


def test_a_chat_streams_what_it_would_answer_whole(client: openai.OpenAI) -> None:
    asked = {
        "model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": TOKENS,
        "n": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts, usage = ["", ""], None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content

    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] == texts[1] != ""
    assert usage == whole.usage
    assert whole.usage.completion_tokens == 2 * TOKENS


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "google"


def test_errors_say_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="No such model gpt-4o") as error:
        complete(client, "gpt-4o")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="Finetune none not found"):
        complete(client, lora="none")
    with pytest.raises(openai.AuthenticationError, match="Authentication error"):
        complete(client.with_options(api_key="wrong"))
