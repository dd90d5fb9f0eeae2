"""Batches are answered beside other requests, taken up again after a death, and shared fairly among accounts."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gemlora.batches.records import Answer, BatchRequest, Claim, Progress, Status
from gemlora.batches.repository import BatchRepository
from gemlora.errors import BatchNotFound, EngineFailed, OutOfCapacity
from gemlora.serving.batches import Batches, BatchRules
from gemlora.storage.database import Database
from gemlora.storage.tables import accounts
from gemlora.telemetry.logs import create_logger

ALICE, BOB = "a" * 32, "b" * 32
MODEL = "model"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULES = BatchRules(concurrency=1, claim_seconds=0.3, pause_seconds=0.02)


class Echo:
    """Answers with what was asked, once `open` is set; `failures` are raised first."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked: list[tuple[str, str]] = []
        self.failures: list[Exception] = []
        self.most = 0
        self._now = 0

    async def answer(self, account_id: str, model: str, inputs: dict[str, Any]) -> Answer:
        self.asked.append((account_id, inputs["prompt"]))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.open.wait()
            if self.failures:
                raise self.failures.pop()
        finally:
            self._now -= 1
        return Answer({"response": inputs["prompt"]}, success=True)

    def failed(self, error: Exception) -> Answer:
        return Answer({"response": f"defect: {error}"}, success=False)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "gemlora.sqlite")
    async with database.writing() as connection:
        rows = [{"id": account, "name": "x", "first": False, "created_at": NOW} for account in (ALICE, BOB)]
        await connection.execute(insert(accounts), rows)
    yield database
    await database.close()


class Clock:
    """A server's clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def server(database: Database, rules: BatchRules = RULES, clock: Clock | None = None) -> Batches:
    return Batches(BatchRepository(database), rules, create_logger("error", "json"), clock or Clock())


@asynccontextmanager
async def running(batches: Batches, echo: Echo) -> AsyncIterator[None]:
    task = asyncio.create_task(batches.run(echo))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def submitted(batches: Batches, account: str, *prompts: str) -> str:
    batch = await batches.submit(account, MODEL, [BatchRequest({"prompt": prompt}) for prompt in prompts])
    return batch.id


async def done(batches: Batches, account: str, batch: str) -> list[str]:
    async with asyncio.timeout(20):
        while (progress := await batches.progress(account, MODEL, batch)).status is not Status.DONE:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return [answered.answer.content["response"] for answered in progress.answers]


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


async def test_a_batch_is_answered_in_the_order_of_its_requests(database: Database) -> None:
    batches, echo = server(database), Echo()
    echo.open.set()

    async with running(batches, echo):
        batch = await submitted(batches, ALICE, "one", "two", "three")

        assert await done(batches, ALICE, batch) == ["one", "two", "three"]


async def test_at_most_so_many_requests_are_computed_at_once(database: Database) -> None:
    batches, echo = server(database, BatchRules(concurrency=2, pause_seconds=0.02)), Echo()
    batch = await submitted(batches, ALICE, "one", "two", "three", "four")

    async with running(batches, echo):
        await until(lambda: len(echo.asked) == 2)
        await asyncio.sleep(0.1)
        waiting = len(echo.asked)
        echo.open.set()
        await done(batches, ALICE, batch)

    assert (waiting, echo.most) == (2, 2)


async def test_accounts_take_turns(database: Database) -> None:
    batches, echo = server(database), Echo()
    echo.open.set()
    large = await submitted(batches, ALICE, "a1", "a2", "a3")
    small = await submitted(batches, BOB, "b1")

    async with running(batches, echo):
        await done(batches, ALICE, large)
        await done(batches, BOB, small)

    assert [prompt for _, prompt in echo.asked] == ["a1", "b1", "a2", "a3"]


@pytest.mark.parametrize("defect", [ZeroDivisionError("x"), EngineFailed("x")])
async def test_a_request_that_meets_a_defect_fails_and_the_next_ones_are_answered(
    database: Database, defect: Exception
) -> None:
    batches, echo = server(database), Echo()
    echo.open.set()
    echo.failures = [defect]

    async with running(batches, echo):
        failing = await submitted(batches, ALICE, "one", "two")
        later = await submitted(batches, BOB, "three")

        assert await done(batches, ALICE, failing) == ["defect: x", "two"]
        assert await done(batches, BOB, later) == ["three"]


async def test_an_answer_that_cannot_be_saved_fails_its_request_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = BatchRepository.save

    async def failing(repository: BatchRepository, claim: Claim, answer: Answer, now: datetime) -> None:
        if answer.content["response"] == "one":
            raise ValueError("no text for a database")
        await save(repository, claim, answer, now)

    monkeypatch.setattr(BatchRepository, "save", failing)
    batches, echo = server(database), Echo()
    echo.open.set()

    async with running(batches, echo):
        batch = await submitted(batches, ALICE, "one", "two")

        assert await done(batches, ALICE, batch) == ["defect: no text for a database", "two"]
    assert [prompt for _, prompt in echo.asked] == ["one", "two"]


@pytest.mark.parametrize("method", ["waiting_accounts", "has_finished"])
async def test_a_defect_of_the_loop_itself_is_logged_and_the_loop_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    works, failures = getattr(BatchRepository, method), [ZeroDivisionError()]

    async def failing(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await works(*arguments)

    monkeypatch.setattr(BatchRepository, method, failing)
    log = io.StringIO()
    batches = Batches(BatchRepository(database), RULES, create_logger("error", "json", log), Clock())
    echo = Echo()
    echo.open.set()

    async with running(batches, echo):
        batch = await submitted(batches, ALICE, "one")

        assert await done(batches, ALICE, batch) == ["one"]
        await until(lambda: "ZeroDivisionError" in log.getvalue())
    assert "after a defect" in log.getvalue()


async def test_a_request_that_finds_no_room_is_tried_again(database: Database) -> None:
    batches, echo = server(database), Echo()
    echo.open.set()
    echo.failures = [OutOfCapacity("full"), OutOfCapacity("full")]
    batch = await submitted(batches, ALICE, "one")

    async with running(batches, echo):
        assert await done(batches, ALICE, batch) == ["one"]
    assert len(echo.asked) == 3


async def test_a_server_that_stops_gives_its_requests_back_at_once(database: Database) -> None:
    first, second, stuck, echo = server(database), server(database), Echo(), Echo()
    echo.open.set()
    batch = await submitted(first, ALICE, "one", "two")
    async with running(first, stuck):
        await until(lambda: stuck.asked)

    accounts = await BatchRepository(database).waiting_accounts(NOW)
    async with running(second, echo):
        assert await done(second, ALICE, batch) == ["one", "two"]

    assert accounts == (ALICE,)


async def test_what_a_dead_server_had_claimed_is_taken_up_when_its_claim_expires(database: Database) -> None:
    repository, batches, echo = BatchRepository(database), server(database), Echo()
    echo.open.set()
    batch = await submitted(batches, ALICE, "one", "two")
    now = datetime.now(UTC)
    await repository.claim(ALICE, now, now + timedelta(seconds=0.3))

    async with running(batches, echo):
        assert await done(batches, ALICE, batch) == ["one", "two"]

    assert [prompt for _, prompt in echo.asked] == ["two", "one"]


async def test_two_servers_answer_every_request_once_however_long_it_takes(database: Database) -> None:
    servers, echo = [server(database), server(database)], Echo()
    batch = await submitted(servers[0], ALICE, "one", "two", "three")

    async with running(servers[0], echo), running(servers[1], echo):
        await until(lambda: len(echo.asked) == 2)
        await asyncio.sleep(3 * RULES.claim_seconds)
        echo.open.set()
        await done(servers[1], ALICE, batch)

    assert sorted(prompt for _, prompt in echo.asked) == ["one", "three", "two"]


async def test_answers_are_kept_for_their_time_and_then_deleted(database: Database) -> None:
    clock, echo = Clock(), Echo()
    echo.open.set()
    batches = server(database, BatchRules(keep_seconds=60, claim_seconds=0.3, pause_seconds=0.02), clock)

    async with running(batches, echo):
        batch = await submitted(batches, ALICE, "one")
        await done(batches, ALICE, batch)
        clock.ahead = timedelta(seconds=61)

        with pytest.raises(BatchNotFound):
            await done_for_ever(batches, batch)


async def done_for_ever(batches: Batches, batch: str) -> None:
    async with asyncio.timeout(20):
        while await batches.progress(ALICE, MODEL, batch):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_foreign_batch_is_not_found(database: Database) -> None:
    batches = server(database)
    batch = await submitted(batches, ALICE, "one")

    with pytest.raises(BatchNotFound):
        await batches.progress(BOB, MODEL, batch)
    assert await batches.progress(ALICE, MODEL, batch) == Progress(Status.QUEUED)


class Nothing:
    """A repository in which nothing waits."""

    async def add(self, *arguments: Any) -> None:
        pass

    async def waiting_accounts(self, now: datetime) -> list[str]:
        return []

    async def has_finished(self, kept_since: datetime) -> bool:
        return False


@pytest.mark.parametrize("turns", range(8))
async def test_it_ends_whenever_it_is_told_to_also_just_as_a_batch_arrives(turns: int) -> None:
    batches = Batches(Nothing(), BatchRules(concurrency=1, pause_seconds=60), create_logger("error", "json"))  # type: ignore[arg-type]
    task = asyncio.create_task(batches.run(Echo()))
    for _ in range(20):
        await asyncio.sleep(0)
    await submitted(batches, ALICE, "one")
    for _ in range(turns):
        await asyncio.sleep(0)

    task.cancel()

    ended, _ = await asyncio.wait([task], timeout=10)
    assert ended


async def test_ending_leaves_no_task_behind(database: Database) -> None:
    """A connection whose task was cancelled twice never closed, and kept the server from ending."""
    for moment in range(25):
        batches = server(database)
        async with running(batches, Echo()):
            await asyncio.sleep(moment / 1000)
    await database.close()
    await asyncio.sleep(0.05)
    assert asyncio.all_tasks() == {asyncio.current_task()}
