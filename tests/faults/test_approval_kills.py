"""Processes killed around a decision: it is made or not, never half, and what was approved is done once."""

from __future__ import annotations

import itertools
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from pipeline import Pipeline
from tests.harness import APPS, Broker, StartWorker, delete_queues, run
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Where those die who decide, and what the approval is then.
POINTS = {"decided": "pending", "released": "pending", "committed": "approved"}


@pytest.fixture
def broker(durable: Broker) -> Iterator[Broker]:
    """The configurations in which this is promised."""
    yield durable
    if durable.name == "rabbitmq":
        delete_queues(durable, [f"agent.{agent}" for agent in ("support", "writer", "purger", "mistaken", "audit")])


def survive(bus: Pipeline, broker: Broker, worker: StartWorker, number: int) -> str:
    """Let agents ask, and kill those who decide, and those who get to know; return the figures."""
    worker(app="approvals_crash_app", pool="prefork", concurrency=2)
    bus.publish_many([("refund.wanted", {"order": f"A{n}", "amount": 1 + n % 100}) for n in range(number)])
    wait_for(lambda: len(rows(bus, outcome="parked")) == number, "all to be asked for", 60 + number)
    ids = [each.id for each in bus.approvals.list(limit=number)]
    for id, (point, status) in zip(ids, itertools.cycle(POINTS.items()), strict=False):
        ended = run([sys.executable, str(APPS / "crash_decider.py"), point, id], broker)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        found = bus.approvals.show(id)
        assert found.status == status, point
        if status == "pending":
            bus.approvals.approve(id, by="bob")
    broker.journal.wait(number, 120 + 2 * number, agent="support")
    check(bus, broker, ids)
    return f"{broker.name}: {number} who decided and {2 * number} who went on killed: 0 lost, 0 done twice"


def check(bus: Pipeline, broker: Broker, ids: list[str]) -> None:
    """Each was decided once, let everybody know once, and was done once."""
    once = dict.fromkeys(ids, 1)
    assert Counter(each.event.data["action_id"] for each in bus.get_events(type="action.approved")) == once
    assert list(bus.get_events(type="action.vetoed")) == []
    wait_for(lambda: len(rows(bus, agent="support", outcome="succeeded")) == len(ids), "all to be recorded")
    assert set(broker.journal.count(agent="paid").values()) == {1}
    assert len(broker.journal.lines(agent="paid")) == len(list(bus.get_events(type="refund.paid"))) == len(ids)
    deaths = {path.name for path in broker.directory.glob("once-*")}
    assert {f"once-answered-{id}" for id in ids} <= deaths
    assert len(deaths) == 2 * len(ids)


def test_whoever_is_killed_around_a_decision_leaves_it_made_or_not_made(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    survive(bus, broker, worker, 6)


@pytest.mark.faults
def test_a_hundred_killed_around_decisions(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None]
) -> None:
    report(survive(bus, broker, worker, 100))
