"""Limits over all workers: what they say, their lines, and the turns in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")
HAS_WAITING = sa.text("waiting > 0")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "pipeline_limits",
        sa.Column("name", WORD, nullable=False),
        sa.Column("declared", sa.Text(), nullable=False),
        sa.Column("changed", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "pipeline_lines",
        sa.Column("line", WORD, nullable=False),
        sa.Column("tat", BIG, server_default="0", nullable=False),
        sa.Column("due", BIG, nullable=True),
        sa.Column("passed", BIG, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("line"),
    )
    op.create_index("pipeline_lines_due", "pipeline_lines", ["due"], unique=False)
    op.create_table(
        "pipeline_shares",
        sa.Column("line", WORD, nullable=False),
        sa.Column("share", WORD, nullable=False),
        sa.Column("spent", BIG, nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("line", "share"),
    )
    op.create_index(
        "pipeline_shares_next",
        "pipeline_shares",
        ["line", "spent"],
        unique=False,
        sqlite_where=HAS_WAITING,
        postgresql_where=HAS_WAITING,
    )
    op.create_table(
        "pipeline_turns",
        sa.Column("delivery", ID, nullable=False),
        sa.Column("line", WORD, nullable=False),
        sa.Column("share", WORD, server_default="", nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("first", BIG, nullable=False),
        sa.Column("second", BIG, nullable=False),
        sa.Column("since", BIG, nullable=False),
        sa.PrimaryKeyConstraint("delivery", "line"),
    )
    place = ["line", "first", "second"]
    op.create_index(
        "pipeline_turns_next", "pipeline_turns", ["line", "state", "share", "first", "second"], unique=False
    )
    op.create_index("pipeline_turns_order", "pipeline_turns", place, unique=False)
    op.create_index("pipeline_turns_state", "pipeline_turns", ["state", "since"], unique=False)
