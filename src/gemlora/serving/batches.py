"""Batches: what is accepted is durable before it is acknowledged, and answered beside what people wait for.

Several servers may share the batches of one database: each claims the requests that it answers, and what a server
that died had claimed is free again when the claim expires.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

from structlog.typing import FilteringBoundLogger

from gemlora.batches.records import Answer, Batch, BatchRequest, Claim, Progress
from gemlora.batches.repository import BatchRepository
from gemlora.errors import OutOfCapacity, RequestAborted, StorageFailed

LATER = (OutOfCapacity, StorageFailed, RequestAborted)
"""What may work when it is tried again."""


class Answering(Protocol):
    """Answers one request of a batch."""

    async def answer(self, account_id: str, model: str, inputs: dict[str, Any]) -> Answer:
        """The answer, or why there can be none. Raises one of `LATER` if it may work later."""
        ...

    def failed(self, error: Exception) -> Answer:
        """Instead of an answer, what the client may know of an error that nobody expected, once it is logged."""
        ...


@dataclass(frozen=True, slots=True)
class BatchRules:
    """Bounds on batches. A claim of a server that died expires after `claim_seconds`."""

    batches: int = 1000
    concurrency: int = 4
    keep_seconds: float = 86400
    claim_seconds: float = 15
    pause_seconds: float = 2


class Batches:
    """The accounts' batches and the loop that answers them."""

    def __init__(
        self,
        repository: BatchRepository,
        rules: BatchRules,
        log: FilteringBoundLogger,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self._rules = rules
        self._log = log
        self._now = now
        self._added = asyncio.Event()
        self._turn = asyncio.Lock()
        self._held: list[Claim] = []
        self._turns: dict[str, int] = {}

    async def submit(self, account_id: str, model: str, requests: Sequence[BatchRequest]) -> Batch:
        """Accept requests; they are durable when this returns. Raises `OutOfCapacity` if there are too many batches."""
        batch = Batch(str(uuid4()), account_id, model, self._now())
        await self._repository.add(batch, requests, self._rules.batches)
        self._log.info("batch accepted", batch_id=batch.id, account_id=account_id, requests=len(requests))
        self._added.set()
        return batch

    async def progress(self, account_id: str, model: str, batch_id: str) -> Progress:
        """How far a batch is. Raises `BatchNotFound`."""
        return await self._repository.progress(account_id, model, batch_id)

    async def run(self, answering: Answering) -> None:
        """Answer what waits until cancelled, then give back what is unanswered."""
        try:
            # A group cancels each task once: a second time would leave a connection that never closes behind.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep())
                for _ in range(self._rules.concurrency):
                    group.create_task(self._answer_all(answering))
        finally:
            if self._held:
                with suppress(StorageFailed):  # they expire
                    await self._repository.renew(self._held, None)

    async def _answer_all(self, answering: Answering) -> None:
        while True:
            try:
                await self._answer(answering, await self._claimed())
                continue
            except LATER as error:
                self._log.info("batch waits", cause=type(error).__name__)
            except Exception as error:
                self._log.error("batch waits after a defect", exc_info=error)
            await asyncio.sleep(self._rules.pause_seconds)

    async def _claimed(self) -> Claim:
        """The next request, once there is one. Other servers add batches too, or die, so it looks now and then."""
        async with self._turn:
            while True:
                self._added.clear()
                if (claim := await self._next()) is not None:
                    return claim
                with suppress(TimeoutError):  # not wait_for, which loses a cancellation that comes with the event
                    async with asyncio.timeout(self._rules.pause_seconds):
                        await self._added.wait()

    async def _next(self) -> Claim | None:
        """Claim a request of the account whose last turn is longest ago."""
        accounts = await self._repository.waiting_accounts(self._now())
        if not accounts:
            self._turns.clear()
            return None
        account_id = min(accounts, key=lambda account: self._turns.get(account, 0))
        self._turns[account_id] = max(self._turns.values(), default=0) + 1
        return await self._repository.claim(account_id, self._now(), self._expiry())

    async def _answer(self, answering: Answering, claim: Claim) -> None:
        """Answer and save; what cannot be answered now goes back to where it waits."""
        self._held.append(claim)
        try:
            await self._settle(answering, claim)
        except Exception:
            self._held.remove(claim)
            with suppress(StorageFailed):
                await self._repository.renew([claim], None)
            raise
        self._held.remove(claim)

    async def _settle(self, answering: Answering, claim: Claim) -> None:
        """Save an answer, or that nobody expected what became of it: tried again, it would fail again."""
        try:
            answer = await answering.answer(claim.batch.account_id, claim.batch.model, claim.inputs)
            await self._repository.save(claim, answer, self._now())
        except LATER:
            raise
        except Exception as error:
            await self._repository.save(claim, answering.failed(error), self._now())

    async def _keep(self) -> None:
        """Renew the claims in time, and delete batches that were kept for long enough."""
        while True:
            try:
                if self._held:
                    await self._repository.renew(self._held, self._expiry())
                kept_since = self._now() - timedelta(seconds=self._rules.keep_seconds)
                if await self._repository.has_finished(kept_since):
                    discarded = await self._repository.discard(kept_since)
                    self._log.info("batches deleted", batches=discarded)
            except StorageFailed as error:
                self._log.warning("batches not kept", cause=type(error.__cause__ or error).__name__)
            except Exception as error:
                self._log.error("batches not kept after a defect", exc_info=error)
            await asyncio.sleep(self._rules.claim_seconds / 3)

    def _expiry(self) -> datetime:
        return self._now() + timedelta(seconds=self._rules.claim_seconds)
