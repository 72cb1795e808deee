"""What may become of a delivery."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of a delivery, so far."""

    #: In its agent's queue, or on its way there.
    QUEUED = "queued"
    RUNNING = "running"
    #: Has failed, and is tried again by a timer.
    RETRYING = "retrying"
    #: Waits for something, and holds no slot and no worker meanwhile.
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FILTERED = "filtered"
    #: A member of something that had ended without it.
    LATE = "late"
    #: Stopped by somebody, with the tree that it belongs to.
    CANCELLED = "cancelled"
    DEAD = "dead"
    DROPPED = "dropped"
    UNROUTED = "unrouted"


#: Why an event is kept from its agent.
NO_MATCH = "its filter does not match"
#: Something is still to follow.
OPEN = (Outcome.QUEUED, Outcome.RUNNING, Outcome.RETRYING, Outcome.PARKED)
#: With a tree, or as a step whose time was over: its handler may run on.
STOPPED = (Outcome.CANCELLED, Outcome.LATE)
#: Nobody has to do anything any more. A dead letter is neither: somebody should look at it.
FINAL = (
    Outcome.SUCCEEDED,
    Outcome.FILTERED,
    Outcome.LATE,
    Outcome.CANCELLED,
    Outcome.DROPPED,
    Outcome.UNROUTED,
)
