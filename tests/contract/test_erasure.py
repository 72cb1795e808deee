"""Erasing one person's data: what is blank afterwards, what stays, and what is said about it, on every ledger."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from pipeline import Event, InvalidSelection, Pipeline
from pipeline.ledger.database.tables import aside, deliveries, events, metadata, snapshots, timers
from pipeline.ledger.database.waiting import steps
from tests.records import die, logged, lose_outbox, order, rows, run_agents, succeed

#: A word of the person's that must be nowhere afterwards.
SECRET = "Ada-Lovelace"

pytestmark = pytest.mark.usefixtures("agents")


def told(app: Pipeline, subject: str | None = "ada", **options: Any) -> Event:
    """Publish an event with somebody's data in it, of which the broker has a copy."""
    event = app.publish("order.paid", {"name": SECRET}, subject=subject, **options)
    lose_outbox(app)
    return event


def ended(app: Pipeline, event: Event) -> None:
    """Let one agent handle an event and the other give it up, with the data in the error and the result."""
    succeed(app, event, "stock")
    die(app, event, error=f"no such person: {SECRET}")
    with app.ledger.database.transaction() as connection:
        connection.execute(deliveries.update().values(result=json.dumps(SECRET), body=SECRET))
        for id in connection.execute(select(deliveries.c.id).where(deliveries.c.event_id == event.id)).scalars():
            step = {"delivery": id, "name": "read", "number": 0, "started": 1, "ended": 2, "result": json.dumps(SECRET)}
            connection.execute(insert(steps).values(step))


def found(app: Pipeline) -> list[str]:
    """Return the tables in which the person's data still is."""
    return [table.name for table in metadata.sorted_tables if SECRET in str(rows(app, table))]


def test_nothing_of_the_data_is_left_and_the_trace_stays_whole(app: Pipeline) -> None:
    event, other = told(app), told(app, "grace")
    caused = told(app, None, correlation_id=event.correlation_id)
    for each in (event, caused):
        ended(app, each)
    before = [(node.id, node.type, len(node.deliveries)) for node in app.trace(event.correlation_id)]
    with app.ledger.database.transaction() as connection:
        bad = {"place": "replay", "id": event.id, "at": 1, "reason": SECRET}
        connection.execute(insert(aside).values(bad))
        state = {"stream": "ada", "state": "S", "tx": 0, "seq": 1, "max_seq": 1, "max_time": 1, "body": SECRET}
        connection.execute(insert(snapshots).values(state))

    erased = app.erase(subject="ada", by="the law")
    assert (erased.events, erased.deliveries, erased.delayed, erased.unfinished) == (2, 4, 0, 0)
    assert {row["id"] for row in rows(app, events) if SECRET in row["body"]} == {other.id}
    assert found(app) == ["pipeline_events"]
    assert [(node.id, node.type, len(node.deliveries)) for node in app.trace(event.correlation_id)][
        : len(before)
    ] == before
    blank = app.get_event(event.id).event
    assert (blank.data, blank.subject, blank.time, blank.correlation_id) == (
        None, "ada", event.time, event.correlation_id,
    )  # fmt: skip
    assert app.dead_letters.list() == []


def test_a_record_says_what_was_erased_by_whom_and_how_many(app: Pipeline) -> None:
    event = told(app)
    ended(app, event)
    erased = app.erase(subject="ada", by="the law")
    (record,) = logged(app, "delivery.erased")
    assert record.id == erased.record
    numbers = {"events": 1, "deliveries": 2, "delayed": 0}
    assert record.data == {"subject": "ada", "correlation": None, "by": "the law", **numbers}
    # Done again it finds nothing, and leaves no second record.
    assert app.erase(subject="ada").as_data() == {**dict.fromkeys([*numbers, "unfinished"], 0), "record": None}
    assert len(logged(app, "delivery.erased")) == 1


def test_a_correlation_is_erased_without_any_other(app: Pipeline) -> None:
    event, other = told(app, None), told(app, None)
    for each in (event, other):
        succeed(app, each, "stock")
        succeed(app, each, "billing")
    assert app.erase(correlation=event.correlation_id).events == 1
    assert app.get_event(event.id).event.data is None
    assert app.get_event(other.id).event.data == {"name": SECRET}


def test_what_agents_are_still_at_work_on_stays_and_is_counted(app: Pipeline) -> None:
    event = told(app)
    succeed(app, event, "stock")
    erased = app.erase(subject="ada")
    assert (erased.events, erased.unfinished, erased.record) == (0, 1, None)
    assert found(app) == ["pipeline_events"]
    succeed(app, event, "billing")
    assert app.erase(subject="ada").events == 1
    assert found(app) == []


def test_delayed_events_are_taken_back(app: Pipeline) -> None:
    mine = app.publish("order.paid", {"name": SECRET}, subject="ada", delay=timedelta(days=1))
    other = app.publish("order.paid", {"about": "ada"}, subject="grace", delay=timedelta(days=1))
    assert app.erase(subject="ada").delayed == 1
    assert [row["id"] for row in rows(app, timers)] == [other.id]
    assert not app.cancel(mine.id)


def test_a_dry_run_counts_and_changes_nothing(app: Pipeline) -> None:
    ended(app, told(app))
    app.publish("order.paid", {}, subject="ada", delay=timedelta(days=1))
    before = [rows(app, table) for table in (events, deliveries, timers)]
    dry = app.erase(subject="ada", dry_run=True)
    assert (dry.events, dry.deliveries, dry.delayed, dry.record) == (1, 2, 1, None)
    assert [rows(app, table) for table in (events, deliveries, timers)] == before
    wet = app.erase(subject="ada")
    assert (wet.events, wet.deliveries, wet.delayed) == (1, 2, 1)


def test_an_agent_that_is_called_as_the_subject_keeps_its_history(app: Pipeline) -> None:
    run_agents(app, {"other": "nothing.of.this"})
    event = app.publish(order())
    lose_outbox(app)
    with app.ledger.database.transaction() as connection:
        connection.execute(events.update().values(stream="billing", delivery="some-delivery"))
    assert app.erase(subject="billing").events == 0
    assert app.get_event(event.id).event.data is not None


def test_who_says_nothing_or_too_much_is_told_what_to_say(app: Pipeline) -> None:
    for chosen in ({}, {"subject": "ada", "correlation": "x"}):
        with pytest.raises(InvalidSelection, match="exactly one"):
            app.erase(**chosen)
