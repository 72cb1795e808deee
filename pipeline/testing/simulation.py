"""A simulation: many events, and everything that can go wrong, in an order that a seed chooses."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ..core.errors import BrokerUnavailable
from ..core.event import Event, Payload
from ..core.outcome import OPEN, Outcome
from ..core.routing import reaches
from ..ledger.database.tables import deliveries, events, flows
from ..ledger.flows.rows import WELL
from ..publishing.publisher import Publisher
from .faults import AWAY, CRASH, SKEW, SLOW, USUAL, Faults, Occurrence
from .harness import TestedBus, virtual

if TYPE_CHECKING:
    from sqlalchemy import Row

    from ..app.app import Pipeline

START = datetime(2030, 1, 1, tzinfo=UTC)
#: Steps that a run may take for each event, and the last ones that are shown of one that fails.
MOST_STEPS, SHOWN = 1000, 25
#: How often a run that fails is tried with less, and seconds that a slow handler takes.
TRIES, SLOWLY = 60, 3.0
#: Seconds that a worker's clock is at most ahead of the others, or behind.
OFF = 600.0
#: The kind of a flow that ends with one event.
JOIN = "join"
#: The status of a flow that a person has to look at.
STUCK = "stuck"
#: What is over for good: a row that says so never says anything else, but by an operator's word.
OVER = frozenset({Outcome.SUCCEEDED, Outcome.FILTERED, Outcome.LATE, Outcome.DEAD, Outcome.CANCELLED})

Publishes = Callable[[Random, int], Payload | Event | tuple[str, Any]]
Invariant = Callable[[TestedBus], object]


class SimulationFailed(AssertionError):
    """Something that always has to hold did not; the text says with which seed, and how it came to that."""


@dataclass
class Simulated:
    """What has happened in a run.

    Attributes:
        faults: how many of each kind.
        outcomes: how many deliveries ended so.
        steps: what was done, in order.

    """

    seed: int
    events: int
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    steps: list[str] = field(default_factory=list)


class Simulation:
    """Runs an application's agents in virtual time, with faults, in an order that a seed chooses.

    After steps it is checked that no outcome changes that is final, and at the end that every event has reached all
    agents that it is for, that nothing is left open, that no effect has happened twice, that events of a key were
    handled in order, that every flow has ended, and what the caller says besides.
    """

    def __init__(
        self, app: Pipeline, publishes: Publishes, *, seed: int = 0, invariants: Sequence[Invariant] = ()
    ) -> None:
        """Take an application and what is published in it.

        Arguments:
            publishes: returns the next event, by a source of chance and its number: a payload, an event, or a pair of
                an event type and its data.
            seed: of all that is random.
            invariants: functions that are called with the bus at the end of a run, and raise AssertionError.

        """
        self._app, self._publishes, self._seed = app, publishes, seed
        self._invariants = invariants

    def run(self, events: int = 500, faults: Mapping[str, float] | None = None) -> Simulated:
        """Publish so many events, with faults, until all is done; return what has happened.

        Arguments:
            faults: how likely each kind is wherever it could happen, 0 to 1: crash, duplicate, reorder, broker_away,
                slow, skew; default a few of all.

        Raises ConfigError for a fault that is none, and SimulationFailed with the seed and a shorter run that fails.

        """
        shares = USUAL if faults is None else faults
        found, happened = self._once(events, shares, None)
        if isinstance(found, Simulated):
            return found
        events, happened, found = self._shrunk(events, shares, happened, found)
        named = ", ".join(f"{kind} no. {number}" for kind, number in happened) or "none"
        steps = "".join(f"\n  {step}" for step in found.steps[-SHOWN:])
        raise SimulationFailed(
            f"seed {self._seed}, which fails with {events} event(s) and these faults: {named}\n{found}\n"
            f"the last steps:{steps}"
        ) from found

    def _shrunk(
        self, events: int, shares: Mapping[str, float], happened: Sequence[Occurrence], failed: Failed
    ) -> tuple[int, Sequence[Occurrence], Failed]:
        """Return a run with fewer events and fewer faults that fails, too."""
        tries = TRIES

        def fails(number: int, only: Sequence[Occurrence] | None) -> bool:
            nonlocal events, happened, failed, tries
            tries -= 1
            found, again = self._once(number, shares, None if only is None else frozenset(only))
            if isinstance(found, Failed):
                events, happened, failed = number, again, found
            return isinstance(found, Failed)

        while events > 1 and tries > TRIES // 2 and (fails(events // 2, None) or fails(events - 1, happened)):
            pass
        size = max(1, len(happened) // 2)
        while happened and tries > 0:
            parts = [happened[at : at + size] for at in range(0, len(happened), size)]
            if any(tries > 0 and fails(events, [one for one in happened if one not in part]) for part in parts):
                size = max(1, min(size, len(happened) // 2))
            elif size == 1:
                break
            else:
                size = max(1, size // 2)
        return events, happened, failed

    def _once(
        self, events: int, shares: Mapping[str, float], only: Collection[Occurrence] | None
    ) -> tuple[Simulated | Failed, Sequence[Occurrence]]:
        chosen = Faults(self._seed, shares, only)
        run: Run | None = None
        try:
            with virtual(self._app, start=START, seed=self._seed) as bus, _away(chosen):
                run = Run(bus, self._publishes, events, chosen, self._seed)
                found = run.go(self._invariants)
        except AssertionError as exc:
            return Failed(str(exc), [] if run is None else run.said.steps), chosen.happened
        return found, chosen.happened


class Failed(Exception):  # it is a result
    """A run that has failed, with its steps."""

    def __init__(self, why: str, steps: Sequence[str]) -> None:
        super().__init__(why)
        self.steps = steps


class Run:
    """One run."""

    def __init__(self, bus: TestedBus, publishes: Publishes, events: int, faults: Faults, seed: int) -> None:
        self._bus, self._publishes, self._left, self._faults = bus, publishes, events, faults
        self._random = Random(f"{seed}/order")  # the same each time
        self._content = Random(f"{seed}/content")
        self._skews = Random(f"{seed}/skews")
        self._over: dict[str, str] = {}
        self._done: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.said = Simulated(seed, events)
        self._most = MOST_STEPS * max(events, 1)
        self._every = max(1, events // 20)

    def go(self, invariants: Sequence[Invariant]) -> Simulated:
        """Take steps until nothing is left to be done; return what has happened."""
        bus = self._bus
        bus.expect_dead()
        bus.watch(self._killed_at, self._succeeded, self._taking)
        while self._step():
            assert len(self.said.steps) < self._most, (
                f"there is no end: {self._most:,} steps, and something is still due"
            )
            if len(self.said.steps) % self._every == 0:
                self._check_outcomes()
        self._check_outcomes()
        self._check_all()
        for invariant in invariants:
            invariant(bus)
        self.said.faults = Counter(kind for kind, _ in self._faults.happened)
        return self.said

    def _step(self) -> bool:
        """Do one of the things that can be done now; say whether there was any."""
        say, dice = self.said.steps.append, self._random.random()
        if self._faults.happens(SKEW):
            off = self._skews.uniform(-OFF, OFF)
            self._bus.skew(off)
            say(f"the worker's clock is {abs(off):.0f} s {'behind' if off < 0 else 'ahead'}")
        if self._left and dice < 0.3:
            self._left -= 1
            what = self._publishes(self._content, self.said.events - self._left - 1)
            event = self._bus.app.publish(*what) if isinstance(what, tuple) else self._bus.app.publish(what)
            say(f"publish {event.type} {event.id}" + ("" if event.sent else ", which the broker does not take now"))
            return True
        if dice < 0.9 and (said := self._bus.take_one(self._random, self._faults)):
            say(said)
            return True
        if done := self._bus.do_chores():
            say(f"chores: {done}")
            return True
        if said := self._bus.take_one(self._random, self._faults):
            say(said)
            return True
        if self._bus.jump(self.said.events, is_over=self._left == 0):
            say(f"it is {self._bus.now:%F %T.%f}")
            return True
        return self._left > 0

    # -- what is noted on the way

    def _killed_at(self, agent: str, point: str) -> bool:
        if not self._faults.happens(CRASH):
            return False
        self.said.steps.append(f"the worker dies: {point} of {agent}")
        return True

    def _succeeded(self, delivery: Any) -> None:
        if delivery.turns and delivery.turns[-1].ordered and delivery.replay is None:
            key = delivery.agent, str(delivery.turns[-1].key)
            if delivery.event.key not in self._done[key]:
                self._done[key].append(delivery.event.key)

    def _taking(self, agent: str) -> float:
        return SLOWLY if self._faults.happens(SLOW) else 0.0

    # -- what always holds

    def _check_outcomes(self) -> None:
        """Raise AssertionError where something is over, and is not any more."""
        with self._bus.app.bus.ledger.database.reading() as connection:
            rows = connection.execute(select(deliveries.c.id, deliveries.c.agent, deliveries.c.outcome)).all()
        found = {row.id: row.outcome for row in rows if row.outcome in OVER}
        for id, outcome in self._over.items():
            assert found.get(id) == outcome, f"delivery {id} was {outcome}, and is {found.get(id, 'open or gone')}"
        self._over = found

    def _check_all(self) -> None:
        app = self._bus.app
        with app.bus.ledger.database.reading() as connection:
            log = connection.execute(select(events.c.seq, events.c.id, events.c.type, events.c.targets)).all()
            rows = connection.execute(select(deliveries)).all()
            effects: dict[str, int] = dict(
                connection.execute(
                    select(events.c.delivery, func.count())
                    .where(events.c.delivery.is_not(None))
                    .group_by(events.c.delivery)
                ).all()
            )
            begun = connection.execute(select(flows)).all()
        started = {(row.event_id, row.name): row.kind for row in begun}
        had = {(row.event_id, row.agent) for row in rows}
        for event in log:
            for agent in app.agents:
                targets = event.targets.split(",") if event.targets else ()
                if reaches(agent.name, agent.patterns, event.type, targets):
                    assert (event.id, agent.name) in had, f"{event.type} {event.id} has never reached {agent.name}"
        for row in rows:
            self.said.outcomes[row.outcome] += 1
            if row.outcome in OPEN:
                assert row.outcome == Outcome.PARKED, (
                    f"{row.agent}: {row.event_id} is {row.outcome}, and nothing is due"
                )
            made, kind = effects.get(row.id, 0), started.get((row.event_id, row.agent))
            if kind is None and row.outcome == Outcome.SUCCEEDED:
                assert made == row.emitted, f"{row.agent}: {row.event_id} emitted {row.emitted}, and the log has {made}"
            elif kind == JOIN:  # what it comes to is said to be of the delivery that has begun it
                assert made <= row.emitted + 1, f"join {row.agent} of {row.event_id} has ended {made} times"
        _check_flows(begun, rows)
        place = {event.id: event.seq for event in log}
        for (name, key), ids in self._done.items():
            seen = [place[id] for id in ids]
            assert seen == sorted(seen), f"{name} has handled the events of {key!r} out of order"


def _check_flows(begun: Sequence[Row[Any]], rows: Sequence[Row[Any]]) -> None:
    """Raise AssertionError for a flow that hangs, and for a join that has counted another number than have ended."""
    parked = {row.flow for row in rows if row.outcome == Outcome.PARKED}
    going = [flow for flow in begun if flow.ended is None and flow.status != STUCK]
    hanging = [flow.name for flow in going if flow.id not in parked]
    assert not hanging, f"flows that never end: {', '.join(hanging)}"
    done = Counter(row.flow for row in rows if row.outcome in WELL)
    for flow in begun:
        if flow.kind == JOIN:
            assert flow.done == done[flow.id], (
                f"join {flow.name} of {flow.event_id} has counted {flow.done} that have ended well, of {done[flow.id]}"
            )


@contextmanager
def _away(faults: Faults) -> Iterator[None]:
    """Let the broker not take what is sent now and then."""
    send = Publisher.send_encoded

    def send_or_not(self: Publisher, *what: Any, **how: Any) -> Any:
        if faults.happens(AWAY):
            raise BrokerUnavailable("the broker is away, as the simulation wants it")
        return send(self, *what, **how)

    Publisher.send_encoded = send_or_not  # type: ignore[method-assign]
    try:
        yield
    finally:
        Publisher.send_encoded = send  # type: ignore[method-assign]
