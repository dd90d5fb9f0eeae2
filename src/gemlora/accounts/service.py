"""Who is calling; accounts and tokens, and the first ones of an empty data folder. Tokens are kept as SHA-256 only.

Every request looks its token up, so that a change takes effect with the next request, on every server.
"""

import asyncio
import hashlib
import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from gemlora.accounts.records import Account, Caller, NewToken, Scope, Token
from gemlora.accounts.repository import AccountChanges, AccountRepository
from gemlora.errors import AccountNotFound, InvalidRequest, StillNeeded, TokenNotFound, Unauthenticated
from gemlora.storage.files import storage_errors, write_durably

MAX_NAME_LENGTH = 255
TOKEN_BYTES = 30
LENT_LABEL = "command line"
LENT_FOR = timedelta(hours=1)
"""A lent token opens new requests for that long; what it began before goes on."""

_ACCOUNT_ID = re.compile("[0-9a-f]{32}")
_TOKEN_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Holdings(Protocol):
    """What accounts hold in other rooms."""

    async def check(self, account_id: str) -> None:
        """Raise `StillNeeded` if something of the account must not go with it."""
        ...

    async def remove(self, account_id: str) -> None:
        """Remove everything of the account, from memory too. Requests that run keep what they started with."""
        ...


@dataclass(frozen=True, slots=True)
class FirstAccess:
    """What `serve` prints. `token` is None when only its hash is known any more."""

    account_id: str
    token: str | None


class Accounts:
    """The accounts of one data folder."""

    def __init__(
        self,
        repository: AccountRepository,
        first_token: Path,
        holdings: Holdings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self._first_token = first_token
        self._holdings = holdings
        self._clock = clock
        self._preset_account: str | None = None
        self._preset_token: str | None = None

    async def authenticate(self, token: str | None) -> Caller:
        """The caller who presents `token`.

        Raises `Unauthenticated` for a missing, unknown, revoked or expired token: all take the same path.
        """
        caller = await self._repository.find_caller(token_digest(token or ""))
        if caller is None or not caller.token.is_valid(self._clock()):
            raise Unauthenticated("Authentication error")
        return caller

    async def first_account(self) -> Account | None:
        """The account that the command line acts for; None in an empty data folder."""
        return await self._repository.first_account()

    async def find(self, account_id: str) -> Account:
        """The account with this id. Raises `AccountNotFound`."""
        account = await self._repository.find(account_id) if _ACCOUNT_ID.fullmatch(account_id) else None
        if account is None:
            raise AccountNotFound(account_id)
        return account

    async def list(self, offset: int, limit: int) -> tuple[Account, ...]:
        """Accounts, oldest first."""
        return await self._repository.list(offset, limit)

    async def count(self) -> int:
        """How many accounts there are."""
        return await self._repository.count()

    async def create(self, name: str) -> Account:
        """A new account without tokens. Names need not be unique. Raises `InvalidRequest` for a bad name."""
        _check_name(name)
        account = Account(secrets.token_hex(16), name, self._clock())
        async with self._repository.changing() as changes:
            await changes.add_account(account)
        return account

    async def delete(self, account_id: str) -> None:
        """Delete an account with everything that it holds.

        Its tokens are revoked first, so that nothing new begins. If that is as far as it gets, deleting it again goes
        on. Raises `AccountNotFound`, and `StillNeeded` for the first account or what may not go.
        """
        await self.find(account_id)
        await self._holdings.check(account_id)
        async with self._repository.changing() as changes:
            await self._check_deletable(changes, account_id)
            await changes.revoke_tokens(account_id, self._clock())
        await self._holdings.remove(account_id)
        async with self._repository.changing() as changes:
            await self._check_deletable(changes, account_id)
            await changes.delete_account(account_id)

    async def list_tokens(self, account_id: str) -> tuple[Token, ...]:
        """The account's tokens that were not revoked, expired ones too. Raises `AccountNotFound`."""
        await self.find(account_id)
        return await self._repository.list_tokens(account_id)

    async def create_token(
        self, account_id: str, label: str, scopes: frozenset[Scope], expires_at: datetime | None = None
    ) -> NewToken:
        """A new token of the account. Raises `AccountNotFound` or `InvalidRequest`."""
        _check_name(label)
        if not scopes:
            raise InvalidRequest(f"scopes: must name at least one of {', '.join(Scope)}")
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InvalidRequest("expires_on: must be in the future")
        await self.find(account_id)
        new = _new_token(account_id, label, scopes, now, expires_at)
        async with self._repository.changing() as changes:
            if await changes.find_account(account_id) is None:
                raise AccountNotFound(account_id)
            await changes.add_token(new.record, token_digest(new.value))
        return new

    async def revoke_token(self, account_id: str, token_id: str) -> None:
        """Let a token open nothing any more, from the next request on. Revoking it again changes nothing.

        Raises `AccountNotFound`, `TokenNotFound`, and `StillNeeded` for a token that the settings preset: it would
        be valid again at the next start.
        """
        await self.find(account_id)
        async with self._repository.changing() as changes:
            found = _TOKEN_ID.fullmatch(token_id) and await changes.find_token_of(account_id, token_id)
            if not found:
                raise TokenNotFound(token_id)
            preset = await changes.find_token(self._preset_token) if self._preset_token else None
            if preset is not None and preset.id == token_id:
                raise StillNeeded(
                    "the setting api_token presets this token: it is valid while the setting names it; remove it there"
                )
            await changes.revoke_token(token_id, self._clock())

    async def lend_token(self, account_id: str, label: str = LENT_LABEL, duration: timedelta = LENT_FOR) -> NewToken:
        """A token with every scope for somebody on the server's own machine, for a while or until `return_token`.

        Those of the label that were not returned are deleted once they have expired. Raises `AccountNotFound`.
        """
        await self.find(account_id)
        now = self._clock()
        new = _new_token(account_id, label, frozenset(Scope), now, now + duration)
        async with self._repository.changing() as changes:
            await changes.delete_expired_tokens(label, now)
            await changes.add_token(new.record, token_digest(new.value))
        return new

    async def return_token(self, lent: NewToken) -> None:
        """Delete a lent token."""
        async with self._repository.changing() as changes:
            await changes.delete_token(lent.record.id)

    async def prepare(self, account_id: str | None = None, token: str | None = None) -> FirstAccess:
        """Make sure that there is a first account with a token, with the preset id and token if given.

        A preset that is known already changes nothing; a new one is added beside what is there. The token's plain
        text is kept in the data folder, written before the database so that a crash between the two loses nothing.
        """
        self._preset_account = account_id
        self._preset_token = None if token is None else token_digest(token)
        async with self._repository.changing() as changes:
            known = await changes.first_account()
            if account_id is not None and (known is None or known.id != account_id):
                known = None
            account = known or Account(account_id or secrets.token_hex(16), "first", self._clock())
            if known is None:
                await changes.make_first(account)
            return FirstAccess(account.id, await self._prepare_token(changes, account, token))

    async def _prepare_token(self, changes: AccountChanges, account: Account, preset: str | None) -> str | None:
        kept = await asyncio.to_thread(self._read_first_token)
        token = preset or await self._choose_token(changes, account, kept)
        if token is None:
            return None
        if token != kept:
            await asyncio.to_thread(self._write_first_token, token)
        record = await changes.find_token(token_digest(token))
        if record is None:
            new = Token(str(uuid.uuid4()), account.id, "first", frozenset(Scope), self._clock())
            await changes.add_token(new, token_digest(token))
        elif preset is not None:
            await changes.renew_token(record.id, account.id)
        return token

    async def _choose_token(self, changes: AccountChanges, account: Account, kept: str | None) -> str | None:
        if kept is not None:
            record = await changes.find_token(token_digest(kept))
            if record is None or (record.account_id == account.id and record.is_valid(self._clock())):
                return kept
        if await changes.has_valid_token(account.id, self._clock()):
            return None
        return secrets.token_urlsafe(TOKEN_BYTES)

    async def _check_deletable(self, changes: AccountChanges, account_id: str) -> None:
        if await changes.find_account(account_id) is None:
            raise AccountNotFound(account_id)
        first = await changes.first_account()
        if account_id == self._preset_account or (first is not None and first.id == account_id):
            raise StillNeeded("the first account cannot be deleted")

    def _read_first_token(self) -> str | None:
        with storage_errors(f"read {self._first_token}"):
            if not self._first_token.exists():
                return None
            return self._first_token.read_text(encoding="ascii").removesuffix("\n") or None

    def _write_first_token(self, token: str) -> None:
        with storage_errors(f"write {self._first_token}"):
            write_durably(self._first_token, f"{token}\n".encode("ascii"))


def token_digest(token: str) -> str:
    """SHA-256 of a token in hexadecimal; any string has one."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _new_token(
    account_id: str, label: str, scopes: frozenset[Scope], now: datetime, expires_at: datetime | None
) -> NewToken:
    record = Token(str(uuid.uuid4()), account_id, label, scopes, now, expires_at)
    return NewToken(record, secrets.token_urlsafe(TOKEN_BYTES))


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InvalidRequest(f"name: must have 1 to {MAX_NAME_LENGTH} characters")
    if not name.isprintable() or name != name.strip():
        raise InvalidRequest("name: must be printable, without blanks at its ends")
