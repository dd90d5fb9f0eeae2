"""Who calls, from the bearer token. Attached to each route, never decided from a path; refuses when in doubt."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from starlette.requests import Request

from gemlora.accounts.records import Caller, Scope
from gemlora.errors import Forbidden, Unauthenticated

AUTHENTICATION_ERROR = "Authentication error"

PLACEHOLDER_ACCOUNT = "your-account-id"
"""What the model page's Python example says in place of an account's id; here it means the token's account."""


class Access(Enum):
    """Whose token a route demands."""

    PUBLIC = "none"
    TOKEN = "any valid token"  # noqa: S105
    ACCOUNT = "a token of the account in the path"
    OPERATOR = "a token with the scope admin, whatever the account in the path"


class Authenticator(Protocol):
    """What knows the tokens."""

    async def authenticate(self, token: str | None) -> Caller:
        """The caller who presents `token`; raises `Unauthenticated` for a bad one or none."""
        ...


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands before one route. It leaves the caller in `request.state.caller`.

    Raises `Unauthenticated`, `Forbidden`, or what says that the token could not be checked: nobody passes then.
    """

    accounts: Authenticator
    access: Access
    scope: Scope | None

    async def __call__(self, request: Request) -> None:
        """Admit the caller or raise; a foreign account looks like one that does not exist."""
        caller = await self.accounts.authenticate(bearer_token(request))
        scope = Scope.ADMIN if self.access is Access.OPERATOR else self.scope
        if scope is not None and not caller.may(scope):
            raise Forbidden(AUTHENTICATION_ERROR)
        if self.access is Access.ACCOUNT:
            account_id = request.path_params["account_id"]
            if account_id not in (caller.account_id, PLACEHOLDER_ACCOUNT):
                raise Forbidden(AUTHENTICATION_ERROR)
        request.state.caller = caller


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
