"""Durable steps and waits: what is done is not done again, and what waits holds no worker and is not lost."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.ids import delivery_id
from pipeline.operations.keeping.references import still_named
from tests.harness import Broker, StartWorker, backlog, dead_letters
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def waiting(worker: StartWorker) -> StartWorker:
    def start(pool: str = "prefork", **how: Any) -> Any:
        return worker(app="waiting_app", pool=pool, **how)

    return start


def is_parked(bus: Pipeline, agent: str, number: int = 1) -> bool:
    return len(rows(bus, agent=agent, outcome="parked")) == number


def ran(broker: Broker, agent: str) -> int:
    return len(broker.journal.lines(agent=agent))


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_step_is_done_once_whatever_fails_after_it_and_the_handler_goes_on_after_its_sleep(
    bus: Pipeline, broker: Broker, waiting: StartWorker, pool: str
) -> None:
    waiting(pool)
    sent = [bus.publish("report.wanted", {"topic": f"tea {n}"}) for n in range(5)]
    done = broker.journal.wait(5, agent="writer")
    broker.journal.wait(5, agent="searcher")
    ids = {event.id for event in sent}
    assert broker.journal.count(agent="draft") == dict.fromkeys(ids, 1)
    assert broker.journal.count(agent="search") == dict.fromkeys(ids, 1)
    assert broker.journal.count(agent="writer") == dict.fromkeys(ids, 1)
    assert broker.journal.count(agent="searcher") == dict.fromkeys(ids, 1)
    assert {(line["attempt"], line["words"]) for line in done} == {(2, 2)}  # the failure counts, and the sleep does not
    for event in sent:
        bus.settle(event, timeout=30)
    assert Counter((row["agent"], row["outcome"], row["attempts"]) for row in rows(bus) if row["agent"]) == {
        ("writer", "succeeded", 2): 5,
        ("searcher", "succeeded", 1): 5,
    }


def test_what_waits_holds_no_worker_and_its_event_lets_it_go_on(
    bus: Pipeline, broker: Broker, waiting: StartWorker
) -> None:
    one = waiting()
    orders = [bus.publish("order.placed", {"n": n}) for n in range(3)]
    broker.journal.wait(3, agent="cashier")  # what was published before the wait is out
    wait_for(lambda: is_parked(bus, "shipper", 3), "all to be parked")
    assert backlog(bus, "agent.shipper") == 0
    assert all("waits for payment.made until" in str(bus.trace(order)) for order in orders)
    one.stop()
    bus.publish("payment.made", {"order": 1, "by": "ada"}, correlation_id=orders[1].correlation_id)
    bus.publish("payment.made", {"order": 0, "by": "eve"}, correlation_id=orders[2].correlation_id)
    bus.publish("payment.made", {"order": 2, "by": "bob"})  # of another correlation
    waiting(name="two")
    (line,) = broker.journal.wait(1, agent="shipper")
    assert (line["n"], line["by"]) == (1, "ada")
    bus.settle(orders[1], timeout=30)
    assert is_parked(bus, "shipper", 2)
    assert broker.journal.count(agent="cashier") == {one.event.id: 1 for one in bus.get_events(type="payment.asked")}


def test_an_event_that_came_before_the_wait_ends_it_too_and_each_event_ends_one(
    bus: Pipeline, broker: Broker, waiting: StartWorker
) -> None:
    waiting().stop()  # the ledger knows the agents now
    wanted = bus.publish("tea.wanted", {})
    for cup in range(3):
        bus.publish("tea.poured", {"cup": cup}, correlation_id=wanted.correlation_id)
    waiting(name="two")
    (line,) = broker.journal.wait(1, agent="teahouse")
    assert line["cups"] == [0, 1, 2]
    assert line["attempt"] == 1
    assert list(bus.unrouted()) == []  # though no agent listens to them


def test_a_wait_that_nothing_ends_raises_in_time(bus: Pipeline, broker: Broker, waiting: StartWorker) -> None:
    waiting()
    bus.publish("order.placed", {"n": 1, "timeout": 0.3})
    (line,) = broker.journal.wait(1, agent="unpaid")
    assert line["attempt"] == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no json", "step 'one' returned a object that JSON cannot hold"),
        ("two functions", "step 'one': it is builtins.len and builtins.str"),
        ("past", "sleep: -1 seconds are not between now"),
        ("caught", "has caught what ends its handler while it sleeps"),
        ("pattern", "order.*"),
        ("many", "at most 1000 steps"),
    ],
)
def test_a_mistake_is_a_dead_letter_that_names_it(
    bus: Pipeline, broker: Broker, waiting: StartWorker, how: str, words: str
) -> None:
    if broker.name != "embedded":
        pytest.skip("what is wrong with it is no matter of brokers")
    waiting()
    event = bus.publish("mistake.made", {"how": how})
    wait_for(lambda: len(dead_letters(bus, "mistaken")) == 1, "the dead letter")
    (row,) = rows(bus, id=delivery_id(event.id, "mistaken"))
    assert words in row["error"]


def test_a_large_result_is_a_blob_that_stays_as_long_as_its_delivery(
    bus: Pipeline, broker: Broker, waiting: StartWorker
) -> None:
    if broker.name != "embedded":
        pytest.skip("where it is kept is no matter of brokers")
    waiting()
    event = bus.publish("book.wanted", {"size": 300_000})
    (line,) = broker.journal.wait(1, agent="librarian")
    assert (line["size"], line["runs"]) == (300_000, "once")
    assert len(broker.journal.lines(agent="printed")) == 1
    bus.settle(event, timeout=30)
    (step, _) = bus.ledger.waiting.steps.of(delivery_id(event.id, "librarian"))
    assert len(step.result) < 200
    id = json.loads(step.result[1:])["id"]
    assert still_named(bus.ledger, {id}) == {id}
    assert "step print, +" in str(bus.trace(event))


def test_a_dead_letter_is_requeued_from_a_step_on(bus: Pipeline, broker: Broker, waiting: StartWorker) -> None:
    if broker.name != "embedded":
        pytest.skip("what is done again is no matter of brokers")
    waiting()
    event = bus.publish("chain.wanted", {})
    wait_for(lambda: len(dead_letters(bus, "chained")) == 1, "the dead letter")
    id = delivery_id(event.id, "chained")
    assert bus.dead_letters.requeue(id, from_step="thrd").number == 0
    bus.dead_letters.requeue(id, from_step="second")
    wait_for(lambda: len(dead_letters(bus, "chained")) == 1 and ran(broker, "third") == 2, "the dead letter again")
    assert (ran(broker, "first"), ran(broker, "second"), ran(broker, "third")) == (1, 2, 2)
    bus.dead_letters.requeue(id)
    wait_for(lambda: ran(broker, "chained") == 3, "the last attempt")
    assert (ran(broker, "first"), ran(broker, "second"), ran(broker, "third")) == (1, 2, 2)


def test_what_is_parked_goes_on_when_the_broker_is_another_one(
    bus: Pipeline, broker: Broker, waiting: StartWorker
) -> None:
    one = waiting()
    event = bus.publish("order.placed", {"n": 1})
    wait_for(lambda: is_parked(bus, "shipper"), "it to be parked")
    wait_for(lambda: rows(bus, agent="cashier", outcome="succeeded"), "the other agent to have ended")
    one.stop()
    bus.publish("payment.made", {"order": 1, "by": "ada"}, correlation_id=event.correlation_id)
    other = f"sqlite:///{broker.directory / 'other.db'}"
    waiting(name="two", environment={"PIPELINE_BROKER_URL": other})
    (line,) = broker.journal.wait(1, agent="shipper", seconds=60)
    assert (line["n"], line["by"], line["attempt"]) == (1, "ada", 1)
    bus.settle(event, timeout=90)
    assert broker.journal.count(agent="cashier") == {one.event.id: 1 for one in bus.get_events(type="payment.asked")}
