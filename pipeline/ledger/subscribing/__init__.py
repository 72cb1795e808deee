"""Subscribing at run time: agents whose declaration stands in the ledger."""
