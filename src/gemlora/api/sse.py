"""Server-sent events in the captured form: one `data:` line of compact JSON each, then `[DONE]`."""

import json

import msgspec

from gemlora.api.validation import Json

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode
_encode_any = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(payload: Json) -> bytes:
    """One event without numbers but counts."""
    return b"data: " + _encode(payload) + b"\n\n"


def event_of_any(payload: Json) -> bytes:
    """One event. It takes longer, but writes every number as all other answers do."""
    return b"data: " + _encode_any(payload).encode() + b"\n\n"
