"""What the document says about one route."""

from dataclasses import dataclass, replace

from gemlora.accounts.records import Scope
from gemlora.api.envelope import Form
from gemlora.api.openapi.failures import EVERYWHERE, Errors, failures
from gemlora.api.openapi.shapes import TEXT, Schema, json_content

SCHEME = "token"
NO_ERRORS: Errors = frozenset()


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. `answers` maps statuses to responses, `errors` are those beyond what every route may meet."""

    summary: str
    answers: dict[str, Schema]
    errors: Errors = NO_ERRORS
    form: Form | None = None
    body: Schema | None = None
    parameters: tuple[Schema, ...] = ()
    scope: Scope | None = None
    """What a token must allow; None: every valid one will do."""

    def granted(self, scope: Scope) -> "Operation":
        """The same, for tokens with that scope."""
        return replace(self, scope=scope)

    def document(self, *, authorised: bool) -> Schema:
        """As OpenAPI writes it."""
        errors = self.errors | (EVERYWHERE if authorised else NO_ERRORS)
        responses = {**self.answers}
        for status, response in failures(errors, self.form, authorised=authorised).items():
            responses.setdefault(status, response)
        scopes = [] if self.scope is None else [self.scope.value]
        operation: Schema = {"summary": self.summary, "security": [{SCHEME: scopes}] if authorised else []}
        operation["responses"] = responses
        if self.parameters:
            operation["parameters"] = [*self.parameters]
        if self.body is not None:
            operation["requestBody"] = {"required": True, "content": self.body}
        return operation


def answer(schema: Schema, description: str = "OK", headers: Schema | None = None) -> dict[str, Schema]:
    """A success in JSON."""
    response: Schema = {"description": description, "content": json_content(schema)}
    return {"200": response if headers is None else {**response, "headers": headers}}


def query(name: str, schema: Schema, description: str, *, required: bool = False) -> Schema:
    """A parameter of the query string."""
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def path(name: str, schema: Schema, description: str) -> Schema:
    """A part of the path."""
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def header(name: str, schema: Schema, description: str, *, required: bool = False) -> Schema:
    """A header of the request."""
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def sent(schema: Schema, description: str, *, required: bool = True) -> Schema:
    """A header of the response."""
    return {"description": description, "required": required, "schema": schema}


def whole_number(lowest: int, highest: int, default: int) -> Schema:
    """A whole number in a query string, where an empty one is none."""
    number = {"type": "integer", "minimum": lowest, "maximum": highest, "default": default}
    return {"anyOf": [number, {**TEXT, "maxLength": 0}]}
