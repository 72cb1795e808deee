"""What a dead letter is, and how the ledger is asked for them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypedDict

from sqlalchemy import ColumnElement, Row, Select, func, literal_column, select

from ..core.errors import InvalidSelection, visible
from ..core.event import MAX_LENGTH, Encoded, Event
from ..core.routing import targets_of
from ..core.times import SECOND, as_json_time, micros, moment, now, utc_now
from ..core.topics import check_pattern, matches
from ..ledger.aside import read
from ..ledger.database.tables import deliveries, events
from ..ledger.deliveries import DEAD
from ..ledger.due import STARTED_WITH


@dataclass(frozen=True)
class DeadLetter:
    """One delivery that its agent gave up.

    Attributes:
        id: the delivery's id.
        event: the event as the agent got it; of one that cannot be read, what the ledger knows beside it, without data.
        attempts: how often the agent tried.
        started, ended: when the last attempt began, and when the delivery was given up.
        replay: the replay that it belongs to.
        broadcast: whether what the agent emits is sent to others, which in a replay it is not.
        edited: whether somebody has edited the event's data for this delivery.
        readable: whether the event can be read; if not, it can only be requeued with other data, or dropped.
        requeued: how often it was given back to its agent before.
        flow, pos: the flow that it is a step of, and which one.

    """

    id: str
    event: Event
    agent: str
    error: str
    traceback: str
    attempts: int
    started: datetime | None
    ended: datetime
    replay: str | None = None
    broadcast: bool = True
    edited: bool = False
    readable: bool = True
    requeued: int = 0
    flow: str | None = None
    pos: int | None = None

    @property
    def age(self) -> timedelta:
        """The time since it was given up."""
        return utc_now() - self.ended

    @property
    def cursor(self) -> str:
        """Where it stands in the list: `list(after=...)` goes on behind it, even when it is no longer dead."""
        return f"{self.ended.isoformat()}/{self.id}"

    def as_data(self, *, whole: bool = False) -> dict[str, Any]:
        """Return it as JSON data.

        Arguments:
            whole: with the traceback, and the event as the agent got it.

        """
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        del data["event"], data["traceback"]
        event = self.event
        data |= {"event_id": event.key, "type": event.type, "correlation": event.correlation_id}
        data |= {"started": as_json_time(self.started), "ended": as_json_time(self.ended), "cursor": self.cursor}
        return {**data, "traceback": self.traceback, "event": event.attributes()} if whole else data


class Group(NamedTuple):
    """Dead letters of one agent that have the same error.

    Attributes:
        number: how many they are.
        oldest, newest: when the first and the last of them was given up.
        id: one of them.

    """

    agent: str
    error: str
    number: int
    oldest: datetime
    newest: datetime
    id: str

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "oldest": as_json_time(self.oldest), "newest": as_json_time(self.newest)}


class LetterFilters(TypedDict, total=False):
    """What LetterQuery takes, for those who hand it on."""

    agent: str | None
    error: str | None
    event_type: str | None
    older_than: timedelta | None
    same_error: str | None


@dataclass(frozen=True)
class LetterQuery:
    """Which dead letters: those that match everything given. It is checked when it is made, and by nobody again.

    Attributes:
        agent: whose they are.
        error: a part of the error; upper and lower case are the same.
        event_type: a topic pattern.
        older_than: only those that were given up longer ago.
        same_error: the error as a whole, as Group has it.

    Making one raises InvalidPattern.

    """

    agent: str | None = None
    error: str | None = None
    event_type: str | None = None
    older_than: timedelta | None = None
    same_error: str | None = None

    def __post_init__(self) -> None:
        if self.event_type is not None:
            check_pattern(self.event_type)

    @property
    def narrows(self) -> bool:
        """Whether it says which dead letters at all."""
        return self != LetterQuery()

    def narrow(self, query: Select[Any]) -> Select[Any]:
        """Add to a query what the database can check; the rest is for accepts()."""
        if self.agent is not None:
            query = query.where(deliveries.c.agent == self.agent)
        if self.error is not None:
            query = query.where(deliveries.c.error.icontains(self.error, autoescape=True))
        if self.same_error is not None:
            query = query.where(whole_error == self.same_error)
        if self.older_than is not None:
            query = query.where(deliveries.c.ended < now() - round(self.older_than.total_seconds() * SECOND))
        return query

    def accepts(self, event_type: str) -> bool:
        """Say whether the topic pattern matches, which the database cannot."""
        return self.event_type is None or matches(self.event_type, event_type)


whole_error: ColumnElement[str] = func.coalesce(deliveries.c.error, literal_column("''"))
LETTERS: Select[Any] = (
    select(
        deliveries,
        *(events.c[name] for name in ("type", "time", "correlation", "causation", "targets")),
        func.coalesce(STARTED_WITH, events.c.body).label("event_body"),
    )
    .join(events, events.c.id == deliveries.c.event_id)
    .where(DEAD)
)
IDS: Select[Any] = select(deliveries.c.id, events.c.type).join(events, events.c.id == deliveries.c.event_id).where(DEAD)


def letter_of(row: Row[Any]) -> DeadLetter:
    """Return what a row of LETTERS stands for."""
    found = read(row.event_id, row.body or row.event_body)
    readable = isinstance(found, Encoded)
    return DeadLetter(
        id=row.id,
        event=found.event if isinstance(found, Encoded) else _remains(row),
        agent=row.agent,
        error=row.error or "",
        traceback=row.traceback or "",
        attempts=row.attempts,
        started=None if row.started is None else moment(row.started),
        ended=moment(row.ended),
        replay=row.replay,
        broadcast=row.broadcast,
        edited=row.body is not None and (row.flow is None or row.requeued > 0),
        readable=readable,
        requeued=row.requeued,
        flow=row.flow,
        pos=row.pos,
    )


def _remains(row: Row[Any]) -> Event:
    """Return what the ledger knows of an event beside the event itself, whatever is wrong with that."""
    texts: dict[str, Any] = {"id": visible(row.event_id), "type": visible(row.type), "source": "/ledger"}
    event = Event.model_construct(**texts, time=moment(row.time))
    kept = {
        "key": row.event_id,
        "correlation_id": visible(row.correlation)[:MAX_LENGTH],
        "causation_id": row.causation and visible(row.causation)[:MAX_LENGTH],
        "targets": targets_of(row.targets),
    }
    for name, value in kept.items():  # which are checked otherwise, and came before the limits that there are now
        object.__setattr__(event, name, value)
    return event


def place_of(cursor: str | None) -> tuple[int, str] | None:
    """Return the time and the id that a cursor stands for; raise InvalidSelection when it is none."""
    if cursor is None:
        return None
    when, _, id = cursor.partition("/")
    try:
        return micros(datetime.fromisoformat(when)), id
    except ValueError:
        raise InvalidSelection(f"after: {cursor!r} is not the cursor of a dead letter") from None
