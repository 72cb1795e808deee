"""Where events gather that one call of a handler gets together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "pipeline_batches",
        sa.Column("key", WORD, nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.Column("gathered", sa.Integer(), nullable=False),
        sa.Column("due", BIG, nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("pipeline_batches_due", "pipeline_batches", ["due"], unique=False)
