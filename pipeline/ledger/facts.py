"""What is known of a delivery while somebody has it in hand, and of a tree of them that is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, NotRequired, TypedDict

from sqlalchemy import Connection

from ..core.event import Encoded, Event
from ..core.limits.limit import Turn
from ..core.outcome import Outcome
from ..core.retry import Retry
from ..core.times import as_json_time
from .database.rows import Write

DEFAULT_RETRY = Retry()


#: Runs a transaction, and may do more in it than it is given.
Run = Callable[[Callable[[Connection], bool]], bool]


class How(TypedDict):
    """How the next attempt follows: in `delay` seconds, by a `timer` from here or not, recorded by `run`."""

    delay: float
    timer: bool
    run: NotRequired[Run | None]


class Claim(NamedTuple):
    """The answer to a claim: the attempt to make now, or what the inbox knows about the delivery.

    Attributes:
        attempt: 1 for the first; 0 when the handler is not to be run.
        outcome: RUNNING with an attempt, else what the delivery is already.
        result: what a chord's member returned, as JSON.
        emitted: the number of events that the delivery has emitted: all when it has ended, some before it was parked.

    """

    attempt: int
    outcome: Outcome
    result: str | None = None
    emitted: int = 0

    @classmethod
    def made(cls, row: Sequence[Any]) -> Claim:
        """Return the claim that the database has answered with: attempt, events emitted before, and outcome."""
        is_made = row[2] == Outcome.RUNNING.value
        return cls(row[0], Outcome.RUNNING, emitted=row[1]) if is_made else cls(0, Outcome(row[2]), emitted=row[1])


class Delivery(NamedTuple):
    """One delivery as its message describes it, and its agent.

    Attributes:
        agent: the agent's name.
        source: the CloudEvents source of the events that the agent emits.
        retry: the agent's policy.
        expected: the attempt that a retry's message was sent for; None for the event's own message.
        broadcast: whether a replayed delivery sends what it emits.
        logged: whether the ledger has the event; else it was published by another program.
        redelivered: whether the broker had given the message to a worker before.
        message: which of its messages this is: 0 for the event's own one, and another number for each later one.
        in_canvas: whether a chord or chain waits for what the handler returns.
        retries: how often Celery has tried it before.
        wanted: whether this version of the agent listens to the event's type, or is named by its targets.
        asked: whether somebody has asked for this very delivery (a replay, a requeued dead letter).
        resumed: whether it goes on after steps and waits, whatever this version of the agent wants.
        handed: how often workers whose version does not want it have handed it on, without a ledger.
        emitted: how many events it has emitted before it was parked.
        waits: since when it waits for a worker that reads it (microseconds), without a ledger.
        turns: what it needs of limits over all workers.
        leads: whether a batch may end with it: what becomes of it becomes of all that are in that.
        flow: the flow that it is a step of, which what becomes of it moves on.
        pos: which step.
        is_request: whether whoever has published the event waits for what the handler returns.
        keeps_result: whether what the handler returns is kept, for a flow or for whoever has published the event.

    """

    id: str
    event: Event
    agent: str
    source: str = ""
    retry: Retry = DEFAULT_RETRY
    expected: int | None = None
    replay: str | None = None
    broadcast: bool = True
    logged: bool = True
    redelivered: bool = False
    message: int = 0
    in_canvas: bool = False
    retries: int = 0
    wanted: bool = True
    asked: bool = False
    resumed: bool = False
    handed: int = 0
    emitted: int = 0
    waits: int | None = None
    turns: tuple[Turn, ...] = ()
    leads: bool = False
    flow: str | None = None
    pos: int = 0
    is_request: bool = False
    keeps_result: bool = False

    def goes_on(self, claim: Claim) -> Delivery:
        """Return the delivery with what its claim knows of an earlier run that was parked."""
        return self._replace(emitted=claim.emitted) if claim.emitted else self


class Success(NamedTuple):
    """A delivery that has succeeded, and everything that it leaves behind.

    Attributes:
        delivery: its id.
        emitted: events that are sent now.
        later: timers of the events that are due later.
        rows: what else is written with them.
        due_in: seconds after which the relay sends what nobody has sent; None for what is only recorded.
        result: what a chord's member returned, as JSON.
        first: whether this is the first attempt, which has no timer to clear away.
        before: how many events it has emitted before it was parked.
        flow: the flow that it is a step of.

    """

    delivery: str
    emitted: Sequence[Encoded] = ()
    later: Sequence[dict[str, Any]] = ()
    rows: Sequence[Write] = ()
    due_in: float | None = None
    result: str | None = None
    first: bool = False
    before: int = 0
    flow: str | None = None


class AlreadyRecordedError(Exception):
    """Another run of the same delivery was recorded first; this one takes no effect."""


class MayFollowError(Exception):
    """Something may follow from a step's success, which its flow's row says: nothing was written."""


class Cancellation(NamedTuple):
    """Who has stopped a tree, when and why.

    Attributes:
        tree: a correlation id, or the id of the event on top.
        at: microseconds.

    """

    tree: str
    at: int
    by: str
    reason: str

    def __str__(self) -> str:
        who = f" by {self.by}" if self.by else ""
        return f"cancelled{who}: {self.reason}" if self.reason else f"cancelled{who}"


class Part(NamedTuple):
    """A delivery of a tree that is stopped, with the outcome that it had."""

    delivery: str
    agent: str
    event: str
    type: str
    outcome: Outcome

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "outcome": self.outcome.value}


@dataclass(frozen=True)
class Cancelled:
    """What stopping a tree came to; true when there was something to stop.

    Attributes:
        tree: a correlation id, or the id of the event on top.
        by: who has stopped it first; `at` and `reason` likewise.
        stopped: deliveries that were queued, parked, to be tried again or on their way, and do not run any more.
        running: deliveries that ran: their handlers are stopped if they can be, and what they emit is refused.
        done: deliveries that had ended before: what they did has happened.
        delayed: events that were to be published later, and are not.

    """

    tree: str
    by: str
    reason: str
    at: datetime
    stopped: tuple[Part, ...] = ()
    running: tuple[Part, ...] = ()
    done: tuple[Part, ...] = ()
    delayed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stopped or self.running or self.delayed)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        parts = {name: [one.as_data() for one in getattr(self, name)] for name in ("stopped", "running", "done")}
        about = {"tree": self.tree, "by": self.by, "reason": self.reason, "at": as_json_time(self.at)}
        return {**about, **parts, "delayed": list(self.delayed)}


class Stop(NamedTuple):
    """A delivery that a worker runs and should not any more.

    Attributes:
        terminate: whether its process is ended, if it cannot be stopped in another way.

    """

    delivery: str
    terminate: bool
