"""Workers killed in the middle of an LLM agent's run: what was answered is not asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

pytest.importorskip("pydantic_ai")

from pipeline import Pipeline
from pipeline.core.event import new_event
from tests.faults.test_crash_points import SOON, Crew
from tests.harness import Broker, StartWorker, delete_queues
from tests.llm import ONCE
from tests.records import logged, rows

pytestmark = pytest.mark.usefixtures("nothing_disappears")
POINTS = ("in work", "kept")


@pytest.fixture
def broker(durable: Broker) -> Broker:
    """The configurations in which this is promised."""
    return durable


@pytest.fixture(autouse=True)
def own_queues(broker: Broker) -> None:
    """Begin with none of what an earlier test has left."""
    if broker.name == "rabbitmq":
        names = ["agent.investigate", "agent.investigate_sync", "agents.emit", "events.unrouted"]
        delete_queues(broker, names)


def survive(bus: Pipeline, broker: Broker, crew: Crew, kinds: tuple[str, ...], times: int = 1) -> str:
    """Let a crew investigate in spite of a death at each call of each run; return the figures."""
    data = [
        {"key": f"{kind}/{call}/{point}/{n}", "call": call, "point": point, "kind": kind}
        for kind in kinds
        for call in ONCE
        for point in POINTS
        for n in range(times)
    ]
    for one in data:
        one["key"] = one["key"].replace("/", ".")
    bus.publish_many([new_event(f"crime.{one['kind']}", one, source="/test") for one in data])
    crew.work_until(lambda: len(rows(bus, outcome="succeeded")) == len(data), "all ends", 60 + 8 * len(data))
    made, kept = Counter[tuple[str, str]](), set()
    for line in broker.journal.lines():
        if "kept" in line:
            kept.add((line["key"], line["kept"]))
        else:
            assert (line["key"], line["call"]) not in kept, line
            made[line["key"], line["call"]] += 1
    for one in data:
        calls = {call: made[one["key"], call] for call in ONCE}
        expected = ONCE | ({one["call"]: 2} if one["point"] == "in work" else {})
        if one["kind"] == "sync":
            assert calls == expected, one
        else:  # others die with the process that they share, each in one call of its own
            assert all(calls[call] >= expected[call] for call in ONCE), one
        assert (broker.directory / f"once-{one['call']}-{one['point']}-{one['key']}").exists()
    found = Counter((event.data["key"], event.data["found"]) for event in logged(bus, "found"))
    assert found == {(one["key"], "search read"): 1 for one in data}
    assert bus.dead_letters.list() == []
    return f"{broker.name}: {len(data)} runs killed, {made.total()} calls made"


def test_a_killed_worker_costs_a_run_the_call_that_was_in_work_and_no_other(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    survive(bus, broker, Crew(worker, "prefork", 2, app="llm_crash_app", **SOON).add(1), ("async", "sync"))


@pytest.mark.faults
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_many_runs_that_are_killed_at_each_of_their_calls(
    bus: Pipeline, broker: Broker, worker: StartWorker, report: Callable[[str], None], pool: str
) -> None:
    report(survive(bus, broker, Crew(worker, pool, 3, app="llm_crash_app", **SOON).add(2), ("async", "sync"), 5))
