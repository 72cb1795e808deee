"""Trees of work: which were stopped, which deliveries of them still run, and what may be spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "pipeline_cancelled",
        sa.Column("key", ID, nullable=False),
        sa.Column("root", ID, nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("pipeline_cancelled_root", "pipeline_cancelled", ["root"], unique=False)
    op.create_table(
        "pipeline_stops",
        sa.Column("delivery", ID, nullable=False),
        sa.Column("worker", ID, nullable=False),
        sa.Column("terminate", sa.Boolean(), nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("delivery"),
    )
    op.create_table(
        "pipeline_budgets",
        sa.Column("name", WORD, nullable=False),
        sa.Column("key", WORD, nullable=False),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column("tokens", BIG, server_default="0", nullable=False),
        sa.Column("cost", BIG, server_default="0", nullable=False),
        sa.Column("events", BIG, server_default="0", nullable=False),
        sa.Column("tokens_limit", BIG, nullable=True),
        sa.Column("cost_limit", BIG, nullable=True),
        sa.Column("events_limit", BIG, nullable=True),
        sa.Column("is_set", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("exceeded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", "key", "period"),
    )
    op.create_index("pipeline_budgets_at", "pipeline_budgets", ["at"], unique=False)
    op.create_table(
        "pipeline_reservations",
        sa.Column("delivery", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("places", sa.Text(), nullable=False),
        sa.Column("tokens", BIG, nullable=False),
        sa.Column("cost", BIG, nullable=False),
        sa.Column("events", BIG, nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.PrimaryKeyConstraint("delivery", "attempt", "number"),
    )
