"""Where events gather that one call of a handler gets together; which message an attempt belongs to, and waits' events.

An old message that comes again does not take an attempt over, and an event that a wait has come to stays as long as its
delivery may ask for it again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Add a table, and a column to each of two others."""
    op.create_table(
        "pipeline_batches",
        sa.Column("key", WORD, nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.Column("gathered", sa.Integer(), nullable=False),
        sa.Column("due", BIG, nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("pipeline_batches_due", "pipeline_batches", ["due"], unique=False)
    op.add_column("pipeline_deliveries", sa.Column("message", BIG, nullable=True))
    op.add_column("pipeline_steps", sa.Column("event_id", sa.String(length=255), nullable=True))
    some = sa.text("event_id IS NOT NULL")
    op.create_index("pipeline_steps_event", "pipeline_steps", ["event_id"], sqlite_where=some, postgresql_where=some)
