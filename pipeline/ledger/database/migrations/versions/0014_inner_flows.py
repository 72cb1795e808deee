"""Flows that are steps of others: whose step one is, and which one it was started instead of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

ID = sa.String(length=255)
IS_STEP, IS_ANEW = sa.text("step IS NOT NULL"), sa.text("origin IS NOT NULL")


def upgrade() -> None:
    """Add columns; until now a flow that is a step had the id of that."""
    op.add_column("pipeline_flows", sa.Column("step", ID, nullable=True))
    op.add_column("pipeline_flows", sa.Column("origin", ID, nullable=True))
    op.execute(
        "UPDATE pipeline_flows SET step = id WHERE id IN (SELECT id FROM pipeline_deliveries WHERE flow IS NOT NULL)"
    )
    op.create_index(
        "pipeline_flows_step", "pipeline_flows", ["step"], unique=False, sqlite_where=IS_STEP, postgresql_where=IS_STEP
    )
    op.create_index(
        "pipeline_flows_origin",
        "pipeline_flows",
        ["origin"],
        unique=False,
        sqlite_where=IS_ANEW,
        postgresql_where=IS_ANEW,
    )
