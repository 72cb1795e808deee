"""Flows: deliveries that belong together, such as the members of a join, and the definitions that they follow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)
ACTIVE, IN_FLOW = sa.text("ended IS NULL"), sa.text("flow IS NOT NULL")


def upgrade() -> None:
    """Add tables and columns; what was known of joins that Celery's chords have made goes."""
    op.create_table(
        "pipeline_flows",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("correlation", ID, nullable=False),
        sa.Column("definition", ID, nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("need", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started", BIG, nullable=False),
        sa.Column("ended", BIG, nullable=True),
        sa.Column("due", BIG, nullable=True),
        sa.Column("clocks", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_flows_correlation", "pipeline_flows", ["correlation"], unique=False)
    op.create_index("pipeline_flows_event", "pipeline_flows", ["event_id"], unique=False)
    op.create_index(
        "pipeline_flows_active", "pipeline_flows", ["id"], unique=False, sqlite_where=ACTIVE, postgresql_where=ACTIVE
    )
    op.create_index(
        "pipeline_flows_due", "pipeline_flows", ["due"], unique=False, sqlite_where=ACTIVE, postgresql_where=ACTIVE
    )
    op.create_table(
        "pipeline_definitions",
        sa.Column("id", ID, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("pipeline_deliveries", sa.Column("flow", ID, nullable=True))
    op.add_column("pipeline_deliveries", sa.Column("pos", sa.Integer(), nullable=True))
    op.create_index(
        "pipeline_deliveries_flow",
        "pipeline_deliveries",
        ["flow"],
        unique=False,
        sqlite_where=IN_FLOW,
        postgresql_where=IN_FLOW,
    )
    op.drop_table("pipeline_joins")
