"""The commands about agents that the ledger declares."""
