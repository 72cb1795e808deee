"""Adding, changing and removing agents that the ledger declares."""
