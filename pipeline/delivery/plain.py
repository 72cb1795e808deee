"""Bookkeeping without a ledger: every delivery is run, Celery retries it, and the broker keeps it when it is dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..agents.effects import Effects
from ..contracts import newer
from ..core.errors import BrokerUnavailable, LedgerOff, NobodyListens, QueueConflict
from ..core.event import Encoded
from ..core.outcome import Outcome
from ..core.times import SECOND, now
from ..ledger.facts import Claim, Delivery
from . import strays
from .delivery import Ended, NotRecordedError, Postponed, Verdict, decided, outcome_of
from .steps import Filtered, Parks, Paused, Result

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..bus import Bus


class Plain:
    """Knows what Celery and the broker know."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.told = strays.Told()
        self._waits = newer.Told()

    #: The broker keeps what there is to keep.
    ledger = None

    def claim(self, delivery: Delivery) -> Claim:
        """Return the attempt that Celery counted."""
        return Claim(delivery.retries + 1, Outcome.RUNNING)

    def claim_all(self, deliveries: Sequence[Delivery]) -> list[Claim | BaseException]:
        """Return the attempts that Celery counted."""
        return [self.claim(delivery) for delivery in deliveries]

    def done_before(self, delivery: Delivery, claim: Claim) -> Any:
        """Return nothing: each claim is an attempt to make."""

    def succeed(
        self, delivery: Delivery, attempt: int, effects: Effects, answer: Any, session: Session | None = None
    ) -> Sequence[Encoded]:
        """Return what the handler emitted: the delivery is done when that is sent."""
        return self._bus.outbox.encode(effects.events) if effects.events else []

    def succeed_all(self, ended: Sequence[Ended]) -> list[Sequence[Encoded] | BaseException]:
        """Return what each of the handlers emitted, or what is wrong with that."""
        return [outcome_of(self.succeed, *one) for one in ended]

    def send(self, emitted: Sequence[Encoded]) -> None:
        """Send it; raise NotRecordedError when the broker is away."""
        try:
            self._bus.outbox.send(emitted)
        except (BrokerUnavailable, QueueConflict) as exc:
            # The event goes back to its queue: its own events have fixed ids, so sending them again is harmless.
            raise NotRecordedError(str(exc)) from exc

    def stray(self, delivery: Delivery) -> Paused | Filtered | None:
        """Let another worker have the event, for so long; raise NobodyListens then, so that the broker keeps it."""
        pause = strays.handed_on(delivery)
        if pause is None:
            nobody = strays.NOBODY.format(delivery.event.type)
            raise NobodyListens(f"{nobody}, as far as can be known without a ledger ({delivery.handed} times asked)")
        return pause

    def refused(self, delivery: Delivery, filtered: Filtered) -> Filtered:
        """Leave it at that: nobody knows who else runs."""
        return filtered

    def take(self, delivery: Delivery) -> Result | None:
        """Refuse it: nobody counts over all workers."""
        raise LedgerOff(f"agent {delivery.agent} has a limit over all workers, which needs a ledger: set ledger_url")

    def turn(self, delivery: Delivery) -> tuple[float, Result | None]:
        """Refuse it, as take() does."""
        return 0.0, self.take(delivery)

    def filtered(self, delivery: Delivery, attempt: int, reason: str) -> None:
        """Leave it at that: nobody keeps outcomes."""

    def paused(self, delivery: Delivery, attempt: int, pause: Paused) -> Verdict:
        """Let Celery call the task again; raise InvalidEvent when no worker has read the event within a day."""
        if pause.newer is None:
            return Postponed(pause.delay)
        since = delivery.waits or now()
        return Postponed(newer.pause(pause.newer, (now() - since) / SECOND, self._waits.is_new), since)

    def parked(self, delivery: Delivery, attempt: int, parks: Parks) -> Verdict:
        """Refuse it: nobody would know of it."""
        raise LedgerOff(f"agent {delivery.agent} {parks.wait.reason}, which needs a ledger: set ledger_url")

    def fail(self, delivery: Delivery, attempt: int, error: BaseException) -> Verdict:
        """Let Celery send the event to this queue again, or the broker keep it as a dead letter."""
        return decided(delivery, attempt, error)
