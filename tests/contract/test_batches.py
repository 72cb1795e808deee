"""Batches with workers: each event is in one call, all of a call end together, and nothing waits for ever."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.ledger.database.waiting import waits
from tests.harness import SOON, Broker, StartWorker, Worker, dead_letters
from tests.records import publish_to, rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")
WAYS = pytest.mark.parametrize("agent", ["pool", "lane"])


@pytest.fixture
def batching(worker: StartWorker) -> StartWorker:
    def start(pool: str = "prefork", **how: Any) -> Worker:
        return worker(app="batches_app", pool=pool, **how)

    return start


def pages(bus: Pipeline, agent: str, numbers: range, **data: Any) -> list[Event]:
    return publish_to(bus, agent, "page.seen", [{"n": n, **data} for n in numbers])


def outcomes(bus: Pipeline, agent: str) -> Counter[str]:
    return Counter(row["outcome"] for row in rows(bus, agent=agent))


def kinds(bus: Pipeline) -> Counter[str]:
    """Count what is parked as `pipeline agents` does."""
    return Counter(row["kind"] for row in rows(bus, waits))


def all_are(bus: Pipeline, agent: str, outcome: str, number: int) -> None:
    wait_for(lambda: outcomes(bus, agent) == {outcome: number}, f"{number} to be {outcome}", 90, 0.2)


@pytest.mark.parametrize("agent", ["full_pool", "full_lane"])
def test_many_events_come_in_few_calls_and_each_in_one_of_them(
    bus: Pipeline, broker: Broker, batching: StartWorker, agent: str
) -> None:
    for one in range(2):
        batching(name=f"w{one}", wait=one == 1)
    sent = pages(bus, agent, range(250))
    wait_for(lambda: outcomes(bus, agent) == {"succeeded": 200, "parked": 50}, "two batches, and 50 to wait", 90, 0.2)
    assert len(broker.journal.lines(agent=agent)) == 2
    assert kinds(bus) == {"batch": 50}
    sent += pages(bus, agent, range(250, 300))
    all_are(bus, agent, "succeeded", 300)
    calls = broker.journal.lines(agent=agent)
    assert [len(call["ids"]) for call in calls] == [100, 100, 100]
    assert Counter(id for call in calls for id in call["ids"]) == {event.id: 1 for event in sent}
    emitted = broker.journal.wait(3, agent="index")
    assert {line["causation"]: line["pages"] for line in emitted} == {call["id"]: call["n"] for call in calls}
    for event in sent[::50]:
        bus.settle(event, timeout=30)


@WAYS
def test_fewer_come_when_the_first_has_waited_long_enough_and_each_key_for_itself(
    bus: Pipeline, broker: Broker, batching: StartWorker, agent: str
) -> None:
    batching()
    sent = pages(bus, agent, range(3), tenant="acme") + pages(bus, agent, range(3, 8), tenant="other")
    all_are(bus, agent, "succeeded", 8)
    calls = broker.journal.lines(agent=agent)
    assert {tuple(call["tenants"]) for call in calls} == {("acme",), ("other",)}
    assert Counter(id for call in calls for id in call["ids"]) == {event.id: 1 for event in sent}
    assert all(call["n"] == sorted(call["n"]) for call in calls)


def test_what_waits_for_its_batch_says_so(bus: Pipeline, broker: Broker, batching: StartWorker) -> None:
    batching()
    first, *_ = pages(bus, "full_pool", range(3))
    wait_for(lambda: "waits for up to 100 events, to be handled together" in str(bus.trace(first)), "it to be told")
    pages(bus, "full_pool", range(3, 100))
    all_are(bus, "full_pool", "succeeded", 100)


@WAYS
def test_a_batch_whose_handler_fails_is_tried_again_as_a_whole(
    bus: Pipeline, broker: Broker, batching: StartWorker, agent: str
) -> None:
    batching()
    sent = pages(bus, agent, range(5), run="fails once")
    all_are(bus, agent, "succeeded", 5)
    calls = broker.journal.lines(agent=agent)
    by_leader = {call["id"]: [] for call in calls}
    for call in calls:
        by_leader[call["id"]].append((call["attempt"], call["ids"]))
    assert all([attempt for attempt, _ in tries] == [1, 2] for tries in by_leader.values())
    assert all(tries[0][1] == tries[1][1] for tries in by_leader.values())
    assert Counter(id for tries in by_leader.values() for id in tries[1][1]) == {event.id: 1 for event in sent}
    assert len(list(bus.get_events(type="pages.embedded"))) == len(by_leader)


@WAYS
def test_of_a_dead_batch_each_is_a_dead_letter_that_comes_again_alone(
    bus: Pipeline, broker: Broker, batching: StartWorker, agent: str
) -> None:
    batching()
    sent = pages(bus, agent, range(3), run="fails")
    wait_for(lambda: len(dead_letters(bus, agent)) == 3, "three dead letters", 90)
    found = rows(bus, agent=agent, outcome="dead")
    assert {row["error"] for row in found} == {"RuntimeError: told to fail for ever"}
    assert {row["attempts"] for row in found} == {3}
    assert len(list(bus.get_events(type="delivery.dead"))) == 3
    (broker.directory / "mended").touch()
    before = len(broker.journal.lines(agent=agent))
    bus.dead_letters.requeue(agent=agent)
    all_are(bus, agent, "succeeded", 3)
    after = broker.journal.lines(agent=agent)[before:]
    assert Counter(tuple(call["ids"]) for call in after) == {(event.id,): 1 for event in sent}


@WAYS
def test_an_invalid_payload_is_dead_alone(bus: Pipeline, broker: Broker, batching: StartWorker, agent: str) -> None:
    batching()
    good = pages(bus, agent, range(3))
    bad = bus.publish("page.seen", {"n": "no number"}, targets=[agent])
    wait_for(lambda: outcomes(bus, agent) == {"succeeded": 3, "dead": 1}, "three to succeed", 60)
    (row,) = rows(bus, agent=agent, outcome="dead")
    assert row["event_id"] == bad.id
    assert Counter(id for call in broker.journal.lines(agent=agent) for id in call["ids"]) == {
        event.id: 1 for event in good
    }


@pytest.mark.parametrize("agent", ["stepping_pool", "stepping_lane"])
def test_steps_and_waits_are_the_batchs(bus: Pipeline, broker: Broker, batching: StartWorker, agent: str) -> None:
    batching()
    publish_to(bus, agent, "step.wanted", [{"n": n} for n in range(8)])
    all_are(bus, agent, "succeeded", 8)
    calls = broker.journal.lines(agent="stepped")
    assert sum(call["number"] for call in calls) == 8
    assert broker.journal.count(agent="counted") == {call["id"]: 1 for call in calls}
    assert {call["attempt"] for call in calls} == {1}


@pytest.mark.parametrize("agent", ["killed_pool", "killed_lane"])
def test_a_batch_whose_process_dies_runs_again_as_a_whole_and_is_recorded_once(
    bus: Pipeline, broker: Broker, batching: StartWorker, agent: str
) -> None:
    batching(environment=SOON)
    publish_to(bus, agent, "death.wanted", [{"n": n} for n in range(4)])
    all_are(bus, agent, "succeeded", 4)
    first, *_ = broker.journal.lines(agent="dies")
    assert first["n"] in [call["n"] for call in broker.journal.lines(agent="lives")]
    assert sorted(n for call in broker.journal.lines(agent="lives") for n in call["n"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("agent", ["killed_pool", "killed_lane"])
def test_a_batch_that_ends_its_process_each_time_is_dead_letters(
    bus: Pipeline, broker: Broker, batching: StartWorker, agent: str
) -> None:
    batching(environment=SOON)
    publish_to(bus, agent, "death.wanted", [{"n": n, "always": True} for n in range(4)])
    wait_for(lambda: len(dead_letters(bus, agent)) == 4, "four dead letters", 120, 0.5)
    assert len({row["error"] for row in rows(bus, agent=agent)}) == len({call["id"] for call in broker.journal.lines()})
    other = publish_to(bus, agent, "death.wanted", [{"n": n} for n in range(4)])
    wait_for(lambda: {row["outcome"] for row in rows(bus, event_id=other[0].id)} == {"succeeded"}, "the next one", 90)


def test_a_batch_whose_worker_is_killed_goes_to_another_one(
    bus: Pipeline, broker: Broker, batching: StartWorker
) -> None:
    one = batching(pool="solo", environment=SOON)
    bus.publish_many([("hold.wanted", {"n": n}) for n in range(4)])
    (begun,) = broker.journal.wait(1, agent="begins")
    one.kill()
    (broker.directory / "gate").touch()
    batching(pool="solo", name="two", environment=SOON)
    wait_for(lambda: outcomes(bus, "holder") == {"succeeded": 4}, "all to succeed", 150, 0.5)
    assert begun["n"] in [call["n"] for call in broker.journal.lines(agent="ends")]
    assert sorted(n for call in broker.journal.lines(agent="ends") for n in call["n"]) == [0, 1, 2, 3]


def test_a_stopped_tree_takes_its_own_out_of_a_batch_and_the_others_go_on(
    bus: Pipeline, broker: Broker, batching: StartWorker
) -> None:
    batching(pool="threads")
    sent = bus.publish_many([("hold.wanted", {"n": n}) for n in range(4)])
    (begun,) = broker.journal.wait(1, agent="begins")
    leader = sent[begun["n"][0]]
    member = next(event for event in sent if event != leader)
    wait_for(lambda: "is handled together with delivery" in str(bus.trace(member)), "it to be told")
    assert set(kinds(bus)) <= {"in batch", "batch"}
    bus.cancel(member, tree=True)
    bus.cancel(leader, tree=True)
    (broker.directory / "gate").touch()
    sent += bus.publish_many([("hold.wanted", {"n": n}) for n in (4, 5)])  # so many as are missing from a batch
    wait_for(lambda: outcomes(bus, "holder") == {"succeeded": 4, "cancelled": 2}, "the others to succeed", 60)
    left = {n for n, event in enumerate(sent) if event not in (leader, member)}
    done = [set(call["n"]) for call in broker.journal.lines(agent="ends") if call["id"] != leader.id]
    assert set().union(*done) == left
