"""The OpenAPI document says what the server does: every route, who may call it, and which bodies it accepts."""

import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from tests.api.bodies import SCHEMA, SCHEMA_FILE, Bodies
from tests.api.parts import MODEL, Parts
from tests.api.test_routes import api_routes, guards_of

from gemlora.accounts.records import Scope
from gemlora.api.authentication import Access
from gemlora.api.inputs import InputReader
from gemlora.api.openapi.document import document
from gemlora.api.openapi.operation import SCHEME
from gemlora.errors import InvalidRequest
from gemlora.playground.page import Playground
from gemlora.registry.models import Catalogue

COUNT = 6000
COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture
def described(parts: Parts) -> Any:
    return document(parts.services.catalogue, SCHEMA)


def with_page(parts: Parts) -> Parts:
    """The whole router, the page included."""
    page = Playground(Catalogue(parts.services.catalogue.list()))
    parts.api.add_api_route("/", page.page, methods=["GET", "HEAD"])
    parts.api.add_api_route("/playground/style.css", page.style, methods=["GET", "HEAD"])
    return parts


def test_every_route_is_described_and_nothing_else(parts: Parts, described: Any) -> None:
    routed = {
        (route.path.replace(":path", ""), method.lower())
        for route in api_routes(with_page(parts))
        for method in route.methods
    }
    documented = {
        (place, method) for place, methods in described["paths"].items() for method in methods if method != "parameters"
    }

    assert documented == routed


def test_each_route_s_token_and_scope_are_those_of_its_guard(parts: Parts, described: Any) -> None:
    for route in api_routes(parts):
        guards = guards_of(route)
        scopes = [Scope.ADMIN if guard.access is Access.OPERATOR else guard.scope for guard in guards]
        wanted = [{SCHEME: [] if scope is None else [scope.value]} for scope in scopes]
        for method in route.methods:
            operation = described["paths"][route.path.replace(":path", "")][method.lower()]
            assert operation["security"] == wanted, route.path


def test_each_part_of_a_path_is_described(described: Any) -> None:
    for place, methods in described["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            parameters = [*methods.get("parameters", []), *operation.get("parameters", [])]
            names = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
            assert names == {part[1:-1] for part in place.split("/") if part.startswith("{")}, place


def test_all_schemas_are_valid(described: Any) -> None:
    assert described["openapi"] == "3.1.0"
    for schema in described["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def validator(described: Any, schema: Any) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({**schema, "components": described["components"]})


def test_the_run_route_s_schema_and_the_server_accept_the_same_inputs(described: Any) -> None:
    schema = validator(described, {"$ref": "#/components/schemas/RunInputs"})
    reader = InputReader(SCHEMA)
    accepted, differences = 0, []
    for body in itertools.islice(Bodies(2), COUNT):
        if isinstance(body, dict):
            body.pop("options", None)  # where they are read depends on the route
        try:
            reader.read(body, MODEL)
        except InvalidRequest as error:
            refusal = str(error)
        else:
            refusal, accepted = "", accepted + 1
        if schema.is_valid(body) is bool(refusal):
            differences.append(f"{json.dumps(body)[:1000]}\n  server: {refusal or 'accepted'}")

    assert 1000 < accepted < COUNT - 1000
    assert len(differences) == 0, "\n".join(differences[:5])


async def test_the_document_is_served_to_everybody(parts: Parts, described: Any) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(parts.api), base_url="http://gemlora") as client:
        response = await client.get("/openapi.json")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(described))


async def test_models_schema_serves_the_page_s_schema_verbatim(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/client/v4/accounts/your-account-id/ai/models/schema?model={MODEL}")

    assert response.json()["result"]["input"] == json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def test_the_committed_document_is_current(described: Any) -> None:
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == described, "run: make docs"
