"""Who is there: what workers say of themselves, when they leave, and agents whose workers may have failed.

Subscriptions: agents whose declaration stands in the ledger, and that call a URL. And the index of what is to be sent
at once has what is being sent, too.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

AT_ONCE = sa.text("outcome = 'queued' AND due <= 0")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)


def upgrade() -> None:
    """Add columns, and a table."""
    op.add_column("pipeline_workers", sa.Column("beats", sa.Integer(), server_default="1", nullable=False))
    op.add_column("pipeline_workers", sa.Column("leaves", BIG, nullable=True))
    op.add_column("pipeline_workers", sa.Column("ended", BIG, nullable=True))
    op.add_column("pipeline_workers", sa.Column("about", sa.Text(), server_default="{}", nullable=False))
    op.add_column("pipeline_agents", sa.Column("suspected", BIG, nullable=True))
    op.drop_index("pipeline_deliveries_at_once", "pipeline_deliveries")
    op.create_index(
        "pipeline_deliveries_at_once",
        "pipeline_deliveries",
        ["id"],
        unique=False,
        sqlite_where=AT_ONCE,
        postgresql_where=AT_ONCE,
    )
    op.create_table(
        "pipeline_subscriptions",
        sa.Column("id", ID, nullable=False),
        sa.Column("version", BIG, nullable=False),
        sa.Column("patterns", sa.Text(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("max_concurrent", sa.Integer(), nullable=False),
        sa.Column("timeout", sa.Float(), nullable=False),
        sa.Column("retry", sa.Integer(), nullable=False),
        sa.Column("since", BIG, nullable=True),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("created", BIG, nullable=False),
        sa.Column("changed", BIG, nullable=False),
        sa.Column("removed", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_subscriptions_version", "pipeline_subscriptions", ["version"], unique=False)
