"""Shadow runs of aliases: which versions answer unseen, how often they did, and the last pairs of answers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table; versions that are there already are no shadows."""
    op.add_column("alias_versions", sa.Column("shadow", sa.Float, nullable=False, server_default="0"))
    for outcome in ("run", "dropped", "failed"):
        count = sa.Column(f"shadow_{outcome}", sa.BigInteger, nullable=False, server_default="0")
        op.add_column("alias_versions", count)
    op.create_table(
        "alias_pairs",
        sa.Column("alias_id", sa.String(36), nullable=False),
        sa.Column("serial", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("served", sa.String(255), nullable=False),
        sa.Column("served_facts", sa.JSON, nullable=False),
        sa.Column("shadow", sa.String(255), nullable=False),
        sa.Column("shadow_facts", sa.JSON),
        sa.Column("error", sa.String(64)),
        sa.Column("equal", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("texts", sa.JSON),
        sa.PrimaryKeyConstraint("alias_id", "serial", name="pk_alias_pairs"),
        sa.ForeignKeyConstraint(["alias_id"], ["aliases.id"], name="fk_alias_pairs_alias_id", ondelete="CASCADE"),
    )
    op.create_index("ix_alias_pairs_made_at", "alias_pairs", ["made_at"])
