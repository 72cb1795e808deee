"""(1) With a ledger: an event is in the log before the broker gets it, and in the outbox until the broker has it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..core.errors import BrokerUnavailable, InvalidEvent, LedgerError, LedgerUnavailable, QueueConflict, UnknownAgent
from ..core.event import Encoded, Event
from ..core.observe import Log
from ..core.times import micros, passed
from ..ledger.aside import Bad
from ..ledger.database.rows import Write, timer_row
from ..ledger.timers import PUBLISH
from .apart import Sent, send_apart
from .marks import Marks

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ..ledger.ledger import Ledger
    from .publisher import Publisher

logger = Log(logging.getLogger(__name__))

#: Seconds after which the relay sends an event that its publisher has not sent.
GRACE = 10.0
#: Seconds for which a broker that was away is not asked again: publish() then answers at once.
PAUSE = 1.0
#: Types of which it is remembered that somebody was told that nobody listens.
MOST_TOLD = 1000
NOBODY = "nobody gets %s, as far as the ledger %s knows: %s"


#: Puts names where an event's targets are dids, and asks the ledger for those of agents that are declared elsewhere.
Addressed = Callable[[Event, Callable[[Sequence[str]], dict[str, str]]], Event]


class Outbox:
    """The one publish path when there is a ledger: append, send, mark."""

    def __init__(
        self, ledger: Ledger, publisher: Publisher, addressed: Addressed | None = None, *, by_hand: bool = False
    ) -> None:
        """Take the ledger, the way to the broker, and what puts names where an event's targets are dids.

        Arguments:
            by_hand: whether what the broker has is written down by flush() only.

        """
        self.ledger = ledger
        self._publisher = publisher
        self._addressed = addressed
        self._marks = Marks(ledger, by_hand=by_hand)
        self._away_until = 0.0
        self._told: set[str] = set()
        self._known: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()

    def publish(
        self,
        events: Sequence[Event],
        *,
        timeout: float | None = None,
        rows: Sequence[Write] = (),
        shared: bool = False,
    ) -> list[Event]:
        """Append events to the log and send them; what the broker does not take now is sent later.

        Raises InvalidEvent, EventTooLarge, UnknownAgent, IdTaken or ConfigError before anything is written,
        LedgerUnavailable, and QueueConflict when what was accepted can be sent only after somebody has mended a queue.

        """
        batch = self.encode(events)
        sent_before = self._marks.take()
        try:
            missed = self.ledger.append(batch, due_in=GRACE, rows=rows, sent=sent_before, checked=True)
        except BaseException:
            self._marks.add(sent_before)
            raise
        if missed:
            self._tell(missed)
        try:
            sent = self._send(batch, timeout, shared=shared)
        except QueueConflict as exc:
            told = QueueConflict(f"{exc}; what was published is accepted, and is sent then")
            told.accepted = True
            raise told from exc
        if not sent:
            self._hurry(events)
        return [record.event.marked(sent=sent) for record in batch]

    def _tell(self, missed: Sequence[Event]) -> None:
        """Log once for each type that nobody gets its events: it may be misspelt, or the workers run elsewhere."""
        for event in missed:
            if event.type not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(event.type)
                why = self.ledger.subscribers.why_missed(event)
                logger.warning(NOBODY, event.type, self.ledger, why)

    def _hurry(self, events: Sequence[Event]) -> None:
        """Let the relay try at once: nobody else is sending these events any more."""
        try:
            self.ledger.events.postpone([event.key for event in events], PAUSE)
        except LedgerUnavailable as exc:  # they are accepted; the relay takes them a little later
            logger.warning("the relay takes %d event(s) only in %g s: %s", len(events), GRACE, exc)

    def append(self, transaction: Any, events: Sequence[Event]) -> list[Event]:
        """Append events in the caller's own transaction; when it is committed, the relay sends them."""
        connection = _connection(transaction)
        batch = self._in_transaction(connection, events)
        with self.ledger.database.errors():
            # Due at once: the relay sees the events as soon as they are committed.
            missed = self.ledger.append(batch, due_in=0, connection=connection, checked=True)
        if missed:
            self._tell(missed)
        return [record.event.marked(sent=False) for record in batch]

    def delay(self, event: Event, due: datetime, transaction: Any = None) -> Event:
        """Keep an event until it is due; then a worker publishes it. With a transaction, as append() does."""
        if transaction is None:
            (record,) = self.encode([event])
            self.ledger.timers.delay(record, timer_of(record, due))
        else:
            connection = _connection(transaction)
            (record,) = self._in_transaction(connection, [event])
            with self.ledger.database.errors():
                self.ledger.timers.delay(record, timer_of(record, due), connection)
        return record.event.marked(sent=False)

    def cancel(self, event_id: str) -> bool:
        """Take back an event that is not due yet; say whether there was one."""
        return self.ledger.timers.cancel(event_id)

    def check_delay(self) -> None:
        """Do nothing: what is delayed is kept in the ledger."""

    def encode(self, events: Sequence[Event]) -> list[Encoded]:
        """Return events ready for the log and the wire; raise InvalidEvent, EventTooLarge or UnknownAgent."""
        seal = self.ledger.seal
        bus = {"ledger": seal.ledger}
        events = self._by_name(events)
        batch = [event.encoded(self._publisher.max_bytes, bus, seal) for event in events]
        self._check_targets(events)
        return batch

    def _in_transaction(self, connection: Connection, events: Sequence[Event]) -> list[Encoded]:
        """Return events ready for the log, in a transaction that is found to be on the ledger's database."""
        with self.ledger.database.errors():
            self._check_database(connection)
            events = self._by_name(events, connection)
            batch = [event.encoded(self._publisher.max_bytes) for event in events]
            self._check_targets(events, connection)
        return batch

    def _by_name(self, events: Sequence[Event], connection: Connection | None = None) -> Sequence[Event]:
        """Return events with agents' names where their targets are dids."""
        if self._addressed is None or not any(event.targets for event in events):
            return events
        elsewhere = partial(self.ledger.subscribers.named, connection=connection)
        return [self._addressed(event, elsewhere) for event in events]

    def _check_targets(self, events: Sequence[Event], connection: Connection | None = None) -> None:
        targets = [target for event in events for target in event.targets]
        if targets and (unknown := self.ledger.subscribers.unknown(list(dict.fromkeys(targets)), connection)):
            raise UnknownAgent(f"targets: {unknown}")

    def send(self, batch: Sequence[Encoded], *, timeout: float | None = None) -> bool:
        """Send what is in the outbox and take it out; say whether the broker took it.

        When it does not take all of them, each is sent whatever becomes of the others: they may be several deliveries'.
        """
        try:
            sent = self._send(batch, timeout)
        except QueueConflict as exc:
            logger.error("%s; what was accepted is kept and sent then", exc)
            sent = False
        return sent if sent or len(batch) < 2 else self.relay(batch) == len(batch)

    def _send(self, batch: Sequence[Encoded], timeout: float | None, *, shared: bool = False) -> bool:
        if not batch:
            return True
        try:
            if self._is_away:
                raise BrokerUnavailable("the broker was away a moment ago")
            self._publisher.send_encoded(batch, timeout=timeout, patient=False)
        except BrokerUnavailable as exc:
            if shared and exc.answered:
                raise
            self._complain(exc)
            return False
        self._marks.add([encoded.event.key for encoded in batch])
        return True

    def flush(self) -> None:
        """Write what the broker has, as would be done in a moment."""
        self._marks.flush()

    def relay(self, batch: Sequence[Encoded]) -> int:
        """Send what is in the outbox, each event whatever becomes of the others; return how many are done with.

        What the broker will never take is set aside; what it does not take now is due again in a moment.
        """
        sent = Sent(waiting=list(batch)) if self._is_away else send_apart(self._publisher, batch)
        if sent.taken:
            self._note(sent.taken)
        self.ledger.events.refuse([Bad(encoded.event.key, reason) for encoded, reason in sent.refused])
        if sent.trouble is not None:
            self._complain(sent.trouble)
        if sent.waiting:
            self.ledger.events.postpone([encoded.event.key for encoded in sent.waiting], PAUSE)
        return len(sent.taken) + len(sent.refused)

    @property
    def _is_away(self) -> bool:
        """Whether the broker was away a moment ago; where it never was, nobody asks what time it is."""
        return self._away_until > 0 and passed() < self._away_until

    def _complain(self, exc: BrokerUnavailable | QueueConflict) -> None:
        """Log that the broker does not take events, once; one that is away is not asked again for a moment."""
        if not self._is_away:
            logger.warning("%s; what was accepted is kept and sent later", exc)
            if not exc.answered:
                self._away_until = passed() + PAUSE

    def _note(self, batch: Sequence[Encoded]) -> None:
        try:
            self.ledger.mark_sent([encoded.event.key for encoded in batch])
        except LedgerUnavailable as exc:  # then the relay sends them once more, and the inbox knows them
            logger.warning("the broker has %d event(s), but that could not be noted: %s", len(batch), exc)

    def _check_database(self, connection: Connection) -> None:
        """Raise LedgerError when a transaction is not on the ledger's database: nobody would send its events."""
        engine = connection.engine
        if engine in self._known or self.ledger.is_begun_in(connection):
            return
        own = self.ledger.id  # opens it, which makes its tables
        try:
            ledger_id = self.ledger.id_in(connection)
        except Exception as exc:
            if getattr(exc, "connection_invalidated", False):
                raise
            cause = " ".join(str(getattr(exc, "orig", exc)).split())
            raise LedgerError(
                f"the transaction's database has no ledger ({cause}); set PIPELINE_LEDGER_URL to that database "
                "and run `pipeline ledger upgrade`"
            ) from exc
        if ledger_id != own:
            raise LedgerError(
                f"the transaction's database has another ledger than {self.ledger}; "
                "set PIPELINE_LEDGER_URL to the database that your transactions are on"
            )
        self._known[engine] = True


def timer_of(encoded: Encoded, due: datetime) -> dict[str, Any]:
    """Return the timer of an event that is due later."""
    return timer_row(encoded.event.key, PUBLISH, micros(due), encoded.event.correlation_id, encoded.body)


def _connection(transaction: Any) -> Connection:
    """Return the SQLAlchemy connection of a Session, a scoped_session or a Connection."""
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(transaction, Connection):
        return transaction
    if isinstance(transaction, (Session, scoped_session)):
        return transaction.connection()
    raise InvalidEvent(f"session: {type(transaction).__name__} is neither a SQLAlchemy Session nor a Connection")
