"""Adapters and served models in the database: the only place in this room with SQL."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gemlora.errors import AdapterExists, AdapterNotFound, StillNeeded, StorageFailed, TooManyAdapters
from gemlora.registry.models import Base
from gemlora.registry.names import is_id, is_storable
from gemlora.registry.records import Adapter, AdapterFiles, PendingFiles, ShippedContent
from gemlora.registry.rows import BLOB_COLUMNS, FILE_COLUMNS, adapter_of, file_values, row_values
from gemlora.storage.blocking import in_thread
from gemlora.storage.database import Database
from gemlora.storage.tables import adapters, alias_versions, aliases, served_models, shipped_adapters


def owned_by(account_id: str) -> ColumnElement[bool]:
    """The condition that every query for an account's adapters starts from."""
    return adapters.c.account_id == account_id


class AdapterRepository:
    """Adapters by account, and which base weights serve a model.

    `still_stored` is always asked under the write lock, which also keeps unused blobs from being deleted meanwhile.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, adapter: Adapter, limit: int | None = None, still_stored: Callable[[], bool] | None = None
    ) -> None:
        """Add a row.

        Raises `AdapterExists` if the account, or for a public adapter the shelf, has the name already, for an alias
        too, and `TooManyAdapters` if the account has `limit` adapters that are not public.
        """
        try:
            async with self._database.writing() as connection:
                if (await connection.execute(_taken(adapter))).first() is not None:
                    raise AdapterExists(f"An adapter named {adapter.name!r} exists already")
                await _check_no_alias(connection, adapter.account_id, adapter.name)
                if limit is not None and not adapter.public:
                    owned = select(func.count()).where(owned_by(adapter.account_id), adapters.c.public.is_(False))
                    if (await connection.execute(owned)).scalar_one() >= limit:
                        raise TooManyAdapters(f"The account has {limit} adapters already, which is the limit")
                await _check_stored(still_stored)
                await connection.execute(insert(adapters).values(row_values(adapter)))
        except IntegrityError as error:
            raise StorageFailed("The account was deleted") from error

    async def add_shipped(
        self, adapter: Adapter, content: ShippedContent, replaced: Adapter | None, still_stored: Callable[[], bool]
    ) -> frozenset[str] | None:
        """Put a shipped adapter in the place of `replaced` on the shelf, and note its content.

        Returns the digests that are in no row any more; None, and nothing changes, if the shelf is no longer as the
        caller saw it: another server was faster, or an operator took the adapter away.
        """
        shown = select(adapters.c.id).where(adapters.c.public, adapters.c.name == adapter.name)
        noted = select(shipped_adapters.c.digest).where(shipped_adapters.c.name == adapter.name).limit(1)
        try:
            async with self._database.writing() as connection:
                if await connection.scalar(shown) != (None if replaced is None else replaced.id):
                    return None
                if replaced is None and await connection.scalar(noted) is not None:
                    return None
                await _check_stored(still_stored)
                if replaced is not None:
                    await connection.execute(delete(adapters).where(adapters.c.id == replaced.id))
                await connection.execute(insert(adapters).values(row_values(adapter)))
                await _note_shipped(connection, content, adapter.created_at)
                before = replaced.files if replaced is not None else None
                kept = before is None or await _is_used(connection, before.digest)
                return frozenset() if before is None or kept else frozenset({before.digest})
        except IntegrityError as error:
            raise StorageFailed("The account was deleted") from error

    async def note_shipped(self, content: ShippedContent, moment: datetime) -> None:
        """Remember that this content was considered for the shelf."""
        async with self._database.writing() as connection:
            await _note_shipped(connection, content, moment)

    async def list_shipped(self) -> tuple[ShippedContent, ...]:
        """What was considered for the shelf so far."""
        query = select(*(shipped_adapters.c[field.name] for field in fields(ShippedContent)))
        async with self._database.reading() as connection:
            return tuple(ShippedContent(**row) for row in (await connection.execute(query)).mappings())

    async def find(self, account_id: str, name_or_id: str) -> Adapter:
        """The account's adapter with this name or id. Raises `AdapterNotFound`, for foreign ones too."""
        return await self._find(name_or_id, owned_by(account_id))

    async def find_public(self, name_or_id: str) -> Adapter:
        """The adapter on the shelf with this name or id. Raises `AdapterNotFound`."""
        return await self._find(name_or_id, adapters.c.public)

    async def exists(self, account_id: str, name: str) -> bool:
        """Whether the account uses the name."""
        query = select(adapters.c.id).where(owned_by(account_id), adapters.c.name == name)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def list(self, account_id: str) -> tuple[Adapter, ...]:
        """The account's adapters, oldest first."""
        return await self._list(owned_by(account_id))

    async def list_public(self) -> tuple[Adapter, ...]:
        """All adapters on the shelf, oldest first."""
        return await self._list(adapters.c.public)

    async def change(self, before: Adapter, after: Adapter, still_stored: Callable[[], bool]) -> bool:
        """Give an adapter that is not ready the files of `after`; False if it no longer is as `before` says."""
        values = row_values(after)
        change = (
            update(adapters)
            .where(
                owned_by(before.account_id),
                adapters.c.id == before.id,
                adapters.c.digest.is_(None),
                adapters.c.pending_config_blob.is_not_distinct_from(before.pending.config_blob),
                adapters.c.pending_weights_blob.is_not_distinct_from(before.pending.weights_blob),
            )
            .values({name: values[name] for name in ("modified_at", *FILE_COLUMNS)})
        )
        async with self._database.writing() as connection:
            await _check_stored(still_stored)
            return (await connection.execute(change)).rowcount == 1

    async def rename(self, adapter: Adapter, name: str, moment: datetime) -> Adapter:
        """The adapter under its new name.

        Raises `AdapterExists` as `add` does, and `AdapterNotFound` if it was removed meanwhile.
        """
        row = and_(owned_by(adapter.account_id), adapters.c.id == adapter.id)
        change = update(adapters).where(row).values(name=name, modified_at=moment)
        async with self._database.writing() as connection:
            taken = _taken(replace(adapter, name=name)).where(adapters.c.id != adapter.id)
            if (await connection.execute(taken)).first() is not None:
                raise AdapterExists(f"An adapter named {name!r} exists already")
            await _check_no_alias(connection, adapter.account_id, name)
            if (await connection.execute(change)).rowcount != 1:
                raise AdapterNotFound(adapter.name)
            return adapter_of((await connection.execute(select(adapters).where(row))).mappings().one())

    async def record_check(self, adapter: Adapter, files: AdapterFiles, still_stored: Callable[[], bool]) -> None:
        """Remember that a ready adapter was checked against another base: the same content, a new manifest."""
        change = (
            update(adapters)
            .where(owned_by(adapter.account_id), adapters.c.id == adapter.id, adapters.c.digest == files.digest)
            .values(file_values(files, PendingFiles()))
        )
        async with self._database.writing() as connection:
            await _check_stored(still_stored)
            await connection.execute(change)

    async def remove(self, account_id: str, name_or_id: str) -> frozenset[str]:
        """Delete the row; the digest of its content, if no other adapter has it.

        Raises `AdapterNotFound`, and `StillNeeded` if an alias of the account points to it now or would after a
        rollback.
        """
        if not is_storable(name_or_id):
            raise AdapterNotFound(name_or_id)
        removed = await self._remove(and_(owned_by(account_id), _named(name_or_id)), _check_unused)
        if removed is None:
            raise AdapterNotFound(name_or_id)
        return removed

    async def remove_all(self, account_id: str) -> frozenset[str]:
        """Delete all rows of the account; the digests of the content that no other adapter has."""
        return await self._remove(owned_by(account_id)) or frozenset()

    async def is_used(self, digest: str) -> bool:
        """Whether any adapter, of whatever account, has this content."""
        async with self._database.reading() as connection:
            return await _is_used(connection, digest)

    async def discard_unused(self, discard: Callable[[frozenset[str]], int]) -> int:
        """Call `discard` in a thread with every blob in use, while nobody can add an adapter."""
        query = select(*(adapters.c[name] for name in BLOB_COLUMNS))
        async with self._database.writing() as connection:
            rows = await connection.execute(query)
            used = frozenset(blob for row in rows for blob in row if blob is not None)
            return await in_thread(lambda: discard(used))

    async def record_base(self, model: str, base: Base, moment: datetime) -> None:
        """Remember which base weights serve the model."""
        values = {"facts": base.to_json(), "recorded_at": moment}
        async with self._database.writing() as connection:
            changed = await connection.execute(
                update(served_models).where(served_models.c.model == model).values(values)
            )
            if changed.rowcount == 0:
                await connection.execute(insert(served_models).values(values | {"model": model}))

    async def find_base(self, model: str) -> Base | None:
        """The base weights that last served the model."""
        query = select(served_models.c.facts).where(served_models.c.model == model)
        async with self._database.reading() as connection:
            facts = await connection.scalar(query)
        return None if facts is None else Base.from_json(facts)

    async def _find(self, name_or_id: str, condition: ColumnElement[bool]) -> Adapter:
        if not is_storable(name_or_id):
            raise AdapterNotFound(name_or_id)
        query = select(adapters).where(condition, _named(name_or_id))
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise AdapterNotFound(name_or_id)
        return adapter_of(row)

    async def _remove(
        self,
        condition: ColumnElement[bool],
        check: Callable[[AsyncConnection, ColumnElement[bool]], Awaitable[None]] | None = None,
    ) -> frozenset[str] | None:
        """The digests that are in no row any more; None if there was nothing to delete."""
        async with self._database.writing() as connection:
            if check is not None:
                await check(connection, condition)
            digests = (await connection.execute(select(adapters.c.digest).where(condition))).scalars().all()
            if not digests:
                return None
            await connection.execute(delete(adapters).where(condition))
            gone = {digest for digest in digests if digest is not None}
            return frozenset({digest for digest in gone if not await _is_used(connection, digest)})

    async def _list(self, condition: ColumnElement[bool]) -> tuple[Adapter, ...]:
        query = select(adapters).where(condition).order_by(adapters.c.created_at, adapters.c.id)
        async with self._database.reading() as connection:
            return tuple(adapter_of(row) for row in (await connection.execute(query)).mappings())


async def _check_stored(still_stored: Callable[[], bool] | None) -> None:
    if still_stored is not None and not await in_thread(still_stored):
        raise StorageFailed("The adapter's files vanished before it was registered; add it again")


async def _check_no_alias(connection: AsyncConnection, account_id: str, name: str) -> None:
    alias = select(aliases.c.id).where(aliases.c.account_id == account_id, aliases.c.name == name)
    if await connection.scalar(alias) is not None:
        raise AdapterExists(f"An alias named {name!r} exists already")


async def _check_unused(connection: AsyncConnection, condition: ColumnElement[bool]) -> None:
    """Aliases name public adapters, and know others by id. Those of other accounts do not bind whoever publishes."""
    pointed = or_(
        alias_versions.c.adapter_id == adapters.c.id,
        and_(adapters.c.public, alias_versions.c.name == adapters.c.name, alias_versions.c.adapter_id.is_(None)),
    )
    query = (
        select(aliases.c.name, adapters.c.name.label("adapter"))
        .join_from(aliases, alias_versions, alias_versions.c.alias_id == aliases.c.id)
        .join(adapters, and_(adapters.c.account_id == aliases.c.account_id, pointed))
        .where(condition, alias_versions.c.number >= aliases.c.revision - 1)
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is not None:
        raise StillNeeded(f"The alias {row.name} points to the adapter {row.adapter}, now or after a rollback")


async def _note_shipped(connection: AsyncConnection, content: ShippedContent, moment: datetime) -> None:
    table = shipped_adapters
    await connection.execute(delete(table).where(table.c.name == content.name, table.c.digest == content.digest))
    await connection.execute(insert(table).values(asdict(content) | {"noted_at": moment}))


async def _is_used(connection: AsyncConnection, digest: str) -> bool:
    query = select(adapters.c.id).where(adapters.c.digest == digest).limit(1)
    return (await connection.execute(query)).first() is not None


def _named(name_or_id: str) -> ColumnElement[bool]:
    return (adapters.c.id if is_id(name_or_id) else adapters.c.name) == name_or_id


def _taken(adapter: Adapter) -> Select[str]:
    same_place = owned_by(adapter.account_id)
    if adapter.public:
        same_place = or_(same_place, adapters.c.public)
    return select(adapters.c.id).where(same_place, adapters.c.name == adapter.name)
