"""How agents stand: what waits for each, runs, and is parked for what, and how old the oldest of it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..core.outcome import Outcome
from ..core.times import as_json_time, moment, monotonic
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


def standing(bus: Bus, agents: Iterable[str]) -> dict[str, Standing]:
    """Return how some agents stand, in so far as the ledger and the broker know."""
    found = dict(_asked(bus, agents))
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


def _asked(bus: Bus, agents: Iterable[str]) -> Iterator[tuple[str, Standing]]:
    """Ask the broker for the length of each queue; one that did not answer in time is not asked for the others."""
    answers = True
    for agent in agents:
        began = monotonic()
        yield agent, Standing(_size(bus, agent) if answers else None)
        answers = answers and monotonic() - began < bus.settings.publish_timeout


def _size(bus: Bus, agent: str) -> int | None:
    """Return how many messages wait in an agent's queue; None where the broker does not say."""
    with suppress(*bus.publisher.recoverable), bus.publisher.channel() as channel:
        return int(channel.queue_declare(bus.names.queue_of(agent), passive=True).message_count)
    return None
