"""Two versions of a saga while a deploy goes on: each instance follows the definition that it was started with."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.outcome import Outcome
from tests.harness import Broker, StartWorker, Worker
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: The steps that both versions have, whose order each flow keeps, and what only one of them knows.
ITEMS = ["a", "b"]


def deployed(worker: StartWorker, version: str, name: str = "", *queues: str) -> Worker:
    options = ("-Q", ",".join(f"agent.{queue}" for queue in queues)) if queues else ()
    return worker(app="rolled_app", name=name or version, environment={"VERSION": version}, options=options)


def steps_of(broker: Broker, flow: str) -> list[tuple[str, str]]:
    """Return what was done of a flow: which step, and by which version."""
    return [(line["agent"], line["version"]) for line in broker.journal.lines() if line.get("flow") == flow]


def ended(broker: Broker, number: int) -> list[str]:
    broker.journal.wait(number, agent="outcome")
    return [line["type"] for line in broker.journal.lines(agent="outcome")]


def placed(bus: Pipeline, number: int, **wishes: Any) -> None:
    bus.publish_many([("order.placed", {"items": ITEMS, **wishes}) for _ in range(number)])


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")], ids="-then-".join)
def test_flows_of_both_versions_end_as_they_were_started(
    order: tuple[str, str], bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    first, second = order
    deployed(worker, first)
    placed(bus, 4, first="sleep")
    wait_for(lambda: len(bus.flows.list()) == 4, "the flows of the first version to start")
    deployed(worker, second)
    placed(bus, 8, first="sleep")
    types = ended(broker, 12)
    assert len(types) == 12, "each has ended once"
    assert types.count(f"order.{first}") >= 4
    only = {"old": ["legacy"], "new": ["checked", "checked"]}
    for flow in bus.flows.list():
        emits = bus.flows.show(flow.id).definition["emits"]
        version = emits.removeprefix("order.")
        done = [step for step in steps_of(broker, flow.id) if step[0] in ("legacy", "checked")]
        assert [name for name, _ in done] == only[version]
        assert {by for _, by in done} == {version}, "what one version knows only that one does"
        assert flow.status == "completed"


def test_a_step_that_no_running_version_knows_waits_for_one_that_does(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    old = deployed(worker, "old", "starts", "order", "first", "outcome")
    placed(bus, 1)
    wait_for(lambda: [s.agent for f in bus.flows.list() for s in bus.flows.show(f.id).steps][1:], "its second step")
    old.stop()
    new = deployed(worker, "new")
    placed(bus, 1)
    assert ended(broker, 1) == ["order.new"]
    (waiting,) = bus.flows.list(status="active")
    assert [(s.agent, s.outcome) for s in bus.flows.show(waiting.id).steps] == [
        ("first", Outcome.SUCCEEDED), ("legacy", Outcome.QUEUED),
    ]  # fmt: skip
    new.stop()
    deployed(worker, "old")
    assert ended(broker, 2) == ["order.new", "order.old"]
    assert steps_of(broker, waiting.id) == [("first", "old"), ("legacy", "old"), ("last", "old")]


def test_what_an_old_flow_has_done_is_undone_by_the_new_version(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    old = deployed(worker, "old", "starts", "order", "first", "legacy")
    placed(bus, 1, last="fail")
    wait_for(lambda: [s.agent for f in bus.flows.list() for s in bus.flows.show(f.id).steps][2:], "its last step")
    old.stop()
    deployed(worker, "new")
    assert ended(broker, 1) == ["order.failed"]
    (flow,) = bus.flows.list()
    assert (flow.status, steps_of(broker, flow.id)[-1]) == ("compensated", ("unfirst", "new"))
