"""What agents filter: reconciliation need not send, and nobody wait for, what no version of an agent wants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what is not known before a worker starts: until then an agent wants all that its patterns match."""
    op.add_column("pipeline_agents", sa.Column("filters", sa.Text(), server_default="[]", nullable=False))
    op.add_column("pipeline_workers", sa.Column("filters", sa.Text(), server_default="{}", nullable=False))
