"""Aliases in the database; beside `pairs.py` the only place in this room with SQL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from itertools import groupby
from typing import Any

from sqlalchemy import RowMapping, and_, bindparam, delete, func, insert, null, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gemlora.aliases.pairs import PairChanges
from gemlora.aliases.records import Action, Alias, FoundAdapter, Revision, Standing, Tally, Trial, Version
from gemlora.aliases.sequential import Design, Evidence, Verdict
from gemlora.aliases.shadows import ShadowCounts
from gemlora.errors import AliasNotFound, StorageFailed
from gemlora.registry.names import is_id, is_storable
from gemlora.storage.database import Database
from gemlora.storage.tables import adapters, alias_revisions, alias_versions, aliases


class AliasRepository:
    """Reads aliases of accounts; changes go through `changing`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, account_id: str, name: str) -> Alias:
        """The account's alias of that name. Raises `AliasNotFound`, for foreign ones too."""
        async with self._database.reading() as connection:
            return await _find(connection, account_id, name)

    async def list(self, account_id: str) -> tuple[Alias, ...]:
        """The account's aliases, oldest first."""
        query = _CURRENT.where(aliases.c.account_id == account_id)
        query = query.order_by(aliases.c.created_at, aliases.c.id, alias_versions.c.position)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(_alias([*group]) for _, group in groupby(rows, lambda row: row["id"]))

    async def revisions(self, alias: Alias, offset: int, limit: int) -> tuple[Revision, ...]:
        """Some of the alias's revisions, the newest first."""
        highest = alias.current.number - offset
        query = (
            _REVISIONS.where(
                alias_revisions.c.alias_id == alias.id,
                alias_revisions.c.number.between(highest - limit + 1, highest),
            )
            .order_by(alias_revisions.c.number.desc(), alias_versions.c.position)
        )  # fmt: skip
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return tuple(_revision([*group]) for _, group in groupby(rows, lambda row: row["number"]))

    async def standings(self, alias: Alias, numbers: Sequence[int]) -> dict[int, Standing]:
        """What was reported in these revisions of the alias, by number."""
        query = _STANDINGS.where(alias_versions.c.alias_id == alias.id, alias_versions.c.number.in_(numbers)).order_by(
            alias_versions.c.number, alias_versions.c.position
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        grouped = groupby(rows, lambda row: row["number"])
        return {number: _standing([*group]) for number, group in grouped}

    @asynccontextmanager
    async def changing(self) -> AsyncIterator["AliasChanges"]:
        """All changes of the block happen together or not at all, and nobody else writes meanwhile."""
        try:
            async with self._database.writing() as connection:
                yield AliasChanges(connection)
        except IntegrityError as error:
            raise StorageFailed("The account was deleted") from error


class AliasChanges:
    """Reads and writes of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.pairs = PairChanges(connection)

    async def find(self, account_id: str, name: str) -> Alias:
        """See `AliasRepository.find`."""
        return await _find(self._connection, account_id, name)

    async def count(self, account_id: str) -> int:
        """How many aliases the account has."""
        query = select(func.count()).select_from(aliases).where(aliases.c.account_id == account_id)
        return await self._connection.scalar(query) or 0

    async def is_taken(self, account_id: str, name: str) -> bool:
        """Whether the account uses the name, for an adapter or an alias."""
        for table in (adapters, aliases):
            query = select(table.c.id).where(table.c.account_id == account_id, table.c.name == name)
            if await self._connection.scalar(query) is not None:
                return True
        return False

    async def adapter(self, account_id: str, name_or_id: str) -> FoundAdapter | None:
        """The adapter that the account means, its own first, else a public one."""
        if not is_storable(name_or_id):
            return None
        own = adapters.c.account_id == account_id
        named = (adapters.c.id if is_id(name_or_id) else adapters.c.name) == name_or_id
        query = (
            select(adapters.c.id, adapters.c.name, adapters.c.public, adapters.c.digest.is_not(None).label("ready"))
            .where(or_(own, adapters.c.public), named)
            .order_by(own.desc())
            .limit(1)
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else FoundAdapter(row.id, row.name, public=row.public, ready=bool(row.ready))

    async def revision(self, alias: Alias, number: int) -> Revision | None:
        """One of the alias's revisions."""
        query = _REVISIONS.where(alias_revisions.c.alias_id == alias.id, alias_revisions.c.number == number)
        rows = (await self._connection.execute(query.order_by(alias_versions.c.position))).mappings().all()
        return _revision(rows) if rows else None

    async def add(self, alias: Alias) -> None:
        """Add an alias with its first revision."""
        await self._connection.execute(
            insert(aliases).values(
                id=alias.id,
                account_id=alias.account_id,
                name=alias.name,
                created_at=alias.created_at,
                revision=alias.current.number,
            )
        )
        await self._add(alias.id, alias.current)

    async def append(self, alias: Alias, revision: Revision) -> None:
        """Let a new revision be the current one."""
        await self._add(alias.id, revision)
        await self._connection.execute(update(aliases).where(aliases.c.id == alias.id).values(revision=revision.number))

    async def remove(self, alias: Alias) -> None:
        """Delete an alias with its revisions."""
        await self._connection.execute(delete(aliases).where(aliases.c.id == alias.id))

    async def count_outcome(self, alias: Alias, number: int, version: Version, value: float) -> None:
        """Add an outcome to a version's tally in one of the alias's revisions."""
        table = alias_versions
        await self._connection.execute(
            update(table)
            .where(table.c.alias_id == alias.id, table.c.number == number, table.c.name == version.name)
            .values(outcomes=table.c.outcomes + 1, total=table.c.total + value)
        )

    async def evidence(self, alias: Alias) -> tuple[Evidence, Standing]:
        """What the current revision's test has seen, and how it stands."""
        key = and_(alias_revisions.c.alias_id == alias.id, alias_revisions.c.number == alias.current.number)
        wealth: dict[str, Any] = (
            await self._connection.execute(select(alias_revisions.c.wealth).where(key))
        ).scalar_one()
        query = _STANDINGS.where(
            alias_versions.c.alias_id == alias.id, alias_versions.c.number == alias.current.number
        ).order_by(alias_versions.c.position)
        rows = (await self._connection.execute(query)).mappings().all()
        return Evidence(**wealth), _standing(rows)

    async def save_evidence(self, alias: Alias, evidence: Evidence, verdict: Verdict) -> None:
        """Keep what the current revision's test has seen by now."""
        await self._connection.execute(
            update(alias_revisions)
            .where(alias_revisions.c.alias_id == alias.id, alias_revisions.c.number == alias.current.number)
            .values(wealth=asdict(evidence), verdict=verdict.value)
        )

    async def _add(self, alias_id: str, revision: Revision) -> None:
        key = {"alias_id": alias_id, "number": revision.number}
        await self._connection.execute(
            insert(alias_revisions).values(
                **key,
                made_at=revision.made_at,
                made_by=revision.made_by,
                action=revision.action.value,
                note=revision.note,
                test=null() if revision.trial is None else asdict(revision.trial),
                wealth=null() if revision.trial is None else asdict(Evidence()),
                verdict=None if revision.trial is None else Verdict.RUNNING.value,
            )
        )
        rows: list[dict[str, Any]] = [
            key | {
                "position": position,
                "name": version.name,
                "adapter_id": version.adapter_id,
                "weight": version.weight,
                "outcomes": 0,
                "total": 0.0,
                "shadow": version.shadow,
                "shadow_run": 0,
                "shadow_dropped": 0,
                "shadow_failed": 0,
            }
            for position, version in enumerate(revision.versions)
        ]  # fmt: skip
        await self._connection.execute(insert(alias_versions), rows)


_REVISION = (
    alias_revisions.c.number,
    alias_revisions.c.made_at,
    alias_revisions.c.made_by,
    alias_revisions.c.action,
    alias_revisions.c.note,
    alias_revisions.c.test,
    alias_versions.c.name.label("version"),
    alias_versions.c.adapter_id,
    alias_versions.c.weight,
    alias_versions.c.shadow,
)
_OF_REVISION = and_(
    alias_versions.c.alias_id == alias_revisions.c.alias_id, alias_versions.c.number == alias_revisions.c.number
)
_REVISIONS = select(*_REVISION).join_from(alias_revisions, alias_versions, _OF_REVISION)
_CURRENT = (
    select(aliases.c.id, aliases.c.account_id, aliases.c.name, aliases.c.created_at, *_REVISION)
    .join_from(
        aliases,
        alias_revisions,
        and_(alias_revisions.c.alias_id == aliases.c.id, alias_revisions.c.number == aliases.c.revision),
    )
    .join(alias_versions, _OF_REVISION)
)
_STANDINGS = select(
    alias_versions.c.number,
    alias_versions.c.name,
    alias_versions.c.outcomes,
    alias_versions.c.total,
    alias_versions.c.shadow_run,
    alias_versions.c.shadow_dropped,
    alias_versions.c.shadow_failed,
    alias_revisions.c.verdict,
).join_from(alias_versions, alias_revisions, _OF_REVISION)

# Every request to an alias asks this, and to put it together takes longer than to run it.
_NAMED = _CURRENT.where(aliases.c.account_id == bindparam("owner"), aliases.c.name == bindparam("alias_name")).order_by(
    alias_versions.c.position
)


async def _find(connection: AsyncConnection, account_id: str, name: str) -> Alias:
    if not is_storable(name):
        raise AliasNotFound(name)
    rows = (await connection.execute(_NAMED, {"owner": account_id, "alias_name": name})).mappings().all()
    if not rows:
        raise AliasNotFound(name)
    return _alias(rows)


def _alias(rows: Sequence[RowMapping]) -> Alias:
    row = rows[0]
    return Alias(row["id"], row["account_id"], row["name"], row["created_at"], _revision(rows))


def _revision(rows: Sequence[RowMapping]) -> Revision:
    """From one row for each version."""
    row = rows[0]
    return Revision(
        row["number"],
        row["made_at"],
        row["made_by"],
        Action(row["action"]),
        row["note"],
        tuple(Version(one["version"], one["weight"], one["adapter_id"], one["shadow"]) for one in rows),
        _trial(row["test"]),
    )


def _trial(test: dict[str, Any] | None) -> Trial | None:
    return None if test is None else Trial(**test | {"design": Design(**test["design"])})


def _standing(rows: Sequence[RowMapping]) -> Standing:
    verdict = rows[0]["verdict"]
    tallies = tuple(
        Tally(
            row["name"],
            row["outcomes"],
            row["total"],
            ShadowCounts(row["shadow_run"], row["shadow_dropped"], row["shadow_failed"]),
        )
        for row in rows
    )
    return Standing(tallies, None if verdict is None else Verdict(verdict))
