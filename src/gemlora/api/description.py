"""`GET /openapi.json`: the server describes itself."""

from collections.abc import Callable
from functools import cached_property

from starlette.requests import Request
from starlette.responses import Response

from gemlora.api.envelope import json_response
from gemlora.api.validation import Schema


class Description:
    """The route of the document, which is made when somebody asks for it first."""

    def __init__(self, document: Callable[[], Schema]) -> None:
        self._document = document

    async def show(self, _request: Request) -> Response:
        """The document, the same for everybody."""
        return json_response(self._made, 200)

    @cached_property
    def _made(self) -> Schema:
        return self._document()
