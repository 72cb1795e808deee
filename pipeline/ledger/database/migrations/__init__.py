"""Alembic's environment for the ledger; `pipeline ledger upgrade` runs it."""
