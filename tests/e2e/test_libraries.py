"""Cloudflare's Python and TypeScript libraries: the whole way of a finetune, and what their errors say."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cloudflare
import pytest
from tests.e2e.documents import REPOSITORY
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, MODEL, RunningServer

if TYPE_CHECKING:
    from tests.e2e.tiny_model import PeftAdapter, TinyModel

PROMPT = "what is the"
PROGRAMS = {
    "python": [sys.executable, str(Path(__file__).parent / "clients/finetunes.py")],
    "typescript": ["node", str(REPOSITORY / "tests/node/finetunes.mjs")],
}


@pytest.mark.parametrize("library", PROGRAMS)
def test_a_finetune_is_created_listed_and_answers_as_peft_does(
    library: str, tiny_server: RunningServer, tiny_model: "TinyModel", tiny_adapter: "PeftAdapter"
) -> None:
    name = f"by-{library}"
    arguments = [f"{tiny_server.url}/client/v4", ACCOUNT_ID, API_TOKEN, MODEL, name, tiny_adapter.folder, PROMPT]

    finished = subprocess.run(
        [*PROGRAMS[library], *arguments], capture_output=True, text=True, timeout=120, check=False
    )

    assert finished.returncode == 0, finished.stderr
    seen = json.loads(finished.stdout)
    assert seen["uploads"] == [True, True]
    (listed,) = [finetune for finetune in seen["listed"] if finetune["name"] == name]
    for finetune in (seen["created"], listed):
        assert {
            "id": listed["id"],
            "name": name,
            "model": MODEL,
            "description": "By the library",
        }.items() <= finetune.items()
        assert finetune["created_at"].endswith("Z")
    assert seen["shelf"] == []
    assert seen["models"] == [MODEL]
    assert seen["base"] == tiny_model.greedy(tiny_model.oracle, PROMPT, 24)
    assert seen["by_name"] == seen["by_id"] == tiny_model.greedy(tiny_adapter.model, PROMPT, 24)
    assert seen["base"] != seen["by_name"]


@pytest.fixture(scope="module")
def client(tiny_server: RunningServer) -> Iterator[cloudflare.Cloudflare]:
    base_url = f"{tiny_server.url}/client/v4"
    with cloudflare.Cloudflare(base_url=base_url, api_token=API_TOKEN, max_retries=0) as client:
        yield client


def create(client: cloudflare.Cloudflare, name: str, model: str = MODEL) -> str:
    return client.ai.finetunes.create(account_id=ACCOUNT_ID, model=model, name=name).id


def upload(client: cloudflare.Cloudflare, finetune_id: str, file_name: str, content: bytes) -> None:
    result = client.ai.finetunes.assets.create(
        finetune_id, account_id=ACCOUNT_ID, file_name=file_name, file=(file_name, content)
    )
    assert result.success


def reason(error: pytest.ExceptionInfo[cloudflare.APIStatusError]) -> str:
    (only,) = error.value.errors
    assert only.code
    return str(only.message)


def test_a_name_that_is_taken_is_an_error_with_the_reason(client: cloudflare.Cloudflare) -> None:
    create(client, "taken")

    with pytest.raises(cloudflare.BadRequestError) as error:
        create(client, "taken")

    assert "'taken' exists already" in reason(error)


def test_an_unknown_model_is_an_error_with_the_reason(client: cloudflare.Cloudflare) -> None:
    with pytest.raises(cloudflare.BadRequestError) as error:
        create(client, "no-model", model="@cf/google/none")

    assert "No such model @cf/google/none" in reason(error)


def test_an_unknown_finetune_is_an_error_with_the_reason(client: cloudflare.Cloudflare) -> None:
    with pytest.raises(cloudflare.NotFoundError) as error:
        upload(client, "nobody-s", "adapter_config.json", b"{}")

    assert "Finetune nobody-s not found" in reason(error)


def test_a_file_of_another_name_is_an_error_with_the_names_that_are_allowed(client: cloudflare.Cloudflare) -> None:
    finetune_id = create(client, "other-file")

    with pytest.raises(cloudflare.BadRequestError) as error:
        upload(client, finetune_id, "pytorch_model.bin", b"\x80\x02")

    assert "adapter_config.json" in reason(error)
    assert "adapter_model.safetensors" in reason(error)


def test_a_finetune_becomes_ready_with_its_second_file_and_never_changes_again(
    client: cloudflare.Cloudflare, tiny_server: RunningServer, tiny_adapter: "PeftAdapter"
) -> None:
    config, weights = (
        (tiny_adapter.folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")
    )
    request = {"prompt": PROMPT, "raw": True, "temperature": 0, "max_tokens": 24, "lora": "late"}
    finetune_id = create(client, "late")

    upload(client, "late", "adapter_model.safetensors", weights)
    early = tiny_server.run(request)
    upload(client, finetune_id, "adapter_config.json", config)
    answer = tiny_server.text(request)
    upload(client, finetune_id, "adapter_config.json", config)
    with pytest.raises(cloudflare.BadRequestError) as error:
        upload(client, finetune_id, "adapter_config.json", config + b"\n")

    assert (early.status_code, early.json()["errors"][0]["code"]) == (400, 3039)
    assert "adapter_config.json" in reason(error)
    assert tiny_server.text(request) == answer
