"""A route asks its guard before its handler, and has no methods but those that it was given."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match

from gemlora.accounts.records import Caller
from gemlora.api.authentication import Access, Guard
from gemlora.api.guarded import GuardedRoute
from gemlora.errors import Unauthenticated


class Nobody:
    """Knows no token."""

    async def authenticate(self, token: str | None) -> Caller:
        raise Unauthenticated("unknown")


async def answer(request: Request) -> Response:
    return PlainTextResponse("reached")


def scope(method: str) -> dict[str, object]:
    return {"type": "http", "method": method, "path": "/x", "root_path": ""}


@pytest.mark.parametrize(("method", "match"), [("GET", Match.FULL), ("HEAD", Match.PARTIAL), ("POST", Match.PARTIAL)])
def test_a_route_has_its_own_methods_alone_and_is_noted_for_the_log(method: str, match: Match) -> None:
    route = GuardedRoute("/x", answer, ("GET",), guard=None)

    found, noted = route.matches(scope(method))

    assert found is match
    assert noted["route"] is route


async def test_without_a_guard_everybody_reaches_the_handler_and_with_one_those_whom_it_admits() -> None:
    guard = Guard(Nobody(), Access.TOKEN, scope=None)
    routes = [GuardedRoute("/open", answer, ("GET",), guard=None), GuardedRoute("/closed", answer, ("GET",), guard)]
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora") as client:
        assert (await client.get("/open")).text == "reached"
        with pytest.raises(Unauthenticated):
            await client.get("/closed", headers={"authorization": "Bearer token"})
