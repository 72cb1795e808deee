"""(1) Without a ledger: an event goes to the broker, or publishing fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..core.errors import LedgerOff
from ..core.event import Encoded, Event

if TYPE_CHECKING:
    from ..ledger.database.rows import Write
    from .publisher import Publisher


class Outgoing(Protocol):
    """The way of events to the broker; `Outbox` with a ledger, `Direct` without."""

    def encode(self, events: Sequence[Event]) -> list[Encoded]:
        """Return events ready for the log and the wire; raise InvalidEvent, EventTooLarge or UnknownAgent."""

    def publish(
        self,
        events: Sequence[Event],
        *,
        timeout: float | None = None,
        rows: Sequence[Write] = (),
        shared: bool = False,
    ) -> list[Event]:
        """Accept events for good and send them; return them, with `sent` False where the broker is away.

        Arguments:
            timeout: seconds to wait for the broker; default the setting `publish_timeout`.
            rows: what is written into the ledger with them.
            shared: whether they are several callers': then what a broker that answers says is raised soon, so that each
                of them can be published alone.

        """

    def send(self, batch: Sequence[Encoded], *, timeout: float | None = None) -> bool:
        """Send what is encoded (and with a ledger in the outbox already); say whether the broker took it."""

    def append(self, transaction: Any, events: Sequence[Event]) -> list[Event]:
        """Accept events in the caller's own transaction (a SQLAlchemy Session or Connection on the ledger)."""

    def delay(self, event: Event, due: datetime, transaction: Any = None) -> Event:
        """Keep an event until it is due; then a worker publishes it. With a transaction, as append() does."""

    def cancel(self, event_id: str) -> bool:
        """Take back an event that is not due yet; say whether there was one."""

    def check_delay(self) -> None:
        """Raise LedgerOff when nothing can be delayed."""

    def flush(self) -> None:
        """Write what would be written in a moment."""


class Direct:
    """No ledger: the broker is all there is."""

    def __init__(self, publisher: Publisher, addressed: Callable[[Event], Event] | None = None) -> None:
        """Take the way to the broker, and what puts names where an event's targets are dids."""
        self._publisher = publisher
        self._addressed = addressed

    def encode(self, events: Sequence[Event]) -> list[Encoded]:
        """Return events ready for the wire; who their targets are, the broker is asked when they are sent."""
        if self._addressed is not None and any(event.targets for event in events):
            events = [self._addressed(event) for event in events]
        return [self._publisher.encode(event) for event in events]

    def publish(
        self,
        events: Sequence[Event],
        *,
        timeout: float | None = None,
        rows: Sequence[Write] = (),
        shared: bool = False,
    ) -> list[Event]:
        """Send events; raise UnknownAgent, or BrokerUnavailable when the broker does not take them in time."""
        batch = self.encode(events)
        self.send(batch, timeout=timeout, patient=not shared)
        return [record.event.marked(sent=True) for record in batch]

    def send(self, batch: Sequence[Encoded], *, timeout: float | None = None, patient: bool = True) -> bool:
        """Send what is encoded; raises as publish() does."""
        targets = [target for each in batch for target in each.event.targets]
        self._publisher.send_encoded(batch, timeout=timeout, patient=patient, known=list(dict.fromkeys(targets)))
        return True

    def append(self, transaction: Any, events: Sequence[Event]) -> list[Event]:
        """Raise LedgerOff."""
        _need_ledger("session= and connection= need")

    def delay(self, event: Event, due: datetime, transaction: Any = None) -> Event:
        """Raise LedgerOff."""
        _need_ledger("delay= and at= need")

    def cancel(self, event_id: str) -> bool:
        """Raise LedgerOff."""
        _need_ledger("cancel() needs")

    def check_delay(self) -> None:
        """Raise LedgerOff."""
        _need_ledger("delay= and at= need")

    def flush(self) -> None:
        """Do nothing: there is nothing to be written."""


def _need_ledger(what: str) -> NoReturn:
    raise LedgerOff(f"{what} a ledger, and the setting ledger_url is empty; unset it or name a database")
