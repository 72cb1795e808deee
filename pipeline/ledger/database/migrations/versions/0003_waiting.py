"""Deliveries that wait: parked ones, what they wait for, and the steps that are not done again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")
OPEN = sa.text("outcome NOT IN ('succeeded', 'filtered', 'late', 'cancelled', 'dropped', 'unrouted')")
AT_ONCE = sa.text("outcome = 'queued' AND due = 0")
NOT_LOOKED = sa.text("NOT looked")


def upgrade() -> None:
    """Rename what is in its queue, and add the tables."""
    op.execute("UPDATE pipeline_deliveries SET outcome = 'queued' WHERE outcome = 'waiting'")
    op.drop_index("pipeline_deliveries_open", "pipeline_deliveries")
    op.create_index(
        "pipeline_deliveries_open",
        "pipeline_deliveries",
        ["outcome", "agent", "due"],
        unique=False,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
    op.create_index(
        "pipeline_deliveries_at_once",
        "pipeline_deliveries",
        ["id"],
        unique=False,
        sqlite_where=AT_ONCE,
        postgresql_where=AT_ONCE,
    )
    op.create_table(
        "pipeline_waits",
        sa.Column("delivery", ID, nullable=False),
        sa.Column("name", WORD, nullable=True),
        sa.Column("number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("key", WORD, nullable=False),
        sa.Column("correlation", ID, nullable=True),
        sa.Column("condition", sa.Text(), nullable=True),
        sa.Column("since", BIG, nullable=False),
        sa.Column("due", BIG, nullable=True),
        sa.Column("tx", BIG, server_default="0", nullable=False),
        sa.Column("seq", BIG, server_default="0", nullable=False),
        sa.Column("looked", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.PrimaryKeyConstraint("delivery"),
    )
    op.create_index("pipeline_waits_due", "pipeline_waits", ["due"], unique=False)
    op.create_index("pipeline_waits_key", "pipeline_waits", ["kind", "key", "correlation"], unique=False)
    op.create_index(
        "pipeline_waits_new",
        "pipeline_waits",
        ["key"],
        unique=False,
        sqlite_where=NOT_LOOKED,
        postgresql_where=NOT_LOOKED,
    )
    op.create_table(
        "pipeline_steps",
        sa.Column("delivery", ID, nullable=False),
        sa.Column("name", WORD, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started", BIG, nullable=False),
        sa.Column("ended", BIG, nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("delivery", "name", "number"),
    )
