"""The ledger: the durable log of events, and what became of each delivery."""
