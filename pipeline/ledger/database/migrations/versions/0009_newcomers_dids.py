"""Since when a delivery waits for a worker that reads it, and of which agents and types somebody was told so.

And the decentralized identifiers of agents, which events may be targeted at from anywhere.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns and a table."""
    op.add_column("pipeline_deliveries", sa.Column("waits", BIG, nullable=True))
    op.create_table(
        "pipeline_newcomers",
        sa.Column("agent", WORD, nullable=False),
        sa.Column("type", WORD, nullable=False),
        sa.Column("seen", BIG, nullable=False),
        sa.PrimaryKeyConstraint("agent", "type"),
    )
    op.add_column("pipeline_agents", sa.Column("did", sa.String(length=255), nullable=True))
