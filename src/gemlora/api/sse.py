"""Server-sent events in the captured form: one `data:` line of compact JSON each, then `[DONE]`."""

import json

from gemlora.api.validation import Json

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(payload: Json) -> bytes:
    """One event."""
    return b"data: " + _encode(payload).encode() + b"\n\n"
