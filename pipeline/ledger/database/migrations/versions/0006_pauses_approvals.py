"""What is paused: agents by somebody, scopes by a provider or a breaker; and how the attempts of some agents went.

Approvals: actions that wait for somebody's decision, and the rules by which some need none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=255)
WORD = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Add the tables."""
    _pauses()
    _approvals()


def _pauses() -> None:
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


def _approvals() -> None:
    op.create_table(
        "pipeline_approvals",
        sa.Column("id", ID, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("agent", WORD, nullable=False),
        sa.Column("action", WORD, nullable=False),
        sa.Column("correlation", ID, nullable=False),
        sa.Column("proposal", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("asked", BIG, nullable=False),
        sa.Column("expires", BIG, nullable=True),
        sa.Column("due", BIG, nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("args", sa.Text(), nullable=True),
        sa.Column("votes", sa.Text(), server_default="[]", nullable=False),
        sa.Column("by", ID, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_approvals_due", "pipeline_approvals", ["due"], unique=False)
    op.create_index("pipeline_approvals_status", "pipeline_approvals", ["status", "asked", "id"], unique=False)
    op.create_index("pipeline_approvals_correlation", "pipeline_approvals", ["correlation"], unique=False)
    op.create_table(
        "pipeline_approval_rules",
        sa.Column("id", ID, nullable=False),
        sa.Column("action", WORD, nullable=False),
        sa.Column("agent", WORD, nullable=True),
        sa.Column("condition", sa.Text(), nullable=True),
        sa.Column("until", BIG, nullable=True),
        sa.Column("by", ID, nullable=False),
        sa.Column("made", BIG, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("pipeline_approval_rules_action", "pipeline_approval_rules", ["action"], unique=False)
