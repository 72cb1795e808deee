"""Joins, sagas, workflows and collaborations: rows of the ledger that the end of each step moves on."""
