"""The bookkeeping of deliveries: what it has to offer, and how a failed attempt is decided and reported.

With a ledger it is `Inbox`, without one `Plain`; wiring decides once. Both answer with values; only the task, at
Celery's edge, turns them into Celery's exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from celery.utils.log import get_task_logger

from ..agents.effects import Effects
from ..core.announcements import DeliveryDead, announces
from ..core.errors import line_of
from ..core.event import Event, new_event
from ..core.ids import delivery_id, derived_id, member_id
from ..core.observe import Log
from ..core.retry import Again, Dead, decide
from ..core.times import SECOND, chance, now
from ..families import AgentResponse
from .steps import Filtered, Parks, Paused, Result, asker, response_to

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..bus import Bus
    from ..core.event import Encoded
    from ..ledger.facts import Claim, Delivery
    from ..ledger.ledger import Ledger
    from .strays import Told

logger = Log(get_task_logger(__name__))
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The next attempt is recorded, and is sent in `delay` seconds by whichever worker lives then.

    Attributes:
        delay: None where something else than time says when.

    """

    delay: float | None


@dataclass(frozen=True, slots=True)
class Postponed:
    """Celery is to call the task again in `delay` seconds, and this attempt does not count.

    Attributes:
        waits: since when the event waits for a worker that reads it, where only its message says so (microseconds).

    """

    delay: float
    waits: int | None = None


#: What follows an attempt: Celery tries again, as often as before or once more, a timer does, or it is over.
Verdict = Again | Postponed | Scheduled | Dead


@dataclass(frozen=True, slots=True)
class Begun:
    """How far a delivery has come on the short way.

    Attributes:
        attempt: the one that was claimed; 0 when the claim has failed.
        outcome: what came of it that is no success; None for nothing yet.

    """

    delivery: Delivery
    attempt: int
    outcome: Result | BaseException | None = None


def scheduled(due: int | None) -> Scheduled:
    """Return that a delivery goes on at a time (microseconds); at None something else says when."""
    return Scheduled(None if due is None else max(0.0, (due - now()) / SECOND))


class NotRecordedError(Exception):
    """What became of a delivery could not be written: it goes back to its queue."""


class Ended(NamedTuple):
    """A delivery whose handler has succeeded, and what is to be recorded of that, as succeed() takes it."""

    delivery: Delivery
    attempt: int
    effects: Effects
    answer: Any = None


class Bookkeeping(Protocol):
    """What is known about deliveries, and what is written down. Everything may raise NotRecordedError."""

    #: What was said in the log about deliveries whose handler is not called.
    told: Told

    @property
    def ledger(self) -> Ledger | None:
        """What the books are kept in, if they are kept."""

    def claim(self, delivery: Delivery) -> Claim:
        """Return the attempt to make now, or say why there is none; raise WorkerDied when none is left."""

    def claim_all(self, deliveries: Sequence[Delivery]) -> list[Claim | BaseException]:
        """Claim a group at once; return for each what claim() would return or raise."""

    def done_before(self, delivery: Delivery, claim: Claim) -> Any:
        """Finish a delivery for which there is no attempt to make, and return a chord member's result."""

    def succeed(
        self, delivery: Delivery, attempt: int, effects: Effects, answer: Any, session: Session | None = None
    ) -> Sequence[Encoded]:
        """Record a success with what the delivery leaves behind, and return what is to be sent then.

        Arguments:
            answer: what a chord waits for.
            session: the handler's own transaction, which is committed.

        """

    def succeed_all(self, ended: Sequence[Ended]) -> list[Sequence[Encoded] | BaseException]:
        """Record a group of successes at once; return for each what succeed() would return or raise."""

    def send(self, emitted: Sequence[Encoded]) -> None:
        """Send what recorded successes have emitted."""

    def stray(self, delivery: Delivery) -> Paused | Filtered | None:
        """Say what becomes of an event that this version of the agent does not want; None when it gets it all the same.

        Raises NobodyListens when it has been offered to others often enough.
        """

    def refused(self, delivery: Delivery, filtered: Filtered) -> Paused | Filtered:
        """Say what becomes of an event that the filter of this version keeps back: another one may want it."""

    def take(self, delivery: Delivery) -> Result | None:
        """Take the turns that the delivery needs, and wait for a moment if need be; or say what it has to wait for."""

    def turn(self, delivery: Delivery) -> tuple[float, Result | None]:
        """Do what take() does, but for the wait: return the seconds that it takes, too."""

    def filtered(self, delivery: Delivery, attempt: int, reason: str) -> None:
        """Record that the agent does not want the event after all."""

    def paused(self, delivery: Delivery, attempt: int, pause: Paused) -> Verdict:
        """Record that the handler is to be called in some seconds, and that this attempt does not count.

        Raises InvalidEvent when the event has waited too long for a worker that reads it.
        """

    def parked(self, delivery: Delivery, attempt: int, parks: Parks) -> Verdict:
        """Record that the delivery waits, send what it has emitted, and say that this attempt does not count."""

    def fail(self, delivery: Delivery, attempt: int, error: BaseException) -> Verdict:
        """Record a failed attempt and say what follows it."""


def id_of(event_id: str, agent: str, bus: Mapping[str, Any]) -> str:
    """Return the id of the delivery that a message asks for, by what the bus says in it."""
    if "flow" in bus:
        return member_id(*bus["flow"])
    id = delivery_id(event_id, agent)
    return derived_id(id, bus["replay"]) if "replay" in bus else id


def message_number(bus: Mapping[str, Any], retries: int) -> int:
    """Return which of a delivery's messages one is: 0 for the event's own one, and another number for each later one.

    Arguments:
        bus: what the bus says in its headers.
        retries: what Celery says there.

    """
    number: int = bus.get("message", retries + bus.get("handed", 0))
    return number


def outcome_of(call: Callable[..., Found], *arguments: Any) -> Found | BaseException:
    """Return what a call returns or raises."""
    try:
        return call(*arguments)
    except Exception as exc:
        return exc


def decided(delivery: Delivery, attempt: int, error: BaseException) -> Again | Dead:
    """Decide what follows a failed attempt, and write both into the worker's log."""
    decision = decide(attempt - 1, error, delivery.retry, chance())
    event = delivery.event
    match decision:
        case Again(delay):
            logger.warning(
                "agent %s failed on %s %s (attempt %d), trying again in %.1f s: %s",
                delivery.agent, event.type, event.key, attempt, delay, line_of(error),
            )  # fmt: skip
        case Dead(reason):
            told = line_of(error)
            logger.error("agent %s: %s %s is dead (%s): %s", delivery.agent, event.type, event.key, reason, told)
    return decision


def death_of(delivery: Delivery, attempt: int | None, error: BaseException, bus: Bus) -> list[Event]:
    """Return what announces that a delivery is dead, and answers its event; none for one that nobody is told of."""
    event, told = delivery.event, line_of(error)
    if not announces(event.type, delivery.replay):
        return []
    payload = DeliveryDead(
        delivery_id=delivery.id,
        event_id=event.key,
        original_type=event.type,
        agent=delivery.agent,
        error=told,
        attempts=attempt or delivery.retry.max + 1,
    )
    found = [new_event(payload, source=delivery.source, cause=event)]
    if (
        delivery.agent in bus.agents
        and (agent := bus.agents[delivery.agent]).respond
        and event.type != AgentResponse.event_type
    ):
        response = response_to(event, agent.name, delivery.id, "failure", told, 0)
        found.append(new_event(response, source=delivery.source, cause=event, targets=asker(event, bus)))
    return found
