"""The documentation's curl lines for finetunes, from creation to deletion, and every place that can name one."""

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import requests
from tests.e2e.running_server import ACCOUNT_ID, API_TOKEN, MODEL, RunningServer

if TYPE_CHECKING:
    from tests.e2e.tiny_model import PeftAdapter, TinyModel

CREATE = """
curl $BASE/client/v4/accounts/$ACCOUNT_ID/ai/finetunes/ \\
  -X POST \\
  -H "Authorization: Bearer $API_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{ "model": "MODEL", "name": "by-curl", "description": "By curl" }'
""".replace("MODEL", MODEL)
UPLOAD = """
curl -X POST $BASE/client/v4/accounts/$ACCOUNT_ID/ai/finetunes/$FINETUNE_ID/finetune-assets/ \\
  -H "Authorization: Bearer $API_TOKEN" \\
  -H 'Content-Type: multipart/form-data' \\
  -F 'file_name=FILE_NAME' \\
  -F "file=@$FOLDER/FILE_NAME"
"""
LIST = """
curl $BASE/client/v4/accounts/$ACCOUNT_ID/ai/finetunes/ \\
  -X GET \\
  -H "Authorization: Bearer $API_TOKEN"
"""
RUN = """
curl $BASE/client/v4/accounts/$ACCOUNT_ID/ai/run/MODEL \\
  -H "Authorization: Bearer $API_TOKEN" \\
  -d '{ "messages": [{"role": "user", "content": "the fox"}], "raw": true, "lora": "by-curl", "temperature": 0 }'
""".replace("MODEL", MODEL)
DELETE = """
curl $BASE/client/v4/accounts/$ACCOUNT_ID/ai/finetunes/by-curl \\
  -X DELETE \\
  -H "Authorization: Bearer $API_TOKEN"
"""


def curl(server: RunningServer, line: str, **variables: str) -> dict[str, Any]:
    """What the documentation's line prints."""
    environment = {"BASE": server.url, "ACCOUNT_ID": ACCOUNT_ID, "API_TOKEN": API_TOKEN} | variables
    finished = subprocess.run(
        ["bash", "-c", line], env=os.environ | environment, capture_output=True, text=True, timeout=180, check=True
    )
    return json.loads(finished.stdout)


def uploaded(server: RunningServer, name: str, adapter: "PeftAdapter") -> list[dict[str, Any]]:
    """What creating a finetune and uploading its files print."""
    created = curl(server, CREATE.replace("by-curl", name))
    place = {"FINETUNE_ID": created["result"]["id"], "FOLDER": str(adapter.folder)}
    files = ("adapter_model.safetensors", "adapter_config.json")
    return [created, *(curl(server, UPLOAD.replace("FILE_NAME", file_name), **place) for file_name in files)]


def test_the_documented_curl_lines_make_list_use_and_delete_a_finetune(
    tiny_server: RunningServer, tiny_adapter: "PeftAdapter"
) -> None:
    created, *uploads = uploaded(tiny_server, "by-curl", tiny_adapter)
    listed = curl(tiny_server, LIST)
    answer = curl(tiny_server, RUN)
    deleted = curl(tiny_server, DELETE)
    refused = curl(tiny_server, RUN)

    assert all(body["success"] is True for body in (created, *uploads, listed, answer, deleted))
    assert created["result"]["id"] in [finetune["id"] for finetune in listed["result"]]
    assert answer["result"]["response"]
    assert refused["errors"][0]["code"] == 3037


@pytest.fixture(scope="module")
def placed(tiny_server: RunningServer, tiny_adapter: "PeftAdapter") -> str:
    """The name of an adapter on the tiny server."""
    assert all(body["success"] for body in uploaded(tiny_server, "placed", tiny_adapter))
    return "placed"


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"prompt": "the fox", "lora": "placed"}, {}),
        ({"messages": [{"role": "user", "content": "the fox"}], "lora": "placed"}, {}),
        ({"prompt": "the fox"}, {"lora": "placed"}),
        ({"messages": [{"role": "user", "content": "the fox"}]}, {"lora": "placed"}),
        ({"prompt": "the fox", "options": {"lora": "placed"}}, {}),
    ],
    ids=["prompt", "messages", "prompt and query", "messages and query", "options"],
)
def test_wherever_a_request_names_the_adapter_the_answer_is_peft_s(
    tiny_server: RunningServer,
    tiny_model: "TinyModel",
    tiny_adapter: "PeftAdapter",
    placed: str,
    body: dict[str, Any],
    query: dict[str, str],
) -> None:
    response = tiny_server.run(body | {"raw": True, "temperature": 0, "max_tokens": 24}, params=query)

    assert response.status_code == 200, response.text
    assert response.json()["result"]["response"] == tiny_model.greedy(tiny_adapter.model, "the fox", 24)
    assert response.headers["gemlora-adapter"].startswith(f"{placed}@")


def test_the_binding_s_options_name_the_adapter_too(
    tiny_server: RunningServer, tiny_model: "TinyModel", tiny_adapter: "PeftAdapter", placed: str
) -> None:
    inputs = {"prompt": "the fox", "raw": True, "temperature": 0, "max_tokens": 24}
    response = requests.post(
        f"{tiny_server.url}/run?version=3",
        json={"inputs": inputs, "options": {"lora": placed}},
        headers=tiny_server.authorization | {"cf-consn-model-id": MODEL},
        timeout=180,
    )

    assert response.json()["response"] == tiny_model.greedy(tiny_adapter.model, "the fox", 24)


def test_different_prompts_are_continued_as_transformers_and_peft_do(
    tiny_server: RunningServer, tiny_model: "TinyModel", tiny_adapter: "PeftAdapter", placed: str
) -> None:
    for prompt in ("a", "the lazy dog", "jumps over", "question to the answer", "brown fox " * 12):
        request = {"prompt": prompt, "raw": True, "temperature": 0, "max_tokens": 24}
        assert tiny_server.text(request) == tiny_model.greedy(tiny_model.oracle, prompt, 24)
        assert tiny_server.text(request | {"lora": placed}) == tiny_model.greedy(tiny_adapter.model, prompt, 24)
