"""Metadata in the ledger: what a flow carries along, and how its events are found by it, on every ledger."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event as sqlalchemy_event

from pipeline import InvalidSelection, Pipeline
from pipeline.history.events import EventQuery, get_events
from pipeline.ledger.database.tables import tags, timers
from pipeline.ledger.ledger import Ledger
from pipeline.operations.keeping.restore import restore
from pipeline.operations.keeping.retention import prune
from tests.harness import Broker, StartWorker
from tests.logs import numbered, numbers, put
from tests.records import lose_outbox, rows, succeed


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_events_are_found_by_their_metadata_in_the_order_of_the_log(ledger: Ledger, batch: int) -> None:
    put(ledger, *(numbered(n, metadata={"session": f"s{n % 3}", "n": n}) for n in range(12)), numbered(12))
    assert numbers(get_events(ledger, EventQuery(metadata={"session": "s1"}, batch=batch))) == [1, 4, 7, 10]
    assert numbers(get_events(ledger, EventQuery(metadata={"session": "s1", "n": 4}, batch=batch))) == [4]
    assert numbers(get_events(ledger, EventQuery(metadata={"n": 4, "session": "s0"}, batch=batch))) == []
    assert numbers(get_events(ledger, EventQuery(metadata={"session": "s1"}, since=5, up_to=8, batch=batch))) == [4, 7]
    assert numbers(get_events(ledger, EventQuery(type="order.*", metadata={"n": 3}, batch=batch))) == [3]
    assert numbers(get_events(ledger, EventQuery(metadata={"other": "s1"}, batch=batch))) == []


def test_an_event_that_is_appended_twice_is_found_once(ledger: Ledger) -> None:
    one = numbered(1, metadata={"session": "s1"})
    put(ledger, one)
    put(ledger, one)
    assert numbers(get_events(ledger, EventQuery(metadata={"session": "s1"}))) == [1]


def test_a_page_is_read_along_the_index(ledger: Ledger) -> None:
    put(ledger, *(numbered(n, metadata={"session": f"s{n % 50}"}) for n in range(500)))
    plans: list[str] = []

    def explain(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if "pipeline_tags" in statement and not statement.startswith("EXPLAIN"):
            plan = "EXPLAIN " if not ledger.database.is_sqlite else "EXPLAIN QUERY PLAN "
            found = cursor.connection.cursor()  # type: ignore[attr-defined]
            found.execute(plan + statement, parameters)
            plans.append(str(found.fetchall()))

    sqlalchemy_event.listen(ledger.database.engine, "before_cursor_execute", explain)
    assert len(list(get_events(ledger, EventQuery(metadata={"session": "s7"})))) == 10
    assert plans
    assert all("pipeline_tags_pkey" in plan or "PRIMARY KEY (name=? AND value=?" in plan for plan in plans), plans


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, "x" * 256])
def test_what_no_event_can_be_found_by_is_refused(ledger: Ledger, value: object) -> None:
    with pytest.raises(InvalidSelection, match="metadata: events are found by texts"):
        EventQuery(metadata={"session": value})


@pytest.mark.usefixtures("agents")
def test_what_leaves_the_ledger_is_no_longer_found_and_what_comes_back_is(app: Pipeline, tmp_path: Path) -> None:
    gone = app.publish("note.made", {}, metadata={"session": "s1"})
    kept = app.publish("note.made", {}, metadata={"session": "s1"})
    lose_outbox(app)
    archive = tmp_path / "a.jsonl"
    assert prune(app.ledger, keep=1, archive=archive).events == 1
    assert [one.event.id for one in app.get_events(metadata={"session": "s1"})] == [kept.id]
    assert len(rows(app, tags)) == 1
    assert restore(app.ledger, archive).events == 1
    assert [one.event.id for one in app.get_events(metadata={"session": "s1"})] == [gone.id, kept.id]


@pytest.mark.usefixtures("agents")
def test_erasing_leaves_nothing_of_metadata(app: Pipeline) -> None:
    event = app.publish("order.paid", {}, subject="ada", metadata={"name": "Ada-Lovelace"})
    lose_outbox(app)
    for agent in ("billing",):
        succeed(app, event, agent)
    assert app.erase(subject="ada").events == 1
    assert rows(app, tags) == []
    assert list(app.get_events(metadata={"name": "Ada-Lovelace"})) == []


def test_a_delayed_event_keeps_its_metadata_until_it_is_published(app: Pipeline) -> None:
    event = app.publish("note.made", {}, metadata={"session": "s1"}, delay=timedelta(days=1))
    assert list(app.get_events(metadata={"session": "s1"})) == []
    assert json.loads(rows(app, timers, id=event.id)[0]["body"])["metadata"] == '{"session":"s1"}'


def test_what_an_event_causes_in_workers_carries_its_metadata(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    first = bus.publish("extra.only", {"beta": "emit task.created"}, metadata={"session": "s1"})
    bus.settle(first, timeout=30)
    found = list(bus.get_events(metadata={"session": "s1"}))
    assert [one.event.type for one in found] == ["extra.only", "task.created"]
    assert {one.event.correlation_id for one in found} == {first.id}
