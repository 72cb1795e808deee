"""Traces: what an event has caused, as a tree, on every ledger."""

from __future__ import annotations

import itertools
import json

import orjson
import pytest
from sqlalchemy import insert, update

from pipeline.core.errors import UnknownEvent
from pipeline.core.event import Encoded
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND
from pipeline.history.settle import settle, settled
from pipeline.history.trace import trace
from pipeline.ledger.database.tables import deliveries, events, flows
from pipeline.ledger.facts import Success
from pipeline.ledger.ledger import Ledger
from tests.logs import START, begin, cascade, made, outline, put, started_join, succeed


def test_a_trace_is_the_tree_of_events_and_deliveries(ledger: Ledger) -> None:
    written = cascade(ledger)
    put(ledger, made("order.created"))
    order = written["order.created"]

    found = trace(ledger, order.id)

    assert outline(found) == [
        (0, "order.created"),
        (1, "billing"),
        (2, "order.paid"),
        (3, "books"),
        (4, "payment.booked"),
        (1, "mailer"),
        (2, "mail.sent"),
        (1, "note.made"),
    ]
    assert found.correlation == order.id
    (root,) = found.roots
    assert (root.id, root.source, root.priority, root.time) == (order.id, "/shop", 2, START)
    billing = root.deliveries[0]
    assert (billing.outcome, billing.attempts, billing.worker, billing.error) == ("succeeded", 1, "w1", None)
    assert root.recorded <= billing.started <= billing.ended  # type: ignore[operator]
    assert [node.parent and node.parent.type for node in found] == [
        None, "order.created", "order.paid", "order.created", "order.created",
    ]  # fmt: skip


@pytest.mark.parametrize("body", ["{", "", "[]", '{"id": 1}'])
def test_a_damaged_event_keeps_its_place_in_the_tree(ledger: Ledger, body: str) -> None:
    written = cascade(ledger)
    order, paid = written["order.created"], written["order.paid"]
    whole, still_open = outline(trace(ledger, order.id)), settled(ledger, order.id).lines()
    with ledger.database.transaction() as connection:
        connection.execute(update(events).where(events.c.id.in_([order.id, paid.id])).values(body=body))

    found = trace(ledger, order.id)

    assert outline(found) == whole
    assert [node.type for node in found if node.source == "?"] == ["order.created", "order.paid"]
    assert settled(ledger, order.id).lines() == still_open
    assert trace(ledger, paid.id).correlation == order.id


def test_the_trace_of_a_later_event_is_what_that_one_caused(ledger: Ledger) -> None:
    written = cascade(ledger)

    found = trace(ledger, written["order.paid"].id)

    assert outline(found) == [(0, "order.paid"), (1, "books"), (2, "payment.booked")]
    assert found.correlation == written["order.created"].id


def test_a_correlation_of_ones_own_has_several_roots(ledger: Ledger) -> None:
    first, second = made("a", correlation_id="visit-7"), made("b", correlation_id="visit-7")
    put(ledger, first, second)
    succeed(ledger, second, "x", made("c", cause=second))

    assert outline(trace(ledger, "visit-7")) == [(0, "a"), (0, "b"), (1, "x"), (2, "c")]
    assert outline(trace(ledger, second.id)) == [(0, "b"), (1, "x"), (2, "c")]


def test_an_effect_of_what_is_no_longer_there_is_a_root(ledger: Ledger) -> None:
    gone = made("a")
    put(ledger, made("b", cause=gone))

    assert outline(trace(ledger, gone.id)) == [(0, "b")]


def test_events_that_cause_each_other_end(ledger: Ledger) -> None:
    one, two = made("one", correlation_id="c"), made("two", correlation_id="c")
    alone, tail = made("alone", correlation_id="c"), made("tail", correlation_id="c")
    put(
        ledger,
        tail.evolve(causation_id=two.id),
        one.evolve(causation_id=two.id),
        two.evolve(causation_id=one.id),
        alone.evolve(causation_id=alone.id),
    )

    for id in ("c", one.id, two.id, alone.id):
        assert [node.type for node in trace(ledger, id)]
    assert sorted(node.type for node in trace(ledger, "c")) == ["alone", "one", "tail", "two"]
    assert outline(trace(ledger, "c")) == [(0, "one"), (1, "two"), (2, "tail"), (0, "alone")]
    assert settled(ledger, one.id)


def test_a_chain_longer_than_the_stack(ledger: Ledger) -> None:
    chain = [made("step.0")]
    for number in range(1, 1500):
        chain.append(made(f"step.{number}", cause=chain[-1]))
    for start in range(0, len(chain), 100):
        put(ledger, *chain[start : start + 100])

    found = trace(ledger, chain[0].id)

    assert outline(found) == [(number, f"step.{number}") for number in range(1500)]
    assert len(str(found).splitlines()) == 1 + 2 * 1500
    assert json.loads(orjson.dumps(found.as_data()))["events"][-1]["parent"] == chain[-2].id
    assert settled(ledger, chain[0].id)


@pytest.mark.parametrize("id", ["nope", ""])
def test_an_unknown_id_is_refused(ledger: Ledger, id: str) -> None:
    put(ledger, made())
    for question in (trace, settled):
        with pytest.raises(UnknownEvent, match=f"no event '{id}' is in the ledger"):
            question(ledger, id)
    with pytest.raises(UnknownEvent):
        settle(ledger, id, 60)


def test_a_trace_as_json(ledger: Ledger) -> None:
    written = cascade(ledger)
    order, paid = written["order.created"], written["order.paid"]

    found = json.loads(orjson.dumps(trace(ledger, order.id).as_data()))

    assert [(event["type"], event["parent"]) for event in found["events"]] == [
        ("order.created", None),
        ("order.paid", order.id),
        ("payment.booked", paid.id),
        ("mail.sent", order.id),
        ("note.made", order.id),
    ]
    first = found["events"][0]
    assert (first["time"], first["priority"], first["seq"]) == ("2026-01-01T00:00:00Z", 2, 1)
    assert first["deliveries"][0]["outcome"] == "succeeded"
    assert first["deliveries"][0]["events"] == [paid.id]
    assert found["flows"] == []


def test_a_trace_as_text(ledger: Ledger) -> None:
    order = made("order.created", priority=1)
    put(ledger, order)
    for number, agent in enumerate(("billing", "mailer", "books", "stock")):
        begin(ledger, order, agent)
        with ledger.database.transaction() as connection:
            mine = deliveries.c.agent == agent
            connection.execute(update(deliveries).where(mine).values(started=5 * SECOND + number * SECOND // 4))
    ledger.again(
        delivery_id(order.id, "mailer"),
        order,
        1,
        delay=0,
        error="SMTPError: \x1b[31mno\nroute " + "x" * 500,
        timer=True,
    )
    ledger.die(delivery_id(order.id, "books"), 1, [], error="ValueError: 7", traceback="", due_in=0)
    ledger.succeed(Success(delivery_id(order.id, "billing"), [], [], due_in=None))
    with ledger.database.transaction() as connection:
        connection.execute(update(events).values(recorded=5 * SECOND))
        connection.execute(
            update(deliveries).where(deliveries.c.ended.is_not(None)).values(ended=7 * SECOND, attempts=3)
        )
        connection.execute(update(deliveries).where(deliveries.c.agent == "mailer").values(due=9 * SECOND))
        connection.execute(insert(flows), [{**started_join(order)[1].row, "started": 6 * SECOND}])

    lines = str(trace(ledger, order.id)).splitlines()

    mailer = lines.pop(3)
    assert lines == [
        f"correlation {order.id}, from 1970-01-01 00:00:05.000+00:00 on",
        f"order.created {order.id} from /shop, +0.000 s, priority 1",
        "  -> billing: succeeded, +0.000 s, took 2.000 s, 3 attempts",
        "  -> books: dead, +0.500 s, took 1.500 s, 3 attempts, ValueError: 7",
        "  -> stock: running, +0.750 s",
        "join briefing is not complete, +1.000 s",
    ]
    assert mailer.startswith("  -> mailer: retrying, +0.250 s, due +4.000 s, SMTPError: [31mno route xxx")
    assert mailer.endswith("x...")
    assert len(mailer) < 300


def test_what_nobody_listens_to_is_shown_as_such(ledger: Ledger) -> None:
    order = made()
    ledger.append([Encoded(order, order.encode())], due_in=None)

    assert "  -> no agent listens to it" in str(trace(ledger, order.id))


def test_a_large_correlation_is_read_in_three_statements(ledger: Ledger) -> None:
    from sqlalchemy import event as sqlalchemy_event

    order = made("order.created")
    effects = [made("order.noted", cause=order) for _ in range(1000)]
    put(ledger, order, *effects)
    statements = itertools.count()
    sqlalchemy_event.listen(ledger.database.engine, "before_cursor_execute", lambda *_: next(statements))

    assert len(list(trace(ledger, order.id))) == 1001
    assert next(statements) <= 6
