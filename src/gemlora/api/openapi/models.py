"""The run route, the catalogue and the binding's routes in the document."""

import re

from gemlora.api import models as model_routes
from gemlora.api.batches import QUEUE
from gemlora.api.binding import VERSION
from gemlora.api.envelope import Form
from gemlora.api.openapi.batches import QUEUED, with_batches
from gemlora.api.openapi.failures import GENERATING, READING
from gemlora.api.openapi.generation import OPTIONS, RUN_HEADERS
from gemlora.api.openapi.operation import Operation, answer, header, path, query, whole_number
from gemlora.api.openapi.shapes import COUNT, TEXT, UUID, Schema, enveloped, json_content, members, ref, sequence
from gemlora.api.openapi.streams import generated
from gemlora.errors import BatchNotFound, ClientTooOld, ModelNotFound

_PAGE = (
    query("page", whole_number(1, model_routes.HIGHEST_PAGE, 1), "Which page."),
    query("per_page", whole_number(1, model_routes.LARGEST_PAGE, model_routes.DEFAULT_PAGE_SIZE), "How many on one."),
    query("search", TEXT, "A part of the name or description."),
    query("task", TEXT, "A task's name."),
    query("author", TEXT, "Whose models."),
    query("source", TEXT, "1, or there are none."),
)
_INFO = members(dict.fromkeys(("count", "page", "per_page", "total_count"), COUNT))
_LORA = query("lora", TEXT, "An adapter, where the body names none.")
_RUNNING = GENERATING | {BatchNotFound}

SCHEMAS: dict[str, Schema] = {
    "RunResult": {"anyOf": [ref("Generated"), ref("BatchState"), ref("BatchAnswers")]},
    "Task": members({"id": UUID, "name": TEXT, "description": TEXT}),
    "CatalogueModel": members({
        "id": UUID, "source": {"const": model_routes.SOURCE}, "name": TEXT, "description": TEXT, "task": ref("Task"),
        "tags": sequence(TEXT), "properties": sequence(members({"property_id": TEXT, "value": TEXT})),
    }),
}  # fmt: skip

_UNKNOWN_ORIGINAL: dict[str, Schema] = {
    "404": {"description": "The original URL is none of the binding's.", "content": json_content(ref("GatewayError"))}
}


def _searched() -> dict[str, Schema]:
    return answer(enveloped(sequence(ref("CatalogueModel")), _INFO))


def of_account(names: list[str]) -> dict[str, dict[str, Operation]]:
    """By path below `/ai` of an account, and method."""
    named = {"type": "string", "enum": names}
    authors = answer(enveloped(sequence(members({"id": TEXT, "name": TEXT}))))
    schemas = members({"input": {"type": "object"}, "output": {"type": "object"}})
    return {
        "/run/{model}": {
            "post": Operation(
                "Generate text, at once or in a batch",
                generated(enveloped(ref("RunResult")), "GeneratedChunk", RUN_HEADERS), _RUNNING, Form.REST,
                json_content(with_batches(ref("RunInputs"), {"options": OPTIONS})),
                (path("model", named, "Its slashes percent-encoded or not."), _LORA, QUEUED),
            )
        },
        "/run/proxy": {
            "post": _binding(names, (_original("post"),)),
            "get": Operation(
                "What `wrangler dev` forwards of `env.AI.models`", _searched() | _UNKNOWN_ORIGINAL, READING,
                Form.REST, parameters=(_original("get"),),
            ),
        },
        "/models/search": {
            "get": Operation("The catalogue", _searched(), READING, Form.REST, parameters=_PAGE)
        },
        "/models/schema": {
            "get": Operation(
                "The hosted model's own schemas, verbatim", answer(enveloped(schemas)), READING | {ModelNotFound},
                Form.REST, parameters=(query("model", named, "A model.", required=True),),
            )
        },
        "/tasks/search": {"get": Operation("Tasks", answer(enveloped(sequence(ref("Task")))), form=Form.REST)},
        "/authors/search": {"get": Operation("Authors", authors, form=Form.REST)},
    }  # fmt: skip


def of_binding(names: list[str]) -> dict[str, dict[str, Operation]]:
    """By path and method, for Workers."""
    version = query("version", {"const": VERSION}, "Of the binding's protocol.")
    run = _binding(names, (version, _LORA, QUEUED))
    search = Operation("`env.AI.models`", _searched(), READING, Form.REST, parameters=_PAGE)
    return {
        "/run": {"post": run},
        "/ai-gateway/run": {"post": run},
        "/ai-api/models/search": {"get": search},
    }


def _binding(names: list[str], parameters: tuple[Schema, ...]) -> Operation:
    pattern = "^(.*:)?(" + "|".join(re.escape(name) for name in names) + ")$"
    model = header("cf-consn-model-id", {"type": "string", "pattern": pattern}, "The model.", required=True)
    body = members({"inputs": with_batches(ref("BindingInputs"))}, {"options": OPTIONS})
    return Operation(
        "`env.AI.run`", generated(ref("RunResult"), "GeneratedChunk", RUN_HEADERS), _RUNNING | {ClientTooOld},
        Form.BINDING, json_content(body), (*parameters, model),
    )  # fmt: skip


_VALUE = "([A-Za-z0-9_.~@:/+-]|%[0-9A-F]{2})*"
_ORIGINALS = {
    "post": ("/(ai-gateway/)?run", f"(version={VERSION}|(lora|{QUEUE})={_VALUE})"),
    "get": ("/ai-api/models/search", f"((page|per_page)=[1-9][0-9]{{0,2}}|(search|task|author|source)={_VALUE})"),
}
"""By method, which paths and parameters the original URL may have."""


def _original(method: str) -> Schema:
    place, parameter = _ORIGINALS[method]
    pattern = f"^https?://[A-Za-z0-9.:-]+{place}([?]{parameter}(&{parameter})*)?$"
    text = "The original URL. Its parameters mean what they mean there; others are ignored."
    return header("x-forwarded", {"type": "string", "pattern": pattern}, text, required=True)
