"""`POST /client/v4/sign-in`: the one-time code of the printed link for a token. Public, since the code is the proof."""

from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from gemlora.accounts.sign_in import SignIn
from gemlora.api.accounts import token_body
from gemlora.api.body import BodyReader
from gemlora.api.changes import changing
from gemlora.api.envelope import envelope
from gemlora.api.members import members, string

LARGEST_BODY = 4096
"""Bytes. Nobody is known yet who may send more."""


class SignInRoute:
    """The route of the playground's link."""

    def __init__(
        self,
        sign_in: SignIn,
        idle_seconds: float,
        log: FilteringBoundLogger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sign_in = sign_in
        self._bodies = BodyReader(LARGEST_BODY, idle_seconds)
        self._log = log
        self._clock = clock

    async def exchange(self, request: Request) -> Response:
        """The token's `value` is in this answer and nowhere else."""
        code = string(await self._bodies.json(request, members), "code")
        with changing(self._log):
            new = await self._sign_in.exchange(code)
        self._log.info("signed in by link", account=new.record.account_id, token_id=new.record.id)
        body = token_body(new.record, self._clock()) | {"account_id": new.record.account_id, "token": new.value}
        return envelope(body, {"cache-control": "no-store"})
