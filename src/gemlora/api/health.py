"""Liveness, readiness and metrics: public, and without any detail about requests."""

from enum import Enum

from starlette.requests import Request
from starlette.responses import Response

from gemlora.api.envelope import json_response
from gemlora.telemetry.metrics import EXPOSITION_TYPE, Metrics


class Phase(Enum):
    """Where the server is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """The server's phase, written by whoever starts and stops it."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING


class Health:
    """The routes for supervisors and scrapers."""

    def __init__(self, lifecycle: Lifecycle, metrics: Metrics) -> None:
        self._lifecycle = lifecycle
        self._metrics = metrics

    async def live(self, _request: Request) -> Response:
        """The event loop answers."""
        return json_response({"status": "live"}, 200)

    async def ready(self, _request: Request) -> Response:
        """200 while new requests are welcome."""
        phase = self._lifecycle.phase
        return json_response({"status": phase.value}, 200 if phase is Phase.READY else 503)

    async def started(self, _request: Request) -> Response:
        """200 once the model has been loaded."""
        phase = self._lifecycle.phase
        return json_response({"status": phase.value}, 503 if phase is Phase.STARTING else 200)

    async def metrics(self, _request: Request) -> Response:
        """The text format of Prometheus."""
        return Response(self._metrics.exposition(), headers={"content-type": EXPOSITION_TYPE})
