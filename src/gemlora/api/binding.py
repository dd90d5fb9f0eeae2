"""The routes that workerd's AI binding calls. The account is the one that the token belongs to.

Answers are bare results with exactly `application/json`; errors carry an `internalCode`.
"""

from urllib.parse import urlsplit

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from gemlora.api.envelope import NO_ROUTE, Form, gateway_error
from gemlora.api.models import Models
from gemlora.api.run import Run, begin_call, member
from gemlora.errors import ClientTooOld, IncompleteRequest, InvalidRequest
from gemlora.registry.models import Catalogue

MODEL_HEADER = "cf-consn-model-id"
VERSION = "3"


class Binding:
    """`env.AI` of a Worker."""

    def __init__(self, run: Run, models: Models, catalogue: Catalogue) -> None:
        self._run = run
        self._models = models
        self._catalogue = catalogue

    async def run(self, request: Request) -> Response:
        """`AI.run(model, inputs, options)`."""
        return await self._answer(request, request.query_params)

    async def search(self, request: Request) -> Response:
        """`AI.models(params)`; the binding unwraps the envelope itself, also of errors."""
        return self._models.page(request.query_params)

    async def proxy(self, request: Request) -> Response:
        """What `wrangler dev` up to 4.35 forwards; the original URL is in a header."""
        path, query = _path_and_query(request.headers.get("x-forwarded", ""))
        match request.method, path:
            case "POST", "/run" | "/ai-gateway/run":
                return await self._answer(request, query)
            case "GET", "/ai-api/models/search":
                return self._models.page(query)
            case _:
                code, message = NO_ROUTE
                return gateway_error(404, code, message)

    async def _answer(self, request: Request, query: QueryParams) -> Response:
        call = begin_call(request, Form.BINDING)
        if query.get("version", VERSION) != VERSION:
            raise ClientTooOld("Request trying to use deprecated SDK version")
        if MODEL_HEADER not in request.headers:
            raise IncompleteRequest(f"Request is missing headers or body: {MODEL_HEADER}")
        _prefix, _, name = request.headers[MODEL_HEADER].rpartition(":")
        model = self._catalogue.get(name).name
        if "userInputs" in query:
            raise InvalidRequest(f"'/body' is not supported, {model} is a text-only model and takes JSON inputs")
        return await self._run.answer(
            request, call, model, lambda body: (member(body, "inputs"), member(body, "options")), query
        )


def _path_and_query(url: str) -> tuple[str, QueryParams]:
    """Of any text; what is no URL has no path."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", QueryParams()
    return parts.path, QueryParams(parts.query)
