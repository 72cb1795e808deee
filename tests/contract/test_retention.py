"""Retention: which old events leave the ledger and which stay, on every ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.errors import InvalidSelection
from pipeline.core.event import Encoded
from pipeline.core.ids import delivery_id
from pipeline.core.times import now
from pipeline.ledger.bounding.budget import TREE
from pipeline.ledger.database.tables import flows
from pipeline.ledger.database.waiting import budgets
from pipeline.ledger.facts import Delivery
from pipeline.operations.keeping import archive
from pipeline.operations.keeping.retention import Pruned, prune
from tests.ledgers import DAY, DAYS, append, long_settled
from tests.records import (
    age,
    die,
    event_ids,
    everything,
    lose_outbox,
    order,
    rows,
    run_agents,
    succeed,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("agents")


def test_old_events_go_with_their_deliveries(app: Pipeline) -> None:
    gone, kept = long_settled(app, 3, days=31), long_settled(app, 2, days=29)
    assert prune(app.ledger, older_than=30 * DAYS) == Pruned(3, 6, 0, 0, None)
    assert event_ids(app) == [event.id for event in kept]
    assert {row["event_id"] for row in rows(app)} == {event.id for event in kept}
    assert prune(app.ledger, older_than=30 * DAYS) == Pruned(0, 0, 0, 0, None)
    assert not {event.id for event in gone} & set(event_ids(app))


@pytest.mark.parametrize(("keep", "number"), [(0, 0), (2, 2), (5, 5), (9, 5)])
def test_the_newest_stay(app: Pipeline, keep: int, number: int) -> None:
    found = long_settled(app, 5)
    assert prune(app.ledger, keep=keep).events == 5 - number
    assert event_ids(app) == [event.id for event in found[5 - number :]]


def test_with_both_limits_an_event_has_to_be_beyond_both(app: Pipeline) -> None:
    found = [*long_settled(app, 3, days=31), *long_settled(app, 1, days=1)]
    assert prune(app.ledger, older_than=30 * DAYS, keep=2).events == 2
    assert event_ids(app) == [event.id for event in found[2:]]
    assert prune(app.ledger, older_than=30 * DAYS, keep=1).events == 1


def test_events_that_nobody_listens_to_and_filtered_or_dropped_ones_go_too(app: Pipeline) -> None:
    lost = app.publish("lost.one", {})
    dropped = app.publish("order.paid", {})
    app.dead_letters.drop(die(app, dropped))
    lose_outbox(app)
    age(app, [lost, dropped], 10 * DAY)
    assert prune(app.ledger, older_than=5 * DAYS).events == 2


def test_dead_letters_stay_and_are_counted(app: Pipeline) -> None:
    (event,) = app.publish_many([order()])
    succeed(app, event, "stock")
    id = die(app, event)
    long_settled(app, 1)
    age(app, [event], 10 * DAY)
    assert prune(app.ledger, older_than=DAYS) == Pruned(1, 2, 1, 0, None)
    assert app.dead_letters.get(id).event == event


@pytest.mark.parametrize("state", ["unsent", "running", "retrying", "requeued", "joining", "unclaimed"])
def test_an_event_with_which_something_is_still_to_be_done_stays(app: Pipeline, state: str) -> None:
    event = app.publish(order())
    succeed(app, event, "stock")
    id = delivery_id(event.id, "billing")
    if state == "unsent":
        succeed(app, event, "billing")
        app.bus.outbox.flush()
        app.ledger.append([Encoded(event, event.encode())], due_in=0)
    elif state == "running":
        app.ledger.claim(Delivery(id, event, "billing"), worker="w")
    elif state == "retrying":
        app.ledger.claim(Delivery(id, event, "billing"), worker="w")
        app.ledger.again(id, event, 1, delay=60, error="no", timer=True)
    elif state == "requeued":
        app.dead_letters.requeue(die(app, event))
    elif state == "joining":
        succeed(app, event, "billing")
        _add(app, flows, **flow(id="j", event_id=event.id, correlation=event.correlation_id))
    age(app, [event], 10 * DAY)
    before = everything(app)
    assert prune(app.ledger, older_than=DAYS) == Pruned(0, 0, 0, 1, None)
    assert everything(app) == before


def flow(**values: Any) -> dict[str, Any]:
    return {"name": "j", "kind": "join", "status": "active", "definition": "", "members": 2, "started": 1, **values}


def _add(app: Pipeline, table: Any, **values: Any) -> None:
    with app.ledger.database.transaction() as connection:
        connection.execute(table.insert().values(**values))


def test_an_event_goes_when_its_agent_is_behind_it_or_does_not_want_it_or_is_forgotten(app: Pipeline) -> None:
    wanted = app.publish(order())
    for_stock = app.publish(order(), targets=("stock",))
    succeed(app, wanted, "stock")
    succeed(app, for_stock, "stock")
    age(app, [wanted, for_stock], 10 * DAY)
    assert prune(app.ledger, older_than=DAYS).events == 1, "the other agent was never meant"
    assert event_ids(app) == [wanted.id]
    app.ledger.subscribers.forget("billing")
    assert prune(app.ledger, older_than=DAYS).events == 1


def test_an_agent_that_came_later_holds_nothing_back(app: Pipeline) -> None:
    long_settled(app, 2)
    run_agents(app, {"late": "#"})
    assert prune(app.ledger, older_than=DAYS) == Pruned(2, 4, 0, 0, None)


def test_budgets_of_days_and_trees_that_are_long_over_go_too_and_those_that_count_on_stay(app: Pipeline) -> None:
    (event,) = append(app.ledger)
    old = {"at": now() - 10 * DAY}
    _add(app, budgets, name="tenant", key="acme", period="2026-01-01", **old)
    _add(app, budgets, name="tenant", key="acme", period="2026-01-02", at=now())
    _add(app, budgets, name="tenant", key="acme", period="", is_set=True, **old)
    _add(app, budgets, name=TREE, key=event.correlation_id, period="", **old)
    _add(app, budgets, name=TREE, key="gone", period="", **old)
    prune(app.ledger, older_than=DAYS)
    left = {(row["name"], row["key"], row["period"]) for row in rows(app, budgets)}
    assert left == {("tenant", "acme", "2026-01-02"), ("tenant", "acme", ""), (TREE, event.correlation_id, "")}


def test_flows_that_ended_long_ago_go_too(app: Pipeline) -> None:
    for number, ended in enumerate([now() - 10 * DAY, now(), None]):
        _add(app, flows, **flow(id=str(number), event_id="e", correlation="c", ended=ended))
    prune(app.ledger, older_than=DAYS)
    assert [row["id"] for row in rows(app, flows)] == ["1", "2"]


def test_events_go_in_batches_with_progress(app: Pipeline) -> None:
    found = long_settled(app, 5)
    (kept,) = found[2:3]
    app.ledger.claim(Delivery(delivery_id(kept.id, "audit"), kept, "audit"), worker="w")
    done: list[int] = []
    assert prune(app.ledger, older_than=DAYS, batch=2, progress=done.append).events == 4
    assert done == [2, 3, 4]
    assert event_ids(app) == [kept.id]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep": -1},
        {"older_than": -DAYS},
        {"keep": 1, "batch": 0},
        {"keep": 1, "batch": 100_000},
    ],
)
def test_what_may_go_has_to_be_said(app: Pipeline, arguments: dict[str, Any]) -> None:
    found = long_settled(app, 1)
    with pytest.raises(InvalidSelection):
        prune(app.ledger, **arguments)
    assert event_ids(app) == [event.id for event in found]


def test_an_event_that_is_taken_up_again_meanwhile_stays(
    app: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = long_settled(app, 2)
    written = archive.write

    def write(*arguments: Any) -> int:
        number = written(*arguments)
        succeed(app, one, "replayed")
        return number

    monkeypatch.setattr(archive, "write", write)
    assert prune(app.ledger, older_than=DAYS, archive=tmp_path / "a.jsonl").events == 1
    assert event_ids(app) == [one.id]
    assert len(rows(app, event_id=one.id)) == 3
    assert rows(app, event_id=two.id) == []
