"""Parked deliveries in the ledger: whoever looks sees for what they wait and until when, and nobody loses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from pipeline import Event, Pipeline, SettleTimeout
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, moment, now
from pipeline.history.settle import settled
from pipeline.ledger.database import migrate
from pipeline.ledger.database.migrate import HEAD, upgrade
from pipeline.ledger.database.waiting import steps, waits
from pipeline.ledger.facts import Delivery
from pipeline.ledger.status import status
from pipeline.ledger.waiting.wait import TIME, Parking, Wait
from pipeline.operations.keeping.retention import Pruned, prune
from tests.ledgers import AFTER, DAY, DAYS, append, claim, engine_on, move, new_order, reconcile, release
from tests.records import age, event_ids, everything, order, rows, succeed

DUE = 7 * DAY


def parked(app: Pipeline, event: Event, due: int | None = None) -> str:
    """Let billing wait for a week with an event; return the delivery's id."""
    ledger, id = app.ledger, delivery_id(event.id, "billing")
    claimed = claim(ledger, event)
    wait = Wait(TIME, "sleeps", "sleep", due=now() + DUE if due is None else due)
    assert ledger.waiting.waits.park(Parking(Delivery(id, event, "billing"), claimed.attempt, wait))
    return id


def test_everybody_who_looks_sees_for_what_it_waits_and_until_when(app: Pipeline) -> None:
    event = app.publish(order())
    succeed(app, event, "stock")
    due = now() + DUE
    parked(app, event, due)
    assert "-> billing: parked" in str(app.trace(event))
    assert "sleeps" in str(app.trace(event))
    (node,) = [node for node in app.trace(event).roots[0].deliveries if node.agent == "billing"]
    assert (node.outcome, node.attempts, node.error, node.due) == ("parked", 0, "sleeps", moment(due))
    assert status(app.ledger.database).outcomes == {"parked": 1}
    *_, line = settled(app.ledger, event.id).lines()  # that it is sent is noted a moment later
    assert line == (
        f"agent 'billing' has order.placed {event.id}: parked until "
        f"{moment(due).isoformat(sep=' ', timespec='seconds')}, sleeps"
    )
    with pytest.raises(SettleTimeout, match=r"parked until .*, sleeps"):
        app.settle(event, timeout=0)


def test_what_waits_is_neither_lost_nor_pruned_nor_a_dead_letter(app: Pipeline) -> None:
    event = app.publish(order())
    succeed(app, event, "stock")
    parked(app, event)
    age(app, [event], 10 * DAY)
    before = everything(app)
    reconcile(app.ledger)
    assert app.ledger.due.lost("billing", AFTER) == []
    assert app.ledger.due.at_once() == []
    assert prune(app.ledger, older_than=DAYS) == Pruned(0, 0, 0, 1, None)
    assert everything(app) == before
    assert app.dead_letters.list() == []


def test_what_a_delivery_has_done_goes_with_it(app: Pipeline) -> None:
    event = app.publish(order())
    succeed(app, event, "stock")
    parked(app, event)
    assert release(app.ledger) == 1
    succeed(app, event, "billing")
    assert [row["name"] for row in rows(app, steps)] == ["sleep"]
    age(app, [event], 10 * DAY)
    assert prune(app.ledger, older_than=DAYS).events == 1
    assert (event_ids(app), rows(app, steps), rows(app, waits)) == ([], [], [])


def test_of_two_who_release_one_does_and_an_old_reason_ends_no_new_wait(app: Pipeline) -> None:
    event = app.publish(order())
    id = parked(app, event, due=now())
    ledger = app.ledger
    first = ledger.waiting.waits.of(id)
    assert first is not None
    with ledger.database.transaction() as connection:
        assert ledger.waiting.waits.release(connection, [first], ["null"]) == [id]
        assert ledger.waiting.waits.release(connection, [first], ["null"]) == []
    parked(app, event)
    with ledger.database.transaction() as connection:
        assert ledger.waiting.waits.release(connection, [first], ["null"]) == []
    assert [row["outcome"] for row in rows(app, id=id)] == ["parked"]


def test_what_is_parked_outlives_an_upgrade(fresh: Callable[..., Pipeline], ledger_url: str) -> None:
    event = new_order()
    id = delivery_id(event.id, "billing")
    due = now() + DUE
    values: dict[str, Any] = {"id": id, "event": event.id, "due": due, "body": event.encode().decode()}
    values |= {"correlation": event.correlation_id, "now": now()}
    with engine_on(ledger_url) as engine, engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrate._MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for statement in (
            "INSERT INTO pipeline_meta (name, value) VALUES ('id', 'l1'), ('secret', '00ff')",
            "INSERT INTO pipeline_events (id, type, correlation, time, recorded, body) "
            "VALUES (:event, 'order.placed', :correlation, :now, :now, :body)",
            "INSERT INTO pipeline_deliveries (id, event_id, agent, outcome, due, started, error) "
            "VALUES (:id, :event, 'billing', 'parked', :due, :now, 'sleeps')",
            "INSERT INTO pipeline_waits (delivery, name, kind, key, since, due) "
            "VALUES (:id, 'sleep', 'time', '', :now, :due)",
            "INSERT INTO pipeline_steps (delivery, name, number, started, ended, result) "
            "VALUES (:id, 'draft', 0, :now, :now, '\"text\"')",
        ):
            connection.execute(text(statement), values)
    app = fresh(ledger_url)
    assert upgrade(app.ledger.database) == ("0003", HEAD)
    assert [step.name for step in app.ledger.waiting.steps.of(id)] == ["draft"]
    move(app.ledger, waits, (DUE + SECOND) / SECOND)
    assert app.ledger.waiting.waits.release_due() == 1
    (message,) = app.ledger.due.at_once()
    assert (message.id, message.encoded.event.id) == (id, event.id)
    assert [step.name for step in app.ledger.waiting.steps.of(id)] == ["draft", "sleep"]


def test_a_hundred_waits_for_a_type_are_released_by_the_events_of_their_correlations(app: Pipeline) -> None:
    ledger, found = app.ledger, [app.publish(order(n)) for n in range(100)]
    for event in found:
        claimed = claim(ledger, event)
        id, correlation = delivery_id(event.id, "billing"), event.correlation_id
        wait = Wait("event", "waits", "wait", key="order.paid", correlation=correlation)
        assert ledger.waiting.waits.park(Parking(Delivery(id, event, "billing"), claimed.attempt, wait))
    paid = [append(ledger, type="order.paid", correlation_id=event.correlation_id)[0] for event in found[::2]]
    append(ledger, 10, "order.paid")
    assert ledger.waiting.arrivals.release(lambda condition, event: True) == 50
    assert ledger.waiting.arrivals.release(lambda condition, event: True) == 0
    released = {row["event_id"] for row in rows(app, agent="billing", outcome="queued")}
    assert released == {event.id for event in found[::2]}
    late = append(ledger, type="order.paid", correlation_id=found[1].correlation_id)
    assert ledger.waiting.arrivals.release(lambda condition, event: True) == 1
    ended_by = [json.loads(step["result"])["event"] for step in rows(app, steps)]
    assert sorted(ended_by) == sorted(one.id for one in [*paid, *late])
