"""Shadow runs: once a caller has an answer, other versions of the alias answer the same, and nobody sees or awaits it.

They have what requests leave: none starts where a request would have to wait, and those that run end as soon as one
does. What was to be run is counted in any case, as run, dropped or failed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from gemlora.aliases.records import Version
from gemlora.aliases.shadows import Outcome, Pair, Place
from gemlora.engines.contract import Engine
from gemlora.errors import GemloraError, OutOfCapacity, RequestAborted, StorageFailed
from gemlora.registry.names import BARE_BASE
from gemlora.serving.adapters import reference
from gemlora.serving.choosing import AdapterResolver, Served
from gemlora.serving.generation import Answer, Decoder, Ending, Generation, Part, Parts, fold, whole
from gemlora.serving.pairing import Observed, Question, paired
from gemlora.telemetry.metrics import Metrics

LOOK_SECONDS = 0.05
"""How often it is looked whether a request waits while shadows run."""

MOST_UNSAVED = 1000
"""Pairs that wait to be saved, so many that the database must be failing."""

FORGET_SECONDS = 60
"""How often texts that were kept for long enough are deleted."""


class ShadowKeeper(Protocol):
    """What keeps shadow runs. Everything raises `StorageFailed`."""

    @property
    def keeps_texts(self) -> bool:
        """Whether it wants the texts too."""
        ...

    async def save(self, pairs: Sequence[Pair], dropped: Mapping[Place, int]) -> None:
        """Count and keep all of it, or nothing."""
        ...

    async def forget_texts(self) -> None:
        """Delete the texts that were kept for long enough."""
        ...


@dataclass(frozen=True, slots=True)
class ShadowRules:
    """How many shadows run at the same time, and how long what they found is gathered before it is saved."""

    concurrency: int = 4
    pause_seconds: float = 1


class Shadows:
    """Runs shadows beside the requests, and has kept what they found. It belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        new_decoder: Callable[[], Decoder],
        adapters: AdapterResolver,
        keeper: ShadowKeeper,
        rules: ShadowRules,
        metrics: Metrics,
        log: FilteringBoundLogger,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._new_decoder = new_decoder
        self._adapters = adapters
        self._keeper = keeper
        self._rules = rules
        self._metrics = metrics
        self._log = log
        self._now = now
        self._group: asyncio.TaskGroup | None = None
        self._runs: set[asyncio.Task[None]] = set()
        self._answers: set[asyncio.Task[Answer]] = set()
        self._pairs: list[Pair] = []
        self._dropped: Counter[Place] = Counter()
        self._changed = asyncio.Event()

    async def follow(self, question: Question, parts: Parts) -> Parts:
        """Pass an answer on as it comes, and let the shadows begin once it has ended and the caller has all of it."""
        seen: list[Part] = []
        seconds: float | None = None
        started = time.monotonic()
        try:
            async with aclosing(parts):
                async for part in parts:
                    seen.append(part)
                    if isinstance(part, Ending):
                        seconds = time.monotonic() - started
                    yield part
        finally:
            self._begin(question, seen, seconds)

    async def make_way(self) -> None:
        """End all runs, for a request that would have to wait: when this returns, the engine is free of them."""
        for answer in self._answers:
            answer.cancel()
        if self._answers:
            await asyncio.wait(self._answers)

    async def run(self) -> None:
        """Let shadows run until cancelled. What runs then is dropped, and all that is known is saved."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._keep()
                finally:
                    self._group = None
        finally:
            await self._save()

    def _begin(self, question: Question, seen: Sequence[Part], seconds: float | None) -> None:
        """Start the shadows of an answer; None: it did not end, because it failed or its caller went away."""
        for version in question.chosen.shadows:
            place = question.place(version)
            if seconds is None or self._group is None or not self._has_room:
                self._drop(place)
                continue
            run = self._group.create_task(self._run(question, version, Observed(whole(seen), seconds)))
            self._runs.add(run)
            run.add_done_callback(partial(self._ended, place))

    @property
    def _has_room(self) -> bool:
        """Whether another run may start; not if what they find cannot be saved for long."""
        return len(self._runs) < self._rules.concurrency and len(self._pairs) < MOST_UNSAVED

    def _ended(self, place: Place, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        if run.cancelled():  # perhaps before its first step
            self._drop(place)

    async def _run(self, question: Question, version: Version, served: Observed) -> None:
        """Answer as the version and note what came of it."""
        place = question.place(version)
        log = self._log.bind(request_id=question.generate.id, alias=place.alias_id, revision=place.revision)
        found: Observed | Exception
        try:
            found = await self._answer(question, version, log)
        except (OutOfCapacity, RequestAborted):
            self._drop(place)
            return
        except GemloraError as error:
            found = error
        except Exception as error:
            log.error("shadow run failed unexpectedly", exc_info=error)
            found = error
        with_texts = self._keeper.keeps_texts
        self._note(paired(question, version, served, found, self._now(), with_texts=with_texts))

    async def _answer(self, question: Question, version: Version, log: FilteringBoundLogger) -> Observed:
        """The version's answer. Raises `OutOfCapacity` where requests need the room, and what generating one raises."""
        adapter = None
        if version.name != BARE_BASE:
            account_id = question.chosen.alias.account_id
            adapter = await self._adapters.resolve(account_id, version.adapter, question.model)
        generation = Generation(
            replace(question.generate, adapter=None if adapter is None else reference(adapter)),
            Served(adapter),
            self._engine,
            self._new_decoder(),
            question.shape.reader(question.stop),
            reject_if_busy=True,
            metrics=self._metrics.shadows,
            log=log.bind(shadow=True),
        )
        started = time.monotonic()
        answer = await self._unless_awaited(asyncio.create_task(fold(generation.pieces())))
        return Observed(answer, time.monotonic() - started)

    async def _unless_awaited(self, answer: asyncio.Task[Answer]) -> Answer:
        """The answer. Raises `OutOfCapacity` if a request came to wait before it ended."""
        self._answers.add(answer)
        awaited_since: int | None = None
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=LOOK_SECONDS)
                stats = self._engine.stats()
                if not stats.queued:
                    awaited_since = None
                elif awaited_since is None:
                    awaited_since = stats.steps
                elif stats.steps > awaited_since:  # who has only just become ready is taken in by the next step
                    answer.cancel()
            if answer.cancelled():
                raise OutOfCapacity("Shadows make way for requests")
            return answer.result()
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            self._answers.discard(answer)

    def _note(self, pair: Pair) -> None:
        self._metrics.shadow_runs.labels(pair.outcome.value).inc()
        self._pairs.append(pair)
        self._changed.set()

    def _drop(self, place: Place) -> None:
        self._metrics.shadow_runs.labels(Outcome.DROPPED.value).inc()
        self._dropped[place] += 1
        self._changed.set()

    async def _keep(self) -> None:
        """Save what was found, what comes within a pause together, and delete what was kept for long enough."""
        while True:
            await self._forget()
            try:
                async with asyncio.timeout(FORGET_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(self._rules.pause_seconds)
            saving = asyncio.create_task(self._save())
            try:
                await asyncio.shield(saving)
            except asyncio.CancelledError:  # nobody knows whether half a save has happened
                await saving
                raise

    async def _forget(self) -> None:
        try:
            await self._keeper.forget_texts()
        except StorageFailed as error:
            self._log.warning("texts of shadows not deleted", cause=type(error.__cause__ or error).__name__)
        except Exception as error:
            self._log.error("texts of shadows not deleted after a defect", exc_info=error)

    async def _save(self) -> None:
        """What cannot be saved now waits for the next time."""
        pairs, dropped = self._pairs, self._dropped
        self._pairs, self._dropped = [], Counter()
        self._changed.clear()
        if not pairs and not dropped:
            return
        try:
            await self._keeper.save(pairs, dropped)
        except StorageFailed as error:
            self._pairs[:0] = pairs
            self._dropped.update(dropped)
            self._changed.set()
            self._log.warning(
                "shadow runs not saved yet",
                pairs=len(pairs),
                dropped=dropped.total(),
                cause=type(error.__cause__ or error).__name__,
            )
        except Exception as error:  # it would come again
            self._log.error("shadow runs lost by a defect", pairs=len(pairs), dropped=dropped.total(), exc_info=error)
