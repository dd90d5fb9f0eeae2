"""Who is let in, and how the first account of a data folder comes to be."""

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from gemlora.accounts.records import Account, NewToken, Scope
from gemlora.accounts.repository import AccountRepository
from gemlora.accounts.service import Accounts, FirstAccess, token_digest
from gemlora.errors import (
    AccountNotFound,
    InvalidRequest,
    StillNeeded,
    StorageFailed,
    TokenNotFound,
    Unauthenticated,
)
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


class FakeHoldings:
    """Remembers what was asked; `kept` must not go, `failure` is raised instead of removing."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.kept: set[str] = set()
        self.failure: Exception | None = None

    async def check(self, account_id: str) -> None:
        if account_id in self.kept:
            raise StillNeeded("it has something that stays")

    async def remove(self, account_id: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.removed.append(account_id)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def holdings() -> FakeHoldings:
    return FakeHoldings()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, data: DataFolder, holdings: FakeHoldings, clock: Clock) -> Accounts:
    return Accounts(AccountRepository(database), data.first_token, holdings, clock)


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


async def new_token(accounts: Accounts, account_id: str, **options: object) -> NewToken:
    return await accounts.create_token(account_id, "key", frozenset({Scope.RUN}), **options)


async def test_accounts_are_listed_oldest_first_in_pages(accounts: Accounts, clock: Clock) -> None:
    created = []
    for number in range(5):
        clock.now += timedelta(seconds=1)
        created.append(await accounts.create(f"tenant {number}"))

    assert await accounts.count() == 5
    assert await accounts.list(0, 10) == tuple(created)
    assert await accounts.list(3, 10) == tuple(created[3:])
    assert await accounts.list(1, 2) == tuple(created[1:3])
    assert await accounts.find(created[2].id) == created[2]


async def test_names_need_not_be_unique(accounts: Accounts) -> None:
    assert (await accounts.create("same")).id != (await accounts.create("same")).id


@pytest.mark.parametrize("account_id", ["", "f" * 32, "F" * 32, "\0", "x" * 100_000, "%", "f" * 31 + "\n"])
async def test_accounts_that_nobody_has_are_not_found(accounts: Accounts, account_id: str) -> None:
    for asked in (accounts.find(account_id), accounts.delete(account_id), accounts.list_tokens(account_id),
                  new_token(accounts, account_id), accounts.revoke_token(account_id, "x")):  # fmt: skip
        with pytest.raises(AccountNotFound):
            await asked


async def test_a_created_token_is_known_by_its_hash_alone(accounts: Accounts, data: DataFolder) -> None:
    account = await accounts.create("tenant")

    new = await accounts.create_token(account.id, "key", frozenset({Scope.RUN, Scope.FINETUNES_READ}))

    caller = await accounts.authenticate(new.value)
    assert (caller.account, caller.token) == (account, new.record)
    assert new.value not in repr(new)
    files = [path for path in data.path.rglob("*") if path.is_file()]
    assert not [path for path in files if new.value.encode() in path.read_bytes()]


async def test_a_created_token_ends_when_it_expires(accounts: Accounts, clock: Clock) -> None:
    account = await accounts.create("tenant")
    new = await new_token(accounts, account.id, expires_at=NOW + timedelta(days=1))

    clock.now = NOW + timedelta(days=1, microseconds=-1)
    assert not await is_refused(accounts, new.value)
    clock.now = NOW + timedelta(days=1)
    assert await is_refused(accounts, new.value)
    assert await accounts.list_tokens(account.id) == (new.record,)


async def test_a_token_that_has_expired_already_is_refused(accounts: Accounts) -> None:
    account = await accounts.create("tenant")

    with pytest.raises(InvalidRequest, match="future"):
        await new_token(accounts, account.id, expires_at=NOW)
    with pytest.raises(InvalidRequest, match="scopes"):
        await accounts.create_token(account.id, "key", frozenset())
    assert await accounts.list_tokens(account.id) == ()


async def test_a_revoked_token_stays_revoked(accounts: Accounts, clock: Clock) -> None:
    account = await accounts.create("tenant")
    new, kept = await new_token(accounts, account.id), await new_token(accounts, account.id)

    await accounts.revoke_token(account.id, new.record.id)
    clock.now += timedelta(days=1)
    await accounts.revoke_token(account.id, new.record.id)

    assert await is_refused(accounts, new.value)
    assert await accounts.list_tokens(account.id) == (kept.record,)


async def test_a_token_is_unknown_under_another_account(accounts: Accounts) -> None:
    account, other = await accounts.create("tenant"), await accounts.create("other")
    new = await new_token(accounts, account.id)

    for account_id, token_id in [(other.id, new.record.id), (account.id, "x"), (account.id, "\0"), (account.id, "")]:
        with pytest.raises(TokenNotFound):
            await accounts.revoke_token(account_id, token_id)

    assert not await is_refused(accounts, new.value)


async def test_a_preset_token_is_not_revoked_while_the_setting_names_it(accounts: Accounts) -> None:
    await accounts.prepare(ACCOUNT, "preset")
    [preset] = await accounts.list_tokens(ACCOUNT)

    with pytest.raises(StillNeeded, match="api_token"):
        await accounts.revoke_token(ACCOUNT, preset.id)
    assert not await is_refused(accounts, "preset")

    await accounts.prepare(ACCOUNT)
    await accounts.revoke_token(ACCOUNT, preset.id)
    assert await is_refused(accounts, "preset")


async def test_the_first_token_is_replaced_at_the_next_start_once_it_is_revoked(accounts: Accounts) -> None:
    before = await accounts.prepare()
    [first] = await accounts.list_tokens(before.account_id)

    await accounts.revoke_token(before.account_id, first.id)

    after = await accounts.prepare()
    assert after.account_id == before.account_id
    assert after.token not in (None, before.token)
    assert await is_refused(accounts, before.token)


async def test_a_deleted_account_takes_everything_along(
    accounts: Accounts, holdings: FakeHoldings, clock: Clock
) -> None:
    await accounts.prepare(ACCOUNT, "preset")
    clock.now += timedelta(seconds=1)
    account, other = await accounts.create("tenant"), await accounts.create("other")
    new, kept = await new_token(accounts, account.id), await new_token(accounts, other.id)

    await accounts.delete(account.id)

    assert holdings.removed == [account.id]
    assert await is_refused(accounts, new.value)
    assert not await is_refused(accounts, kept.value)
    assert [one.id for one in await accounts.list(0, 9)] == [ACCOUNT, other.id]


async def test_deleting_goes_on_after_a_failure_with_no_token_valid(accounts: Accounts, holdings: FakeHoldings) -> None:
    account = await accounts.create("tenant")
    new = await new_token(accounts, account.id)
    holdings.failure = StorageFailed("disk full")

    with pytest.raises(StorageFailed):
        await accounts.delete(account.id)
    assert await is_refused(accounts, new.value)
    assert await accounts.find(account.id) == account

    holdings.failure = None
    await accounts.delete(account.id)
    assert await accounts.count() == 0


async def test_an_account_that_may_not_go_loses_nothing(accounts: Accounts, holdings: FakeHoldings) -> None:
    account = await accounts.create("tenant")
    new = await new_token(accounts, account.id)
    holdings.kept = {account.id}

    with pytest.raises(StillNeeded, match="stays"):
        await accounts.delete(account.id)

    assert holdings.removed == []
    assert not await is_refused(accounts, new.value)


async def test_neither_the_first_nor_the_preset_account_is_deleted(accounts: Accounts, database: Database) -> None:
    await accounts.prepare(ACCOUNT, "preset")
    async with AccountRepository(database).changing() as changes:  # as another server with another preset does
        await changes.make_first(Account(OTHER, "first", NOW))

    for account_id in (ACCOUNT, OTHER):
        with pytest.raises(StillNeeded, match="first account"):
            await accounts.delete(account_id)

    assert not await is_refused(accounts, "preset")


async def test_a_lent_token_is_gone_after_its_command(accounts: Accounts, clock: Clock) -> None:
    account = await accounts.create("tenant")

    lent = await accounts.lend_token(account.id)
    caller = await accounts.authenticate(lent.value)
    assert caller.account_id == account.id
    assert caller.may(Scope.ADMIN)

    await accounts.return_token(lent)
    assert await is_refused(accounts, lent.value)
    assert await accounts.list_tokens(account.id) == ()


async def test_what_a_killed_command_left_expires_and_is_deleted(accounts: Accounts, clock: Clock) -> None:
    account = await accounts.create("tenant")
    left = await accounts.lend_token(account.id)

    clock.now += timedelta(hours=1)
    assert await is_refused(accounts, left.value)
    lent = await accounts.lend_token(account.id)
    assert await accounts.list_tokens(account.id) == (lent.record,)
