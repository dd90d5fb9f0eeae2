"""What everybody may read: health, metrics, the page and this document."""

from gemlora.api.health import Phase
from gemlora.api.openapi.operation import Operation, answer, path
from gemlora.api.openapi.shapes import TEXT, Schema, json_content, members, one_of, ref
from gemlora.telemetry.metrics import EXPOSITION_TYPE

_NAME = path("name", TEXT, "The file's name.")
_PHASE = members({"status": one_of(*(phase.value for phase in Phase))})
_WAIT: dict[str, Schema] = {"503": {"description": "Not now.", "content": json_content(_PHASE)}}


def _text(media_type: str) -> dict[str, Schema]:
    return {"200": {"description": "OK", "content": {media_type: {"schema": TEXT}}}}


def _files() -> dict[str, Schema]:
    types = ("text/css; charset=utf-8", "text/javascript; charset=utf-8", "image/svg+xml")
    return {
        "200": {"description": "OK", "content": {media_type: {"schema": TEXT} for media_type in types}},
        "404": {"description": "No such file", "content": json_content(ref("GatewayError"))},
    }


def operations() -> dict[str, dict[str, Operation]]:
    """By path and method; each is answered to HEAD as well."""
    shown = {
        "/": Operation("The page for people", _text("text/html; charset=utf-8")),
        "/playground/{name}": Operation("The page's files", _files(), parameters=(_NAME,)),
        "/openapi.json": Operation("This document", answer({"type": "object"})),
        "/livez": Operation("Whether the process lives", answer(members({"status": {"const": "live"}}))),
        "/readyz": Operation("Whether requests are welcome", answer(_PHASE) | _WAIT),
        "/startupz": Operation("Whether it has started", answer(_PHASE) | _WAIT),
        "/metrics": Operation("Metrics for Prometheus", _text(EXPOSITION_TYPE)),
    }
    return {place: {"get": operation, "head": operation} for place, operation in shown.items()}
