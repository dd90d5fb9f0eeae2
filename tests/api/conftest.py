"""The API over a fake engine, in process and as a real server on a loopback socket."""

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.api.parts import TOKEN, Parts
from tests.api.real_server import RealServer

from gemlora.engines.fake import FakeEngine


@pytest.fixture
def parts() -> Parts:
    return Parts(FakeEngine())


@pytest.fixture
async def client(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the application in process, as Alice."""
    transport = httpx.ASGITransport(parts.api)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora", headers=headers) as client:
        yield client


@pytest.fixture
async def server(parts: Parts) -> AsyncIterator[RealServer]:
    """The application on a loopback socket."""
    async with RealServer.running(parts) as server:
        yield server
