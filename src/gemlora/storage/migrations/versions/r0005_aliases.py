"""Aliases: names that point to versions with weights, each change a revision, and what was reported of the answers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "aliases",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_aliases"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_aliases_account_id", ondelete="CASCADE"),
        sa.UniqueConstraint("account_id", "name", name="uq_aliases_account_id_name"),
    )
    op.create_table(
        "alias_revisions",
        sa.Column("alias_id", sa.String(36), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("made_by", sa.String(255), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("test", sa.JSON),
        sa.Column("wealth", sa.JSON),
        sa.Column("verdict", sa.String(16)),
        sa.PrimaryKeyConstraint("alias_id", "number", name="pk_alias_revisions"),
        sa.ForeignKeyConstraint(["alias_id"], ["aliases.id"], name="fk_alias_revisions_alias_id", ondelete="CASCADE"),
    )
    op.create_table(
        "alias_versions",
        sa.Column("alias_id", sa.String(36), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("adapter_id", sa.String(36)),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("outcomes", sa.BigInteger, nullable=False),
        sa.Column("total", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("alias_id", "number", "position", name="pk_alias_versions"),
        sa.ForeignKeyConstraint(["alias_id"], ["aliases.id"], name="fk_alias_versions_alias_id", ondelete="CASCADE"),
    )
    op.create_index("ix_alias_versions_adapter_id", "alias_versions", ["adapter_id"])
