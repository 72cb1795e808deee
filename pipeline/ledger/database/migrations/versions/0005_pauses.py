"""What is paused: agents by somebody, scopes by a provider or a breaker; and how the attempts of some agents went."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "pipeline_pauses",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", WORD, nullable=False),
        sa.Column("policy", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", BIG, nullable=False),
        sa.Column("until", BIG, nullable=True),
        sa.Column("times", sa.Integer(), server_default="0", nullable=False),
        sa.Column("width", sa.Integer(), server_default="1", nullable=False),
        sa.Column("ended", sa.Integer(), server_default="0", nullable=False),
        sa.Column("admitted", sa.Text(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("kind", "name"),
    )
    op.create_index("pipeline_pauses_until", "pipeline_pauses", ["until"], unique=False)
    op.create_table(
        "pipeline_attempts",
        sa.Column("agent", WORD, nullable=False),
        sa.Column("minute", BIG, autoincrement=False, nullable=False),
        sa.Column("made", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("agent", "minute"),
    )
