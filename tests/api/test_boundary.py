"""The outermost layer: Host headers, defects, logs and counts."""

import json

import httpx
import pytest
from tests.api.parts import ADAPTER_ID, ALICE, RUN, TOKEN, Parts
from tests.api.real_server import RealServer, run_request

BODY = json.dumps({"prompt": "Hello", "max_tokens": 2}).encode()


@pytest.mark.parametrize(
    "host", ["gemlora", "workers-binding.ai", "127.0.0.1:8790", "[::1]:8790", "api.cloudflare.com", "a_b.example:1"]
)
async def test_well_formed_hosts_pass(server: RealServer, host: str) -> None:
    assert (await server.exchange(run_request(BODY, host=host))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("host", ["x/", "x?", "/", "a b", "x@y", "x:", "x:port", "x:999999", "[::1", "x\\", "ü", "x,y"])
async def test_malformed_hosts_are_refused_even_with_a_token(server: RealServer, host: str) -> None:
    answer = await server.exchange(run_request(BODY, host=host))

    assert answer.startswith(b"HTTP/1.1 400")
    assert server.parts.engine.requests == []


async def test_two_hosts_or_none_are_refused(server: RealServer) -> None:
    two = await server.exchange(run_request(BODY, "Host: other"))
    none = await server.exchange(run_request(BODY).replace(b"Host: gemlora\r\n", b""))

    assert two.startswith(b"HTTP/1.1 400")
    assert none.startswith(b"HTTP/1.1 400")


async def test_bytes_that_are_no_http_only_close_the_connection(server: RealServer) -> None:
    assert (await server.exchange(b"\x16\x03\x01 nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert (await server.exchange(run_request(BODY))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_defect_is_an_internal_error_with_a_request_id(
    client: httpx.AsyncClient, parts: Parts, stream: bool
) -> None:
    parts.adapters.failure = ZeroDivisionError("secret words of a prompt")  # type: ignore[assignment]

    response = await client.post(RUN, json={"prompt": "x", "lora": "pirate", "stream": stream})

    assert response.status_code == 500
    assert response.json()["errors"][0]["code"] == 3043
    assert response.headers["cf-ai-req-id"] in response.text
    assert "secret" not in response.text
    (line,) = [line for line in parts.log_lines if line["level"] == "error"]
    assert line["exception"] == "ZeroDivisionError"
    assert line["request_id"] == response.headers["cf-ai-req-id"]
    assert any("resolve" in frame for frame in line["frames"])


async def test_a_defect_before_model_code_has_the_gateway_s_form(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.accounts.failure = ZeroDivisionError("secret")

    response = await client.post(RUN, json={"prompt": "x"})

    assert response.status_code == 500
    assert response.json()["errors"] == [{"code": 3043, "message": "Internal server error"}]


async def test_logs_have_counts_and_codes_but_never_content(client: httpx.AsyncClient, parts: Parts) -> None:
    canary = "canary-4711"
    text = (await client.post(RUN, json={"prompt": canary, "lora": "pirate"})).json()["result"]["response"]
    await client.post(RUN, json={"messages": [{"role": canary, "content": canary}], "stream": True})
    await client.post(f"{RUN}?lora={canary}", json={"prompt": canary, "system": canary})
    await client.post(RUN, content=canary)
    await client.post(RUN, json={canary: canary, canary + canary: 1})
    await client.post(f"/client/v4/accounts/{ALICE}/ai/run/{canary}", json={})
    await client.post(f"/client/v4/{canary}", json={})
    await client.post(RUN, headers={"authorization": f"Bearer {canary}"})
    parts.adapters.failure = ZeroDivisionError(canary)  # type: ignore[assignment]
    await client.post(RUN, json={"prompt": canary, "lora": "pirate"})

    logged = parts.log_stream.getvalue()
    for secret in (canary, text, TOKEN, "pirate", ADAPTER_ID):
        assert secret not in logged
        assert secret not in parts.metrics.exposition().decode()
    requests = [line for line in parts.log_lines if line["event"] == "request"]
    assert [line["code"] for line in requests] == [0, 0, 3037, 5006, 5006, 5007, 7000, 10000, 3043]
    started = next(line for line in parts.log_lines if line["event"] == "generation started")
    assert started["adapter"] == "ab" * 32
    assert 1 <= started["seed"] <= 9999999999
    ended = next(line for line in parts.log_lines if line["event"] == "generation ended")
    assert (ended["outcome"], ended["output_tokens"]) == ("stop", 24)
    assert ended["request_id"] == started["request_id"] == requests[0]["request_id"]


async def test_requests_are_counted_by_route_status_and_code(client: httpx.AsyncClient, parts: Parts) -> None:
    await client.post(RUN, json={"prompt": "x"})
    await client.post(RUN, json={})
    await client.get("/nowhere/at/all")

    lines = parts.metrics.exposition().decode().splitlines()
    route = 'route="/client/v4/accounts/{account_id}/ai/run/{model:path}"'
    assert f'gemlora_requests_total{{code="0",{route},status="200"}} 1.0' in lines
    assert f'gemlora_requests_total{{code="5006",{route},status="400"}} 1.0' in lines
    assert 'gemlora_requests_total{code="7000",route="unmatched",status="404"} 1.0' in lines
