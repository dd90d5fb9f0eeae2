"""The page at `/`: what is served, and where to read on. Static, without scripts and without anything remote."""

import html
from importlib.resources import files
from string import Template

from starlette.requests import Request
from starlette.responses import Response

from gemlora.registry.models import Catalogue

HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Playground:
    """The page's two files, read once."""

    def __init__(self, catalogue: Catalogue) -> None:
        folder = files("gemlora.playground")
        self._page = Template((folder / "index.html").read_text(encoding="utf-8"))
        self._models = _listed(catalogue)
        self._first = html.escape(catalogue.list()[0].name)
        self._style = (folder / "style.css").read_bytes()

    async def page(self, request: Request) -> Response:
        """`/`, with the address under which the reader came."""
        host = html.escape(request.headers.get("host", ""))
        return Response(self._page.substitute(models=self._models, model=self._first, host=host), headers=HEADERS)

    async def style(self, _request: Request) -> Response:
        """`/playground/style.css`."""
        return Response(self._style, headers={**HEADERS, "content-type": "text/css; charset=utf-8"})


def _listed(catalogue: Catalogue) -> str:
    return "\n".join(
        f"<dt><code>{html.escape(model.name)}</code></dt><dd>{html.escape(model.notice)}</dd>"
        for model in catalogue.list()
    )
