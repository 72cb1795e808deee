"""Publishing: an event on its way to the broker (1), with a ledger and without."""
