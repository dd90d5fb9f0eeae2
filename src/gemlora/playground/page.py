"""The page at `/` and the files that it loads: static, read once, with nothing inline and nothing remote."""

import gzip
import hashlib
import html
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gemlora.registry.models import Catalogue

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
PAGE = "index.html"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No script or style but our files, no request but to this server, and no text that ever becomes HTML or a script."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it is and compressed."""

    content: bytes
    compressed: bytes
    etag: str
    media_type: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "Asset":
        """The file `name` with this content."""
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        return cls(content, gzip.compress(content, mtime=0), etag, MEDIA_TYPES[name.rpartition(".")[2]])

    def answer(self, request: Request) -> Response:
        """The file, compressed where the client can read that, or the news that the client has it already."""
        headers = {**HEADERS, "content-type": self.media_type, "etag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, headers={**headers, "content-encoding": "gzip"})
        return Response(self.content, headers=headers)


class Playground:
    """The page and its files."""

    def __init__(self, catalogue: Catalogue) -> None:
        contents = {file.name: file.read_bytes() for file in (files("gemlora.playground") / "assets").iterdir()}
        page = Template(contents.pop(PAGE).decode()).substitute(models=_listed(catalogue))
        self._page = Asset.of(PAGE, page.encode())
        self._files = {name: Asset.of(name, content) for name, content in contents.items()}

    async def page(self, request: Request) -> Response:
        """`/`."""
        return self._page.answer(request)

    async def file(self, request: Request) -> Response:
        """`/playground/{name}`."""
        asset = self._files.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404)
        return asset.answer(request)


def _listed(catalogue: Catalogue) -> str:
    return "\n".join(
        f"<dt><code>{html.escape(model.name)}</code></dt><dd>{html.escape(model.notice)}</dd>"
        for model in catalogue.list()
    )
