"""Adapters as rows of the table, both ways."""

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import RowMapping, null

from gemlora.registry.records import Adapter, AdapterFiles, PendingFiles

BLOB_COLUMNS = ("config_blob", "weights_blob", "manifest_blob", "pending_config_blob", "pending_weights_blob")
_CONTENT_COLUMNS = tuple(field.name for field in fields(AdapterFiles))
FILE_COLUMNS = (*_CONTENT_COLUMNS, "pending_config_blob", "pending_weights_blob")


def row_values(adapter: Adapter) -> dict[str, Any]:
    """The whole row."""
    own = {field.name: getattr(adapter, field.name) for field in fields(Adapter)}
    del own["files"], own["pending"]
    return own | file_values(adapter.files, adapter.pending)


def file_values(files: AdapterFiles | None, pending: PendingFiles) -> dict[str, Any]:
    """The columns that say which files the adapter has, and which are still to be put together."""
    values: dict[str, Any] = dict.fromkeys(_CONTENT_COLUMNS, null())
    if files is not None:
        values = asdict(files) | {"modules": [*files.modules], "warnings": [*files.warnings]}
    return values | {
        "pending_config_blob": pending.config_blob,
        "pending_weights_blob": pending.weights_blob,
    }


def adapter_of(row: RowMapping) -> Adapter:
    """What a whole row says."""
    files = None
    if row["digest"] is not None:
        content = {name: row[name] for name in _CONTENT_COLUMNS}
        files = AdapterFiles(**content | {"modules": tuple(row["modules"]), "warnings": tuple(row["warnings"])})
    own = {field.name: row[field.name] for field in fields(Adapter) if field.name not in ("files", "pending")}
    return Adapter(**own, files=files, pending=PendingFiles(row["pending_config_blob"], row["pending_weights_blob"]))
