"""The page `errors.md`: every error that a client can meet, with bodies that the server's own code renders."""

import inspect
import json
from collections.abc import Iterator

from starlette.responses import Response

from gemlora import errors
from gemlora.api.envelope import ERROR_KINDS, REFUSALS, Call, Form, error_kind, gateway_error, model_error
from gemlora.errors import GemloraError

REQUEST_ID = "2f92db78-f004-4e34-bc23-383bd05f33cb"
MODEL = "@cf/google/gemma-7b-it-lora"

EXAMPLES: tuple[GemloraError, ...] = (
    errors.InvalidRequest("oneOf at '/' not met, 0 matches: '/temperature' must be <= 5"),
    errors.IncompleteRequest("Request is missing headers or body: body"),
    errors.RequestTooLarge("Request is too large"),
    errors.ClientTooOld("Request trying to use deprecated SDK version"),
    errors.PromptTooLong(8810, 8192),
    errors.ConstraintUnmet("JSON Mode couldn't be met"),
    errors.ModelNotFound("@cf/nobody/nothing"),
    errors.AccountNotFound("0123456789abcdef0123456789abcdef"),
    errors.TokenNotFound("00000000-0000-0000-0000-000000000000"),
    errors.BatchNotFound("00000000-0000-0000-0000-000000000000"),
    errors.AliasNotFound("support-bot"),
    errors.AdapterNotFound("my-adapter"),
    errors.AdapterIncomplete("my-adapter"),
    errors.AdapterNotReady("my-adapter"),
    errors.AdapterInvalid("adapter_config.json: r is 512, at most 256 is accepted"),
    errors.AdapterExists("name: the account already has a finetune my-adapter"),
    errors.TooManyAdapters("the account has 100 finetunes, which is as many as it may have"),
    errors.StillNeeded("the first account cannot be deleted"),
    errors.OutcomesMeasured("The server measures ended of support-v2 by itself"),
    errors.TooManyAliases("The account has 1000 aliases already, which is the limit"),
    errors.RequestTimedOut("Request timeout"),
    errors.RequestAborted("Request was aborted"),
    errors.OutOfCapacity("The engine's queue is full"),
    errors.StorageFailed("The database did not answer"),
    errors.ChangeFailed("The database did not answer"),
    errors.EngineFailed("The engine could not finish the request"),
)

BINDING_ONLY = frozenset({errors.ClientTooOld})
RUN_ONLY = frozenset({errors.BatchNotFound})
GATEWAY_ONLY = frozenset(
    {
        errors.AccountNotFound,
        errors.TokenNotFound,
        errors.AliasNotFound,
        errors.AdapterExists,
        errors.AdapterNotReady,
        errors.StillNeeded,
        errors.OutcomesMeasured,
        errors.TooManyAliases,
        errors.TooManyAdapters,
        errors.ChangeFailed,
    }
)
MODEL_ONLY = frozenset({errors.PromptTooLong, errors.ConstraintUnmet, errors.OutOfCapacity, errors.AdapterIncomplete})
"""The rest are met on every route."""

NEVER = {
    3021: "request rate", 3023: "blocked account", 3036: "daily allocation", 3041: "private model",
    3042: "model name", 4006: "daily allocation", 5005: "a model without LoRA", 5016: "model terms",
    5018: "private model", 5035: "paid plan",
}  # fmt: skip
"""Codes of the hosted service for what this server does not have."""

INTRODUCTION = """
    # Errors

    An error has the same code, HTTP status and text in each of four forms:

    - **REST**, on the run and catalogue routes: the message ends with the request's id, which is also the header
      `cf-ai-req-id`;
    - **gateway**, for what is refused before a model is reached, and for every error of the routes of finetunes,
      aliases, accounts and tokens: `result` is `null` and there is no request id;
    - **binding**, on the routes of the Workers AI binding;
    - **OpenAI**, below `/ai/v1`: the REST or gateway body with OpenAI's `error` object beside it.

    Errors that pass have the header `retry-after`, in seconds. A stream that has begun cannot become an error any
    more: it closes without `[DONE]`.
"""


def errors_page() -> str:
    """All codes, then one section with example bodies for each."""
    lines = [
        inspect.cleandoc(INTRODUCTION), "",
        "| code | HTTP | when |", "|---|---|---|", *_rows(), "",
        "The hosted service has further codes for what this server does not have: "
        + ", ".join(f"{code} ({what})" for code, what in NEVER.items()) + ".", "",
    ]  # fmt: skip
    for refusal in REFUSALS:
        message = refusal.message.format(method="GET", path=f"/client/v4/accounts//ai/run/{MODEL}")
        lines += [f"## {refusal.code}, HTTP {refusal.http}: {refusal.when}", ""]
        for form, name in ((Form.REST, "Gateway"), (Form.OPENAI, "OpenAI")):
            lines += _example(name, gateway_error(refusal.http, refusal.code, message, form=form))
    for error in EXAMPLES:
        kind = error_kind(error)
        lines += [f"## {kind.code}, HTTP {kind.http}: {kind.when}", ""]
        for form in forms(error):
            lines += _example(_NAMES[form], rendered(error, form))
    return "\n".join(lines)


_NAMES = {Form.REST: "REST", Form.BINDING: "Binding", Form.OPENAI: "OpenAI", None: "Gateway"}


def forms(error: GemloraError) -> tuple[Form | None, ...]:
    """The forms in which clients meet the error; None: the gateway's."""
    if type(error) in BINDING_ONLY:
        return (Form.BINDING,)
    if type(error) in RUN_ONLY:
        return (Form.REST, Form.BINDING)
    if type(error) in GATEWAY_ONLY:
        return (None,)
    model = (Form.REST, Form.BINDING, Form.OPENAI)
    return model if type(error) in MODEL_ONLY else (*model, None)


def rendered(error: GemloraError, form: Form | None) -> Response:
    """The answer as the server gives it."""
    if form is None:
        kind = error_kind(error)
        return gateway_error(kind.http, kind.code, kind.describe(error))
    return model_error(error, Call(REQUEST_ID, form))


def _rows() -> Iterator[str]:
    kinds = (*REFUSALS, *ERROR_KINDS.values())
    for code, http in sorted({(kind.code, kind.http) for kind in kinds}):
        reasons = dict.fromkeys(kind.when for kind in kinds if (kind.code, kind.http) == (code, http))
        yield f"| {code} | {http} | {'; or '.join(reasons)} |"


def _example(name: str, response: Response) -> list[str]:
    body = json.loads(bytes(response.body))
    return [f"{name}:", "", "```json", json.dumps(body, ensure_ascii=False, separators=(", ", ": ")), "```", ""]
