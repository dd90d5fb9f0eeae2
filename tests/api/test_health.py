"""What supervisors and scrapers see."""

import httpx
import pytest
from tests.api.parts import RUN, Parts
from tests.api.real_server import RealServer

from gemlora.api.health import Phase


@pytest.mark.parametrize(
    ("phase", "ready", "started"), [(Phase.STARTING, 503, 503), (Phase.READY, 200, 200), (Phase.DRAINING, 503, 200)]
)
async def test_readiness_follows_the_phase_and_liveness_does_not(
    client: httpx.AsyncClient, parts: Parts, phase: Phase, ready: int, started: int
) -> None:
    parts.lifecycle.phase = phase

    assert (await client.get("/readyz")).status_code == ready
    assert (await client.get("/startupz")).status_code == started
    assert (await client.get("/livez")).status_code == 200


async def test_a_probe_may_ask_for_the_head_alone(server: RealServer) -> None:
    answer = await server.exchange(b"HEAD /readyz HTTP/1.1\r\nHost: gemlora\r\nConnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")


async def test_metrics_count_tokens_and_time_their_latency(client: httpx.AsyncClient) -> None:
    await client.post(RUN, json={"prompt": "Hello", "max_tokens": 5})

    response = await client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert "gemlora_output_tokens_total 5.0" in lines
    assert 'gemlora_generations_total{outcome="length"} 1.0' in lines
    assert "gemlora_first_token_seconds_count 1.0" in lines
    assert "gemlora_token_seconds_count 4.0" in lines
    assert "gemlora_requests_in_flight 0.0" in lines


async def test_no_pages_of_the_framework_are_served(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/redoc"):
        assert (await client.get(path)).status_code == 404
