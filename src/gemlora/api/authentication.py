"""Who calls, from the bearer token. Attached to each route, never decided from a path; refuses when in doubt."""

from typing import Protocol

from starlette.requests import Request

from gemlora.accounts.records import Caller, Scope
from gemlora.errors import Forbidden, Unauthenticated

AUTHENTICATION_ERROR = "Authentication error"

PLACEHOLDER_ACCOUNT = "your-account-id"
"""What the model page's Python example says in place of an account's id; here it means the token's account."""


class Authenticator(Protocol):
    """What knows the tokens."""

    async def authenticate(self, token: str | None) -> Caller:
        """The caller who presents `token`; raises `Unauthenticated` for a bad one or none."""
        ...


class Authentication:
    """The two ways in which a route is authorised. Each leaves the caller in `request.state.caller`."""

    def __init__(self, accounts: Authenticator) -> None:
        self._accounts = accounts

    async def token_owner(self, request: Request) -> None:
        """Admit any valid token that may run models; the account is the token's."""
        caller = await self._accounts.authenticate(bearer_token(request))
        if not caller.may(Scope.RUN):
            raise Forbidden(AUTHENTICATION_ERROR)
        request.state.caller = caller

    async def account_owner(self, request: Request) -> None:
        """Admit the tokens of the account in the path; a foreign account looks like one that does not exist."""
        await self.token_owner(request)
        if request.path_params["account_id"] not in (caller_of(request).account_id, PLACEHOLDER_ACCOUNT):
            raise Forbidden(AUTHENTICATION_ERROR)


def caller_of(request: Request) -> Caller:
    """The caller that an authorised route has."""
    caller: Caller = request.state.caller
    return caller


def bearer_token(request: Request) -> str:
    """The token of the only Authorization header. Raises `Unauthenticated` if there is none or more than one."""
    values = request.headers.getlist("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(AUTHENTICATION_ERROR)
    return token.strip()
