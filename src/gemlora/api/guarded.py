"""Routes with their authorisation: what stands before a handler belongs to the route, and is there to be seen."""

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from gemlora.api.authentication import Guard

Handler = Callable[[Request], Awaitable[Response]]


class GuardedRoute(Route):
    """A handler of exactly these methods behind its guard; with None everybody reaches it."""

    def __init__(self, path: str, handler: Handler, methods: Collection[str], guard: Guard | None) -> None:
        super().__init__(path, handler if guard is None else _behind(guard, handler), methods=methods)
        self.methods: set[str] = set(methods)  # not HEAD wherever there is GET
        self.guard = guard

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route.matches`. What matches is noted for the log."""
        match, found = super().matches(scope)
        return match, {**found, "route": self}


def _behind(guard: Guard, handler: Handler) -> Handler:
    async def admitted(request: Request) -> Response:
        await guard(request)
        return await handler(request)

    return admitted
