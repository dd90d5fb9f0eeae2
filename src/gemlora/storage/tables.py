"""The tables of the database. `migrations/` creates them; a test holds both against each other."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Moment(TypeDecorator[datetime]):
    """A time in UTC, stored as microseconds since 1970: exact, sortable and the same on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ARG002
        """To microseconds."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """From microseconds."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("first", Boolean(create_constraint=False), nullable=False),
    Column("created_at", Moment, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("account_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("label", String(255), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
)

adapters = Table(
    "adapters",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("account_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("model", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", String, nullable=False),
    Column("public", Boolean(create_constraint=False), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("modified_at", Moment, nullable=False),
    Column("digest", String(64)),
    Column("config_blob", String(64)),
    Column("weights_blob", String(64)),
    Column("manifest_blob", String(64)),
    Column("geometry", String(64)),
    Column("size", BigInteger),
    Column("rank", BigInteger),
    Column("modules", JSON),
    Column("warnings", JSON),
    Column("difference", Float),
    Column("probed_base", String(64)),
    Column("pending_config_blob", String(64)),
    Column("pending_weights_blob", String(64)),
    UniqueConstraint("account_id", "name"),
    Index("ix_adapters_digest", "digest"),
    Index(
        "uq_adapters_public_name", "name", unique=True, sqlite_where=text("public = 1"), postgresql_where=text("public")
    ),
)

shipped_adapters = Table(
    "shipped_adapters",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("fingerprint", String(255), nullable=False),
    Column("noted_at", Moment, nullable=False),
)

served_models = Table(
    "served_models",
    metadata,
    Column("model", String(255), primary_key=True),
    Column("facts", JSON, nullable=False),
    Column("recorded_at", Moment, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("account_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("account_id", "name"),
)

alias_revisions = Table(
    "alias_revisions",
    metadata,
    Column("alias_id", ForeignKey("aliases.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("made_at", Moment, nullable=False),
    Column("made_by", String(255), nullable=False),
    Column("action", String(16), nullable=False),
    Column("note", String, nullable=False),
    Column("test", JSON),
    Column("wealth", JSON),
    Column("verdict", String(16)),
)

alias_versions = Table(
    "alias_versions",
    metadata,
    Column("alias_id", ForeignKey("aliases.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(255), nullable=False),
    Column("adapter_id", String(36), index=True),
    Column("weight", Float, nullable=False),
    Column("outcomes", BigInteger, nullable=False),
    Column("total", Float, nullable=False),
    Column("shadow", Float, nullable=False),
    Column("shadow_run", BigInteger, nullable=False),
    Column("shadow_dropped", BigInteger, nullable=False),
    Column("shadow_failed", BigInteger, nullable=False),
)

alias_pairs = Table(
    "alias_pairs",
    metadata,
    Column("alias_id", ForeignKey("aliases.id", ondelete="CASCADE"), primary_key=True),
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("made_at", Moment, nullable=False, index=True),
    Column("request_id", String(36), nullable=False),
    Column("served", String(255), nullable=False),
    Column("served_facts", JSON, nullable=False),
    Column("shadow", String(255), nullable=False),
    Column("shadow_facts", JSON),
    Column("error", String(64)),
    Column("equal", Boolean(create_constraint=False), nullable=False),
    Column("texts", JSON),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("account_id", ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("model", String(255), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment, index=True),
)

batch_requests = Table(
    "batch_requests",
    metadata,
    Column("batch_id", ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("inputs", JSON),
    Column("external_reference", String),
    Column("claimed_until", Moment),
    Column("answer", JSON),
    Column("success", Boolean(create_constraint=False)),
)
