"""Whatever becomes of a delivery in whatever order: its row, its wait and its steps tell one story."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from pipeline import Event
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.outcome import Outcome
from pipeline.core.times import now
from pipeline.ledger.database.waiting import steps, waits
from pipeline.ledger.facts import AlreadyRecordedError, Claim, Delivery, Success
from pipeline.ledger.waiting.wait import EVENT, TIME, Parking, Wait
from tests.records import make_app, rows

#: Deliveries that live side by side.
MOST = 2


@dataclass
class Model:
    """What is to be in the ledger."""

    event: Event
    outcome: Outcome | None = None
    attempts: int = 0
    waits: str | None = None
    ended_waits: int = 0
    steps: dict[str, str] = field(default_factory=dict)


class Life(RuleBasedStateMachine):
    """Deliveries of one agent, with messages that come twice, workers that die, and reasons that come too late."""

    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        home = Path(self._home.name)
        self.app = make_app(f"sqlite:///{home / 'ledger.db'}", home)
        self.ledger = self.app.ledger
        self.models: dict[str, Model] = {}

    def teardown(self) -> None:
        self.app.close()
        self._home.cleanup()

    def delivery(self, id: str) -> Delivery:
        return Delivery(id, self.models[id].event, "billing")

    def append(self, type: str, correlation: str | None = None) -> Event:
        event = new_event(type, {"n": 1}, source="/test", correlation_id=correlation)
        self.ledger.append([Encoded(event, event.encode())], due_in=None)
        return event

    @rule(target=known)
    @precondition(lambda self: len(self.models) < MOST)
    def publish(self) -> str:
        event = self.append("order.placed")
        id = delivery_id(event.id, "billing")
        self.models[id] = Model(event)
        return id

    @rule(id=known)
    def message(self, id: str) -> None:
        """A message comes, for the first time or once more."""
        model = self.models[id]
        claim = self.ledger.claim(self.delivery(id), worker="w1")
        if model.outcome in (None, Outcome.QUEUED):
            model.attempts += 1
            model.outcome = Outcome.RUNNING
            assert claim == Claim(model.attempts, Outcome.RUNNING)
        elif model.outcome is Outcome.RUNNING:  # of a worker that nobody has heard of: it is dead
            model.attempts += 1
            assert claim == Claim(model.attempts, Outcome.RUNNING)
        else:
            assert claim == Claim(0, model.outcome)

    @rule(id=known, attempt=st.integers(0, 1), with_event=st.booleans(), soon=st.booleans())
    def park(self, id: str, attempt: int, with_event: bool, soon: bool) -> None:
        """The attempt that runs begins to wait, or one that is over would."""
        model = self.models[id]
        number = model.attempts - attempt
        kind, key = (EVENT, "order.paid") if with_event else (TIME, "")
        name, number_of = ("wait for order.paid" if with_event else "sleep"), model.ended_waits
        due = now() - 1 if soon else now() + 10**12
        correlation = model.event.correlation_id
        wait = Wait(kind, "waits", name, number_of, due=due, key=key, correlation=correlation)
        parked = self.ledger.waiting.waits.park(Parking(self.delivery(id), number, wait)) if model.outcome else False
        assert parked == (model.outcome is Outcome.RUNNING and attempt == 0)
        if parked:
            model.outcome, model.attempts, model.waits = Outcome.PARKED, model.attempts - 1, name

    @rule()
    def time_passes(self) -> None:
        """Those go on whose time has come."""
        waiting, before = self.ledger.waiting, rows(self.app, waits)
        due = {row["delivery"]: row["kind"] for row in before if row["due"] <= now()}
        assert waiting.waits.release_due() == len([kind for kind in due.values() if kind == TIME])
        waiting.arrivals.release(lambda condition, event: True)  # whoever reads the log sees to those for events
        after = {row["delivery"] for row in rows(self.app, waits)}
        gone = {row["delivery"] for row in before} - after
        assert due.keys() <= gone
        for id in gone:
            self.released(id)

    @rule(id=known)
    def event_comes(self, id: str) -> None:
        """The event comes that a delivery may wait for."""
        self.append("order.paid", self.models[id].event.correlation_id)
        before = {row["delivery"]: row["kind"] for row in rows(self.app, waits)}
        self.ledger.waiting.arrivals.release(lambda condition, event: True)
        after = {row["delivery"] for row in rows(self.app, waits)}
        for gone in before.keys() - after:
            assert before[gone] == EVENT
            self.released(gone)
        assert id not in after or before[id] == TIME

    def released(self, id: str) -> None:
        model = self.models[id]
        assert model.waits is not None
        model.outcome, model.waits = Outcome.QUEUED, None
        model.ended_waits += 1

    @rule(id=known, name=st.sampled_from(["draft", "send"]), result=st.sampled_from(["1", "2"]))
    def step(self, id: str, name: str, result: str) -> None:
        """A step is kept, by this run or by one that everybody took for dead: the first result stands."""
        expected = self.models[id].steps.setdefault(name, result)
        assert self.ledger.waiting.steps.keep(id, (name, 0), now(), result) == expected

    @rule(id=known)
    def succeed(self, id: str) -> None:
        model = self.models[id]
        if model.outcome is None:
            return
        try:
            self.ledger.succeed(Success(id))
        except AlreadyRecordedError:
            assert model.outcome in (Outcome.SUCCEEDED, Outcome.PARKED)  # by a later run
            return
        model.outcome = Outcome.SUCCEEDED

    @rule(id=known)
    def die(self, id: str) -> None:
        model = self.models[id]
        if model.outcome is None:
            return
        died = self.ledger.die(id, model.attempts, [], error="boom", traceback="", due_in=0)
        assert died == (model.outcome is Outcome.RUNNING)
        if died:
            model.outcome = Outcome.DEAD

    @rule(id=known)
    def requeue(self, id: str) -> None:
        if self.models[id].outcome is Outcome.DEAD:
            self.ledger.database.run(lambda connection: self.ledger.deliveries.requeue(connection, [id]))
            self.models[id].outcome, self.models[id].attempts = Outcome.QUEUED, 0

    @invariant()
    def the_ledger_says_the_same(self) -> None:
        found = {row["id"]: (row["outcome"], row["attempts"]) for row in rows(self.app) if row["agent"]}
        assert found == {id: (m.outcome, m.attempts) for id, m in self.models.items() if m.outcome is not None}
        assert {row["delivery"]: row["name"] for row in rows(self.app, waits)} == {
            id: model.waits for id, model in self.models.items() if model.waits is not None
        }
        kept: dict[str, dict[str, Any]] = {}
        for row in rows(self.app, steps):
            kept.setdefault(row["delivery"], {})[f"{row['name']} {row['number']}"] = row["result"]
        for id, model in self.models.items():
            mine = kept.get(id, {})
            assert len(mine) == len(model.steps) + model.ended_waits
            assert all(mine[f"{name} 0"] == result for name, result in model.steps.items())


Life.TestCase.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
