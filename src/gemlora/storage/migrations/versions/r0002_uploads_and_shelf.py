"""What a probe found, files of adapters that are not ready, and unique names on the shelf."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; adapters that are there already count as not probed."""
    op.add_column("adapters", sa.Column("difference", sa.Float))
    op.add_column("adapters", sa.Column("probed_base", sa.String(64)))
    op.add_column("adapters", sa.Column("pending_config_blob", sa.String(64)))
    op.add_column("adapters", sa.Column("pending_weights_blob", sa.String(64)))
    op.create_index("ix_adapters_digest", "adapters", ["digest"])
    op.create_index(
        "uq_adapters_public_name",
        "adapters",
        ["name"],
        unique=True,
        sqlite_where=sa.text("public = 1"),
        postgresql_where=sa.text("public"),
    )
