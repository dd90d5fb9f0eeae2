"""Accounts and tokens in the database: the only place in this room with SQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gemlora.accounts.records import Account, Caller, Scope, Token
from gemlora.storage.database import Database
from gemlora.storage.tables import accounts, tokens


class AccountRepository:
    """Reads single facts; changes go through `changing`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_caller(self, token_digest: str) -> Caller | None:
        """The account and token with this digest, whether the token is valid or not."""
        query = (
            select(*_ACCOUNT, *_TOKEN)
            .join_from(tokens, accounts, tokens.c.account_id == accounts.c.id)
            .where(tokens.c.digest == token_digest)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else Caller(_account(row), _token(row))

    async def first_account(self) -> Account | None:
        """The account that `serve` prints and that the command line acts for."""
        async with self._database.reading() as connection:
            return await _first_account(connection)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator["AccountChanges"]:
        """All changes of the block happen together or not at all, and nobody else writes meanwhile."""
        async with self._database.writing() as connection:
            yield AccountChanges(connection)


class AccountChanges:
    """Reads and writes of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def first_account(self) -> Account | None:
        """The first account."""
        return await _first_account(self._connection)

    async def make_first(self, account: Account) -> None:
        """Add the account if it is missing and let it be the first one."""
        known = await self._connection.scalar(select(accounts.c.id).where(accounts.c.id == account.id))
        if known is None:
            await self._connection.execute(
                insert(accounts).values(id=account.id, name=account.name, first=False, created_at=account.created_at)
            )
        await self._connection.execute(update(accounts).values(first=accounts.c.id == account.id))

    async def find_token(self, digest: str) -> Token | None:
        """The token with this digest."""
        row = (
            (await self._connection.execute(select(*_TOKEN).where(tokens.c.digest == digest))).mappings().one_or_none()
        )
        return None if row is None else _token(row)

    async def has_valid_token(self, account_id: str, moment: datetime) -> bool:
        """Whether any token opens this account at that time."""
        rows = await self._connection.execute(select(*_TOKEN).where(tokens.c.account_id == account_id))
        return any(_token(row).is_valid(moment) for row in rows.mappings())

    async def add_token(self, token: Token, digest: str) -> None:
        """Add a token."""
        await self._connection.execute(
            insert(tokens).values(
                id=token.id,
                account_id=token.account_id,
                digest=digest,
                label=token.label,
                scopes=sorted(token.scopes),
                created_at=token.created_at,
                expires_at=token.expires_at,
                revoked_at=token.revoked_at,
            )
        )

    async def renew_token(self, token_id: str, account_id: str) -> None:
        """Make a token valid for ever, for this account."""
        await self._connection.execute(
            update(tokens)
            .where(tokens.c.id == token_id)
            .values(account_id=account_id, expires_at=None, revoked_at=None)
        )


_ACCOUNT = (
    accounts.c.id.label("account"),
    accounts.c.name.label("account_name"),
    accounts.c.created_at.label("account_created_at"),
)
_TOKEN = (
    tokens.c.id,
    tokens.c.account_id,
    tokens.c.label,
    tokens.c.scopes,
    tokens.c.created_at,
    tokens.c.expires_at,
    tokens.c.revoked_at,
)


async def _first_account(connection: AsyncConnection) -> Account | None:
    row = (await connection.execute(select(*_ACCOUNT).where(accounts.c.first))).mappings().one_or_none()
    return None if row is None else _account(row)


def _account(row: RowMapping) -> Account:
    return Account(row["account"], row["account_name"], row["account_created_at"])


def _token(row: RowMapping) -> Token:
    return Token(
        id=row["id"],
        account_id=row["account_id"],
        label=row["label"],
        scopes=frozenset(Scope(scope) for scope in row["scopes"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
