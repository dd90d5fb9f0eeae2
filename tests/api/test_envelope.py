"""Every error of the tree in both forms, with its documented code and HTTP status."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gemlora import errors
from gemlora.api.envelope import ERROR_KINDS, Call, Form, error_kind, gateway_error, model_error, result

IDENTITY = "2f92db78-f004-4e34-bc23-383bd05f33cb"
REST = Call(IDENTITY, Form.REST)
BINDING = Call(IDENTITY, Form.BINDING)

TABLE: list[tuple[Exception, int, int, str, str]] = [
    (errors.InvalidRequest("bad"), 5006, 400, "Bad input", "Error: bad"),
    (
        errors.IncompleteRequest("Request is missing headers or body: body"),
        3003,
        400,
        "Incomplete request",
        "Request is missing headers or body: body",
    ),
    (errors.RequestTooLarge("x"), 3006, 413, "Request too large", "Request is too large"),
    (errors.ClientTooOld("x"), 5019, 405, "AiError", "Request trying to use deprecated SDK version"),
    (
        errors.PromptTooLong(8810, 8192),
        5021,
        413,
        "AiError",
        "The estimated number of input and maximum output tokens (8810) "
        "exceeded this model context window limit (8192)",
    ),
    (errors.ConstraintInvalid("bad"), 5006, 400, "Bad input", "Error: bad"),
    (errors.ConstraintUnmet("x"), 5024, 400, "AiError", "JSON Mode couldn't be met"),
    (errors.ModelNotFound("@cf/x"), 5007, 400, "No such model", "No such model @cf/x or task"),
    (errors.AccountNotFound("a1"), 7003, 404, "AiError", "Account a1 not found"),
    (errors.TokenNotFound("t1"), 7003, 404, "AiError", "Token t1 not found"),
    (errors.BatchNotFound("b1"), 7003, 404, "AiError", "Batch b1 not found"),
    (errors.AliasNotFound("bot"), 7003, 404, "AiError", "Alias bot not found"),
    (errors.AdapterNotFound("my-ft"), 3037, 404, "AiError", "Finetune my-ft not found"),
    (
        errors.AdapterIncomplete("x"),
        3039,
        400,
        "AiError",
        "Finetune is missing required files (model.safetensors and config.json)",
    ),
    (errors.AdapterInvalid("rank 999"), 5004, 400, "Invalid data", "rank 999"),
    (errors.AdapterExists("taken"), 5004, 400, "Invalid data", "taken"),
    (
        errors.AdapterNotReady("x"),
        3039,
        409,
        "AiError",
        "Finetune is missing required files (model.safetensors and config.json)",
    ),
    (errors.StillNeeded("it stays"), 3045, 409, "AiError", "it stays"),
    (errors.OutcomesMeasured("measured"), 3045, 409, "AiError", "measured"),
    (errors.TooManyAdapters("taken"), 5004, 400, "Invalid data", "taken"),
    (errors.TooManyAliases("taken"), 5004, 400, "Invalid data", "taken"),
    (errors.RequestTimedOut("x"), 3007, 408, "Timeout", "Request timeout"),
    (errors.RequestAborted("x"), 3008, 408, "Aborted", "Request was aborted"),
    (errors.OutOfCapacity("x"), 3040, 429, "AiError", "Capacity temporarily exceeded, please try again."),
    (errors.StorageFailed("disk"), 3040, 429, "AiError", "Capacity temporarily exceeded, please try again."),
    (errors.ChangeFailed("disk"), 3044, 503, "AiError", "The change could not be stored, please try again."),
    (errors.EngineFailed("secret"), 3043, 500, "AiError", "Internal server error"),
    (ZeroDivisionError("secret"), 3043, 500, "AiError", "Internal server error"),
]


def body(response: Any) -> Any:
    return json.loads(response.body)


@pytest.mark.parametrize(("error", "code", "http", "title", "description"), TABLE, ids=lambda value: repr(value)[:30])
def test_each_error_has_its_rest_form(error: Exception, code: int, http: int, title: str, description: str) -> None:
    response = model_error(error, REST)

    assert response.status_code == http
    assert response.body.decode() == json.dumps(
        {
            "errors": [{"message": f"AiError: {title}: {description} ({IDENTITY})", "code": code}],
            "success": False,
            "result": {},
            "messages": [],
        },
        separators=(",", ":"),
    )
    assert response.headers["cf-ai-req-id"] == IDENTITY
    assert ("retry-after" in response.headers) is (http in (429, 503))


@pytest.mark.parametrize(("error", "code", "http", "title", "description"), TABLE, ids=lambda value: repr(value)[:30])
def test_each_error_has_its_binding_form(error: Exception, code: int, http: int, title: str, description: str) -> None:
    response = model_error(error, BINDING)

    assert response.status_code == http
    assert response.headers["content-type"] == "application/json"
    assert list(body(response).items()) == [
        ("name", "AiError"),
        ("internalCode", code),
        ("httpCode", http),
        ("message", f"AiError: {title}: {description} ({IDENTITY})"),
        ("description", description),
        ("requestId", IDENTITY),
    ]


def test_the_hosted_service_s_captured_refusal_is_matched_to_the_byte() -> None:
    response = model_error(errors.ModelNotFound("@cf/x"), REST)

    assert response.body == (
        b'{"errors":[{"message":"AiError: No such model: No such model @cf/x or task '
        b'(2f92db78-f004-4e34-bc23-383bd05f33cb)","code":5007}],"success":false,"result":{},"messages":[]}'
    )


def test_every_error_that_a_request_can_meet_is_in_the_table() -> None:
    tested = {type(error) for error, *_ in TABLE}
    elsewhere = {
        errors.Unauthenticated,
        errors.Forbidden,
        errors.WeightsInvalid,
        errors.SettingsInvalid,
        errors.EvaluationInvalid,  # at the command line only, like the next two
        errors.TrainingDataInvalid,
        errors.TrainingRefused,
        errors.ServerRefused,  # those two tell people at the command line what another server said
        errors.ServerUnreachable,
        errors.GemloraError,
    }
    tree = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}

    assert tree == (tested | elsewhere) - {ZeroDivisionError}
    assert set(ERROR_KINDS) - {errors.GemloraError} <= tested


def test_the_documentation_lists_exactly_these_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text().partition("## ")[0]
    documented = {(int(row[1]), int(row[2])) for row in re.finditer(r"^\| (\d+) \| (\d+) \|", text, re.MULTILINE)}
    gateway = {(10000, 401), (10000, 403), (7000, 400), (7000, 404), (7001, 405), (7003, 404)}

    assert documented == gateway | {(kind.code, kind.http) for kind in ERROR_KINDS.values()}


def test_a_name_is_not_read_as_a_template() -> None:
    error = errors.AdapterNotFound("{name.__class__}")

    assert error_kind(error).describe(error) == "Finetune {name.__class__} not found"


def test_an_error_without_an_entry_takes_that_of_its_base() -> None:
    class Special(errors.AdapterNotFound):
        pass

    assert error_kind(Special("x")).code == 3037


def test_a_result_is_bare_for_the_binding_and_enveloped_for_rest() -> None:
    bare = result({"response": "ü"}, BINDING, {"gemlora-adapter": "none"})
    enveloped = result({"response": "ü"}, REST, {"gemlora-adapter": "none"})

    assert bare.body.decode() == '{"response":"ü"}'
    assert enveloped.body.decode() == '{"result":{"response":"ü"},"success":true,"errors":[],"messages":[]}'
    for response in (bare, enveloped):
        assert response.headers["content-type"] == "application/json"
        assert response.headers["cf-ai-req-id"] == IDENTITY
        assert response.headers["gemlora-adapter"] == "none"


def test_the_gateway_s_form_has_no_request_id() -> None:
    response = gateway_error(401, 10000, "Authentication error")

    assert body(response) == {
        "result": None,
        "success": False,
        "errors": [{"code": 10000, "message": "Authentication error"}],
        "messages": [],
    }
    assert "cf-ai-req-id" not in response.headers
