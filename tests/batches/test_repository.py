"""Batches in a real database: what is kept, who gets which request, and what other accounts see."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select
from tests.backends import fresh_database, postgres_server  # noqa: F401

from gemlora.batches.records import Answer, Answered, Batch, BatchRequest, Claim, Progress, Status
from gemlora.batches.repository import BatchRepository
from gemlora.errors import BatchNotFound, OutOfCapacity, StorageFailed
from gemlora.storage.database import Database
from gemlora.storage.tables import accounts, batch_requests

ALICE, BOB = "a" * 32, "b" * 32
MODEL = "model"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=10)
FIRST, SECOND = BatchRequest({"prompt": "one\0"}, "mine"), BatchRequest({"prompt": "two"})
YES, NO = Answer({"response": "yes"}, success=True), Answer({"message": "no", "code": 1}, success=False)


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            database = await Database.open(tmp_path / "gemlora.sqlite")
        else:
            url = await stack.enter_async_context(fresh_database(request.getfixturevalue("postgres_server")))
            database = await Database.open_postgres(url)
        stack.push_async_callback(database.close)
        async with database.writing() as connection:
            rows = [{"id": account, "name": "x", "first": False, "created_at": NOW} for account in (ALICE, BOB)]
            await connection.execute(insert(accounts), rows)
        yield database


@pytest.fixture
def repository(database: Database) -> BatchRepository:
    return BatchRepository(database)


async def added(repository: BatchRepository, name: str, account: str = ALICE, **changes: Any) -> Batch:
    batch = Batch(name, account, MODEL, changes.get("at", NOW))
    await repository.add(batch, [FIRST, SECOND], changes.get("limit", 10))
    return batch


async def claimed(repository: BatchRepository, account: str = ALICE, now: datetime = NOW) -> Claim:
    claim = await repository.claim(account, now, now + timedelta(seconds=5))
    assert claim is not None
    return claim


async def test_a_batch_is_queued_then_running_then_done_with_its_answers_in_order(repository: BatchRepository) -> None:
    batch = await added(repository, "batch")
    states = [await repository.progress(ALICE, MODEL, "batch")]

    first, second = await claimed(repository), await claimed(repository)
    states.append(await repository.progress(ALICE, MODEL, "batch"))
    await repository.save(second, NO, NOW)
    states.append(await repository.progress(ALICE, MODEL, "batch"))
    await repository.save(first, YES, NOW)

    assert [state.status for state in states] == [Status.QUEUED, Status.RUNNING, Status.RUNNING]
    assert (first, second) == (Claim(batch, 0, FIRST.inputs), Claim(batch, 1, SECOND.inputs))
    answers = (Answered(YES, "mine"), Answered(NO, None))
    assert await repository.progress(ALICE, MODEL, "batch") == Progress(Status.DONE, answers)
    assert await repository.claim(ALICE, LATER, LATER) is None


async def test_inputs_are_gone_once_they_are_answered(repository: BatchRepository, database: Database) -> None:
    await added(repository, "batch")
    await repository.save(await claimed(repository), YES, NOW)

    async with database.reading() as connection:
        kept = (await connection.execute(select(batch_requests.c.inputs).order_by(batch_requests.c.number))).scalars()
        assert list(kept) == [None, SECOND.inputs]


async def test_another_account_sees_no_batch_and_gets_no_request_of_it(repository: BatchRepository) -> None:
    await added(repository, "batch")

    for account, model, batch in ((BOB, MODEL, "batch"), (ALICE, "other", "batch"), (ALICE, MODEL, "none")):
        with pytest.raises(BatchNotFound):
            await repository.progress(account, model, batch)
    assert await repository.claim(BOB, NOW, LATER) is None
    assert await repository.waiting_accounts(NOW) == (ALICE,)


async def test_a_claimed_request_is_free_again_when_its_claim_expires_or_is_given_back(
    repository: BatchRepository,
) -> None:
    await added(repository, "batch")
    first, second = await claimed(repository), await claimed(repository)
    taken = await repository.waiting_accounts(NOW)

    await repository.renew([second], None)
    again = await claimed(repository)
    await repository.renew([again], LATER + timedelta(seconds=1))
    expired = await claimed(repository, now=LATER)

    assert taken == ()
    assert (again.number, expired.number) == (second.number, first.number)
    assert await repository.waiting_accounts(LATER) == ()


async def test_the_first_of_two_answers_counts(repository: BatchRepository) -> None:
    await added(repository, "batch")
    first, second = await claimed(repository), await claimed(repository)
    for claim, answer in ((first, YES), (first, NO), (second, NO), (second, YES)):
        await repository.save(claim, answer, NOW)

    progress = await repository.progress(ALICE, MODEL, "batch")

    assert [answered.answer for answered in progress.answers] == [YES, NO]


async def test_accounts_wait_in_the_order_of_their_oldest_batch(repository: BatchRepository) -> None:
    await added(repository, "second", BOB, at=LATER)
    await added(repository, "first", ALICE)

    assert await repository.waiting_accounts(NOW) == (ALICE, BOB)


async def test_an_account_has_at_most_so_many_batches(repository: BatchRepository) -> None:
    await added(repository, "batch", limit=1)

    with pytest.raises(OutOfCapacity):
        await added(repository, "too many", limit=1)
    await added(repository, "of another account", BOB, limit=1)


async def test_finished_batches_are_discarded_after_their_time(repository: BatchRepository) -> None:
    for name in ("finished", "waiting"):
        await added(repository, name)
    for _ in range(2):
        await repository.save(await claimed(repository), YES, NOW)

    early = await repository.discard(NOW), await repository.has_finished(NOW)
    assert await repository.has_finished(LATER)
    assert await repository.discard(LATER) == 1

    assert early == (0, False)
    with pytest.raises(BatchNotFound):
        await repository.progress(ALICE, MODEL, "finished")
    assert (await claimed(repository)).batch.id == "waiting"


async def test_an_account_s_batches_go_with_it(repository: BatchRepository, database: Database) -> None:
    await added(repository, "batch")
    claim = await claimed(repository)
    async with database.writing() as connection:
        await connection.execute(delete(accounts).where(accounts.c.id == ALICE))

    await repository.save(claim, YES, NOW)

    with pytest.raises(BatchNotFound):
        await repository.progress(ALICE, MODEL, "batch")
    with pytest.raises(StorageFailed):
        await added(repository, "afterwards")
