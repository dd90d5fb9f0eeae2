"""Pairs of answers in the database, and how often shadows ran, were dropped or failed."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gemlora.aliases.records import Alias
from gemlora.aliases.shadows import Facts, KeptPair, Outcome, Pair, Place
from gemlora.storage.database import Database
from gemlora.storage.tables import alias_pairs, alias_versions

COUNTERS = {outcome: alias_versions.c[f"shadow_{outcome.value}"] for outcome in Outcome}


class PairRepository:
    """Reads what shadows answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, alias: Alias, offset: int, limit: int) -> tuple[int, tuple[KeptPair, ...]]:
        """How many pairs of the alias are kept, and some of them, the newest first."""
        of_alias = alias_pairs.c.alias_id == alias.id
        query = select(alias_pairs).where(of_alias).order_by(alias_pairs.c.serial.desc()).offset(offset).limit(limit)
        async with self._database.reading() as connection:
            total = await connection.scalar(select(func.count()).select_from(alias_pairs).where(of_alias))
            rows = (await connection.execute(query)).mappings().all()
        return total or 0, tuple(_kept(alias, row) for row in rows)

    async def has_texts(self, before: datetime) -> bool:
        """Whether there are texts of pairs that were made before that time."""
        query = select(alias_pairs.c.serial).where(_with_texts(before)).limit(1)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).first() is not None


class PairChanges:
    """Writes of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def count(self, place: Place, outcome: Outcome, number: int = 1) -> bool:
        """Add to what became of a shadow's answers. False: there is no such version any more."""
        table, counter = alias_versions, COUNTERS[outcome]
        counted = await self._connection.execute(
            update(table)
            .where(table.c.alias_id == place.alias_id, table.c.number == place.revision, table.c.name == place.version)
            .values({counter: counter + number})
        )
        return counted.rowcount == 1

    async def add(self, pair: Pair, most: int) -> None:
        """Keep a pair of an alias that is there, and of all its pairs the newest `most`."""
        alias_id, table = pair.shadow.alias_id, alias_pairs
        newest = await self._connection.scalar(select(func.max(table.c.serial)).where(table.c.alias_id == alias_id))
        serial = (newest or 0) + 1
        await self._connection.execute(
            insert(table).values(
                alias_id=alias_id,
                serial=serial,
                number=pair.shadow.revision,
                made_at=pair.made_at,
                request_id=pair.request_id,
                served=pair.served,
                served_facts=asdict(pair.served_facts),
                shadow=pair.shadow.version,
                shadow_facts=null() if pair.shadow_facts is None else asdict(pair.shadow_facts),
                error=pair.error,
                equal=pair.equal,
                texts=null() if pair.texts is None else pair.texts,
            )
        )
        await self._connection.execute(
            delete(table).where(table.c.alias_id == alias_id, table.c.serial <= serial - most)
        )

    async def forget_texts(self, before: datetime) -> None:
        """Delete the texts of pairs that were made before that time."""
        await self._connection.execute(update(alias_pairs).where(_with_texts(before)).values(texts=null()))


def _with_texts(before: datetime) -> ColumnElement[bool]:
    return and_(alias_pairs.c.made_at < before, alias_pairs.c.texts.is_not(None))


def _kept(alias: Alias, row: RowMapping) -> KeptPair:
    place = Place(alias.account_id, alias.id, alias.name, row["number"], row["shadow"])
    facts = row["shadow_facts"]
    pair = Pair(
        place,
        row["request_id"],
        row["made_at"],
        row["served"],
        Facts(**row["served_facts"]),
        None if facts is None else Facts(**facts),
        row["error"],
        row["equal"],
        row["texts"],
    )
    return KeptPair(row["serial"], pair)
