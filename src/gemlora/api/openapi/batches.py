"""Batches in the document: what the run routes take and answer besides one request's inputs and answer."""

from gemlora.api.batches import COUNTS, LONGEST_REFERENCE, QUEUE
from gemlora.api.openapi.operation import query
from gemlora.api.openapi.shapes import COUNT, TEXT, Schema, members, one_of, or_null, ref, sequence
from gemlora.batches.records import Status

QUEUED = query(QUEUE, TEXT, "With `true` the `requests` of the body are answered later.")

_REFERENCE: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_REFERENCE}
_INPUTS: list[Schema] = [{"required": ["prompt"]}, {"required": ["messages"]}]
"""What makes a body one request's inputs, whatever else it has."""
_REQUEST: Schema = {
    "description": "`stream` has no effect.",
    "allOf": [
        ref("BindingInputs"),
        members({}, {"external_reference": {**or_null(_REFERENCE), "description": "Comes back with the answer."}}),
    ],
}
_FAILED: dict[str, Schema] = {
    "result": {"type": "object", "maxProperties": 0},
    "success": {"const": False},
    "errors": sequence(members({"code": {"type": "integer"}, "message": TEXT}), minItems=1, maxItems=1),
}
_NUMBERED: dict[str, Schema] = {"id": COUNT, "external_reference": or_null(TEXT)}


def schemas(most_requests: int) -> dict[str, Schema]:
    """Components, with how many requests a batch may have."""
    requests: Schema = {
        **sequence(_REQUEST, minItems=1, maxItems=most_requests),
        "description": "At most `max_batch_requests` of the server's settings.",
    }
    queue: Schema = {"description": "True, unless the query or the options say so."}
    return {
        "BatchRequests": {
            **members({"requests": requests}, {QUEUE: queue}),
            "description": "Requests to be answered later.",
            "not": {"anyOf": [*_INPUTS, {"required": ["request_id"]}]},
        },
        "BatchQuestion": {
            **members({"request_id": _REFERENCE}),
            "description": "How far a batch is, by the id that it was acknowledged with.",
            "not": {"anyOf": _INPUTS},
        },
        "BatchState": members({"status": one_of(Status.QUEUED, Status.RUNNING), "request_id": TEXT, "model": TEXT}),
        "BatchAnswers": members({
            "responses": {
                **sequence({
                    "anyOf": [
                        members({**_NUMBERED, "result": ref("Generated"), "success": {"const": True}}),
                        members({**_NUMBERED, **_FAILED}),
                    ]
                }, minItems=1),
                "description": "In the order of the requests.",
            },
            "usage": members(dict.fromkeys(COUNTS, COUNT)),
        }),
    }  # fmt: skip


def with_batches(inputs: Schema, more: dict[str, Schema] | None = None) -> Schema:
    """What a run route takes: inputs, or what is asked of batches. `more` are members beside a batch's requests."""
    requests = ref("BatchRequests")
    return {
        "oneOf": [
            inputs,
            requests if more is None else {"allOf": [requests, members({}, more)]},
            ref("BatchQuestion"),
        ]
    }
