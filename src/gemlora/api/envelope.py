"""The wire's answers: the REST envelope, the binding's bare result, and every error as code, HTTP status and text.

On OpenAI's routes errors have OpenAI's `error` object beside the REST body.
"""

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from starlette.responses import Response

from gemlora import errors
from gemlora.api.validation import Json


class Form(Enum):
    """The dialects of model-level answers."""

    REST = "rest"
    BINDING = "binding"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Call:
    """One request that reached model code: its id, and the form in which it is answered."""

    id: str
    form: Form


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How an error looks on the wire, and for people to read when it comes.

    `description` may name the error's attributes; None: the error's own text.
    """

    code: int
    http: int
    when: str
    title: str = "AiError"
    description: str | None = None

    def describe(self, error: Exception) -> str:
        """The wire's text for an error of this kind."""
        return str(error) if self.description is None else self.description.format_map(vars(error))


MISSING_FILES = "Finetune is missing required files (model.safetensors and config.json)"
OUT_OF_CAPACITY = "Capacity temporarily exceeded, please try again."

ERROR_KINDS: dict[type[errors.GemloraError], ErrorKind] = {
    errors.InvalidRequest: ErrorKind(5006, 400, "the request is wrong; the text names the field", "Bad input"),
    errors.IncompleteRequest: ErrorKind(
        3003, 400, "the body, or what the route needs of it, is missing", "Incomplete request"
    ),
    errors.RequestTooLarge: ErrorKind(
        3006, 413, "the body is larger than `GEMLORA_MAX_BODY_BYTES`, or the headers than 64 KiB",
        "Request too large", "Request is too large",
    ),
    errors.ClientTooOld: ErrorKind(
        5019, 405, "the Worker's runtime speaks another version of the binding's protocol",
        description="Request trying to use deprecated SDK version",
    ),
    errors.PromptTooLong: ErrorKind(5021, 413, "the prompt leaves no room in the context window"),
    errors.ConstraintUnmet: ErrorKind(
        5024, 400, "the answer could not be completed within `max_tokens` as its schema demands",
        description="JSON Mode couldn't be met",
    ),
    errors.ModelNotFound: ErrorKind(5007, 400, "no such model", "No such model"),
    errors.AccountNotFound: ErrorKind(7003, 404, "for an operator: no such account"),
    errors.TokenNotFound: ErrorKind(7003, 404, "for an operator: the account has no such token"),
    errors.BatchNotFound: ErrorKind(7003, 404, "the account has no such batch"),
    errors.AliasNotFound: ErrorKind(7003, 404, "the account has no such alias, or that no such revision or version"),
    errors.AdapterNotFound: ErrorKind(
        3037, 404, "no such adapter for this account", description="Finetune {name} not found"
    ),
    errors.AdapterIncomplete: ErrorKind(3039, 400, "the adapter's files are missing", description=MISSING_FILES),
    errors.AdapterNotReady: ErrorKind(
        3039, 409, "what is to be downloaded or published was not uploaded yet", description=MISSING_FILES
    ),
    errors.AdapterInvalid: ErrorKind(
        5004, 400, "the adapter would not take full effect on the served model", "Invalid data"
    ),
    errors.AdapterExists: ErrorKind(5004, 400, "the name is taken, by an adapter or an alias", "Invalid data"),
    errors.TooManyAliases: ErrorKind(5004, 400, "the account has `GEMLORA_MAX_ALIASES`", "Invalid data"),
    errors.TooManyAdapters: ErrorKind(5004, 400, "the account has `GEMLORA_MAX_ADAPTERS`", "Invalid data"),
    errors.StillNeeded: ErrorKind(
        3045,
        409,
        "the first account, one with public adapters, the token that a setting presets, or an adapter that an alias "
        "points to, now or after a rollback, cannot go",
    ),
    errors.OutcomesMeasured: ErrorKind(
        3045, 409, "an outcome is reported to a test that the server measures by itself"
    ),
    errors.RequestTimedOut: ErrorKind(
        3007, 408, "the headers or the body did not arrive in time", "Timeout", "Request timeout"
    ),
    errors.RequestAborted: ErrorKind(
        3008, 408, "the request was ended before its answer was complete", "Aborted", "Request was aborted"
    ),
    errors.OutOfCapacity: ErrorKind(
        3040, 429, "too much to do; `retry-after` says when to try again", description=OUT_OF_CAPACITY
    ),
    # A registry that cannot be reached is a state that passes: clients retry a 429, and 5xx is kept for defects.
    errors.StorageFailed: ErrorKind(
        3040, 429, "the registry cannot be reached; `retry-after` says when to try again", description=OUT_OF_CAPACITY
    ),
    errors.ChangeFailed: ErrorKind(
        3044, 503, "a change could not be stored: nothing was acknowledged, try again",
        description="The change could not be stored, please try again.",
    ),
    errors.GemloraError: ErrorKind(3043, 500, "a defect of the server", description="Internal server error"),
}  # fmt: skip

RETRY_LATER: dict[int, dict[str, str]] = {status: {"retry-after": "1"} for status in (429, 503)}
"""Headers of errors that pass, by HTTP status."""

OPENAI_PATH = re.compile(r"/client/v4/accounts/[^/]+/ai/v1(/|$)")

OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    4: "invalid_request_error",
    5: "server_error",
}
"""OpenAI's kinds of errors by HTTP status, else by its first digit."""

OPENAI_CODES = {5007: "model_not_found", 5021: "context_length_exceeded"}
"""The codes among ours for which OpenAI has a word."""

AUTHENTICATION_ERROR = (10000, "Authentication error")
NO_ROUTE = (7000, "No route for that URI")
NO_METHOD = (7001, "{method} not supported for requested URI.")
NO_ACCOUNT = (7003, "Could not route to {path}, perhaps your object identifier is invalid?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is refused before model code, for people to read."""

    code: int
    http: int
    when: str
    message: str


REFUSALS = tuple(
    Refusal(code, http, when, message)
    for (code, message), http, when in (
        (AUTHENTICATION_ERROR, 401, "no token, or a wrong one"),
        (AUTHENTICATION_ERROR, 403, "a valid token, but another account, or a scope that the token lacks"),
        (NO_ROUTE, 400, "no such route below `/client/v4/`, or a malformed `Host`"),
        (NO_ROUTE, 404, "no such route elsewhere"),
        (NO_METHOD, 405, "the route has another method"),
        (NO_ACCOUNT, 404, "the path names no account"),
    )
)


def error_kind(error: Exception) -> ErrorKind:
    """The entry of the error's class or of its nearest base; what is no `GemloraError` is an internal error."""
    for ancestor in type(error).__mro__:
        if ancestor in ERROR_KINDS:
            return ERROR_KINDS[ancestor]
    return ERROR_KINDS[errors.GemloraError]


def result(value: Json, call: Call, headers: dict[str, str]) -> Response:
    """A successful answer: enveloped for REST, bare for the binding."""
    if call.form is Form.BINDING:
        return json_response(value, 200, {**_identity(call), **headers})
    return envelope(value, {**_identity(call), **headers})


def envelope(value: Json, headers: dict[str, str] | None = None, info: Json = None) -> Response:
    """A REST answer; `info` becomes `result_info`."""
    body: dict[str, Json] = {"result": value, "success": True, "errors": [], "messages": []}
    if info is not None:
        body["result_info"] = info
    return json_response(body, 200, headers)


def model_error(error: Exception, call: Call) -> Response:
    """An error of a request that reached model code."""
    kind = error_kind(error)
    text = error_text(error, call.id)
    body: dict[str, Json]
    if call.form is Form.BINDING:
        body = {
            "name": "AiError",
            "internalCode": kind.code,
            "httpCode": kind.http,
            "message": text["message"],
            "description": _description(error),
            "requestId": call.id,
        }
    else:
        body = {
            "errors": [text],
            "success": False,
            "result": {},
            "messages": [],
        }
    if call.form is Form.OPENAI:
        body["error"] = openai_error(kind.http, kind.describe(error), OPENAI_CODES.get(kind.code, str(kind.code)))
    return json_response(body, kind.http, {**_identity(call), **RETRY_LATER.get(kind.http, {})})


def error_text(error: Exception, request_id: str) -> dict[str, Any]:
    """An error as REST lists it."""
    kind = error_kind(error)
    return {"message": f"AiError: {kind.title}: {_description(error)} ({request_id})", "code": kind.code}


def _description(error: Exception) -> str:
    kind = error_kind(error)
    prefix = "Error: " if kind.code == ERROR_KINDS[errors.InvalidRequest].code else ""
    return prefix + kind.describe(error)


def form_of(path: str) -> Form:
    """The dialect of refusals below a path, before model code is reached."""
    return Form.OPENAI if OPENAI_PATH.match(path) else Form.REST


def gateway_error(
    status: int, code: int, message: str, headers: dict[str, str] | None = None, form: Form = Form.REST
) -> Response:
    """A refusal before model code: authentication and routing."""
    body: dict[str, Json] = {
        "result": None,
        "success": False,
        "errors": [{"code": code, "message": message}],
        "messages": [],
    }
    if form is Form.OPENAI:
        body["error"] = openai_error(status, message, str(code))
    return json_response(body, status, {**RETRY_LATER.get(status, {}), **(headers or {})})


def openai_error(status: int, message: str, code: str) -> Json:
    """The `error` object that OpenAI's clients read."""
    return {
        "message": message,
        "type": OPENAI_TYPES.get(status, OPENAI_TYPES[status // 100]),
        "param": None,
        "code": code,
    }


def json_response(body: Json, status: int, headers: dict[str, str] | None = None) -> Response:
    """Compact JSON; the content type has no charset because the binding compares it literally."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return Response(content, status, {"content-type": "application/json", **(headers or {})})


def _identity(call: Call) -> dict[str, str]:
    return {"cf-ai-req-id": call.id}
