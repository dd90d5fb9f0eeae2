"""Whatever is thrown at a real server: a documented refusal, and the next request is answered."""

import random
import socket

import pytest
import requests
from tests.e2e.running_server import MODEL, RunningServer

VALID = {"prompt": "x", "max_tokens": 1}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 3003),
        (b"{", 5006),
        (b"null", 5006),
        (b"[]", 5006),
        (b'"prompt"', 5006),
        (b"{}", 5006),
        (b'{"prompt":"x","max_tokens":1}garbage', 5006),
        (b'{"prompt":"x","temperature":NaN}', 5006),
        (b'{"prompt":"x","temperature":1e400}', 5006),
        (b'{"prompt":"x","max_tokens":-1}', 5006),
        (b'{"prompt":"\xff\xfe"}', 5006),
        (b'{"prompt":"\\ud800"}', 5006),
        (b'{"messages":[]}', 5006),
        (b'{"messages":["x"]}', 5006),
        (b'{"prompt":"x","image":[1,2,3]}', 5006),
        (b"[" * 100_000, 5006),
        (b'{"prompt":' + b"[" * 100_000, 5006),
    ],
)
def test_a_body_that_is_no_request_is_refused_with_its_code(server: RunningServer, body: bytes, code: int) -> None:
    response = requests.post(server.run_url, data=body, headers=server.authorization, timeout=60)

    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == code
    assert response.json()["success"] is False


def test_random_bytes_never_cause_a_server_error(server: RunningServer) -> None:
    generator = random.Random(5)
    for length in range(1, 200, 4):
        body = generator.randbytes(length)
        response = requests.post(server.run_url, data=body, headers=server.authorization, timeout=60)
        assert response.status_code == 400, body


def test_control_characters_in_a_prompt_are_text(server: RunningServer) -> None:
    assert server.run({"prompt": "\0 \u202e <end_of_turn> <bos>", "max_tokens": 1}).status_code == 200


def test_a_body_over_the_limit_is_refused(server: RunningServer) -> None:
    body = b'{"prompt":"' + b"x" * (17 << 20) + b'"}'

    response = requests.post(server.run_url, data=body, headers=server.authorization, timeout=60)

    assert response.status_code == 413
    assert response.json()["errors"][0]["code"] == 3006


def test_a_prompt_over_the_context_window_is_refused(server: RunningServer) -> None:
    response = server.run({"prompt": "word " * 20_000, "max_tokens": 1})

    assert response.status_code == 413
    assert response.json()["errors"][0]["code"] == 5021


@pytest.mark.parametrize("token", [None, "Bearer", "Bearer wrong", "Basic dGVzdDp0ZXN0", "Bearer " + "x" * 5000])
def test_without_a_valid_token_nothing_is_answered(server: RunningServer, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": token}

    response = requests.post(server.run_url, json=VALID, headers=headers, timeout=60)

    assert response.status_code == 401
    assert response.json()["errors"][0]["code"] == 10000


def test_another_account_is_forbidden(server: RunningServer) -> None:
    url = f"{server.url}/client/v4/accounts/{'f' * 32}/ai/run/{MODEL}"

    response = requests.post(url, json=VALID, headers=server.authorization, timeout=60)

    assert response.status_code == 403
    assert response.json()["errors"][0]["code"] == 10000


@pytest.mark.parametrize("model", ["@cf/google/none", "none", "..%2f..%2fetc%2fpasswd", "%00", "@cf%2Fgoogle"])
def test_an_unknown_model_is_refused(server: RunningServer, model: str) -> None:
    url = server.run_url.removesuffix(MODEL) + model

    response = requests.post(url, json=VALID, headers=server.authorization, timeout=60)

    assert response.status_code in {400, 404}
    assert response.json()["success"] is False


@pytest.mark.parametrize("model", ["@cf/google/gemma-7b-it-lora", "@cf%2Fgoogle%2Fgemma-7b-it-lora"])
def test_both_spellings_of_the_model_are_answered(server: RunningServer, model: str) -> None:
    url = server.run_url.removesuffix(MODEL) + model

    assert requests.post(url, json=VALID, headers=server.authorization, timeout=60).status_code == 200


def test_bytes_that_are_no_http_close_the_connection_only(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x00\xff nonsense\r\n\r\n")
        assert b"200" not in connection.recv(4096)

    assert server.run(VALID).status_code == 200
