"""Replay: events of the log once more, for one agent or one function; nobody else sees them again."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from itertools import islice
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from ..agents.agent import Agent
from ..agents.loop import awaited
from ..core.door.dids import is_did
from ..core.errors import (
    BrokerUnavailable,
    InvalidAgent,
    InvalidEvent,
    InvalidSelection,
    LedgerUnavailable,
    QueueConflict,
    nearest,
)
from ..core.event import Event
from ..core.ids import new_id
from ..core.routing import reaches
from ..core.times import monotonic
from ..history.events import EventQuery, Recorded, get_event, get_events
from ..ledger.aside import Bad
from ..ledger.ledger import Ledger
from ..publishing.apart import send_apart
from .changes import belongs
from .selection import Selection

if TYPE_CHECKING:
    from ..bus import Bus

#: Events that are sent at once.
BATCH = 200
#: With a rate, seconds between two batches where one event at a time would be too slow.
BREATH = 0.05
WHICH = "say which events: ids, or filters (type=, since=, up_to=, correlation=, agent_id=), or all=True"
_ID = re.compile(r"[\w.:-]{1,100}")


class Replayed(NamedTuple):
    """What a replay did.

    Attributes:
        id: the replay's own id; with it the same replay can be repeated, and does nothing twice.
        number: events that were sent; in a dry run, that would be.
        skipped: events that were chosen, and that the agent does not listen to.
        aside: events that cannot be read, or that the broker refuses; they are set aside, with the reason.
        seconds: how long it took.

    """

    id: str
    number: int
    skipped: int
    seconds: float
    aside: int = 0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return self._asdict()


class ReplayInterrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C: the message says how far the replay came, and how to go on; so does `replayed`."""

    def __init__(self, message: str, replayed: Replayed) -> None:
        super().__init__(message)
        self.replayed = replayed


def replay(
    bus: Bus, to: str | Agent | Callable[[Event], Any] | None, chosen: Selection[EventQuery], **options: Any
) -> Replayed:
    """Prepare a replay, and do it; arguments and errors are those of prepare(), and of what that returns."""
    return prepare(bus, to, chosen, **options)()


def prepare(
    bus: Bus,
    to: str | Agent | Callable[[Event], Any] | None,
    chosen: Selection[EventQuery],
    *,
    rate: float | None = None,
    broadcast: bool = False,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    rest: Callable[[float], object] | None = None,
    id: str | None = None,
) -> Callable[[], Replayed]:
    """Return what sends events of the log to one agent's queue, or calls a function with them, in the log's order.

    An agent gets those of the chosen events that it listens to; its handler sees `ctx.replay`. What it emits then is
    recorded, and sent to nobody. What is appended to the log after the start is left out.

    Arguments:
        to: an agent's name or the agent; or a function, sync or async, that is called with each event in this process.
        chosen: which events.
        rate: events per second, evenly paced; default as fast as it goes.
        broadcast: send what the agent emits to everybody, as if it were emitted now.
        dry_run: only count.
        progress: called with the number of events sent so far, after each batch, and whenever a batch was skipped.
        rest: called with the seconds to wait before a batch, where there is a rate, and with 0 now and then while the
            log is read; default it sleeps. What this or `progress` raises ends the replay.
        id: the id of an earlier replay, to go on with it: deliveries that the agent has done already are not run again.

    Raises InvalidSelection, InvalidAgent (nobody knows the agent), UnknownEvent (one of the ids). What it returns
    raises, with a summary in the message, BrokerUnavailable, QueueConflict, LedgerUnavailable and, for Ctrl-C,
    ReplayInterrupted.

    """
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise InvalidSelection(f"rate={rate!r} is no number of events per second")
    if id is not None and not _ID.fullmatch(id):
        raise InvalidSelection(f"id={id!r} is not the id of a replay: letters, digits and _ . : - only, 100 at most")
    own = id or new_id()
    target = _target(bus, to, {"replay": own, "broadcast": broadcast, "ledger": bus.ledger.id})
    pace = _Pace(None if dry_run else rate, rest or sleep)
    run = _Run(own, target, pace, bus.ledger, dry_run=dry_run, progress=progress)
    beat = None if rest is None else partial(rest, 0.0)
    return partial(run.over, _events(bus.ledger, chosen, run.set_aside, beat))


# -- where to


class _ToAgent:
    """An agent's queue."""

    size = BATCH

    def __init__(self, bus: Bus, name: str, patterns: tuple[str, ...], marks: dict[str, Any]) -> None:
        self._ledger = bus.ledger
        self._publisher = bus.publisher
        self._name = name
        self._patterns = patterns
        self._marks = marks
        self.advice = f"; repeat it with id={marks['replay']!r} to go on, nothing is done twice then"

    def wants(self, event: Event) -> bool:
        return reaches(self._name, self._patterns, event.type, event.targets)

    def send(self, batch: Sequence[Event]) -> list[Bad]:
        bad, encoded = [], []
        for event in batch:
            found = self._ledger.waiting.trees.cancellation(event) if self._marks["broadcast"] else None
            if found is not None:  # half of its effects would come a second time, and the rest be refused
                bad.append(Bad(event.key, belongs(found)))
                continue
            try:
                message = self._publisher.encode(event, {**self._marks, "direct": True}, self._ledger.seal)
                encoded.append(message._replace(agent=self._name))
            except InvalidEvent as exc:  # it came before the limits that there are now
                bad.append(Bad(event.key, str(exc)))
        sent = send_apart(self._publisher, encoded)
        if sent.trouble is not None:
            raise sent.trouble
        return [*bad, *(Bad(one.event.key, reason) for one, reason in sent.refused)]


class _ToFunction:
    """A function in this process."""

    size = 1  # so that the summary is exact
    advice = ""

    def __init__(self, function: Callable[[Event], Any], await_: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._function = function
        self._await = await_

    def wants(self, event: Event) -> bool:
        return True

    def send(self, batch: Sequence[Event]) -> list[Bad]:
        for event in batch:
            try:
                result = self._function(event)
                if inspect.isawaitable(result):
                    self._await(awaited(result))
            except Exception as exc:
                exc.add_note(f"while {event.type} {event.key} was replayed")
                raise
        return []


def _target(
    bus: Bus,
    to: str | Agent | Callable[[Event], Any] | None,
    marks: dict[str, Any],
) -> _ToAgent | _ToFunction:
    name = to.name if isinstance(to, Agent) else to
    if callable(name):
        # The loop is started for the first event that needs one.
        return _ToFunction(name, lambda result: bus.loop.run(result, None))
    if not isinstance(name, str) or not name:
        raise InvalidSelection("to: say who gets the events: an agent's name, or a function; never everybody at once")
    name = bus.agents[name].name if is_did(name) else name
    patterns = {**bus.ledger.subscribers.all(), **{agent.name: agent.patterns for agent in bus.agents}}
    if name not in patterns:
        raise InvalidAgent(f"no agent is called {name!r}; {nearest(name, patterns)}")
    return _ToAgent(bus, name, patterns[name], marks)


# -- which


def _events(
    ledger: Ledger, chosen: Selection[EventQuery], bad: Callable[[Bad], None], beat: Callable[[], object] | None
) -> Iterator[Event]:
    """Return the chosen events in the order of the log; raise UnknownEvent for an id that is none.

    Arguments:
        bad: is told of those that cannot be read.
        beat: is called now and then, also while none is found.

    """
    if chosen.ids is None:
        return (record.event for record in get_events(ledger, chosen.query, bad, beat))
    records: list[Recorded] = []
    for id in chosen.ids:
        try:
            records.append(get_event(ledger, id))
        except InvalidEvent as exc:
            bad(Bad(id, str(exc)))
    return iter([record.event for record in sorted(records, key=lambda record: record.position)])


# -- doing it


class _Pace:
    """Lets so many events through in a second, and never makes up for lost time in a rush."""

    def __init__(self, rate: float | None, rest: Callable[[float], object]) -> None:
        self._rate = rate
        self._rest = rest
        self._next = monotonic()

    def evenly(self, size: int) -> int:
        """Return how many of a batch may go at once."""
        return max(1, min(size, int(self._rate * BREATH))) if self._rate else size

    def wait(self, number: int) -> None:
        """Wait until `number` more events may go."""
        early = self._next - monotonic()
        if early > 0:
            self._rest(early)  # no more than the rate that was asked for
        self._next = max(self._next, monotonic()) + (number / self._rate if self._rate else 0.0)


class _Run:
    """One replay on its way."""

    def __init__(
        self,
        id: str,
        target: _ToAgent | _ToFunction,
        pace: _Pace,
        ledger: Ledger,
        *,
        dry_run: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._id = id
        self._target = target
        self._pace = pace
        self._dry = dry_run
        self._progress = progress
        self._begun = monotonic()
        self._number = self._skipped = self._aside = 0
        self._ledger = ledger

    def over(self, events: Iterator[Event]) -> Replayed:
        """Send what the target wants of the events."""
        try:
            self._send_all(events)
        except KeyboardInterrupt:
            raise ReplayInterrupted(self._summary, self._so_far) from None
        except (BrokerUnavailable, QueueConflict, LedgerUnavailable) as exc:
            raise exc.__class__(f"{exc}; {self._summary}") from exc
        return self._so_far

    def _send_all(self, events: Iterator[Event]) -> None:
        size = self._pace.evenly(self._target.size)
        wanted = filter(self._is_wanted, events)
        while batch := list(islice(wanted, size)):
            self._pace.wait(len(batch))
            bad = [] if self._dry else self._target.send(batch)
            for one in bad:
                self.set_aside(one)
            self._number += len(batch) - len(bad)
            self._tell()

    def set_aside(self, bad: Bad) -> None:
        """Note an event that this replay goes on without."""
        self._aside += 1
        if not self._dry:
            self._ledger.aside.note("replay", [bad])

    def _is_wanted(self, event: Event) -> bool:
        wanted = self._target.wants(event)
        self._skipped += not wanted
        if not wanted and self._skipped % BATCH == 0:
            self._tell()
        return wanted

    def _tell(self) -> None:
        if self._progress:
            self._progress(self._number)

    @property
    def _so_far(self) -> Replayed:
        return Replayed(self._id, self._number, self._skipped, monotonic() - self._begun, self._aside)

    @property
    def _summary(self) -> str:
        return f"the replay {self._id} stopped after {self._number} events{self._target.advice}"
