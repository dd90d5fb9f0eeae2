"""Accounts and their tokens on the wire, for operators; and every token's question whether it is valid."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from gemlora.accounts.records import Account, Scope, Token
from gemlora.accounts.service import Accounts
from gemlora.api.authentication import PLACEHOLDER_ACCOUNT, caller_of
from gemlora.api.body import BodyReader
from gemlora.api.changes import changing
from gemlora.api.envelope import envelope
from gemlora.api.members import members, required, string
from gemlora.api.validation import Json, type_mismatch
from gemlora.errors import InvalidRequest

ACCOUNT_TYPE = "standard"
DEFAULT_PAGE_SIZE = 20
LARGEST_PAGE = 1000
HIGHEST_PAGE = 1_000_000
WHOLE_NUMBER = re.compile(r"([0-9]{1,9})(\.0*)?")
"""The official libraries declare these as floats, so some programs send `10.0`."""
UNSUPPORTED = ("policies", "condition", "not_before")
"""Members that narrow a token's rights where gemlora would not: ignoring them would grant too much."""


class AccountRoutes:
    """The routes of accounts and tokens. Authorisation is attached to the routes, not decided here."""

    def __init__(
        self,
        accounts: Accounts,
        bodies: BodyReader,
        log: FilteringBoundLogger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._accounts = accounts
        self._bodies = bodies
        self._log = log
        self._clock = clock

    async def list(self, request: Request) -> Response:
        """One page of all accounts, oldest first; behind the last page it is empty."""
        page, size = page_asked(request.query_params)
        total = await self._accounts.count()
        accounts = await self._accounts.list((page - 1) * size, size)
        return envelope(
            [account_body(account) for account in accounts], info=page_info(page, size, len(accounts), total)
        )

    async def create(self, request: Request) -> Response:
        """An account without tokens."""
        wanted = await self._bodies.json(request, members)
        if wanted.get("type", ACCOUNT_TYPE) != ACCOUNT_TYPE:
            raise InvalidRequest(f"'/type' must be {ACCOUNT_TYPE!r}")
        with changing(self._log):
            account = await self._accounts.create(string(wanted, "name"))
        self._log.info("account created", account=account.id)
        return envelope(account_body(account))

    async def show(self, request: Request) -> Response:
        """One account."""
        return envelope(account_body(await self._accounts.find(_account_id(request))))

    async def delete(self, request: Request) -> Response:
        """An account with its tokens and adapters. Requests that run end with what they started with."""
        account_id = _account_id(request)
        with changing(self._log):
            await self._accounts.delete(account_id)
        self._log.info("account deleted", account=account_id)
        return envelope({"id": account_id})

    async def list_tokens(self, request: Request) -> Response:
        """One page of the account's tokens that were not revoked, oldest first; never their plain text."""
        page, size = page_asked(request.query_params)
        tokens = await self._accounts.list_tokens(_account_id(request))
        shown = tokens[(page - 1) * size : page * size]
        now = self._clock()
        return envelope(
            [token_body(token, now) for token in shown], info=page_info(page, size, len(shown), len(tokens))
        )

    async def create_token(self, request: Request) -> Response:
        """A token; its `value` is in this answer and nowhere else."""
        wanted = await self._bodies.json(request, members)
        for key in UNSUPPORTED:
            if wanted.get(key) not in (None, [], {}):
                raise InvalidRequest(f"'/{key}' is not supported; 'scopes' says what a token may do")
        account_id = _account_id(request)
        with changing(self._log):
            new = await self._accounts.create_token(
                account_id, string(wanted, "name"), _scopes(wanted), _moment(wanted, "expires_on")
            )
        self._log.info("token created", account=account_id, token_id=new.record.id)
        return envelope(token_body(new.record, self._clock()) | {"value": new.value})

    async def revoke_token(self, request: Request) -> Response:
        """The token opens nothing from the next request on."""
        account_id = _account_id(request)
        token_id: str = request.path_params["token_id"]
        with changing(self._log):
            await self._accounts.revoke_token(account_id, token_id)
        self._log.info("token revoked", account=account_id, token_id=token_id)
        return envelope({"id": token_id})

    async def verify(self, request: Request) -> Response:
        """The presented token, which is valid, and its account."""
        caller = caller_of(request)
        return envelope(token_body(caller.token, self._clock()) | {"account_id": caller.account_id})


def account_body(account: Account) -> dict[str, Json]:
    """An account as the wire shows it."""
    return {
        "id": account.id,
        "name": account.name,
        "type": ACCOUNT_TYPE,
        "created_on": _shown(account.created_at),
    }


def token_body(token: Token, now: datetime) -> dict[str, Json]:
    """A token as the wire shows it at that time, without its plain text."""
    body: dict[str, Json] = {
        "id": token.id,
        "name": token.label,
        "status": "active" if token.is_valid(now) else "expired",
        "issued_on": _shown(token.created_at),
        "scopes": sorted(token.scopes),
    }
    return body if token.expires_at is None else body | {"expires_on": _shown(token.expires_at)}


def _account_id(request: Request) -> str:
    account_id: str = request.path_params["account_id"]
    return caller_of(request).account_id if account_id == PLACEHOLDER_ACCOUNT else account_id


def page_asked(query: QueryParams) -> tuple[int, int]:
    """Number and size of the page that is asked for."""
    return (
        _number(query, "page", 1, HIGHEST_PAGE),
        _number(query, "per_page", DEFAULT_PAGE_SIZE, LARGEST_PAGE),
    )


def _number(query: QueryParams, key: str, default: int, highest: int) -> int:
    match = WHOLE_NUMBER.fullmatch(query.get(key) or str(default))
    if match is None or not 1 <= int(match[1]) <= highest:
        raise InvalidRequest(f"'{key}' must be an integer from 1 to {highest}")
    return int(match[1])


def page_info(page: int, size: int, count: int, total: int) -> Json:
    """Which part of a list an answer is."""
    return {
        "page": page,
        "per_page": size,
        "count": count,
        "total_count": total,
        "total_pages": -(-total // size),
    }


def _scopes(wanted: dict[str, Json]) -> frozenset[Scope]:
    value = required(wanted, "scopes")
    if not isinstance(value, list):
        raise InvalidRequest(type_mismatch(("scopes",), "array", value))
    allowed = tuple(Scope)
    if not value or any(scope not in allowed for scope in value):
        raise InvalidRequest(f"'/scopes' must be a list of {', '.join(allowed)}")
    return frozenset(Scope(scope) for scope in value)


def _moment(wanted: dict[str, Json], key: str) -> datetime | None:
    if wanted.get(key) is None:
        return None
    text = string(wanted, key)
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no offset")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"'/{key}' must be a time with its offset, like 2027-01-31T12:00:00Z") from None


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
