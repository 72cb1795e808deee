"""How many events of an agent are handled in one call, as it is declared; no database is needed to say it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ..errors import InvalidAgent, InvalidEvent
from ..times import seconds_of

#: Events of one batch at most: all of them are in a worker's memory at once.
LARGEST = 10_000


@dataclass(frozen=True)
class Batch:
    """That an agent's handler is called once for many events, over all workers.

    Attributes:
        most: events in one call, at most.
        wait: how long the first one waits for others: seconds, a timedelta, or a text such as "5s".
        key: a path into the event, such as "metadata.tenant": only events with the same value come together.

    """

    most: int = 100
    wait: float | timedelta | str = "5s"
    key: str | None = None

    def __post_init__(self) -> None:
        """Raise InvalidAgent for what is no number of events, or no duration."""
        if type(self.most) is not int or not 2 <= self.most <= LARGEST:
            raise InvalidAgent(
                f"Batch(most={self.most!r}): it is a number from 2 to {LARGEST:,}; leave batch= out for one at a time"
            )
        try:
            seconds_of(self.wait, "wait")
        except InvalidEvent as exc:
            raise InvalidAgent(f"Batch(wait={self.wait!r}): {exc}") from None

    @property
    def seconds(self) -> float:
        """How long the first one waits for others."""
        return seconds_of(self.wait, "wait")


def batch_of(agent: str, key: str) -> str:
    """Return under what the events of an agent gather that have a key."""
    return f"{agent}:{key}"


def reason_to_gather(most: int, key: str) -> str:
    """Return what an event waits for whose batch is not complete, as people are told."""
    of = f" with {key!r}" if key else ""
    return f"waits for up to {most:,} events{of}, to be handled together"


def reason_in_batch(leader: str) -> str:
    """Return what an event waits for that is in a batch, as people are told."""
    return f"is handled together with delivery {leader}"
