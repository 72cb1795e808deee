"""Dead letters: deliveries that their agents gave up, to be looked at, given back to the agent, or dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Select, func, select, tuple_

from ..agents.payloads import payload_of, plain
from ..core.errors import BrokerUnavailable, EventTooLarge, InvalidAgent, InvalidSelection, UnknownEvent
from ..core.event import Event, Payload, new_event
from ..core.times import moment
from ..families import DeliveryDropped, DeliveryRequeued
from ..ledger.database.rows import chunks
from ..ledger.database.tables import deliveries
from ..ledger.ledger import Ledger
from ..publishing.outbox import GRACE
from .letters import DEAD, IDS, LETTERS, DeadLetter, Filter, letter_of, place_of

if TYPE_CHECKING:
    from ..core.event import Encoded

logger = logging.getLogger(__name__)

#: The fewest characters of an id that stand for it.
SHORTEST_PREFIX = 8
ID_LENGTH = 36
#: Dead letters that are read, or changed in one transaction, at a time.
BATCH = 200


class Unset(Enum):
    """The type of UNSET."""

    UNSET = "unset"


#: No new payload was given; None is one.
UNSET = Unset.UNSET


class Count(NamedTuple):
    """How many dead letters an agent has, and since when."""

    number: int
    oldest: datetime


class Changed(NamedTuple):
    """What requeue() or drop() did.

    Attributes:
        number: dead letters that were changed.
        skipped: those that somebody else had requeued or dropped before.
        sent: False when the broker was away; a worker's sweeper sends what was requeued, once it is back.

    """

    number: int
    skipped: int
    sent: bool = True


class DeadLetters:
    """The dead letters of an app's ledger."""

    def __init__(self, bus: Any) -> None:  # Bus
        """Take what the app's rooms share; raises LedgerOff when there is no ledger."""
        self._bus = bus
        self._ledger: Ledger = bus.ledger

    def list(
        self,
        *,
        agent: str | None = None,
        error: str | None = None,
        event_type: str | None = None,
        older_than: timedelta | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[DeadLetter]:
        """Return dead letters, the newest first.

        Arguments:
            error: a part of the error; upper and lower case are the same.
            event_type: a topic pattern.
            older_than: only those that were given up longer ago.
            limit: how many to return at most.
            after: the cursor of the last one of the page before.

        Raises InvalidPattern, and InvalidSelection when `after` is no cursor.

        """
        wanted = Filter(agent, error, event_type, older_than)
        order = (deliveries.c.ended, deliveries.c.id)
        query = wanted.narrow(IDS).order_by(*(column.desc() for column in order))
        place = place_of(after)
        if place is not None:
            query = query.where(tuple_(*order) < tuple_(*place))
        if event_type is None:
            query = query.limit(max(limit, 0))
        with self._ledger.database.reading() as connection:
            rows = connection.execute(query)
            ids = list(islice((row.id for row in rows if wanted.accepts(row.type)), max(limit, 0)))
            return [letter for some in chunks(ids, BATCH) for letter in _letters(connection, LETTERS, some)]

    def get(self, id: str) -> DeadLetter:
        """Return one dead letter by its delivery's id, or by the beginning of that.

        Raises UnknownEvent when there is none, when it is no longer dead, or when several ids begin like that.
        """
        if len(id) < SHORTEST_PREFIX:
            raise UnknownEvent(f"{id!r} is too short for a delivery's id; write at least {SHORTEST_PREFIX} characters")
        wanted = id.lower()
        exact = len(wanted) >= ID_LENGTH
        same = deliveries.c.id == wanted if exact else deliveries.c.id.startswith(wanted, autoescape=True)
        with self._ledger.database.reading() as connection:
            rows = connection.execute(LETTERS.where(same).limit(2)).all()
            if len(rows) == 1:
                return letter_of(rows[0])
            outcome = connection.execute(select(deliveries.c.outcome).where(deliveries.c.id == wanted)).scalar()
        if rows:
            raise UnknownEvent(f"several dead letters begin with {id!r}; write more of the id")
        if outcome:
            raise UnknownEvent(f"delivery {id} is {outcome}, not dead")
        raise UnknownEvent(f"there is no dead letter {id!r}; list them to see their ids")

    def count(self) -> dict[str, Count]:
        """Return the number and the age of the dead letters of each agent that has any."""
        columns = deliveries.c.agent, func.count(), func.min(deliveries.c.ended)
        query = select(*columns).where(DEAD).group_by(deliveries.c.agent).order_by(deliveries.c.agent)
        with self._ledger.database.reading() as connection:
            return {agent: Count(number, moment(oldest)) for agent, number, oldest in connection.execute(query)}

    # -- changing them

    def requeue(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        agent: str | None = None,
        error: str | None = None,
        event_type: str | None = None,
        older_than: timedelta | None = None,
        all: bool = False,
        data: Any = UNSET,
        by: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Changed:
        """Give dead letters back to their agents, with all their attempts before them; nobody else gets them.

        Arguments:
            ids: ids of deliveries, or their beginnings; instead of them a filter (as in list()), or all=True.
            data: the event's data for this delivery instead of what was published; for exactly one id.
            by: who does it, for the audit event `delivery.requeued`.
            progress: called with the number of those that were looked at, after each batch.

        Raises InvalidSelection, UnknownEvent, and for `data` InvalidEvent, EventTooLarge or InvalidAgent (the agent is
        not declared in this process, so nobody can say whether the data suits it); then nothing was changed.

        """
        if data is not UNSET and ids is None:
            raise InvalidSelection("data: one payload is for one dead letter; give its id")
        chosen = self._choose(ids, Filter(agent, error, event_type, older_than), all=all)
        edited = None
        if data is not UNSET:
            if len(chosen) != 1:
                raise InvalidSelection(f"data: one payload is for one dead letter, and {len(chosen)} ids are given")
            edited = self._edit(self.get(chosen[0]), data)
        number, sent = 0, True
        for some in chunks(chosen, BATCH):
            letters, announced = self._ledger.database.run(partial(self._requeue, some, edited, by))
            number += len(letters)
            sent = sent and self._send(letters, announced)
            if not sent:
                self._ledger.due.ask_again([letter.id for letter in letters])
            if progress:
                progress(number)
        if not sent:
            logger.warning("the broker is away: what was requeued is sent by a worker as soon as it is back")
        return Changed(number, len(chosen) - number, sent)

    def drop(
        self,
        ids: str | Iterable[str] | None = None,
        *,
        agent: str | None = None,
        error: str | None = None,
        event_type: str | None = None,
        older_than: timedelta | None = None,
        all: bool = False,
        by: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Changed:
        """Decide that dead letters are not to be handled; their rows stay, with the outcome `dropped`.

        Arguments and errors are those of requeue(), the audit event is `delivery.dropped`.
        """
        chosen = self._choose(ids, Filter(agent, error, event_type, older_than), all=all)
        number = 0
        for some in chunks(chosen, BATCH):
            letters, announced = self._ledger.database.run(partial(self._drop, some, by))
            number += len(letters)
            self._bus.outbox.send(announced)
            if progress:
                progress(number)
        return Changed(number, len(chosen) - number)

    def _choose(self, ids: str | Iterable[str] | None, wanted: Filter, *, all: bool) -> Sequence[str]:
        """Return the ids of the deliveries that are meant, the oldest first where a filter chose them."""
        filtered = wanted != Filter()
        if (ids is not None) + filtered + all != 1:
            raise InvalidSelection(
                "say which dead letters: ids, or a filter (agent=, error=, event_type=, older_than=), or all=True"
            )
        if ids is not None:
            return self._resolve([ids] if isinstance(ids, str) else [*ids])
        query = wanted.narrow(IDS).order_by(deliveries.c.ended, deliveries.c.id)
        with self._ledger.database.reading() as connection:
            return [id for id, event_type in connection.execute(query) if wanted.accepts(event_type)]

    def _resolve(self, ids: Sequence[str]) -> Sequence[str]:
        """Return whole ids; raise UnknownEvent for one that is none. What is no longer dead is skipped later on."""
        known: set[str] = set()
        with self._ledger.database.reading() as connection:
            for some in chunks(ids, BATCH):
                known.update(connection.execute(select(deliveries.c.id).where(deliveries.c.id.in_(some))).scalars())
        return [*dict.fromkeys(id if id in known else self.get(id).id for id in ids)]

    def _edit(self, letter: DeadLetter, data: Any) -> Encoded:
        """Return the event with other data, as its agent will get it, once it is sure that the agent takes it."""
        if letter.agent not in self._bus.agents:
            raise InvalidAgent(
                f"agent {letter.agent!r} is not declared in this process, so its data cannot be checked; "
                "import its module, or name that in PIPELINE_AGENTS"
            )
        encoded: Encoded = self._bus.publisher.encode(letter.event.evolve(data=plain(data)))
        event = Event.decode(encoded.body)
        payload_of(self._bus.agents[letter.agent], event)
        return encoded._replace(event=event)

    def _lock(self, connection: Connection, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """Return those that are still dead, and keep others from changing them."""
        # In the same order everywhere, so that two operators wait for each other instead of deadlocking.
        return _letters(connection, LETTERS.order_by(deliveries.c.id).with_for_update(of=deliveries), ids)

    def _requeue(
        self, ids: Sequence[str], edited: Encoded | None, by: str, connection: Connection
    ) -> tuple[Sequence[DeadLetter], Sequence[Encoded]]:
        letters = self._lock(connection, ids)
        ids = [letter.id for letter in letters]
        self._ledger.deliveries.requeue(connection, ids, edited and edited.body)
        announced = [self._requeued(letter, edited, by) for letter in letters]
        self._record(connection, announced)
        if edited is not None:
            letters = [replace(letter, event=edited.event, edited=True) for letter in letters]
        return letters, announced

    def _drop(
        self, ids: Sequence[str], by: str, connection: Connection
    ) -> tuple[Sequence[DeadLetter], Sequence[Encoded]]:
        letters = self._lock(connection, ids)
        self._ledger.deliveries.drop(connection, [letter.id for letter in letters])
        announced = [self._audit(letter, DeliveryDropped(**_about(letter), by=by)) for letter in letters]
        self._record(connection, announced)
        return letters, announced

    def _requeued(self, letter: DeadLetter, edited: Encoded | None, by: str) -> Encoded:
        """Return the audit event of a requeue, without the data where both versions do not fit into one event."""
        if edited is None:
            return self._audit(letter, DeliveryRequeued(**_about(letter), by=by))
        after = edited.event.data
        for data in ({"before": letter.event.data, "after": after}, {"after": after}):
            try:
                return self._audit(letter, DeliveryRequeued(**_about(letter), by=by, edited=True, **data))
            except EventTooLarge:
                continue
        return self._audit(letter, DeliveryRequeued(**_about(letter), by=by, edited=True))

    def _audit(self, letter: DeadLetter, payload: Payload) -> Encoded:
        encoded: list[Encoded] = self._bus.outbox.encode(
            [new_event(payload, source=self._bus.source, cause=letter.event)]
        )
        return encoded[0]

    def _record(self, connection: Connection, announced: Sequence[Encoded]) -> None:
        self._ledger.events.append(announced, due_in=GRACE, connection=connection)

    # -- after the transaction

    def _send(self, letters: Sequence[DeadLetter], announced: Sequence[Encoded]) -> bool:
        """Send the audit events to everybody and the events to their agents; say whether the broker took them."""
        if not self._bus.outbox.send(announced):
            return False
        by_agent: dict[str, list[tuple[Event, dict[str, Any]]]] = {}
        for letter in letters:
            by_agent.setdefault(letter.agent, []).append((letter.event, self._marks(letter)))
        try:
            for agent, items in by_agent.items():
                self._bus.publisher.deliver(agent, items)
        except BrokerUnavailable as exc:
            logger.debug("requeued deliveries are left to the sweeper: %s", exc)
            return False
        return True

    def _marks(self, letter: DeadLetter) -> dict[str, Any]:
        marks = {"attempt": 1, "ledger": self._ledger.id}
        return marks if letter.replay is None else {**marks, "replay": letter.replay, "broadcast": letter.broadcast}


def _letters(connection: Connection, query: Select[Any], ids: Sequence[str]) -> Sequence[DeadLetter]:
    """Return those of some deliveries that the query finds, in the order of the ids."""
    found = {row.id: letter_of(row) for row in connection.execute(query.where(deliveries.c.id.in_(ids)))}
    return [found[id] for id in ids if id in found]


def _about(letter: DeadLetter) -> dict[str, Any]:
    event = letter.event
    return {"delivery_id": letter.id, "event_id": event.id, "original_type": event.type, "agent": letter.agent}


__all__ = ["UNSET", "Changed", "Count", "DeadLetter", "DeadLetters", "InvalidSelection"]
