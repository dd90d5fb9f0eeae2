"""Accounts and tokens in the database: the only place in this room with SQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import RowMapping, bindparam, delete, func, insert, select, update
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
        async with self._database.reading() as connection:
            row = (await connection.execute(_CALLER, {"token_digest": token_digest})).mappings().one_or_none()
        return None if row is None else Caller(_account(row), _token(row))

    async def first_account(self) -> Account | None:
        """The account that `serve` prints and that the command line acts for."""
        async with self._database.reading() as connection:
            return await _first_account(connection)

    async def find(self, account_id: str) -> Account | None:
        """The account with this id."""
        async with self._database.reading() as connection:
            return await _find_account(connection, account_id)

    async def list(self, offset: int, limit: int) -> tuple[Account, ...]:
        """Accounts, oldest first."""
        query = select(*_ACCOUNT).order_by(accounts.c.created_at, accounts.c.id).offset(offset).limit(limit)
        async with self._database.reading() as connection:
            return tuple(_account(row) for row in (await connection.execute(query)).mappings())

    async def count(self) -> int:
        """How many accounts there are."""
        async with self._database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(accounts)) or 0

    async def list_tokens(self, account_id: str) -> tuple[Token, ...]:
        """The account's tokens that were not revoked, oldest first."""
        query = (
            select(*_TOKEN)
            .where(tokens.c.account_id == account_id, tokens.c.revoked_at.is_(None))
            .order_by(tokens.c.created_at, tokens.c.id)
        )
        async with self._database.reading() as connection:
            return tuple(_token(row) for row in (await connection.execute(query)).mappings())

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

    async def find_account(self, account_id: str) -> Account | None:
        """The account with this id."""
        return await _find_account(self._connection, account_id)

    async def add_account(self, account: Account) -> None:
        """Add an account, which is not the first one."""
        await self._connection.execute(
            insert(accounts).values(id=account.id, name=account.name, first=False, created_at=account.created_at)
        )

    async def delete_account(self, account_id: str) -> None:
        """Delete an account with its tokens, and with adapters that it may still have."""
        await self._connection.execute(delete(accounts).where(accounts.c.id == account_id))

    async def make_first(self, account: Account) -> None:
        """Add the account if it is missing and let it be the first one."""
        if await self.find_account(account.id) is None:
            await self.add_account(account)
        await self._connection.execute(update(accounts).values(first=accounts.c.id == account.id))

    async def find_token(self, digest: str) -> Token | None:
        """The token with this digest."""
        row = (
            (await self._connection.execute(select(*_TOKEN).where(tokens.c.digest == digest))).mappings().one_or_none()
        )
        return None if row is None else _token(row)

    async def find_token_of(self, account_id: str, token_id: str) -> Token | None:
        """The account's token with this id, revoked or not."""
        query = select(*_TOKEN).where(tokens.c.account_id == account_id, tokens.c.id == token_id)
        row = (await self._connection.execute(query)).mappings().one_or_none()
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

    async def revoke_token(self, token_id: str, moment: datetime) -> None:
        """Revoke a token; one that is revoked already stays so since then."""
        await self._connection.execute(
            update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=moment)
        )

    async def revoke_tokens(self, account_id: str, moment: datetime) -> None:
        """Revoke all tokens of an account."""
        await self._connection.execute(
            update(tokens)
            .where(tokens.c.account_id == account_id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=moment)
        )

    async def delete_token(self, token_id: str) -> None:
        """Delete a token as if it had never been."""
        await self._connection.execute(delete(tokens).where(tokens.c.id == token_id))

    async def delete_expired_tokens(self, label: str, moment: datetime) -> None:
        """Delete the tokens with this label that expired before that time."""
        await self._connection.execute(delete(tokens).where(tokens.c.label == label, tokens.c.expires_at <= moment))


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

# Every request asks this, and to put it together takes longer than to run it.
_CALLER = (
    select(*_ACCOUNT, *_TOKEN)
    .join_from(tokens, accounts, tokens.c.account_id == accounts.c.id)
    .where(tokens.c.digest == bindparam("token_digest"))
)


async def _first_account(connection: AsyncConnection) -> Account | None:
    row = (await connection.execute(select(*_ACCOUNT).where(accounts.c.first))).mappings().one_or_none()
    return None if row is None else _account(row)


async def _find_account(connection: AsyncConnection, account_id: str) -> Account | None:
    row = (await connection.execute(select(*_ACCOUNT).where(accounts.c.id == account_id))).mappings().one_or_none()
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
