"""The ledger: the durable log of events, and what became of each delivery."""

from __future__ import annotations

from .rows import Outcome
from .sql import Claim, Ledger

__all__ = ["Claim", "Ledger", "Outcome"]
