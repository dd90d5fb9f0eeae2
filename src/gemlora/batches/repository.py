"""Batches in the database: the only place in this room with SQL. A request's inputs leave it with its answer."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, null, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from gemlora.batches.records import Answer, Answered, Batch, BatchRequest, Claim, Progress, Status
from gemlora.errors import BatchNotFound, OutOfCapacity, StorageFailed
from gemlora.storage.database import Database
from gemlora.storage.tables import batch_requests, batches


class BatchRepository:
    """Batches by account, and the requests that wait in any of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, batch: Batch, requests: Sequence[BatchRequest], limit: int) -> None:
        """Keep a batch. Raises `OutOfCapacity` if the account has `limit` batches already, finished ones included."""
        try:
            async with self._database.writing() as connection:
                kept = select(func.count()).where(batches.c.account_id == batch.account_id)
                if (await connection.execute(kept)).scalar_one() >= limit:
                    raise OutOfCapacity(f"The account has {limit} batches already, which is the limit")
                await connection.execute(
                    insert(batches).values(
                        id=batch.id, account_id=batch.account_id, model=batch.model, created_at=batch.created_at
                    )
                )
                rows = [
                    {
                        "batch_id": batch.id,
                        "number": number,
                        "inputs": request.inputs,
                        "external_reference": request.external_reference,
                    }
                    for number, request in enumerate(requests)
                ]
                await connection.execute(insert(batch_requests), rows)
        except IntegrityError as error:
            raise StorageFailed("The account was deleted") from error

    async def progress(self, account_id: str, model: str, batch_id: str) -> Progress:
        """How far the account's batch is. Raises `BatchNotFound`, for foreign ones too."""
        query = select(batches.c.started_at, batches.c.finished_at).where(
            batches.c.id == batch_id, batches.c.account_id == account_id, batches.c.model == model
        )
        answers = (
            select(batch_requests.c.answer, batch_requests.c.success, batch_requests.c.external_reference)
            .where(batch_requests.c.batch_id == batch_id)
            .order_by(batch_requests.c.number)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise BatchNotFound(batch_id)
            if row.finished_at is None:
                return Progress(Status.QUEUED if row.started_at is None else Status.RUNNING)
            found = tuple(
                Answered(Answer(answered.answer, answered.success), answered.external_reference)
                for answered in await connection.execute(answers)
            )
        return Progress(Status.DONE, found)

    async def waiting_accounts(self, now: datetime) -> tuple[str, ...]:
        """The accounts that have requests which nobody is answering, the longest waiting first."""
        waiting = exists().where(batch_requests.c.batch_id == batches.c.id, _free(now))
        query = (
            select(batches.c.account_id)
            .where(batches.c.finished_at.is_(None), waiting)
            .group_by(batches.c.account_id)
            .order_by(func.min(batches.c.created_at))
        )
        async with self._database.reading() as connection:
            return tuple((await connection.execute(query)).scalars())

    async def claim(self, account_id: str, now: datetime, until: datetime) -> Claim | None:
        """Take the account's next request for oneself until that time; None if there is none by now."""
        query = (
            select(batches, batch_requests.c.number, batch_requests.c.inputs)
            .join_from(batch_requests, batches, batch_requests.c.batch_id == batches.c.id)
            .where(batches.c.account_id == account_id, batches.c.finished_at.is_(None), _free(now))
            .order_by(batches.c.created_at, batches.c.id, batch_requests.c.number)
            .limit(1)
        )
        async with self._database.writing() as connection:
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            claim = Claim(Batch(row.id, row.account_id, row.model, row.created_at), row.number, row.inputs)
            await connection.execute(update(batch_requests).where(_of([claim])).values(claimed_until=until))
            if row.started_at is None:
                await connection.execute(update(batches).where(batches.c.id == row.id).values(started_at=now))
        return claim

    async def renew(self, claims: Sequence[Claim], until: datetime | None) -> None:
        """Keep claims until that time; None gives them back."""
        async with self._database.writing() as connection:
            await connection.execute(
                update(batch_requests).where(_of(claims), _unanswered()).values(claimed_until=until)
            )

    async def save(self, claim: Claim, answer: Answer, now: datetime) -> None:
        """Keep an answer in place of the inputs. The first one counts; of a batch that is gone none is kept."""
        left = exists().where(batch_requests.c.batch_id == claim.batch.id, _unanswered())
        async with self._database.writing() as connection:
            await connection.execute(
                update(batch_requests)
                .where(_of([claim]), _unanswered())
                .values(answer=answer.content, success=answer.success, inputs=null(), claimed_until=None)
            )
            await connection.execute(
                update(batches)
                .where(batches.c.id == claim.batch.id, batches.c.finished_at.is_(None), ~left)
                .values(finished_at=now)
            )

    async def has_finished(self, before: datetime) -> bool:
        """Whether there are batches that were finished before that time."""
        query = select(batches.c.id).where(batches.c.finished_at < before).limit(1)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def discard(self, finished_before: datetime) -> int:
        """Delete the batches that were finished before that time. Returns how many."""
        async with self._database.writing() as connection:
            gone = await connection.execute(delete(batches).where(batches.c.finished_at < finished_before))
        return gone.rowcount


def _unanswered() -> ColumnElement[bool]:
    return batch_requests.c.success.is_(None)


def _free(now: datetime) -> ColumnElement[bool]:
    expired = or_(batch_requests.c.claimed_until.is_(None), batch_requests.c.claimed_until <= now)
    return and_(_unanswered(), expired)


def _of(claims: Sequence[Claim]) -> ColumnElement[bool]:
    keys = [(claim.batch.id, claim.number) for claim in claims]
    return tuple_(batch_requests.c.batch_id, batch_requests.c.number).in_(keys)
