"""Renders every expected error once, at the edge: refusals by the gateway's form, model-level errors by the call's."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gemlora.api.envelope import (
    AUTHENTICATION_ERROR,
    NO_ACCOUNT,
    NO_METHOD,
    NO_ROUTE,
    error_kind,
    form_of,
    gateway_error,
    model_error,
)
from gemlora.errors import Forbidden, GemloraError, RequestTimedOut, Unauthenticated

API_PREFIX = "/client/v4/"
LINGER_SECONDS = 10.0


async def render_error(request: Request, error: Exception) -> Response:
    """The answer to a `GemloraError`."""
    if isinstance(error, Unauthenticated | Forbidden):
        code, message = AUTHENTICATION_ERROR
        request.state.code = code
        return gateway_error(
            401 if isinstance(error, Unauthenticated) else 403, code, message, form=form_of(request.scope["path"])
        )
    if not isinstance(error, GemloraError):
        raise error
    kind = error_kind(error)
    request.state.code = kind.code
    call = getattr(request.state, "call", None)
    if call is None:
        response = gateway_error(kind.http, kind.code, kind.describe(error), form=form_of(request.scope["path"]))
    else:
        response = model_error(error, call)
    if isinstance(error, RequestTimedOut):
        response.headers["connection"] = "close"  # the rest of the body may never come
        return response
    return Lingering(response) if getattr(request.state, "unread", False) else response


async def render_routing_error(request: Request, error: Exception) -> Response:
    """The answer to a path or method that no route has."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    path = request.scope["path"]
    code, message = NO_ROUTE
    if status == 405:
        code, message = NO_METHOD
    elif (
        path.startswith(f"{API_PREFIX}accounts/") and not path.removeprefix(f"{API_PREFIX}accounts/").partition("/")[0]
    ):
        code, message = NO_ACCOUNT
    elif path.startswith(API_PREFIX):
        status = 400
    request.state.code = code
    headers = error.headers if isinstance(error, HTTPException) else None
    text = message.format(method=request.method, path=path)
    return gateway_error(status, code, text, dict(headers or {}), form_of(path))


class Lingering(Response):
    """An answer before the end of the request's body.

    Closing a socket that has unread bytes would reset the connection and lose the answer, so what still comes is
    discarded for a moment.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))
        self.headers["connection"] = "close"

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, discard, close."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})
