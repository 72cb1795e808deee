"""Filters: an agent's handler runs for what its filter matches, and what it does not match ends as filtered."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.event import CONTENT_TYPE, new_event
from pipeline.core.ids import delivery_id, foreign_id
from tests.contract.test_foreign import send
from tests.foreign import foreign
from tests.harness import Broker, StartWorker, backlog, dead_letters
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")
LEVELS = ("low", "medium", "high", "critical")


@pytest.fixture
def filtered(worker: StartWorker) -> StartWorker:
    def start(pool: str = "prefork", **how: Any) -> Any:
        return worker(app="filtered_app", pool=pool, **how)

    return start


def ran(broker: Broker, agent: str) -> list[str]:
    return sorted(line["id"] for line in broker.journal.lines(agent=agent))


def outcomes(bus: Pipeline, agent: str) -> Counter[tuple[str, int]]:
    return Counter((row["outcome"], row["attempts"]) for row in rows(bus, agent=agent))


@pytest.mark.bare
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_handler_runs_for_what_its_filter_matches_and_the_rest_ends_as_filtered(
    bus: Pipeline, broker: Broker, filtered: StartWorker, pool: str
) -> None:
    filtered(pool)
    sent = [
        bus.publish("alert.raised", {"level": LEVELS[n % 4], "amount": n}, metadata={"tenant": "acme"})
        for n in range(90, 110)
    ]
    broker.journal.wait(20, agent="everything")
    broker.journal.wait(10, agent="urgent")
    broker.journal.wait(9, agent="large")
    assert ran(broker, "urgent") == sorted(e.id for e in sent if e.data["level"] in ("high", "critical"))
    assert ran(broker, "large") == sorted(event.id for event in sent if event.data["amount"] > 100)
    for agent in ("urgent", "large", "fails"):
        wait_for(lambda agent=agent: backlog(bus, f"agent.{agent}") == 0, "the queue to be empty")
    if bus.has_ledger:
        for event in sent:
            bus.settle(event, timeout=30)
        assert outcomes(bus, "urgent") == {("succeeded", 1): 10, ("filtered", 0): 10}
        assert outcomes(bus, "large") == {("succeeded", 1): 9, ("filtered", 0): 11}
        assert outcomes(bus, "fails") == {("filtered", 0): 20}
        assert {row["error"] for row in rows(bus, agent="fails")} == {"its filter does not match"}


def test_what_is_addressed_to_an_agent_reaches_it_whatever_its_filter(
    bus: Pipeline, broker: Broker, filtered: StartWorker
) -> None:
    filtered()
    event = bus.publish("alert.raised", {"level": "low"}, targets=("urgent",))
    broker.journal.wait(1, agent="urgent")
    assert ran(broker, "urgent") == [event.id]


def test_a_dead_letter_that_is_given_back_runs_again(bus: Pipeline, broker: Broker, filtered: StartWorker) -> None:
    filtered()
    event = bus.publish("alert.raised", {"level": "low", "tags": ["fails"]})
    wait_for(lambda: len(dead_letters(bus, "fails")) == 1, "the dead letter")
    bus.dead_letters.requeue(delivery_id(event.id, "fails"))
    wait_for(lambda: outcomes(bus, "fails") == {("succeeded", 1): 1}, "the second try")


def test_a_replay_is_filtered_as_the_events_were(bus: Pipeline, broker: Broker, filtered: StartWorker) -> None:
    filtered()
    sent = bus.publish_many([("alert.raised", {"level": level}) for level in LEVELS])
    broker.journal.wait(2, agent="urgent")
    bus.replay(to="urgent", type="alert.raised")
    broker.journal.wait(4, agent="urgent")
    wait_for(lambda: sum(outcomes(bus, "urgent").values()) == 8, "all to end")
    wait_for(lambda: outcomes(bus, "urgent") == {("succeeded", 1): 4, ("filtered", 0): 4}, "all to end")
    assert Counter(ran(broker, "urgent")) == {event.id: 2 for event in sent if event.data["level"] in LEVELS[2:]}


def test_a_filter_sees_the_data_as_the_handler_gets_it(bus: Pipeline, broker: Broker, filtered: StartWorker) -> None:
    filtered()
    sent = [
        new_event("order.placed", data, source="/test", version=version)
        for version, data in (("1.0.0", {"total": 50}), ("1.0.0", {"total": 1}), ("2.0.0", {"total_cents": 101}))
    ]
    newer = new_event("order.placed", {"euros": 7}, source="/test", version="3.0.0")
    bus.publish_many([*sent, newer])
    broker.journal.wait(2, agent="orders")
    wait_for(lambda: outcomes(bus, "orders")[("parked", 0)] == 1, "the newer one to wait for a newer worker")
    assert ran(broker, "orders") == sorted([sent[0].id, sent[2].id])
    wait_for(lambda: rows(bus, agent="orders", outcome="filtered"), "what the filter kept back to be written")
    assert [row["event_id"] for row in rows(bus, agent="orders", outcome="filtered")] == [sent[1].id]


def test_metadata_goes_through_a_join(bus: Pipeline, broker: Broker, filtered: StartWorker) -> None:
    filtered()
    bus.publish("both.wanted", {}, metadata={"user": "ada"})
    (line,) = broker.journal.wait(1, agent="joined")
    assert line["user"] == "ada"


def test_another_programs_event_is_filtered_too_and_is_in_the_log(
    bus: Pipeline, broker: Broker, filtered: StartWorker
) -> None:
    filtered()
    body = json.dumps(foreign(type="alert.raised", id="7", data={"level": "low"})).encode()
    send(bus, [(body, {}, CONTENT_TYPE)], "alert.raised")
    key = foreign_id("/crm", "7")
    ends = dict.fromkeys(("urgent", "large", "fails"), "filtered") | {"everything": "succeeded"}
    wait_for(lambda: {row["agent"]: row["outcome"] for row in rows(bus, event_id=key)} == ends, f"{ends}")
    assert bus.get_event(key).event.data == {"level": "low"}


def test_a_filter_that_errs_keeps_the_event_and_says_so_once(
    bus: Pipeline, broker: Broker, filtered: StartWorker
) -> None:
    one = filtered()
    for n in range(5):
        bus.publish("alert.other", {"level": n})  # a number is no rank
    broker.journal.wait(5, agent="everything")
    wait_for(lambda: outcomes(bus, "urgent") == {("filtered", 0): 5}, "all to end")
    assert ran(broker, "urgent") == []
    assert one.output().count("agent urgent: its filter cannot be evaluated") == 1
    assert all("its filter cannot be evaluated: " in row["error"] for row in rows(bus, agent="urgent"))
