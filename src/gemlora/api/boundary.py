"""The outermost layer: refuses malformed Host headers, turns defects into a plain 500, logs and counts each request."""

import asyncio
import logging
import re
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from gemlora.api.envelope import NO_ROUTE, error_kind, form_of, gateway_error, model_error
from gemlora.errors import RequestAborted
from gemlora.telemetry.metrics import Metrics

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
"""Any well-formed name or address: the AI binding sends `workers-binding.ai`."""

UNMATCHED = "unmatched"


class Boundary:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: FilteringBoundLogger) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        scope.setdefault("state", {})
        status: int | None = None

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope)
        try:
            if _host_is_valid(request):
                await self._app(scope, receive, noting)
            else:
                await gateway_error(400, *NO_ROUTE)(scope, receive, noting)
        except asyncio.CancelledError:
            # The server cuts what outlives the time to drain; nothing waits for this task's cancellation.
            if status is None:
                await _refusal(request, RequestAborted("Request was aborted"))(scope, receive, noting)
        except Exception as error:
            self._log.error("request failed unexpectedly", request_id=_request_id(request), exc_info=error)
            if status is None:
                await _refusal(request, error)(scope, receive, noting)
        finally:
            self._record(request, status, time.monotonic() - started)

    def _record(self, request: Request, status: int | None, seconds: float) -> None:
        route = request.scope.get("route")
        path = getattr(route, "path", UNMATCHED)
        code = getattr(request.state, "code", 0)
        routine = status == 200 and _request_id(request) is None
        self._metrics.requests.labels(path, str(status or 0), str(code)).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        self._log.log(
            logging.DEBUG if routine else logging.INFO,
            "request",
            method=request.method,
            route=path,
            status=status,
            code=code,
            request_id=_request_id(request),
            seconds=round(seconds, 4),
        )


def _host_is_valid(request: Request) -> bool:
    hosts = request.headers.getlist("host")
    if not hosts:
        return bool(request.scope["http_version"] == "1.0")
    return len(hosts) == 1 and HOST.fullmatch(hosts[0]) is not None


def _request_id(request: Request) -> str | None:
    call = getattr(request.state, "call", None)
    return None if call is None else call.id


def _refusal(request: Request, error: Exception) -> Response:
    kind = error_kind(error)
    request.state.code = kind.code
    call = getattr(request.state, "call", None)
    if call is not None:
        return model_error(error, call)
    return gateway_error(kind.http, kind.code, kind.describe(error), form=form_of(request.scope["path"]))
