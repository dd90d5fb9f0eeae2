"""Batches: requests that are answered later, and their answers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "batches",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_batches_account_id", ondelete="CASCADE"),
    )
    op.create_index("ix_batches_account_id", "batches", ["account_id"])
    op.create_index("ix_batches_finished_at", "batches", ["finished_at"])
    op.create_table(
        "batch_requests",
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("inputs", sa.JSON),
        sa.Column("external_reference", sa.String),
        sa.Column("claimed_until", sa.BigInteger),
        sa.Column("answer", sa.JSON),
        sa.Column("success", sa.Boolean(create_constraint=False)),
        sa.PrimaryKeyConstraint("batch_id", "number", name="pk_batch_requests"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_batch_requests_batch_id", ondelete="CASCADE"),
    )
