"""Errors in the document: their forms, and which statuses the routes of a kind answer with, from the code's table."""

from collections.abc import Iterable, Mapping

from gemlora import errors
from gemlora.api.envelope import ERROR_KINDS, REFUSALS, RETRY_LATER, Form
from gemlora.api.openapi.shapes import COUNT, NULL, TEXT, UUID, Schema, json_content, members, ref, sequence

Errors = frozenset[type[errors.GemloraError]]

EVERYWHERE: Errors = frozenset({errors.StorageFailed, errors.GemloraError, errors.RequestAborted})
WITH_BODY: Errors = frozenset(
    {errors.InvalidRequest, errors.IncompleteRequest, errors.RequestTooLarge, errors.RequestTimedOut}
)
READING: Errors = frozenset({errors.InvalidRequest, errors.IncompleteRequest})
GENERATING: Errors = WITH_BODY | {
    errors.PromptTooLong, errors.ConstraintUnmet, errors.ModelNotFound, errors.AdapterNotFound,
    errors.AdapterIncomplete, errors.AdapterInvalid, errors.OutOfCapacity,
}  # fmt: skip

_CODE = {"type": "integer"}
_ENTRY = sequence(members({"code": _CODE, "message": TEXT}), minItems=1, maxItems=1)
_REFUSED: dict[str, Schema] = {"success": {"const": False}, "errors": _ENTRY, "messages": {"type": "array"}}
_OPENAI_ERROR = members({"message": TEXT, "type": TEXT, "param": NULL, "code": TEXT})

SCHEMAS: dict[str, Schema] = {
    "GatewayError": members({"result": NULL, **_REFUSED}),
    "ModelError": members({**_REFUSED, "result": {"type": "object", "maxProperties": 0}}),
    "OpenAIError": members(
        {**_REFUSED, "result": {"anyOf": [NULL, {"type": "object", "maxProperties": 0}]}, "error": _OPENAI_ERROR}
    ),
    "BindingError": members(
        {
            "name": TEXT, "internalCode": _CODE, "httpCode": _CODE, "message": TEXT, "description": TEXT,
            "requestId": UUID,
        }
    ),
}  # fmt: skip

_GATEWAY = ref("GatewayError")
BODIES: Mapping[Form | None, Schema] = {
    None: _GATEWAY,
    Form.REST: {"anyOf": [ref("ModelError"), _GATEWAY]},
    Form.BINDING: {"anyOf": [ref("BindingError"), _GATEWAY]},
    Form.OPENAI: ref("OpenAIError"),
}
"""What the routes that answer in a form refuse with, before model code or in it. None: the gateway's form alone."""


def failures(kinds: Iterable[type[errors.GemloraError]], form: Form | None, *, authorised: bool) -> Schema:
    """The error responses of a route, by status."""
    reasons: dict[int, list[str]] = {}
    for kind in sorted((ERROR_KINDS[error] for error in kinds), key=lambda kind: (kind.http, kind.code, kind.when)):
        reasons.setdefault(kind.http, []).append(f"{kind.code}: {kind.when}")
    for refusal in REFUSALS:
        if refusal.http in ((401, 403) if authorised else ()) or (refusal.http == 400):
            reasons.setdefault(refusal.http, []).append(f"{refusal.code}: {refusal.when}")
    return {
        str(status): {
            "description": "; ".join(dict.fromkeys(reasons[status])),
            "content": json_content(BODIES[form]),
            **({"headers": _RETRY_AFTER} if status in RETRY_LATER else {}),
        }
        for status in sorted(reasons)
    }


_RETRY_AFTER: Schema = {"retry-after": {"description": "seconds", "required": True, "schema": COUNT}}
