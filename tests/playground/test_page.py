"""The page at `/`."""

import re

import pytest
from starlette.requests import Request
from tests.api.parts import MODEL

from gemlora.engines.fake import FAKE_FACTS
from gemlora.playground.page import Playground
from gemlora.registry.models import AdapterLimits, Base, Catalogue, served_model


@pytest.fixture
def playground() -> Playground:
    model = served_model(MODEL, "starter", Base.of(FAKE_FACTS), AdapterLimits())
    odd = served_model("<script>alert(1)</script>", "x", Base.of(FAKE_FACTS), AdapterLimits())
    return Playground(Catalogue([model, odd]))


def request(host: str) -> Request:
    return Request({"type": "http", "headers": [(b"host", host.encode())]})


async def test_it_says_honestly_what_is_served(playground: Playground) -> None:
    text = bytes((await playground.page(request("localhost:8790"))).body).decode()

    assert f"<code>{MODEL}</code>" in text
    assert "small pretrained starter weights for development, not the model that the name promises" in text
    assert "curl http://localhost:8790/client/v4/accounts/$CLOUDFLARE_ACCOUNT_ID/ai/run/@cf/google/gemma" in text


async def test_it_runs_nothing_and_loads_nothing_from_elsewhere(playground: Playground) -> None:
    response = await playground.page(request("x<y"))
    text = bytes(response.body).decode()

    assert "<script" not in text
    assert "x&lt;y" in text
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["/playground/style.css"]
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self';")
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_its_style_is_local_too(playground: Playground) -> None:
    response = await playground.style(request("x"))

    assert response.headers["content-type"] == "text/css; charset=utf-8"
    assert b"url(" not in response.body
