"""Adapters and served models in the database: the only place in this room with SQL."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gemlora.errors import AdapterExists, AdapterNotFound, StorageFailed
from gemlora.registry.models import Base
from gemlora.registry.records import Adapter, AdapterFiles
from gemlora.storage.database import Database
from gemlora.storage.tables import adapters, served_models


def owned_by(account_id: str) -> ColumnElement[bool]:
    """The condition that every query for an account's adapters starts from."""
    return adapters.c.account_id == account_id


class AdapterRepository:
    """Adapters by account, and which base weights serve a model."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, adapter: Adapter, still_stored: Callable[[], bool]) -> None:
        """Add a row, unless the account has the name already: `AdapterExists`.

        `still_stored` is asked under the write lock, which also keeps unused blobs from being deleted meanwhile.
        """
        values = {name: value for name, value in asdict(adapter).items() if name != "files"} | _file_values(adapter)
        try:
            async with self._database.writing() as connection:
                if not still_stored():
                    raise StorageFailed("The adapter's files vanished before it was registered; add it again")
                await connection.execute(insert(adapters).values(values))
        except IntegrityError:
            raise AdapterExists(f"An adapter named {adapter.name!r} exists already") from None

    async def find(self, account_id: str, name_or_id: str) -> Adapter:
        """The account's adapter with this name or id. Raises `AdapterNotFound`, for foreign ones too."""
        query = select(adapters).where(_named(account_id, name_or_id))
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise AdapterNotFound(name_or_id)
        return _adapter(row)

    async def exists(self, account_id: str, name: str) -> bool:
        """Whether the account uses the name."""
        query = select(adapters.c.id).where(owned_by(account_id), adapters.c.name == name)
        async with self._database.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def list(self, account_id: str) -> tuple[Adapter, ...]:
        """The account's adapters, oldest first."""
        query = select(adapters).where(owned_by(account_id)).order_by(adapters.c.created_at, adapters.c.id)
        async with self._database.reading() as connection:
            return tuple(_adapter(row) for row in (await connection.execute(query)).mappings())

    async def remove(self, account_id: str, name_or_id: str) -> None:
        """Delete the row. Raises `AdapterNotFound`."""
        async with self._database.writing() as connection:
            result = await connection.execute(delete(adapters).where(_named(account_id, name_or_id)))
        if result.rowcount == 0:
            raise AdapterNotFound(name_or_id)

    async def record_check(self, adapter: Adapter, manifest_blob: str, geometry: str) -> None:
        """Remember that an adapter fits another base too, and its manifest for it."""
        change = (
            update(adapters)
            .where(owned_by(adapter.account_id), adapters.c.id == adapter.id)
            .values(manifest_blob=manifest_blob, geometry=geometry)
        )
        async with self._database.writing() as connection:
            await connection.execute(change)

    async def discard_unused(self, discard: Callable[[frozenset[str]], int]) -> int:
        """Call `discard` with every blob in use, while nobody can add an adapter."""
        query = select(adapters.c.config_blob, adapters.c.weights_blob, adapters.c.manifest_blob)
        async with self._database.writing() as connection:
            rows = await connection.execute(query.where(adapters.c.digest.is_not(None)))
            return discard(frozenset(blob for row in rows for blob in row))

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


def _named(account_id: str, name_or_id: str) -> ColumnElement[bool]:
    return and_(owned_by(account_id), or_(adapters.c.id == name_or_id, adapters.c.name == name_or_id))


def _file_values(adapter: Adapter) -> dict[str, Any]:
    if adapter.files is None:
        return {}
    return asdict(adapter.files) | {"modules": list(adapter.files.modules), "warnings": list(adapter.files.warnings)}


def _adapter(row: RowMapping) -> Adapter:
    files = None
    if row["digest"] is not None:
        files = AdapterFiles(
            digest=row["digest"],
            config_blob=row["config_blob"],
            weights_blob=row["weights_blob"],
            manifest_blob=row["manifest_blob"],
            geometry=row["geometry"],
            size=row["size"],
            rank=row["rank"],
            modules=tuple(row["modules"]),
            warnings=tuple(row["warnings"]),
        )
    return Adapter(
        row["id"],
        row["account_id"],
        row["model"],
        row["name"],
        row["description"],
        row["public"],
        row["created_at"],
        row["modified_at"],
        files,
    )
