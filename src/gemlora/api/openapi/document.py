"""The whole document, from the page's schemas, the code's tables and what stands about each route."""

import copy
from importlib.metadata import version

from gemlora.accounts.records import Scope
from gemlora.aliases.service import AliasLimits
from gemlora.api.authentication import PLACEHOLDER_ACCOUNT
from gemlora.api.limits import Limits
from gemlora.api.openapi import (
    aliases,
    batches,
    failures,
    generation,
    models,
    openai,
    public,
    registry,
    shape_inputs,
    streams,
)
from gemlora.api.openapi.operation import SCHEME, Operation, path
from gemlora.api.openapi.shapes import Schema
from gemlora.registry.models import Catalogue

SIGN_IN = "/client/v4/sign-in"
ACCOUNT = "/client/v4/accounts/{account_id}"
ACCOUNT_ID = path(
    "account_id",
    {"type": "string", "pattern": f"^([0-9a-f]{{32}}|{PLACEHOLDER_ACCOUNT})$", "examples": [PLACEHOLDER_ACCOUNT]},
    f"An account; `{PLACEHOLDER_ACCOUNT}` stands for the token's.",
)
DESCRIPTION = """A Gemma base model with LoRA adapters behind the wire protocol of Workers AI.

Bodies in JSON are read as JSON whatever their content type says: UTF-8, no key twice in one object, no NaN, no half \
surrogate pairs, at most 64 levels deep. Lengths of prompts and contents count UTF-16 units. A slash at the end of a \
path makes no difference."""


def document(catalogue: Catalogue, page: Schema, limits: Limits, alias_limits: AliasLimits) -> Schema:
    """The document for what `catalogue` serves within the limits.

    `page` is the input schema of the hosted model's page.
    """
    names = [model.name for model in catalogue.list()]
    model: Schema = {"type": "string", "enum": names}
    run = _granted(Scope.RUN, models.of_binding(names))
    run |= _below(f"{ACCOUNT}/ai", _granted(Scope.RUN, models.of_account(names)))
    run |= _below(f"{ACCOUNT}/ai/v1", _granted(Scope.RUN, openai.operations(names)))
    authorised = run | _below(f"{ACCOUNT}/ai/finetunes", registry.finetunes(model))
    authorised |= _below(f"{ACCOUNT}/ai/aliases", aliases.aliases())
    authorised |= _below("/client/v4", registry.accounts())
    open_to_all = public.operations() | {SIGN_IN: {"post": registry.sign_in()}}
    inputs = generation.run_inputs(page)
    return {
        "openapi": "3.2.0",
        "info": {"title": "gemlora", "version": version("gemlora"), "description": DESCRIPTION},
        "paths": _paths(authorised, authorised=True) | _paths(open_to_all, authorised=False),
        "components": {
            "schemas": {
                "RunInputs": inputs,
                "BindingInputs": _without_options(inputs),
                **shape_inputs.schemas(limits.shapes.tools), **generation.SCHEMAS, **streams.SCHEMAS,
                **batches.schemas(limits.batch_requests),
                **models.SCHEMAS, **openai.SCHEMAS, **registry.SCHEMAS, **aliases.schemas(alias_limits.versions),
                **failures.SCHEMAS,
            },
            "securitySchemes": {SCHEME: {"type": "http", "scheme": "bearer"}},
        },
    }  # fmt: skip


def _granted(scope: Scope, operations: dict[str, dict[str, Operation]]) -> dict[str, dict[str, Operation]]:
    return {
        place: {method: operation.granted(scope) for method, operation in methods.items()}
        for place, methods in operations.items()
    }


def _below(prefix: str, operations: dict[str, dict[str, Operation]]) -> dict[str, dict[str, Operation]]:
    return {f"{prefix}{place}": methods for place, methods in operations.items()}


def _paths(operations: dict[str, dict[str, Operation]], *, authorised: bool) -> Schema:
    paths: Schema = {}
    for place, methods in operations.items():
        paths[place] = {"parameters": [ACCOUNT_ID]} if "{account_id}" in place else {}
        paths[place] |= {method: operation.document(authorised=authorised) for method, operation in methods.items()}
    return paths


def _without_options(inputs: Schema) -> Schema:
    """Where options stand beside the inputs, those in them mean nothing."""
    inputs = copy.deepcopy(inputs)
    for alternative in inputs["oneOf"]:
        del alternative["properties"]["options"]
    return inputs
