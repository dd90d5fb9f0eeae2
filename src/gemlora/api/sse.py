"""Server-sent events in the captured form: one `data:` line of compact JSON each, then `[DONE]`."""

import json

from gemlora.api.validation import Json

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"


def event(payload: Json) -> bytes:
    """One event."""
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
