"""Waiting until all that an event has caused is done, on every ledger."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update

from pipeline.core.errors import InvalidSelection, PipelineError, SettleTimeout
from pipeline.core.event import Encoded
from pipeline.core.ids import caused_id, delivery_id
from pipeline.core.times import micros
from pipeline.history.settle import settle, settled
from pipeline.history.tree import DeliveryNode
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.database.tables import deliveries, timers
from pipeline.ledger.facts import Delivery, Success
from pipeline.ledger.ledger import Ledger
from tests.logs import START, begin, cascade, end_join, made, outline, put, started_join, succeed


def listen(ledger: Ledger, **patterns: str) -> None:
    ledger.subscribers.register({name: ((pattern,), None) for name, pattern in patterns.items()})


def test_an_event_settles_when_all_it_caused_is_done(ledger: Ledger) -> None:
    listen(ledger, billing="order.created", books="order.paid")
    order = made("order.created")
    paid = made("order.paid", cause=order, agent="billing")
    ledger.append([Encoded(order, order.encode())], due_in=0)

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
    ledger.claim(Delivery(delivery, order, "billing", expected=2), worker="w1")
    ledger.succeed(Success(delivery, [Encoded(paid, paid.encode(), delivery=delivery)], [], due_in=None))
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
    with ledger.database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.agent == "billing").values(outcome=outcome))

    assert settled(ledger, order.id)


@pytest.mark.parametrize("outcome", ["queued", "running", "retrying"])
def test_what_is_under_way_is_not_settled(ledger: Ledger, outcome: str) -> None:
    order = made("order.created")
    put(ledger, order)
    begin(ledger, order, "billing")
    with ledger.database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.agent == "billing").values(outcome=outcome))

    found = settled(ledger, order.id)
    assert [(event.id, delivery.outcome) for event, delivery in found.deliveries] == [(order.id, outcome)]


def test_all_targets_and_nobody_else_are_waited_for(ledger: Ledger) -> None:
    listen(ledger, billing="order.*", mailer="order.*", books="user.*")
    order = made("order.created", targets=("mailer", "books"))
    put(ledger, order)

    assert [name for _, name in settled(ledger, order.id).undelivered] == ["books", "mailer"]


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

    ledger.subscribers.register({"archivist": (("order.*",), 1)})  # it wants the past too
    assert [name for _, name in settled(ledger, order.id).undelivered] == ["archivist"]
    ledger.reconciliation.check(0)
    assert [(each.agent, each.outcome) for _, each in settled(ledger, order.id).deliveries] == [("archivist", "queued")]


def test_a_delayed_event_is_waited_for(ledger: Ledger) -> None:
    order = made("order.created")
    later = made("order.reminder", cause=order)
    foreign = made("order.reminder", correlation_id=order.id)
    put(ledger, order)
    rows = [timer_row(each.id, "publish", micros(START), order.id, each.encode()) for each in (later, foreign)]
    with ledger.database.transaction() as connection:
        ledger.timers.add(rows, connection)

    assert settled(ledger, order.id).timers == (later.id,)
    assert settled(ledger, order.id).lines() == [f"the delayed event {later.id} is not due yet"]
    assert settled(ledger, later.id).timers == (later.id,)
    with ledger.database.transaction() as connection:
        connection.execute(timers.delete())
    assert settled(ledger, order.id)


def test_a_join_is_waited_for(ledger: Ledger) -> None:
    order, other = made("order.created", correlation_id="c"), made("order.created", correlation_id="c")
    put(ledger, order, other)
    id, join = delivery_id(order.id, "join"), started_join(order)
    succeed(ledger, order, "join", joins=join)

    assert settled(ledger, order.id).lines() == [f"join 'briefing' of {order.id} is not complete"]
    assert settled(ledger, other.id)
    done = made("order.briefed", cause=order, id=caused_id(id, 0))
    end_join(ledger, id, done)
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
