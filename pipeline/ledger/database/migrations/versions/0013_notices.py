"""What handlers say while they work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)


def upgrade() -> None:
    """Add a table, whose numbers are not used twice."""
    op.create_table(
        "pipeline_notices",
        sa.Column("seq", BIG, autoincrement=True, nullable=False),
        sa.Column("at", BIG, nullable=False),
        sa.Column("correlation", ID, nullable=False),
        sa.Column("delivery", ID, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("pipeline_notices_correlation", "pipeline_notices", ["correlation", "seq"], unique=False)
    op.create_index("pipeline_notices_at", "pipeline_notices", ["at"], unique=False)
