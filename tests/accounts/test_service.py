"""Who is let in, and how the first account of a data folder comes to be."""

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from gemlora.accounts.records import Scope
from gemlora.accounts.repository import AccountRepository
from gemlora.accounts.service import Accounts, FirstAccess, token_digest
from gemlora.errors import Unauthenticated
from gemlora.storage.data import DataFolder
from gemlora.storage.database import Database
from gemlora.storage.tables import tokens

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ACCOUNT = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data")


@pytest.fixture
async def database(data: DataFolder) -> AsyncIterator[Database]:
    database = await Database.open(data.database)
    yield database
    await database.close()


@pytest.fixture
def accounts(database: Database, data: DataFolder) -> Accounts:
    return Accounts(AccountRepository(database), data.first_token, lambda: NOW)


async def change_token(database: Database, token: str, **values: object) -> None:
    async with database.writing() as connection:
        await connection.execute(update(tokens).where(tokens.c.digest == token_digest(token)).values(values))


async def is_refused(accounts: Accounts, token: str | None) -> bool:
    try:
        await accounts.authenticate(token)
    except Unauthenticated:
        return True
    return False


async def test_an_empty_data_folder_gets_one_account_with_one_token(accounts: Accounts, data: DataFolder) -> None:
    access = await accounts.prepare()

    assert len(access.account_id) == 32
    assert int(access.account_id, 16) >= 0
    caller = await accounts.authenticate(access.token)
    assert caller.account_id == access.account_id
    assert all(caller.may(scope) for scope in Scope)
    assert data.first_token.read_text() == f"{access.token}\n"
    assert stat.S_IMODE(data.first_token.stat().st_mode) == 0o600
    assert stat.S_IMODE(data.path.stat().st_mode) == 0o700


async def test_preparing_again_changes_nothing(accounts: Accounts) -> None:
    assert await accounts.prepare() == await accounts.prepare()


async def test_no_file_holds_the_token_but_first_token(accounts: Accounts, data: DataFolder) -> None:
    access = await accounts.prepare()

    files = [path for path in data.path.rglob("*") if path.is_file() and path != data.first_token]
    assert files
    assert not [path for path in files if access.token.encode() in path.read_bytes()]


async def test_presets_are_taken_for_an_empty_folder(accounts: Accounts) -> None:
    access = await accounts.prepare(ACCOUNT, "a token with blanks")

    assert access == FirstAccess(ACCOUNT, "a token with blanks")
    assert (await accounts.authenticate("a token with blanks")).account_id == ACCOUNT
    assert await accounts.prepare(ACCOUNT, "a token with blanks") == access
    assert await accounts.prepare() == access


async def test_presets_are_added_to_a_folder_in_use(accounts: Accounts) -> None:
    before = await accounts.prepare()

    after = await accounts.prepare(ACCOUNT, "preset")

    assert (await accounts.authenticate("preset")).account_id == ACCOUNT
    assert (await accounts.authenticate(before.token)).account_id == before.account_id
    assert (await accounts.first_account()).id == ACCOUNT
    assert await accounts.prepare() == after


async def test_a_preset_token_alone_belongs_to_the_first_account(accounts: Accounts) -> None:
    before = await accounts.prepare()

    assert await accounts.prepare(token="preset") == FirstAccess(before.account_id, "preset")


async def test_a_preset_account_alone_gets_a_token_of_its_own(accounts: Accounts) -> None:
    before = await accounts.prepare()

    access = await accounts.prepare(ACCOUNT)

    assert access.token not in (None, before.token)
    assert (await accounts.authenticate(access.token)).account_id == ACCOUNT


async def test_a_preset_token_moves_to_the_preset_account(accounts: Accounts) -> None:
    await accounts.prepare(OTHER, "shared")

    await accounts.prepare(ACCOUNT, "shared")

    assert (await accounts.authenticate("shared")).account_id == ACCOUNT


async def test_a_preset_makes_a_revoked_token_valid_again(accounts: Accounts, database: Database) -> None:
    await accounts.prepare(ACCOUNT, "preset")
    await change_token(database, "preset", revoked_at=NOW)
    assert await is_refused(accounts, "preset")

    await accounts.prepare(ACCOUNT, "preset")

    assert not await is_refused(accounts, "preset")


async def test_a_revoked_first_token_is_not_revived_by_its_file(accounts: Accounts, database: Database) -> None:
    access = await accounts.prepare()
    await change_token(database, access.token, revoked_at=NOW)

    again = await accounts.prepare()

    assert again.token != access.token
    assert await is_refused(accounts, access.token)
    assert not await is_refused(accounts, again.token)


async def test_a_deleted_first_token_file_is_not_replaced_while_a_token_is_valid(
    accounts: Accounts, data: DataFolder
) -> None:
    access = await accounts.prepare()
    data.first_token.unlink()

    assert await accounts.prepare() == FirstAccess(access.account_id, None)
    assert not await is_refused(accounts, access.token)


async def test_a_token_file_that_a_crash_left_before_the_database_is_used(accounts: Accounts, data: DataFolder) -> None:
    data.first_token.write_text("left-by-a-crash\n")

    access = await accounts.prepare()

    assert access.token == "left-by-a-crash"
    assert not await is_refused(accounts, "left-by-a-crash")


@pytest.mark.parametrize("token", [None, "", " ", "wrong", "x" * 100_000, "ä", "\udcff", "\0", "' OR 1=1 --"])
async def test_tokens_that_nobody_has_are_refused(accounts: Accounts, token: str | None) -> None:
    await accounts.prepare(ACCOUNT, "right")

    assert await is_refused(accounts, token)


async def test_a_token_with_anything_added_is_refused(accounts: Accounts) -> None:
    await accounts.prepare(ACCOUNT, "right")

    for token in ("right ", " right", "Right", "righ", "right\n"):
        assert await is_refused(accounts, token)


async def test_a_token_is_valid_until_it_expires(accounts: Accounts, database: Database) -> None:
    await accounts.prepare(ACCOUNT, "short")

    await change_token(database, "short", expires_at=NOW + timedelta(microseconds=1))
    assert not await is_refused(accounts, "short")
    await change_token(database, "short", expires_at=NOW)
    assert await is_refused(accounts, "short")


async def test_a_token_allows_only_its_scopes(accounts: Accounts, database: Database) -> None:
    await accounts.prepare(ACCOUNT, "narrow")
    await change_token(database, "narrow", scopes=["run"])

    caller = await accounts.authenticate("narrow")

    assert caller.may(Scope.RUN)
    assert not caller.may(Scope.ADMIN)
