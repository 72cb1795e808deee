"""What is done to dead letters: they are given back to their agents, or dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sqlalchemy import Connection, Select

from ..core.errors import BrokerUnavailable, EventTooLarge, InvalidEvent, QueueConflict, nearest
from ..core.event import Encoded, Event, Payload, new_event
from ..core.observe import Log
from ..core.times import now
from ..families import DeliveryDropped, DeliveryRequeued
from ..ledger.database.rows import chunks
from ..ledger.database.tables import deliveries
from ..publishing.outbox import GRACE
from .letters import LETTERS, DeadLetter, letter_of

if TYPE_CHECKING:
    from ..bus import Bus
    from ..ledger.facts import Cancellation

logger = Log(logging.getLogger(__name__))

#: Dead letters that are changed in one transaction.
BATCH = 200


class Changed(NamedTuple):
    """What requeue() or drop() did.

    Attributes:
        number: dead letters that were changed.
        skipped: those that somebody else had requeued or dropped before, or whose event cannot be read.
        sent: False when the broker was away; a worker's sweeper sends what was requeued, once it is back.

    """

    number: int
    skipped: int
    sent: bool = True

    def as_data(self, done: str) -> dict[str, Any]:
        """Return it as JSON data, under the word for what was done: "requeued", "dropped"."""
        return {done: self.number, "skipped": self.skipped}


class Change(Protocol):
    """One thing that is done to dead letters."""

    def takes(self, letter: DeadLetter) -> bool:
        """Say whether it can be done to one of them."""

    def write(self, connection: Connection, letters: Sequence[DeadLetter]) -> None:
        """Change their deliveries."""

    def audits(self, letter: DeadLetter) -> Iterator[Payload]:
        """Yield the audit event of one of them, first with all that is known, last with what fits into any event."""

    def send(self, letters: Sequence[DeadLetter], announced: Sequence[Encoded]) -> bool:
        """Send what follows, once it is written; say whether the broker took it."""


def change(
    bus: Bus,
    what: Change,
    ids: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> Changed:
    """Do something to those dead letters of some ids that are still dead, in several transactions."""
    number, sent = 0, True
    for some in chunks(ids, BATCH):
        letters, announced = bus.ledger.database.run(partial(_write, bus=bus, what=what, ids=some))
        number += len(letters)
        sent = what.send(letters, announced) and sent
        if progress:
            progress(number)
    return Changed(number, len(ids) - number, sent)


def _write(
    connection: Connection,
    bus: Bus,
    what: Change,
    ids: Sequence[str],
) -> tuple[Sequence[DeadLetter], Sequence[Encoded]]:
    """Change dead letters and record it, in one transaction."""
    letters = [letter for letter in _lock(connection, ids) if what.takes(letter)]
    what.write(connection, letters)
    announced = [_audit(bus, letter, what.audits(letter)) for letter in letters]
    bus.ledger.append(announced, due_in=GRACE, connection=connection)
    return letters, announced


def _lock(connection: Connection, ids: Sequence[str]) -> Sequence[DeadLetter]:
    """Return those that are still dead, and keep others from changing them."""
    # In the same order everywhere, so that two operators wait for each other instead of deadlocking.
    return letters_of(connection, ids, LETTERS.order_by(deliveries.c.id).with_for_update(of=deliveries))


def letters_of(connection: Connection, ids: Sequence[str], query: Select[Any] = LETTERS) -> Sequence[DeadLetter]:
    """Return those of some deliveries that are dead letters, in the order of the ids."""
    rows = connection.execute(query.where(deliveries.c.id.in_(ids)))
    letters = {row.id: letter_of(row) for row in rows}
    return [letters[id] for id in ids if id in letters]


def _audit(
    bus: Bus,
    letter: DeadLetter,
    payloads: Iterator[Payload],
) -> Encoded:
    """Return the audit event, without what does not fit into one event."""

    def encode(payload: Payload) -> Encoded:
        try:
            event = new_event(payload, source=bus.source, cause=letter.event)
        except InvalidEvent:  # what would be inherited came before the limits that there are now
            event = new_event(payload, source=bus.source)
        return bus.outbox.encode([event])[0]

    *fuller, least = payloads
    for payload in fuller:
        with suppress(EventTooLarge):
            return encode(payload)
    return encode(least)


def _about(letter: DeadLetter, by: str) -> dict[str, Any]:
    event = letter.event
    about = {"delivery_id": letter.id, "event_id": event.key, "original_type": event.type, "agent": letter.agent}
    return {**about, "by": by}


def belongs(found: Cancellation) -> str:
    """Return why what belongs to a tree that was stopped is not requeued, and what to do instead."""
    return f"it belongs to the tree {found.tree}, which was {found}; publish its event anew"


class Drop:
    """Nobody is to handle them; their rows stay, with the outcome `dropped`."""

    def __init__(self, bus: Bus, by: str) -> None:
        self._bus = bus
        self._by = by

    def takes(self, letter: DeadLetter) -> bool:
        """Take all of them."""
        return True

    def write(self, connection: Connection, letters: Sequence[DeadLetter]) -> None:
        """Change their outcome, and nothing else."""
        self._bus.ledger.deliveries.drop(connection, [letter.id for letter in letters])

    def audits(self, letter: DeadLetter) -> Iterator[Payload]:
        """Yield `delivery.dropped`."""
        yield DeliveryDropped(**_about(letter, self._by))

    def send(self, letters: Sequence[DeadLetter], announced: Sequence[Encoded]) -> bool:
        """Send the audit events; where the broker is away, the relay does it, and nothing is missing."""
        self._bus.outbox.send(announced)
        return True


class Requeue:
    """Their agents get them again, with all their attempts before them."""

    def __init__(self, bus: Bus, by: str, edited: Encoded | None = None, from_step: str | None = None) -> None:
        """Take who does it, the event with other data, if somebody has edited that, and the first step to do again."""
        self._bus = bus
        self._by = by
        self._edited = edited
        self._from_step = from_step
        self._is_away = False

    def takes(self, letter: DeadLetter) -> bool:
        """Take those whose event can be sent: it can be read, or has other data, and its tree was not stopped."""
        if not letter.readable and self._edited is None:
            logger.warning("%s stays: its event cannot be read; requeue it with other data, or drop it", letter.id)
            return False
        if self._from_step is not None:
            known = {step.name for step in self._bus.ledger.waiting.steps.of(letter.id)}
            if self._from_step not in known:
                hint = nearest(self._from_step, known)
                logger.warning("%s stays: it has no step %r; %s", letter.id, self._from_step, hint)
                return False
        found = self._bus.ledger.waiting.trees.cancellation(letter.event) if letter.replay is None else None
        if found is not None:
            logger.warning("%s stays: %s", letter.id, belongs(found))
        return found is None

    def write(self, connection: Connection, letters: Sequence[DeadLetter]) -> None:
        """Let them wait, as if nobody had tried yet; steps that were done with other data are done again."""
        ids = [letter.id for letter in letters]
        steps = self._bus.ledger.waiting.steps
        for id in ids if self._edited or self._from_step else ():
            steps.forget(connection, id, None if self._edited else self._from_step)
        self._bus.ledger.deliveries.requeue(connection, ids, self._edited and self._edited.body)

    def audits(self, letter: DeadLetter) -> Iterator[Payload]:
        """Yield `delivery.requeued`; of other data both versions, the new one, none."""
        about = _about(letter, self._by)
        if self._edited is None:
            yield DeliveryRequeued(**about)
            return
        after = self._edited.event.data
        yield DeliveryRequeued(**about, edited=True, before=letter.event.data, after=after)
        yield DeliveryRequeued(**about, edited=True, after=after)
        yield DeliveryRequeued(**about, edited=True)

    def send(self, letters: Sequence[DeadLetter], announced: Sequence[Encoded]) -> bool:
        """Send the audit events to everybody and the events to their agents; a worker does what is left."""
        # Once is enough to know that the broker is away.
        self._is_away = self._is_away or not (self._bus.outbox.send(announced) and self._deliver(letters))
        if self._is_away:
            self._bus.ledger.due.ask_again([letter.id for letter in letters])
        return not self._is_away

    def _deliver(self, letters: Sequence[DeadLetter]) -> bool:
        by_agent: dict[str, list[tuple[Event, dict[str, Any]]]] = {}
        for letter in letters:
            event = letter.event if self._edited is None else self._edited.event
            by_agent.setdefault(letter.agent, []).append((event, self._marks(letter)))
        try:
            for agent, items in by_agent.items():
                self._bus.publisher.deliver(agent, items, self._bus.ledger.seal)
        except (BrokerUnavailable, QueueConflict, InvalidEvent) as exc:  # or it came before the limits of today
            logger.debug("requeued deliveries are left to the sweeper: %s", exc)
            return False
        return True

    def _marks(self, letter: DeadLetter) -> dict[str, Any]:
        marks = {"attempt": 1, "ledger": self._bus.ledger.id, "requeued": letter.requeued + 1, "message": now()}
        marks |= {} if letter.flow is None else {"flow": [letter.flow, letter.pos]}
        return marks if letter.replay is None else {**marks, "replay": letter.replay, "broadcast": letter.broadcast}
