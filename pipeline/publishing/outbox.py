"""Room 1 with a ledger: an event is in the log before the broker gets it, and in the outbox until the broker has it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..core.errors import BrokerUnavailable, InvalidEvent, LedgerError, LedgerUnavailable, UnknownAgent
from ..core.event import Event
from ..core.times import SECOND, micros, now
from ..ledger.database.rows import Record, timer_row
from ..ledger.due import postpone
from .publisher import Encoded, Publisher

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ..ledger.ledger import Ledger

logger = logging.getLogger(__name__)

#: Seconds after which the relay sends an event that its publisher has not sent.
GRACE = 10.0
#: Seconds for which a broker that was away is not asked again: publish() then answers at once.
PAUSE = 1.0


class Outbox:
    """The one publish path when there is a ledger: append, send, mark."""

    def __init__(self, ledger: Ledger, publisher: Publisher) -> None:
        """Take the log and the way to the broker."""
        self.ledger = ledger
        self._publisher = publisher
        self._away_until = 0.0
        self._known: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()

    def publish(self, events: Sequence[Event], *, timeout: float | None = None, end_join: str | None = None) -> None:
        """Append events to the log and send them; what the broker does not take now is sent later.

        Arguments:
            timeout: seconds to wait for the broker.
            end_join: the join that is complete with these events.

        Raises InvalidEvent, EventTooLarge or UnknownAgent before anything is written, and LedgerUnavailable.

        """
        batch = self.encode(events)
        records = [Record(each.event, each.body) for each in batch]
        if end_join is None:
            self.ledger.append(records, due=soon())
        else:
            self.ledger.end_join(end_join, records, soon())
        if not self.send(batch, timeout=timeout):
            self._hurry(events)

    def _hurry(self, events: Sequence[Event]) -> None:
        """Let the relay try at once: nobody else is sending these events any more."""
        try:
            postpone(self.ledger, [event.id for event in events], PAUSE)
        except LedgerUnavailable as exc:  # they are accepted; the relay takes them a little later
            logger.warning("the relay takes %d event(s) only in %g s: %s", len(events), GRACE, exc)

    def join(self, transaction: Any, events: Sequence[Event]) -> None:
        """Append events in the caller's own transaction; when it is committed, the relay sends them.

        Arguments:
            transaction: a SQLAlchemy Session or Connection on the ledger's database.

        """
        connection = _connection(transaction)
        batch = self.encode(events)
        with self.ledger.database.errors():
            self._check_database(connection)
            # Due at once: the relay sees the events as soon as they are committed.
            self.ledger.append([Record(each.event, each.body) for each in batch], due=now(), connection=connection)
        for event in events:
            event.mark(sent=False)

    def delay(self, event: Event, due: datetime, transaction: Any = None) -> None:
        """Keep an event until it is due; then a worker publishes it. With a transaction, as join() does."""
        row = self.delayed(self.encode([event])[0], due)
        if transaction is None:
            self.ledger.database.run(lambda own: self.ledger.add_timers(own, [row]))
        else:
            connection = _connection(transaction)
            with self.ledger.database.errors():
                self._check_database(connection)
                self.ledger.add_timers(connection, [row])
        event.mark(sent=False)

    @staticmethod
    def delayed(encoded: Encoded, due: datetime) -> dict[str, Any]:
        """Return the timer of an event that is due later."""
        event = encoded.event
        return timer_row(event.id, "publish", micros(due), event.correlation_id, encoded.body)

    def encode(self, events: Sequence[Event]) -> list[Encoded]:
        """Return events ready for the log and the wire."""
        bus = {"ledger": self.ledger.id}
        batch = [self._publisher.encode(event)._replace(bus=bus) for event in events]
        for each in batch:
            if each.event.targets:
                self._check_targets(each.event)
        return batch

    def _check_targets(self, event: Event) -> None:
        unknown = self.ledger.database.read(lambda connection: self.ledger.unknown_agents(event.targets, connection))
        if unknown:
            raise UnknownAgent(f"targets: {unknown}")

    def send(self, batch: Sequence[Encoded], *, timeout: float | None = None) -> bool:
        """Send what is in the outbox and take it out; say whether the broker took it."""
        if not batch:
            return True
        try:
            if monotonic() < self._away_until:
                raise BrokerUnavailable("the broker was away a moment ago")
            self._publisher.send_encoded(batch, timeout=timeout, patient=False)
        except BrokerUnavailable as exc:
            if monotonic() >= self._away_until:
                logger.warning("%s; what was accepted is kept and sent later", exc)
                self._away_until = monotonic() + PAUSE
            for each in batch:
                each.event.mark(sent=False)
            return False
        for each in batch:
            if not each.event.sent:  # an earlier try has failed
                each.event.mark(sent=True)
        try:
            self.ledger.mark_sent([each.event.id for each in batch])
        except LedgerUnavailable as exc:  # then the relay sends them once more, and the inbox knows them
            logger.warning("the broker has %d event(s), but that could not be noted: %s", len(batch), exc)
        return True

    def _check_database(self, connection: Connection) -> None:
        """Raise LedgerError when a transaction is not on the ledger's database: nobody would send its events."""
        engine = connection.engine
        if engine in self._known:
            return
        try:
            found = self.ledger.id_in(connection)
        except Exception as exc:
            if getattr(exc, "connection_invalidated", False):
                raise
            cause = " ".join(str(getattr(exc, "orig", exc)).split())
            raise LedgerError(
                f"the transaction's database has no ledger ({cause}); set PIPELINE_LEDGER_URL to that database "
                "and run `pipeline ledger upgrade`"
            ) from exc
        if found != self.ledger.id:
            raise LedgerError(
                f"the transaction's database has another ledger than {self.ledger}; "
                "set PIPELINE_LEDGER_URL to the database that your transactions are on"
            )
        self._known[engine] = True


def soon() -> int:
    """Return when the relay is to send what its publisher has not sent by then."""
    return now() + round(GRACE * SECOND)


def _connection(transaction: Any) -> Connection:
    """Return the SQLAlchemy connection of a Session, a scoped_session or a Connection."""
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(transaction, Connection):
        return transaction
    if isinstance(transaction, (Session, scoped_session)):
        return transaction.connection()
    raise InvalidEvent(f"session: {type(transaction).__name__} is neither a SQLAlchemy Session nor a Connection")
