"""Which of a delivery's messages an attempt belongs to, so that an old one that comes again does not take it over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a column."""
    op.add_column("pipeline_deliveries", sa.Column("message", BIG, nullable=True))
