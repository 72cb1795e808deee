"""One at a time, and only the last of a series, with workers: also when one is killed at its worst moment."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.outcome import OPEN
from pipeline.ledger.database.waiting import waits
from tests.harness import SOON, Broker, StartWorker, Worker
from tests.ledgers import move
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")
WAYS = pytest.mark.parametrize("way", ["sync", "async"])
#: Seconds until what a killed worker had in hand comes back, on Redis, and its worker is known to be dead.
BACK = 120.0
#: A quiet time that is over when the test says so: what is delivered late is still one of its series.
LATER = {"QUIET": "1h"}


@pytest.fixture
def single(worker: StartWorker) -> StartWorker:
    def start(**how: Any) -> Worker:
        return worker(app="singles_app", **{"pool": "prefork", "concurrency": 6, **how})

    return start


def publish(bus: Pipeline, type: str, n: int = 0, tenant: str = "acme", **data: Any) -> Event:
    return bus.publish(type, {"n": n, **data}, metadata={"tenant": tenant})


def of(bus: Pipeline, event: Event) -> dict[str, Any]:
    """Return the delivery of an event; an empty one when there is none yet."""
    return next(iter(rows(bus, event_id=event.id)), {"outcome": "", "error": ""})


def becomes(bus: Pipeline, event: Event, outcome: str, seconds: float = 60.0) -> str:
    """Wait until a delivery has an outcome, and return what is told about it."""
    wait_for(lambda: of(bus, event)["outcome"] == outcome, f"{event.type} to be {outcome}", seconds)
    return str(of(bus, event)["error"])


def be_quiet(bus: Pipeline) -> None:
    """Let the quiet time be over for which events wait."""
    move(bus.ledger, waits, 3600)


def open_gate(broker: Broker, name: str) -> None:
    (broker.directory / name).touch()


def begun(broker: Broker, event: Event, does: str = "begins") -> dict[str, Any]:
    return broker.journal.wait(1, BACK, id=event.id, does=does)[0]


@WAYS
def test_of_a_burst_the_last_event_is_handled_once_for_each_key(
    bus: Pipeline, broker: Broker, single: StartWorker, way: str
) -> None:
    for one in range(2):
        single(name=f"w{one}", wait=one == 0, environment=LATER)
    events = {
        tenant: [publish(bus, f"index.{way}", n, tenant) for n in range(20)] for tenant in ("acme", "other")
    }  # fmt: skip
    ends = ["filtered"] * 38 + ["parked"] * 2
    wait_for(lambda: sorted(row["outcome"] for row in rows(bus, agent=f"index_{way}")) == ends, "all to come")
    be_quiet(bus)
    for tenant, some in events.items():
        *others, last = some
        assert becomes(bus, last, "succeeded") == "None", tenant
        told = [becomes(bus, event, "filtered") for event in others]
        ids = [event.id for event in some]
        places = [ids.index(line.split()[1]) for line in told]
        assert all(line.endswith("took its place") for line in told)
        assert all(place > n for n, place in enumerate(places)), "each gives way to a later one"
    handled = broker.journal.lines(agent=f"index_{way}", does="begins")
    assert sorted(line["id"] for line in handled) == sorted(some[-1].id for some in events.values())


@WAYS
def test_a_steady_stream_is_handled_in_time(bus: Pipeline, broker: Broker, single: StartWorker, way: str) -> None:
    single()
    n = 0

    def one_more() -> bool:
        nonlocal n
        n += 5
        bus.publish_many([(f"busy.{way}", {"n": n - one}) for one in range(5)])
        return len(broker.journal.lines(agent=f"busy_{way}", does="begins")) >= 2

    wait_for(one_more, "two to be handled although it is never quiet", 60, 0.2)
    wait_for(lambda: not any(row["outcome"] in OPEN for row in rows(bus, agent=f"busy_{way}")), "all to end")
    assert len(broker.journal.lines(agent=f"busy_{way}", does="begins")) < n / 10


def test_what_waits_for_a_quiet_time_says_so_and_outlives_its_workers(
    bus: Pipeline, broker: Broker, single: StartWorker
) -> None:
    one = single(environment=LATER)
    first, last = publish(bus, "index.sync", 1, fails=True), publish(bus, "index.sync", 2, fails=True)
    told = becomes(bus, last, "parked")
    gone = becomes(bus, first, "filtered")  # else it begins a series of its own when its message comes back
    one.kill()
    assert told == "waits for a quiet time of 3600 s for 'acme'"
    assert gone == f"event {last.id} took its place"
    single(environment=LATER)
    be_quiet(bus)
    becomes(bus, last, "succeeded")
    (row,) = [node for event in bus.trace(last.id) for node in event.deliveries if node.agent == "index_sync"]
    assert [step.name for step in row.steps] == ["debounce"]
    assert len(broker.journal.lines(id=last.id, does="begins")) == 2, "it is tried again without waiting again"


def test_what_somebody_asks_for_does_not_wait_for_a_quiet_time(
    bus: Pipeline, broker: Broker, single: StartWorker
) -> None:
    single()
    event = publish(bus, "index.sync", 1)
    becomes(bus, event, "succeeded")
    other = publish(bus, "index.sync", 2)
    bus.replay(to="index_sync", ids=[event.id])
    becomes(bus, other, "succeeded")
    broker.journal.wait(2, id=event.id, does="ends")
    nodes = [node for found in bus.trace(event.id) for node in found.deliveries if node.agent == "index_sync"]
    assert {(node.replay is None, len(node.steps)) for node in nodes} == {(True, 1), (False, 0)}


@WAYS
def test_who_comes_while_one_runs_is_skipped_and_who_comes_later_is_not(
    bus: Pipeline, broker: Broker, single: StartWorker, way: str
) -> None:
    single()
    first = publish(bus, f"skip.{way}", 1, gate="first", fails=True)
    begun(broker, first)
    others = [publish(bus, f"skip.{way}", n) for n in range(2, 6)]
    told = {becomes(bus, event, "filtered") for event in others}
    assert told == {f"one runs already: delivery {of(bus, first)['id']} of event {first.id}"}
    elsewhere = publish(bus, f"skip.{way}", 6, tenant="other")
    becomes(bus, elsewhere, "succeeded")
    open_gate(broker, "first")
    becomes(bus, first, "succeeded")
    assert of(bus, first)["attempts"] == 2, "its second attempt has not skipped itself"
    later = publish(bus, f"skip.{way}", 7)
    becomes(bus, later, "succeeded")


@WAYS
def test_who_comes_while_one_runs_waits_for_its_end(
    bus: Pipeline, broker: Broker, single: StartWorker, way: str
) -> None:
    single()
    first = publish(bus, f"queue.{way}", 1, gate="first", fails=True)
    begun(broker, first)
    others = [publish(bus, f"queue.{way}", n) for n in range(2, 5)]
    for event in others:
        assert becomes(bus, event, "parked") == "waits until the one that runs has ended for 'acme'"
    open_gate(broker, "first")
    for event in (first, *others):
        becomes(bus, event, "succeeded")
    said = [(line["does"], line["n"]) for line in broker.journal.lines(agent=f"queue_{way}")]
    assert said[:4] == [("begins", 1), ("fails", 1), ("begins", 1), ("ends", 1)], "it keeps its slot between attempts"
    assert said[4:] == [(does, n) for n in range(2, 5) for does in ("begins", "ends")]


@WAYS
def test_who_comes_while_one_runs_takes_its_place_and_that_of_those_that_wait(
    bus: Pipeline, broker: Broker, single: StartWorker, way: str
) -> None:
    single()
    first = publish(bus, f"cancel.{way}", 1, gate="first")
    begun(broker, first)
    others = [publish(bus, f"cancel.{way}", n, gate="second") for n in range(2, 6)]
    *given_up, last = others
    assert becomes(bus, first, "cancelled").endswith("took its place")
    if way == "sync":  # its handler cannot be stopped; nothing of it takes effect, and the next one waits for its end
        becomes(bus, last, "parked")
        assert not broker.journal.lines(id=last.id)
        open_gate(broker, "first")
    else:
        begun(broker, first, "stopped")
    begun(broker, last)
    ways = {"filtered", "cancelled"}
    wait_for(lambda: {of(bus, event)["outcome"] for event in given_up} <= ways, "the others to give way")
    assert all(of(bus, event)["error"].endswith("took its place") for event in given_up)
    open_gate(broker, "second")
    becomes(bus, last, "succeeded")
    (heard,) = broker.journal.wait(1, agent="hears")
    assert heard["n"] == 5


@WAYS
def test_a_worker_that_is_killed_while_it_has_the_slot_leaves_nobody_waiting_for_ever(
    bus: Pipeline, broker: Broker, single: StartWorker, way: str
) -> None:
    one = single(name="w1", environment=SOON)
    kinds = ("skip", "queue", "cancel")
    first = {when: publish(bus, f"{when}.{way}", 1, gate=f"never-{when}") for when in kinds}
    for event in first.values():
        begun(broker, event)
    second = {when: publish(bus, f"{when}.{way}", 2) for when in kinds if when != "cancel" or way == "sync"}
    assert becomes(bus, second["skip"], "filtered").startswith("one runs already")
    becomes(bus, second["queue"], "parked")
    if way == "sync":
        becomes(bus, second["cancel"], "parked")
    one.kill()
    for when in ("skip", "queue"):
        open_gate(broker, f"never-{when}")
    single(name="w2", environment=SOON)
    becomes(bus, first["skip"], "succeeded", BACK)
    becomes(bus, second["queue"], "succeeded", BACK)
    if way == "sync":
        becomes(bus, second["cancel"], "succeeded", BACK)
    third = publish(bus, f"skip.{way}", 3)
    becomes(bus, third, "succeeded")
    last = publish(bus, f"cancel.{way}", 3)
    becomes(bus, last, "succeeded", BACK)
    assert becomes(bus, first["cancel"], "cancelled").endswith("took its place")
