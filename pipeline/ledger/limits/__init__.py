"""Limits over all workers: turns, slots and lines, kept in the ledger."""
