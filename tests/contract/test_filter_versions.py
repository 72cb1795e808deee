"""Filters of several versions of an agent that run side by side, and filters of which nothing is recorded."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import update

from pipeline import Event, Pipeline
from pipeline.core.event import CONTENT_TYPE
from pipeline.core.ids import delivery_id, foreign_id, is_sampled
from pipeline.core.times import SECOND
from pipeline.ledger.database.rows import DEAD_AFTER
from pipeline.ledger.database.tables import agents, events, workers
from pipeline.operations.keeping.retention import prune
from pipeline.operations.unrouted import unwanted
from tests.contract.test_foreign import send
from tests.foreign import foreign
from tests.harness import Broker, StartWorker, Worker
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Who wants an event, by its size.
SIZES = {1: {"old"}, 2: {"new"}, 3: {"old", "new"}, 4: set()}
ALL = {1: {"old"}, 2: {"old"}, 3: {"old", "new"}, 4: {"old", "new"}}
WANT = {"sizes": SIZES, "all_of_them": ALL}
WAITS = "waits for a worker whose version of the agent wants it by its filter"
SOON = {"PIPELINE_RECONCILE_AFTER": "2"}


def deployed(worker: StartWorker, version: str) -> Worker:
    return worker(app="refined_app", name=version, environment={"VERSION": version, **SOON})


def publish(bus: Pipeline, each: int = 5) -> list[Event]:
    return bus.publish_many([("box.packed", {"size": size}) for size in SIZES] * each)


def check_handled(bus: Pipeline, broker: Broker, sent: list[Event], running: set[str]) -> None:
    """Wait until events are settled; each was handled once, by a version that runs and wants it, or by none."""
    for event in sent:
        bus.settle(event, timeout=60)
    ids = {event.id: event.data["size"] for event in sent}
    for agent, want in WANT.items():
        lines = [line for line in broker.journal.lines(agent=agent) if line["id"] in ids]
        wanted = sorted(id for id, size in ids.items() if want[size] & running)
        assert sorted(line["id"] for line in lines) == wanted
        assert all(line["version"] in want[ids[line["id"]]] & running for line in lines)
        done = {row["event_id"]: row["outcome"] for row in rows(bus, agent=agent) if row["event_id"] in ids}
        assert done == {id: "succeeded" if want[size] & running else "filtered" for id, size in ids.items()}


def test_what_the_filter_of_any_running_version_wants_is_handled_once_by_one_that_does(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    old, _ = deployed(worker, "old"), deployed(worker, "new")
    check_handled(bus, broker, publish(bus), {"old", "new"})
    old.stop()
    check_handled(bus, broker, publish(bus), {"new"})


def test_what_a_version_wanted_that_has_died_does_not_wait_for_it(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    old, new = deployed(worker, "old"), deployed(worker, "new")
    assert old.process is not None
    old.kill()
    event = bus.publish("box.packed", {"size": 1})
    like = {"event_id": event.id, "agent": "sizes", "outcome": "retrying", "error": WAITS}
    wait_for(lambda: rows(bus, **like), "it to wait for the old version")
    mine = workers.c.id.like(f"%:{old.process.pid}:%")
    with bus.ledger.database.transaction() as connection:
        dead = update(workers).where(mine).values(seen=workers.c.seen - round(DEAD_AFTER * SECOND))
        assert connection.execute(dead).rowcount == 1
    check_handled(bus, broker, [event], {"new"})
    assert WAITS in new.output()


@pytest.mark.parametrize("share", ["off", "sampled"])
def test_what_is_kept_back_and_not_recorded_is_neither_sent_again_nor_waited_for(
    bus: Pipeline, broker: Broker, worker: StartWorker, share: str
) -> None:
    sample = {"off": 0.0, "sampled": 0.5}[share]
    recording = {"PIPELINE_RECORD_FILTERED": share, "PIPELINE_FILTERED_SAMPLE": "0.5"}
    one = worker(app="refined_app", environment={"PIPELINE_RECONCILE_AFTER": "1", **recording})
    sent = publish(bus, each=10)
    for event in sent:
        bus.settle(event, timeout=30)
    body = json.dumps(foreign(type="box.packed", id="7", data={"size": 4})).encode()
    send(bus, [(body, {}, CONTENT_TYPE)], "box.packed")
    wait_for(lambda: rows(bus, events, id=foreign_id("/crm", "7")), "another program's event to be in the log")
    sent.append(bus.get_event(foreign_id("/crm", "7")).event)
    bus.settle(sent[-1].key, timeout=30)
    wanted = {agent: {e.key for e in sent if "new" in want[e.data["size"]]} for agent, want in WANT.items()}
    recorded = {event.key for event in sent if is_sampled(event.key, sample)}
    last = max((row["tx"], row["seq"]) for row in rows(bus, events))
    wait_for(lambda: all((row["tx"], row["seq"]) >= last for row in rows(bus, agents)), "reconciliation")
    for agent, ids in wanted.items():
        found = {row["event_id"]: row["outcome"] for row in rows(bus, agent=agent)}
        kept_back = {event.key for event in sent} - ids
        assert found == dict.fromkeys(ids, "succeeded") | dict.fromkeys(kept_back & recorded, "filtered")
        handled = [line["delivery"] for line in broker.journal.lines(agent=agent)]
        assert sorted(handled) == sorted(delivery_id(id, agent) for id in ids)
    assert "were in no queue and are sent again" not in one.output()
    nobodys = {event.key for event in sent if not any(event.key in ids for ids in wanted.values())}
    assert {record.event.key for record in unwanted(bus.ledger)} == nobodys
    assert prune(bus.ledger, older_than=timedelta(0)).unfinished == 0
