"""Aliases of accounts: made, changed, promoted, rolled back, each change a new revision that is kept.

A change is one transaction and takes effect with the next request, since requests read their alias anew. What runs
goes on with the version that it got.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite

from structlog.typing import FilteringBoundLogger

from gemlora.aliases.outcomes import Outcomes, logged
from gemlora.aliases.records import Action, Alias, Revision, Share, Standing, Trial, Version
from gemlora.aliases.repository import AliasChanges, AliasRepository
from gemlora.aliases.shadows import MEASURES
from gemlora.errors import (
    AdapterExists,
    AdapterIncomplete,
    AdapterNotFound,
    AliasNotFound,
    InvalidRequest,
    OutcomesMeasured,
    TooManyAliases,
)
from gemlora.registry.names import BARE_BASE, check_description, check_name

HIGHEST_WEIGHT = 1e9
LEAST_EFFECT, LARGEST_EFFECT = 0.005, 0.9
LEAST_ALPHA, LARGEST_ALPHA = 0.0001, 0.5
LEAST_POWER, LARGEST_POWER = 0.5, 0.999
LARGEST_SAMPLE = 1_000_000_000
LONGEST_METRIC = 255


@dataclass(frozen=True, slots=True)
class AliasLimits:
    """How many aliases an account may have, and how many versions an alias."""

    aliases: int = 1000
    versions: int = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an alias shall be from now on, by whose wish, and why."""

    shares: tuple[Share, ...]
    by: str
    note: str = ""
    trial: Trial | None = None


class Aliases:
    """The aliases of all accounts."""

    def __init__(
        self,
        repository: AliasRepository,
        limits: AliasLimits,
        log: FilteringBoundLogger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._repository = repository
        self.limits = limits
        self._log = log
        self._clock = clock
        self._outcomes = Outcomes(log, clock)

    async def list(self, account_id: str) -> tuple[Alias, ...]:
        """The account's aliases, oldest first."""
        return await self._repository.list(account_id)

    async def find(self, account_id: str, name: str) -> Alias:
        """The account's alias of that name. Raises `AliasNotFound`."""
        return await self._repository.find(account_id, name)

    async def standing(self, alias: Alias) -> Standing:
        """What was reported in the alias's current revision."""
        number = alias.current.number
        return (await self._repository.standings(alias, [number])).get(number, Standing(()))

    async def revisions(
        self, account_id: str, name: str, offset: int, limit: int
    ) -> tuple[int, tuple[tuple[Revision, Standing], ...]]:
        """How many revisions the alias has had, and some of them, the newest first. Raises `AliasNotFound`."""
        alias = await self._repository.find(account_id, name)
        revisions = await self._repository.revisions(alias, offset, limit)
        standings = await self._repository.standings(alias, [revision.number for revision in revisions])
        shown = tuple((revision, standings.get(revision.number, Standing(()))) for revision in revisions)
        return alias.current.number, shown

    async def create(self, account_id: str, name: str, wanted: Wanted) -> Alias:
        """A new alias. Raises `InvalidRequest`, `AdapterExists`, `TooManyAliases`, and what `change` raises."""
        check_name(name)
        self._check(wanted)
        async with self._repository.changing() as changes:
            if await changes.is_taken(account_id, name):
                raise AdapterExists(f"An adapter or an alias named {name!r} exists already")
            if await changes.count(account_id) >= self.limits.aliases:
                raise TooManyAliases(f"The account has {self.limits.aliases} aliases already, which is the limit")
            revision = self._revision(1, wanted.by, Action.CREATE, wanted.note, ())
            revision = await _pointing(changes, account_id, revision, wanted)
            alias = Alias(str(uuid.uuid4()), account_id, name, revision.made_at, revision)
            await changes.add(alias)
        return logged(self._log, alias)

    async def change(self, account_id: str, name: str, wanted: Wanted) -> Alias:
        """Let an alias point elsewhere.

        Raises `InvalidRequest`, `AliasNotFound`, and `AdapterNotFound` or `AdapterIncomplete` for a version that
        cannot serve.
        """
        self._check(wanted)
        async with self._repository.changing() as changes:
            alias = await changes.find(account_id, name)
            revision = self._next(alias, wanted.by, Action.SET, wanted.note, ())
            revision = await _pointing(changes, account_id, revision, wanted)
            await changes.append(alias, revision)
        return logged(self._log, replace(alias, current=revision))

    async def promote(self, account_id: str, name: str, version: str, by: str, note: str = "") -> Alias:
        """Give all weight to one of the alias's versions; the others stay with none, and as shadows if they were such.

        Raises `AliasNotFound`.
        """
        check_note(note)
        async with self._repository.changing() as changes:
            alias = await changes.find(account_id, name)
            winner = _version(alias.name, alias.current, version)
            versions = tuple(
                replace(one, weight=1.0, shadow=0.0) if one is winner else replace(one, weight=0.0)
                for one in alias.current.versions
            )
            revision = self._next(alias, by, Action.PROMOTE, note, versions)
            await changes.append(alias, revision)
        return logged(self._log, replace(alias, current=revision))

    async def roll_back(self, account_id: str, name: str, by: str, note: str = "", number: int | None = None) -> Alias:
        """Point where the previous revision pointed, or the one with that number; without its test.

        Raises `AliasNotFound` if there is no such alias or revision, and `AdapterNotFound` if one of its adapters is
        gone.
        """
        check_note(note)
        async with self._repository.changing() as changes:
            alias = await changes.find(account_id, name)
            number = alias.current.number - 1 if number is None else number
            before = await changes.revision(alias, number) if 1 <= number < alias.current.number else None
            if before is None:
                raise AliasNotFound(f"{alias.name}: revision {number} to go back to")
            for version in before.versions:
                if version.name != BARE_BASE and await changes.adapter(account_id, version.adapter) is None:
                    raise AdapterNotFound(version.name)
            text = note or f"to revision {number}"
            revision = self._next(alias, by, Action.ROLLBACK, text, before.versions)
            await changes.append(alias, revision)
        return logged(self._log, replace(alias, current=revision))

    async def remove(self, account_id: str, name: str) -> Alias:
        """Delete an alias with its log. Raises `AliasNotFound`."""
        async with self._repository.changing() as changes:
            alias = await changes.find(account_id, name)
            await changes.remove(alias)
        self._log.info("alias removed", alias=alias.id, revision=alias.current.number)
        return alias

    async def report(
        self, account_id: str, name: str, version: str, value: float, number: int | None = None
    ) -> tuple[Alias, Standing]:
        """Count an outcome in [0, 1] of one answer; `number` is the revision that it came from, else the current one.

        Outcomes of the current revision go to its test. Returns the alias as it is then, and how it stands. Raises
        `InvalidRequest`, `AliasNotFound` if there is no such alias, revision or version, and `OutcomesMeasured` if the
        revision's test takes no reports of it.
        """
        if not 0 <= value <= 1:
            raise InvalidRequest("value: must be from 0 to 1")
        async with self._repository.changing() as changes:
            alias = await changes.find(account_id, name)
            here = number is None or number == alias.current.number
            revision = alias.current if number is None or here else await changes.revision(alias, number)
            if revision is None:
                raise AliasNotFound(f"{alias.name}: revision {number}")
            reported = _version(alias.name, revision, version)
            if revision.trial is not None and revision.trial.measured and revision.trial.compares(reported.name):
                raise OutcomesMeasured(f"The server measures {revision.trial.metric} of {reported.name} by itself")
            alias = await self._outcomes.count(changes, alias, revision, reported, value)
        return alias, await self.standing(alias)

    def _next(self, alias: Alias, by: str, action: Action, note: str, versions: tuple[Version, ...]) -> Revision:
        return self._revision(alias.current.number + 1, by, action, note, versions)

    def _revision(self, number: int, by: str, action: Action, note: str, versions: tuple[Version, ...]) -> Revision:
        return Revision(number, self._clock(), by, action, note, versions)

    def _check(self, wanted: Wanted) -> None:
        check_note(wanted.note)
        if not 1 <= len(wanted.shares) <= self.limits.versions:
            raise InvalidRequest(f"versions: must be from 1 to {self.limits.versions}")
        for share in wanted.shares:
            if not isfinite(share.weight) or not 0 <= share.weight <= HIGHEST_WEIGHT:
                raise InvalidRequest(f"weight: must be from 0 to {HIGHEST_WEIGHT:.0f}")
            if not 0 <= share.shadow <= 1:
                raise InvalidRequest("shadow: must be from 0 to 1")
        if not any(share.weight > 0 for share in wanted.shares):
            raise InvalidRequest("versions: at least one must have a weight above 0")


def check_note(note: str) -> None:
    """Raise `InvalidRequest` unless a database can hold the note."""
    try:
        check_description(note)
    except InvalidRequest as error:
        raise InvalidRequest(str(error).replace("description", "note", 1)) from None


async def _pointing(changes: AliasChanges, account_id: str, revision: Revision, wanted: Wanted) -> Revision:
    """The revision with the wanted versions and test, the adapters found as they are now."""
    versions = tuple([await _found(changes, account_id, share) for share in wanted.shares])
    names = [version.name for version in versions]
    if len(set(names)) < len(names):
        raise InvalidRequest("versions: each adapter must be named once")
    revision = replace(revision, versions=versions)
    return revision if wanted.trial is None else replace(revision, trial=_checked(wanted.trial, revision))


async def _found(changes: AliasChanges, account_id: str, share: Share) -> Version:
    if share.version == BARE_BASE:
        return Version(BARE_BASE, share.weight, shadow=share.shadow)
    adapter = await changes.adapter(account_id, share.version)
    if adapter is None:
        raise AdapterNotFound(share.version)
    if not adapter.ready:
        raise AdapterIncomplete(f"Adapter {adapter.name} is missing files")
    return Version(adapter.name, share.weight, None if adapter.public else adapter.id, share.shadow)


def _checked(trial: Trial, revision: Revision) -> Trial:
    """The test with its versions by their names. Raises `InvalidRequest` if they cannot be compared."""
    control, candidate = revision.version(trial.control), revision.version(trial.candidate)
    if control is None or candidate is None or control is candidate:
        raise InvalidRequest("test: control and candidate must be two of the versions")
    if not control.weight or not (candidate.weight or candidate.shadow):
        raise InvalidRequest("test: control must have a weight above 0, and candidate too or a share as a shadow")
    if trial.measured and not candidate.shadow:
        raise InvalidRequest("test: what the server measures needs a candidate with a share as a shadow")
    if trial.measured and trial.metric not in MEASURES:
        raise InvalidRequest(f"test: what the server measures is one of {', '.join(MEASURES)}")
    design = trial.design
    for name, value, lowest, highest in (
        ("effect", design.effect, LEAST_EFFECT, LARGEST_EFFECT),
        ("alpha", design.alpha, LEAST_ALPHA, LARGEST_ALPHA),
        ("power", design.power, LEAST_POWER, LARGEST_POWER),
    ):
        if not lowest <= value <= highest:
            raise InvalidRequest(f"test: {name} must be from {lowest} to {highest}")
    if not 1 <= len(trial.metric) <= LONGEST_METRIC or not trial.metric.isprintable():
        raise InvalidRequest(f"test: metric must have 1 to {LONGEST_METRIC} printable characters")
    needed = design.planned_sample
    sample = needed if trial.sample is None else trial.sample
    if not needed <= sample <= LARGEST_SAMPLE:
        raise InvalidRequest(
            f"test: sample must be from {needed}, which this effect and power need, to {LARGEST_SAMPLE}"
        )
    return replace(trial, control=control.name, candidate=candidate.name, sample=sample)


def _version(alias: str, revision: Revision, name: str) -> Version:
    version = revision.version(name)
    if version is None:
        raise AliasNotFound(f"{alias}: version {name} of revision {revision.number}")
    return version
