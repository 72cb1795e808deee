"""The decentralized identifiers of agents, which events may be targeted at from anywhere."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add a column."""
    op.add_column("pipeline_agents", sa.Column("did", sa.String(length=255), nullable=True))
