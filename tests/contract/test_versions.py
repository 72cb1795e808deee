"""Payload classes of two major versions: what the old worker cannot read waits, and the new one reads all of it."""

from __future__ import annotations

import pytest

from pipeline import Event, Pipeline
from pipeline.contracts.newer import DEAD
from pipeline.core.event import new_event
from pipeline.history.inspection import deliveries_of
from pipeline.ledger.database.tables import deliveries, timers
from tests.harness import Broker, StartWorker
from tests.ledgers import move
from tests.servers import wait_for

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # no broker looks at data

ONE = {"order_id": "A1", "total": 3.5}
TWO = {"order_id": "A2", "total": {"EUR": 4.5}}


def order(version: str, data: object) -> Event:
    return new_event("order.placed", data, source="/t", version=version)


def outcome(bus: Pipeline, event: Event) -> tuple[str, int, str]:
    (one,) = deliveries_of(bus.ledger, event.id) or [None]
    return (one.outcome, one.attempts, one.error or "") if one else ("", 0, "")


def test_a_newer_major_version_waits_without_an_attempt_until_a_newer_worker_runs_it(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    old = worker(app="versions_app", name="old", environment={"VERSION": "old"})
    first, second = bus.publish_many([order("1.0.0", ONE), order("2.0.0", TWO)])
    wait_for(lambda: outcome(bus, second)[0] == "parked", "the newer version to be put off")
    assert outcome(bus, second)[1:] == (0, "waits for a worker that reads version 2.x; this one reads 1.0.0")
    broker.journal.wait(1, id=first.id)
    old.stop()
    worker(app="versions_app", name="new", environment={"VERSION": "new"})
    move(bus.ledger, timers, 30)
    third = bus.publish(order("1.0.0", ONE))
    broker.journal.wait(3)
    assert {line["id"]: (line["version"], line["attempt"], line["data"]) for line in broker.journal.lines()} == {
        first.id: ("old", 1, ONE),
        second.id: ("new", 1, TWO),
        third.id: ("new", 1, {"order_id": "A1", "total": {"EUR": 3.5}}),
    }
    assert list(bus.dead_letters.list()) == []
    wait_for(lambda: len(list(bus.get_events(type="order.billed"))) == 3, "what the handlers have published")
    assert {each.event.schema_version for each in bus.get_events(type="order.billed")} == {"1.1.0"}


def test_what_no_worker_has_read_within_a_day_is_a_dead_letter_that_says_what_to_do(
    bus: Pipeline, worker: StartWorker
) -> None:
    worker(app="versions_app", name="old", environment={"VERSION": "old"})
    late, lost = bus.publish_many([order("2.0.0", TWO), order("0.9.0", ONE)])
    wait_for(lambda: outcome(bus, late)[0] == "parked", "the newer version to be put off")
    move(bus.ledger, deliveries, DEAD, "waits")
    move(bus.ledger, timers, 30)
    wait_for(lambda: len(list(bus.dead_letters.list())) == 2, "two dead letters")
    said = {letter.event.id: letter.error for letter in bus.dead_letters.list()}
    assert "version is 2.0.0, this worker's class is 1.0.0" in said[late.id]
    assert "within 24 h" in said[late.id]
    assert '@app.upcaster("order.placed", "0.9.0", "1.0.0")' in said[lost.id]


def test_a_worker_whose_upcasters_have_a_gap_does_not_start(worker: StartWorker) -> None:
    failed = worker(app="versions_app", name="gap", environment={"VERSION": "gap"}, wait=False)
    wait_for(lambda: not failed.is_running(), "the worker to end")
    assert "the upcaster of order.placed from 2.0.0 to 3.0.0" in failed.output()
    assert "leads to a version that no class reads" in failed.output()
