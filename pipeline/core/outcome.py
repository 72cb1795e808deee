"""What may become of a delivery."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of a delivery, so far."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FILTERED = "filtered"
    DEAD = "dead"
    DROPPED = "dropped"
    UNROUTED = "unrouted"


#: Something is still to follow.
OPEN = (Outcome.WAITING, Outcome.RUNNING, Outcome.RETRYING)
#: Nobody has to do anything any more. A dead letter is neither: somebody should look at it.
FINAL = (Outcome.SUCCEEDED, Outcome.FILTERED, Outcome.DROPPED, Outcome.UNROUTED)
