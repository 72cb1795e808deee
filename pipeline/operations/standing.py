"""How agents stand: what waits for each, what runs, what is parked and for what, and how old the oldest of it is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..core.outcome import Outcome
from ..core.times import as_json_time, moment
from ..ledger.database.tables import OPEN, deliveries, events
from ..ledger.database.waiting import waits

if TYPE_CHECKING:
    from ..bus import Bus


@dataclass
class Standing:
    """How an agent stands.

    Attributes:
        waiting: messages in its queue; None when the broker does not say.
        running: deliveries whose handler runs.
        retrying: deliveries that have failed, and are tried again.
        parked: deliveries that wait, by what for (time, event, pause ...).
        oldest: the time of the oldest event among these.

    """

    waiting: int | None = None
    running: int = 0
    retrying: int = 0
    parked: dict[str, int] = field(default_factory=dict)
    oldest: datetime | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**vars(self), "oldest": as_json_time(self.oldest)}


def standing(bus: Bus) -> dict[str, Standing]:
    """Return how the agents of an app stand, in so far as the ledger and the broker know."""
    found = {agent.name: Standing(number) for agent, number in zip(bus.agents, _sizes(bus), strict=True)}
    kind = func.coalesce(waits.c.kind, "")
    query = (
        select(deliveries.c.agent, deliveries.c.outcome, kind, func.count(), func.min(events.c.time))
        .join(events, events.c.id == deliveries.c.event_id)
        .outerjoin(waits, waits.c.delivery == deliveries.c.id)
        .where(OPEN, deliveries.c.outcome != Outcome.DEAD.value)
        .group_by(deliveries.c.agent, deliveries.c.outcome, kind)
    )
    with bus.ledger.database.reading() as connection:
        for agent, outcome, waits_for, number, oldest in connection.execute(query):
            one = found.get(agent)
            if one is None:
                continue
            one.oldest = min(filter(None, (one.oldest, moment(oldest))))
            match outcome:
                case Outcome.RUNNING.value:
                    one.running = number
                case Outcome.RETRYING.value:
                    one.retrying = number
                case Outcome.PARKED.value:
                    one.parked[waits_for] = number
    return found


def _sizes(bus: Bus) -> list[int | None]:
    """Return how many messages wait in the queue of each agent; None where the broker does not say."""
    return [_size(bus, agent.name) for agent in bus.agents]


def _size(bus: Bus, agent: str) -> int | None:
    with suppress(*bus.publisher.recoverable), bus.publisher.channel() as channel:
        return int(channel.queue_declare(bus.names.queue_of(agent), passive=True).message_count)
    return None
