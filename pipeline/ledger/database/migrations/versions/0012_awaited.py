"""Which events waits have come to, so that those stay as long as their delivery may ask for them again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add a column, with an index of those that have a value."""
    op.add_column("pipeline_steps", sa.Column("event_id", sa.String(length=255), nullable=True))
    some = sa.text("event_id IS NOT NULL")
    op.create_index("pipeline_steps_event", "pipeline_steps", ["event_id"], sqlite_where=some, postgresql_where=some)
