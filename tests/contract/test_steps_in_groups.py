"""Steps of flows that are recorded together: nothing else comes of it than if each had come alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import Pipeline
from pipeline.agents.effects import NOTHING, Effects
from pipeline.coordination.flows.flows import Flows
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import member_id
from pipeline.core.times import now
from pipeline.delivery.delivery import Ended
from pipeline.delivery.inbox import Inbox
from pipeline.ledger.database.tables import events, flows
from pipeline.ledger.facts import Delivery
from pipeline.ledger.flows.rows import Member, Start
from tests.ledgers import ON_POSTGRESQL, new_order, record
from tests.records import rows
from tests.servers import wait_for
from tests.threads import in_threads

pytestmark = pytest.mark.pooled

ARBITRARY = settings(
    max_examples=20, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


class Crowd(NamedTuple):
    """A join whose members run: how many it has, and how many of them it needs."""

    members: int
    need: int


class Said(NamedTuple):
    """A step that has ended well: of which join, which member, and whether it has published something."""

    crowd: int
    member: int
    emits: bool


CROWDS = st.integers(1, 5).flatmap(lambda members: st.builds(Crowd, st.just(members), st.integers(1, members)))
SAID = st.builds(Said, st.integers(0, 2), st.integers(0, 4), st.booleans())


class Running:
    """A join that has started, and whose members run."""

    def __init__(self, app: Pipeline, inbox: Inbox, crowd: Crowd) -> None:
        self.app, self.crowd, self.event = app, crowd, new_order()
        self.id = self.event.id
        definition = {"name": "crowd", "emits": "crowd.done", "fails": "crowd.failed", "source": "/t"}
        definition |= {"quorum": crowd.need, "cancel_rest": False}
        about = ("crowd", "join", self.event.key, self.event.correlation_id, orjson.dumps(definition))
        start = Start(self.id, *about, [Member("billing")] * crowd.members, need=crowd.need)
        app.ledger.append([record(self.event)], due_in=None, rows=start.rows())
        self.steps = [
            Delivery(
                member_id(self.id, pos), self.event, "billing", "/t", asked=True, keeps_result=True,
                flow=self.id, pos=pos, message=now(),
            )
            for pos in range(crowd.members)
        ]  # fmt: skip
        for step in self.steps:
            assert inbox.claim(step).attempt == 1

    def ended(self, said: Said) -> Ended:
        step = self.steps[said.member % self.crowd.members]
        emitted = (new_event("member.told", {}, source="/t", cause=self.event),) if said.emits else ()
        return Ended(step, 1, Effects(emitted) if emitted else NOTHING, {"n": step.pos})

    def left_behind(self) -> Any:
        """Return what the ledger says, without what differs from one to another."""
        (flow,) = rows(self.app, flows, id=self.id)
        found = [(row["pos"], row["outcome"], row["result"], row["emitted"]) for row in rows(self.app, flow=self.id)]
        told = sorted(row["type"] for row in rows(self.app, events, causation=self.id))
        return [flow[name] for name in ("status", "done", "failed", "reason")], sorted(found), told


def kinds(found: Sequence[Sequence[Encoded] | BaseException]) -> list[Any]:
    return [type(one) if isinstance(one, BaseException) else [each.event.type for each in one] for one in found]


@pytest.fixture
def inbox(app: Pipeline) -> Inbox:
    app.ledger.workers.heartbeat(app.bus.worker_id)
    app.bus.flows_of = Flows  # as of an app with agents
    return Inbox(app.bus)


def test_a_group_of_steps_does_what_its_members_do_one_by_one(app: Pipeline, inbox: Inbox) -> None:
    @given(st.lists(CROWDS, min_size=3, max_size=3), st.lists(SAID, min_size=2, max_size=10))
    @ARBITRARY
    def check(crowds: list[Crowd], said: list[Said]) -> None:
        left = []
        for together in (False, True):
            running = [Running(app, inbox, crowd) for crowd in crowds]
            group = [running[one.crowd].ended(one) for one in said]
            answers = inbox.succeed_all(group) if together else [inbox.succeed(*one) for one in group]
            assert all(isinstance(one, (list, tuple)) for one in answers)
            left.append([one.left_behind() for one in running])
        assert left[0] == left[1]

    check()


def test_the_last_one_brings_what_follows_and_the_others_are_counted_with_each_other(
    app: Pipeline, inbox: Inbox
) -> None:
    running = Running(app, inbox, Crowd(5, 5))
    group = [running.ended(Said(0, number, emits=False)) for number in range(5)]
    found = kinds(inbox.succeed_all(group))
    assert sorted(found, key=len) == [[], [], [], [], ["crowd.done"]]
    (flow,) = rows(app, flows, id=running.id)
    assert (flow["status"], flow["done"]) == ("completed", 5)


def test_a_step_that_was_recorded_before_is_not_counted_again(app: Pipeline, inbox: Inbox) -> None:
    running = Running(app, inbox, Crowd(5, 5))
    first, second, third = (running.ended(Said(0, number, emits=False)) for number in range(3))
    inbox.succeed(*second)
    assert kinds(inbox.succeed_all([first, second, third])) == [[], [], []]
    assert [row["done"] for row in rows(app, flows, id=running.id)] == [3]


def test_groups_of_the_same_joins_at_once_lose_and_double_nothing(app: Pipeline, inbox: Inbox) -> None:
    running = [Running(app, inbox, Crowd(8, 8)) for _ in range(3)]
    steps = [one.ended(Said(0, member, emits=False)) for member in range(8) for one in running]

    def share(number: int) -> list[Any]:
        return kinds(inbox.succeed_all(steps[number::4]))

    told = [type for found in in_threads(4, share) for one in found for type in one]
    assert told == ["crowd.done"] * 3
    assert [row["status"] for one in running for row in rows(app, flows, id=one.id)] == ["completed"] * 3


@ON_POSTGRESQL
def test_a_group_that_holds_one_join_waits_for_no_other(app: Pipeline, inbox: Inbox) -> None:
    held, free = sorted((Running(app, inbox, Crowd(4, 4)) for _ in range(2)), key=lambda one: one.id, reverse=True)
    group = [one.ended(Said(0, member, emits=False)) for one in (held, free) for member in range(2)]
    recorded: list[Any] = []
    with app.ledger.database.transaction() as connection:
        app.ledger.waiting.flows.lock(connection, held.id)
        thread = threading.Thread(target=lambda: recorded.extend(inbox.succeed_all(group)))
        thread.start()
        wait_for(lambda: [row["done"] for row in rows(app, flows, id=free.id)] == [2], "the steps of the other one")
        assert [row["done"] for row in rows(app, flows, id=held.id)] == [0]
    thread.join(60)
    assert kinds(recorded) == [[]] * 4
    assert [row["done"] for one in (held, free) for row in rows(app, flows, id=one.id)] == [2, 2]
