"""Routes by the segments of the raw path: a percent-encoded slash belongs to the segment, as in a finetune's name."""

from typing import Any
from urllib.parse import quote, unquote

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send


class SegmentRoute(APIRoute):
    """Matches segment by segment, each decoded after the split; a slash at the end makes no difference."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._pattern = path.split("/")
        self._methods = frozenset(self.methods or ())
        self.allowed = self._methods
        """All methods of the path, those of other routes included; whoever builds the router completes it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `APIRoute.matches`."""
        if scope["type"] != "http":
            return Match.NONE, {}
        parameters = self._parameters(segments(scope))
        if parameters is None:
            return Match.NONE, {}
        found = {"endpoint": self.endpoint, "path_params": parameters, "route": self}
        return (Match.FULL if scope["method"] in self._methods else Match.PARTIAL), found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `APIRoute.handle`."""
        if scope["method"] not in self._methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        await super().handle(scope, receive, send)

    def _parameters(self, parts: list[str]) -> dict[str, str] | None:
        if len(parts) != len(self._pattern):
            return None
        parameters = {}
        for wanted, part in zip(self._pattern, parts, strict=True):
            if wanted.startswith("{") and part:
                parameters[wanted[1:-1]] = part
            elif wanted != part:
                return None
        return parameters


def segments(scope: Scope) -> list[str]:
    """The path's decoded segments, without the empty one behind a slash at the end."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("ascii", "replace")
    parts = [unquote(part) for part in path.split("/")]
    return parts[:-1] if len(parts) > 2 and not parts[-1] else parts
