"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")
OPEN = sa.text("outcome NOT IN ('succeeded', 'filtered', 'dropped', 'unrouted')")
UNROUTED = sa.text("outcome = 'unrouted'")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "pipeline_agents",
        sa.Column("name", ID, nullable=False),
        sa.Column("patterns", sa.Text(), nullable=False),
        sa.Column("bound", sa.Text(), nullable=False),
        sa.Column("tx", BIG, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("registered", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "pipeline_aside",
        sa.Column("place", ID, nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("place", "id"),
    )
    op.create_table(
        "pipeline_deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("agent", WORD, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("emitted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started", BIG, nullable=True),
        sa.Column("ended", BIG, nullable=True),
        sa.Column("due", BIG, nullable=True),
        sa.Column("worker", ID, nullable=True),
        sa.Column("process", BIG, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("broadcast", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("replay", ID, nullable=True),
        sa.Column("requeued", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_deliveries_event", "pipeline_deliveries", ["event_id"], unique=False)
    op.create_index(
        "pipeline_deliveries_unrouted",
        "pipeline_deliveries",
        ["event_id"],
        unique=False,
        sqlite_where=UNROUTED,
        postgresql_where=UNROUTED,
    )
    op.create_index(
        "pipeline_deliveries_open",
        "pipeline_deliveries",
        ["outcome", "agent", "due"],
        unique=False,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
    op.create_table(
        "pipeline_events",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("tx", BIG, server_default="0", nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("type", WORD, nullable=False),
        sa.Column("stream", WORD, nullable=True),
        sa.Column("correlation", ID, nullable=False),
        sa.Column("causation", ID, nullable=True),
        sa.Column("delivery", ID, nullable=True),
        sa.Column("targets", sa.Text(), nullable=True),
        sa.Column("time", BIG, nullable=False),
        sa.Column("recorded", BIG, nullable=False),
        sa.Column("replay", ID, nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("pipeline_events_correlation", "pipeline_events", ["correlation", "tx", "seq"], unique=False)
    op.create_index("pipeline_events_order", "pipeline_events", ["tx", "seq"], unique=False)
    op.create_index("pipeline_events_stream", "pipeline_events", ["stream", "tx", "seq"], unique=False)
    op.create_index("pipeline_events_time", "pipeline_events", ["time", "tx", "seq"], unique=False)
    op.create_index("pipeline_events_type", "pipeline_events", ["type", "tx", "seq"], unique=False)
    op.create_table(
        "pipeline_joins",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", ID, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("correlation", ID, nullable=False),
        sa.Column("started", BIG, nullable=False),
        sa.Column("ended", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_joins_correlation", "pipeline_joins", ["correlation"], unique=False)
    op.create_table(
        "pipeline_meta",
        sa.Column("name", ID, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "pipeline_outbox",
        sa.Column("event_id", ID, nullable=False),
        sa.Column("due", BIG, nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("pipeline_outbox_due", "pipeline_outbox", ["due"], unique=False)
    op.create_table(
        "pipeline_positions",
        sa.Column("name", ID, nullable=False),
        sa.Column("tx", BIG, nullable=False),
        sa.Column("seq", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "pipeline_snapshots",
        sa.Column("stream", WORD, nullable=False),
        sa.Column("state", ID, nullable=False),
        sa.Column("tx", BIG, autoincrement=False, nullable=False),
        sa.Column("seq", BIG, autoincrement=False, nullable=False),
        sa.Column("max_seq", BIG, nullable=False),
        sa.Column("max_time", BIG, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "state", "tx", "seq"),
    )
    op.create_table(
        "pipeline_tags",
        sa.Column("name", WORD, nullable=False),
        sa.Column("value", WORD, nullable=False),
        sa.Column("tx", BIG, autoincrement=False, nullable=False),
        sa.Column("seq", BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("name", "value", "tx", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_index("pipeline_tags_seq", "pipeline_tags", ["seq"], unique=False)
    op.create_table(
        "pipeline_timers",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("due", BIG, nullable=False),
        sa.Column("correlation", ID, nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_timers_correlation", "pipeline_timers", ["correlation"], unique=False)
    op.create_index("pipeline_timers_due", "pipeline_timers", ["due"], unique=False)
    op.create_table(
        "pipeline_workers",
        sa.Column("id", ID, nullable=False),
        sa.Column("seen", BIG, nullable=False),
        sa.Column("agents", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
