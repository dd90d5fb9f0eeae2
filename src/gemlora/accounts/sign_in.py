"""Signing in by a link that works once: a code, told to whoever starts the server, is exchanged for a token.

The code is kept in memory as its hash, opens one account, and is gone with its first use or after a while.
"""

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from gemlora.accounts.records import NewToken
from gemlora.accounts.service import Accounts, token_digest
from gemlora.errors import Unauthenticated

CODE_BYTES = 32
LABEL = "playground"
TOKEN_FOR = timedelta(hours=12)
"""How long the token opens new requests that a code was exchanged for."""


@dataclass(frozen=True, slots=True)
class _Offer:
    digest: str
    account_id: str
    deadline: float


class SignIn:
    """At most one code at a time. Each opens for `seconds`; a clock that never goes back measures them."""

    def __init__(self, accounts: Accounts, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts = accounts
        self._seconds = seconds
        self._clock = clock
        self._offer: _Offer | None = None

    def offer(self, account_id: str) -> str | None:
        """A new code for the account, which replaces the one before; None if codes are turned off."""
        if not self._seconds:
            return None
        code = secrets.token_urlsafe(CODE_BYTES)
        self._offer = _Offer(token_digest(code), account_id, self._clock() + self._seconds)
        return code

    async def exchange(self, code: str) -> NewToken:
        """A token for the code's account. Raises `Unauthenticated` for one that is wrong, used or too old."""
        offer = self._offer
        if offer is None or not hmac.compare_digest(offer.digest, token_digest(code)):
            raise Unauthenticated("Authentication error")
        self._offer = None  # before anything is awaited: two exchanges at once are one
        if self._clock() >= offer.deadline:
            raise Unauthenticated("Authentication error")
        return await self._accounts.lend_token(offer.account_id, LABEL, TOKEN_FOR)
