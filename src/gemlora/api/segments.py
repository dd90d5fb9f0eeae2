"""Routes by the segments of the raw path: a percent-encoded slash belongs to the segment, as in a finetune's name."""

from collections.abc import Collection
from urllib.parse import quote, unquote

from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from gemlora.api.authentication import Guard
from gemlora.api.guarded import GuardedRoute, Handler


class SegmentRoute(GuardedRoute):
    """Matches segment by segment, each decoded after the split; a slash at the end makes no difference."""

    def __init__(
        self, path: str, handler: Handler, methods: Collection[str], guard: Guard | None, allowed: Collection[str]
    ) -> None:
        """`allowed` are all methods of the path, those of other routes included."""
        super().__init__(path, handler, methods, guard)
        self._pattern = path.split("/")
        self._allowed = ", ".join(sorted(allowed))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `Route.matches`."""
        if scope["type"] != "http":
            return Match.NONE, {}
        parameters = self._parameters(segments(scope))
        if parameters is None:
            return Match.NONE, {}
        found = {"endpoint": self.endpoint, "path_params": parameters, "route": self}
        return (Match.FULL if scope["method"] in self.methods else Match.PARTIAL), found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Route.handle`."""
        if scope["method"] not in self.methods:
            raise HTTPException(405, headers={"Allow": self._allowed})
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
