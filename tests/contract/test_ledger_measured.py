"""What Prometheus reads of each ledger: what is due, how old it is, what was spent, and what has not ended."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Context, Event, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.http.measured import measured
from pipeline.http.routes.metrics import _Standing
from pipeline.ledger.database.tables import events, outbox, timers
from tests.ledgers import move


def deliver(app: Pipeline, event: Event, agent: str) -> None:
    app.celery.finalize()
    task, id = app.celery.tasks[f"agent.{agent}"], delivery_id(event.key, agent)
    bus = {"ledger": app.ledger.id, "key": event.key}
    task.push_request(id=id, retries=0, called_directly=False, ignore_result=True, delivery_info={}, bus=bus)
    try:
        task.run(event.encode().decode())
    finally:
        task.pop_request()


def samples(app: Pipeline, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by the values of its labels."""
    (family,) = (one for one in _Standing(app).collect() if one.name == name)
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_the_age_of_what_is_unsent_and_what_is_due(app: Pipeline) -> None:
    found = measured(app.ledger.database)
    assert (found.unsent_age, found.timers_due, found.approvals, found.flows, found.spent) == (0.0, 0, 0, [], [])
    with app.ledger.database.session() as session:
        app.publish("a.b", {}, session=session)
        session.commit()
    app.publish("a.b", {}, delay=100)
    assert (samples(app, "pipeline_timers_pending"), samples(app, "pipeline_timers_due")) == ({(): 1}, {(): 0})
    move(app.ledger, timers, 101)
    move(app.ledger, events, 1000, "time")
    assert samples(app, "pipeline_timers_due") == {(): 1}
    assert samples(app, "pipeline_outbox_oldest_seconds")[()] >= 1000
    move(app.ledger, outbox, 1000)
    assert samples(app, "pipeline_outbox_unsent") == {(): 1}


def test_what_waits_for_people_is_counted(app: Pipeline) -> None:
    app.publish("action.proposed", {"action_id": "1", "agent_id": "work", "action": "refund"})
    assert samples(app, "pipeline_approvals_open") == {(): 1}
    app.approvals.veto("1", by="ada")
    assert samples(app, "pipeline_approvals_open") == {(): 0}


def test_what_was_spent_is_told_by_budget_and_unit(app: Pipeline) -> None:
    app.budget("models", tokens=1000, per="day")

    @app.agent(on="a.b")
    def work(data: Any, ctx: Context) -> None:
        use = ctx.budget.reserve(tokens=100, cost=2_000_000)
        use.settle(tokens=60, cost=1_500_000)

    app.ledger.subscribers.register({"work": (("a.b",), None)})
    deliver(app, app.publish("a.b", {}, budget={"tokens": 1000}), "work")
    found = samples(app, "pipeline_budget_spent")
    assert (found["models", "tokens"], found["models", "cost"]) == (60, 1.5)
    assert {budget for budget, _ in found} == {"models"}, "those of trees are as many as there are trees"


def test_flows_that_have_not_ended_are_told_by_name_and_status(app: Pipeline) -> None:
    @app.agent(on=())
    def one(data: Any) -> None: ...

    @app.agent(on=())
    def two(data: Any) -> None: ...

    app.join("both", on="a.b", agents=[one, two], emits="a.done")
    app.ledger.subscribers.register(dict.fromkeys(("one", "two"), ((), None)) | {"both": (("a.b",), None)})
    deliver(app, app.publish("a.b", {}), "both")
    assert samples(app, "pipeline_flows") == {("both", "active"): 1}


@pytest.mark.parametrize(("most", "names"), [(2, {"a", "b", "other"}), (9, {"a", "b", "c", "d"})])
def test_agents_beyond_the_budget_of_labels_are_told_together(make: Any, most: int, names: set[str]) -> None:
    app = make(metrics_labels=most)
    app.ledger.subscribers.register({name: ((f"{name}.x",), None) for name in "abcd"})
    found = samples(app, "pipeline_deliveries_running")
    assert {labels[0] for labels in found} == names
    for name in "abcd":
        app.pause(name)
    paused = samples(app, "pipeline_paused")
    assert ({labels[0] for labels in paused}, sum(paused.values())) == (names, 4)
