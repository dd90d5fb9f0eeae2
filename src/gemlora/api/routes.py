"""Every route of the API with what it demands of its caller. Nothing is authorised anywhere else."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gemlora.api.authentication import Authentication
from gemlora.api.binding import Binding
from gemlora.api.health import Health
from gemlora.api.models import Models
from gemlora.api.run import Run

ACCOUNT = "/client/v4/accounts/{account_id}"

Handler = Callable[[Request], Awaitable[Response]]


class Access(Enum):
    """What a route demands."""

    PUBLIC = "public"
    TOKEN = "any valid token"  # noqa: S105
    ACCOUNT = "a token of the account in the path"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of the list of routes."""

    methods: tuple[str, ...]
    path: str
    handler: Handler
    access: Access


def endpoints(run: Run, binding: Binding, models: Models, health: Health) -> tuple[Endpoint, ...]:
    """All routes, the first that matches wins."""
    get, post, probe = ("GET",), ("POST",), ("GET", "HEAD")
    return (
        Endpoint(("GET", "POST"), f"{ACCOUNT}/ai/run/proxy", binding.proxy, Access.ACCOUNT),
        Endpoint(post, f"{ACCOUNT}/ai/run/{{model:path}}", run.rest, Access.ACCOUNT),
        Endpoint(get, f"{ACCOUNT}/ai/models/search", models.search, Access.ACCOUNT),
        Endpoint(get, f"{ACCOUNT}/ai/models/schema", models.schema, Access.ACCOUNT),
        Endpoint(post, "/run", binding.run, Access.TOKEN),
        Endpoint(post, "/ai-gateway/run", binding.run, Access.TOKEN),
        Endpoint(get, "/ai-api/models/search", binding.search, Access.TOKEN),
        Endpoint(probe, "/livez", health.live, Access.PUBLIC),
        Endpoint(probe, "/readyz", health.ready, Access.PUBLIC),
        Endpoint(probe, "/startupz", health.started, Access.PUBLIC),
        Endpoint(probe, "/metrics", health.metrics, Access.PUBLIC),
    )


def router(routes: tuple[Endpoint, ...], authentication: Authentication) -> APIRouter:
    """The routes with their authorisation attached."""
    demands = {
        Access.PUBLIC: [],
        Access.TOKEN: [Depends(authentication.token_owner)],
        Access.ACCOUNT: [Depends(authentication.account_owner)],
    }
    api = APIRouter(redirect_slashes=False)
    for route in routes:
        api.add_api_route(
            route.path,
            route.handler,
            methods=list(route.methods),
            dependencies=demands[route.access],
            response_model=None,
            operation_id=f"{route.handler.__qualname__}",
        )
    return api
