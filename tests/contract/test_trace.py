"""Traces, and waiting until all that an event has caused is done, on every ledger."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, update

from pipeline.errors import InvalidSelection, PipelineError, SettleTimeout, UnknownEvent
from pipeline.event import Event
from pipeline.ids import caused_id, delivery_id
from pipeline.ledger import Ledger, missing
from pipeline.ledger.rows import SECOND, Record, micros, now, timer_row
from pipeline.ledger.tables import deliveries, events, joins, timers
from pipeline.trace import settle, settled, trace
from pipeline.tree import DeliveryNode, EventNode, Trace
from tests.logs import START, begin, made, opened, put, succeed


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    with opened(ledger_url) as ledger:
        yield ledger


def outline(found: Trace) -> list[tuple[int, str]]:
    """Return the tree as depths and names, without saying of what that nobody listens to it."""
    named = [(depth, node.type if isinstance(node, EventNode) else node.agent) for depth, node in found.walk()]
    return [(depth, name) for depth, name in named if name]


def cascade(ledger: Ledger) -> dict[str, Event]:
    """An order is paid for and mailed about; the payment is booked; somebody else publishes an effect by hand."""
    order = made("order.created", {"n": 1}, priority=2)
    paid = made("order.paid", cause=order, agent="billing")
    mailed = made("mail.sent", cause=order, agent="mailer")
    booked = made("payment.booked", cause=paid, agent="books")
    note = made("note.made", cause=order)
    put(ledger, order)
    succeed(ledger, order, "billing", paid)
    succeed(ledger, order, "mailer", mailed)
    succeed(ledger, paid, "books", booked)
    put(ledger, note)
    return {event.type: event for event in (order, paid, mailed, booked, note)}


def started_join(event: Event) -> dict[str, Any]:
    return {
        "id": delivery_id(event.id, "join"),
        "name": "briefing",
        "event_id": event.id,
        "correlation": event.correlation_id,
        "started": now(),
    }


# -- traces


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
    assert found["joins"] == []


def test_a_trace_as_text(ledger: Ledger) -> None:
    order = made("order.created", priority=1)
    put(ledger, order)
    for number, agent in enumerate(("billing", "mailer", "books", "stock")):
        begin(ledger, order, agent)
        with ledger.store.transaction() as connection:
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
    ledger.die(delivery_id(order.id, "books"), 1, [], error="ValueError: 7", traceback="", due=0)
    ledger.succeed(delivery_id(order.id, "billing"), [], [], due=None)
    with ledger.store.transaction() as connection:
        connection.execute(update(events).values(recorded=5 * SECOND))
        connection.execute(
            update(deliveries).where(deliveries.c.ended.is_not(None)).values(ended=7 * SECOND, attempts=3)
        )
        connection.execute(update(deliveries).where(deliveries.c.agent == "mailer").values(due=9 * SECOND))
        connection.execute(insert(joins), [{**started_join(order), "started": 6 * SECOND}])

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
    ledger.append([Record(order, order.encode())], due=None)

    assert "  -> no agent listens to it" in str(trace(ledger, order.id))


# -- settling


def listen(ledger: Ledger, **patterns: str) -> None:
    missing.register(ledger, {name: ((pattern,), None) for name, pattern in patterns.items()})


def test_an_event_settles_when_all_it_caused_is_done(ledger: Ledger) -> None:
    listen(ledger, billing="order.created", books="order.paid")
    order = made("order.created")
    paid = made("order.paid", cause=order, agent="billing")
    ledger.append([Record(order, order.encode())], due=now())

    assert settled(ledger, order.id).lines() == [
        f"order.created {order.id} is not sent yet",
        f"agent 'billing' has not begun with order.created {order.id}",
    ]
    ledger.mark_sent([order.id])
    assert settled(ledger, order.id).lines() == [f"agent 'billing' has not begun with order.created {order.id}"]
    delivery = begin(ledger, order, "billing")
    assert settled(ledger, order.id).lines() == [f"agent 'billing' has order.created {order.id}: running"]
    ledger.again(delivery, order, 1, delay=60, error="boom", timer=True)
    assert settled(ledger, order.id).lines() == [f"agent 'billing' has order.created {order.id}: retrying"]
    ledger.claim(delivery, order, "billing", worker="w1", expected=2)
    ledger.succeed(delivery, [Record(paid, paid.encode(), delivery)], [], due=None)
    assert settled(ledger, order.id).lines() == [f"agent 'books' has not begun with order.paid {paid.id}"]
    succeed(ledger, paid, "books")

    assert settled(ledger, order.id).lines() == []
    assert settled(ledger, order.id)
    assert outline(settle(ledger, order.id, 0)) == [
        (0, "order.created"),
        (1, "billing"),
        (2, "order.paid"),
        (3, "books"),
    ]


@pytest.mark.parametrize("outcome", ["succeeded", "filtered", "dropped", "dead", "unrouted"])
def test_what_is_over_is_settled(ledger: Ledger, outcome: str) -> None:
    listen(ledger, billing="order.created")
    order = made("order.created")
    put(ledger, order)
    begin(ledger, order, "billing")
    assert not settled(ledger, order.id)
    with ledger.store.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.agent == "billing").values(outcome=outcome))

    assert settled(ledger, order.id)


@pytest.mark.parametrize("outcome", ["waiting", "running", "retrying"])
def test_what_is_under_way_is_not_settled(ledger: Ledger, outcome: str) -> None:
    order = made("order.created")
    put(ledger, order)
    begin(ledger, order, "billing")
    with ledger.store.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.agent == "billing").values(outcome=outcome))

    found = settled(ledger, order.id)
    assert [(event.id, delivery.outcome) for event, delivery in found.deliveries] == [(order.id, outcome)]


def test_only_targets_are_waited_for(ledger: Ledger) -> None:
    listen(ledger, billing="order.*", mailer="order.*", books="user.*")
    order = made("order.created", targets=("mailer", "books"))
    put(ledger, order)

    assert [name for _, name in settled(ledger, order.id).undelivered] == ["mailer"]


def test_what_a_replay_emitted_is_for_nobody(ledger: Ledger) -> None:
    listen(ledger, billing="order.*")
    order = made("order.created")
    put(ledger, order, replay="r")

    assert settled(ledger, order.id)


def test_a_new_agent_is_not_waited_for_with_what_came_before_it(ledger: Ledger) -> None:
    order = made("order.created")
    put(ledger, order)
    listen(ledger, late="order.*")
    assert settled(ledger, order.id)

    missing.register(ledger, {"archivist": (("order.*",), 1)})  # it wants the past too
    assert [name for _, name in settled(ledger, order.id).undelivered] == ["archivist"]
    missing.check(ledger, 0)
    assert [(each.agent, each.outcome) for _, each in settled(ledger, order.id).deliveries] == [
        ("archivist", "waiting")
    ]


def test_a_delayed_event_is_waited_for(ledger: Ledger) -> None:
    order = made("order.created")
    later = made("order.reminder", cause=order)
    foreign = made("order.reminder", correlation_id=order.id)
    put(ledger, order)
    rows = [timer_row(each.id, "publish", micros(START), order.id, each.encode()) for each in (later, foreign)]
    with ledger.store.transaction() as connection:
        ledger.add_timers(connection, rows)

    assert settled(ledger, order.id).timers == (later.id,)
    assert settled(ledger, order.id).lines() == [f"the delayed event {later.id} is not due yet"]
    assert settled(ledger, later.id).timers == (later.id,)
    with ledger.store.transaction() as connection:
        connection.execute(timers.delete())
    assert settled(ledger, order.id)


def test_a_join_is_waited_for(ledger: Ledger) -> None:
    order, other = made("order.created", correlation_id="c"), made("order.created", correlation_id="c")
    put(ledger, order, other)
    join = started_join(order)
    succeed(ledger, order, "join", joins=[join])

    assert settled(ledger, order.id).lines() == [f"join 'briefing' of {order.id} is not complete"]
    assert settled(ledger, other.id)
    done = made("order.briefed", cause=order, id=caused_id(join["id"], 0))
    ledger.end_join(join["id"], [Record(done, done.encode())], now())
    assert settled(ledger, order.id).lines() == [f"order.briefed {done.id} is not sent yet"]


def test_only_what_the_event_itself_caused_matters(ledger: Ledger) -> None:
    listen(ledger, mailer="mail.#", noter="note.#")
    written = cascade(ledger)

    assert settled(ledger, written["order.paid"].id)
    assert [(event.type, name) for event, name in settled(ledger, written["order.created"].id).undelivered] == [
        ("mail.sent", "mailer"),
        ("note.made", "noter"),
    ]


def test_settle_waits_until_the_last_one_is_done(ledger: Ledger) -> None:
    listen(ledger, billing="order.created", books="order.paid")
    order = made("order.created")
    put(ledger, order)
    paid = made("order.paid", cause=order, agent="billing")

    def work() -> None:
        succeed(ledger, order, "billing", paid)
        succeed(ledger, paid, "books")

    looked = threading.Event()
    worker = threading.Thread(target=lambda: (looked.wait(60), work()))
    worker.start()
    assert not settled(ledger, order.id)
    looked.set()
    found = settle(ledger, order.id, 60, interval=0.001)
    worker.join()

    assert [(node.agent, node.outcome) for _, node in found.walk() if isinstance(node, DeliveryNode)] == [
        ("billing", "succeeded"),
        ("books", "succeeded"),
    ]


def test_a_cascade_is_never_taken_for_settled_between_two_of_its_steps(ledger: Ledger) -> None:
    """Each delivery ends, and its event appears, in one transaction; a look sees both or neither."""
    length = 40
    listen(ledger, **{f"a{n}": f"step.{n}" for n in range(length)})
    first = made("step.0")
    put(ledger, first)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            event = first
            for number in range(length - 1):
                following = made(f"step.{number + 1}", cause=event)
                succeed(ledger, event, f"a{number}", following)
                event = following
            succeed(ledger, event, f"a{length - 1}")
        except BaseException as exc:
            failed.append(exc)

    worker = threading.Thread(target=work)
    worker.start()
    found = settle(ledger, first.id, 120, interval=0.0001)
    worker.join()

    assert failed == []
    assert len(list(found)) == length


def test_a_timeout_says_what_is_still_open(ledger: Ledger) -> None:
    listen(ledger, **{f"a{n:02}": "order.created" for n in range(13)})
    order = made("order.created")
    put(ledger, order)
    begin(ledger, order, "a00")

    with pytest.raises(SettleTimeout) as caught:
        settle(ledger, order.id, 0)

    says = str(caught.value)
    assert says.startswith(
        f"after 0 s event {order.id} has not settled: agent 'a00' has order.created {order.id}: running; "
    )
    assert "agent 'a09' has not begun with" in says
    assert says.endswith("; and 3 more")
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, PipelineError)


@pytest.mark.parametrize(("timeout", "interval"), [(-1, 1), (1, 0), (float("nan"), 1)])
def test_a_wrong_wait_is_refused(ledger: Ledger, timeout: float, interval: float) -> None:
    with pytest.raises(InvalidSelection, match="timeout"):
        settle(ledger, "x", timeout, interval)


def test_a_large_correlation_is_read_in_three_statements(ledger: Ledger) -> None:
    from sqlalchemy import event as sqlalchemy_event

    order = made("order.created")
    effects = [made("order.noted", cause=order) for _ in range(1000)]
    put(ledger, order, *effects)
    statements = itertools.count()
    sqlalchemy_event.listen(ledger.store.engine, "before_cursor_execute", lambda *_: next(statements))

    assert len(list(trace(ledger, order.id))) == 1001
    assert next(statements) <= 6
