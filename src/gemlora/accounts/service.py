"""Who is calling, and the first account of an empty data folder. Tokens are kept as SHA-256 only."""

import asyncio
import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gemlora.accounts.records import Account, Caller, Scope, Token
from gemlora.accounts.repository import AccountChanges, AccountRepository
from gemlora.errors import Unauthenticated
from gemlora.storage.files import storage_errors, write_durably


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
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self._first_token = first_token
        self._clock = clock

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

    async def prepare(self, account_id: str | None = None, token: str | None = None) -> FirstAccess:
        """Make sure that there is a first account with a token, with the preset id and token if given.

        A preset that is known already changes nothing; a new one is added beside what is there. The token's plain
        text is kept in the data folder, written before the database so that a crash between the two loses nothing.
        """
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
        return secrets.token_urlsafe(30)

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
