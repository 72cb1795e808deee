"""Subscriptions with real workers: agents that are added, changed and removed while everything runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import psutil
import pytest

from pipeline import Pipeline
from pipeline.ledger.database.migrate import upgrade
from pipeline.ledger.ledger import Ledger
from tests.harness import SOON, Broker, StartWorker, Worker, backlog
from tests.records import rows
from tests.servers import Server, wait_for
from tests.webhooks import NEARBY, Hook, hooked

pytestmark = pytest.mark.usefixtures("nothing_disappears")
POOLS = pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])


@pytest.fixture
def broker(broker: Broker, servers: Callable[[str], Server]) -> Iterator[Broker]:
    """Each broker, RabbitMQ with a ledger in PostgreSQL."""
    if broker.name != "rabbitmq":
        yield broker
        return
    server = servers("postgresql")
    url = server.database()  # type: ignore[attr-defined]
    ledger = Ledger(url)
    upgrade(ledger.database)
    ledger.close()
    yield replace(broker, ledger=url)
    server.drop(url)  # type: ignore[attr-defined]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A server to call."""
    with hooked() as one:
        yield one


@pytest.fixture
def start(worker: StartWorker) -> StartWorker:
    """Start workers that may call this machine."""

    def start(pool: str = "prefork", **how: object) -> Worker:
        environment = {**NEARBY, **how.pop("environment", {})}  # type: ignore[dict-item]
        return worker(**{"app": "pauses_app", "pool": pool, "environment": environment, **how})

    return start


def taken_on(worker: Worker, id: str = "crm", times: int = 1) -> None:
    """Wait until a worker runs a subscription, or has changed it so often."""
    wait_for(lambda: worker.output().count(f"subscription {id}: this worker runs it") >= times, f"{id} to be run")


@POOLS
@pytest.mark.parametrize("app", ["pauses_app", "durable_app"])  # the second one has no async agents before
def test_what_is_added_while_workers_run_is_called_with_each_event(
    bus: Pipeline, start: StartWorker, hook: Hook, pool: str, app: str
) -> None:
    one = start(pool, app=app)
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    events = [bus.publish("order.placed", {"n": n}) for n in range(5)]
    calls = hook.wait(5)
    assert {call.event["id"] for call in calls} == {event.id for event in events}
    assert {call.headers["content-type"] for call in calls} == {"application/cloudevents+json; charset=utf-8"}
    for event in events:
        bus.settle(event, timeout=30)
    assert {(row["outcome"], row["attempts"]) for row in rows(bus, agent="crm")} == {("succeeded", 1)}
    assert set(hook.count().values()) == {1}
    one.stop()
    assert "Traceback" not in one.output()


def test_what_is_published_when_add_has_returned_waits_for_a_worker_that_comes_later(
    bus: Pipeline, broker: Broker, start: StartWorker, hook: Hook
) -> None:
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    events = [bus.publish("order.placed", {"n": n}) for n in range(3)]
    assert backlog(bus, "agent.crm") == 3
    assert bus.unrouted() == []
    start()
    calls = hook.wait(3)
    assert {call.event["id"] for call in calls} == {event.id for event in events}
    for event in events:
        assert "-> crm: succeeded" in str(bus.settle(event, timeout=30))
    assert set(hook.count().values()) == {1}


def test_a_worker_with_queues_of_its_own_leaves_subscriptions_to_others(
    bus: Pipeline, start: StartWorker, hook: Hook
) -> None:
    start(name="narrow", options=("-Q", "agent.other"))
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    event = bus.publish("order.placed", {"n": 1})
    bus.publish("work.wanted", {"n": 1})
    wait_for(lambda: len(rows(bus, agent="other", outcome="succeeded")) == 1, "the worker to have done its own")
    assert hook.calls == []
    start(name="wide")
    hook.wait(1)
    bus.settle(event, timeout=30)


def test_a_changed_filter_and_new_patterns_hold_for_all_that_is_published_from_then_on(
    bus: Pipeline, start: StartWorker, hook: Hook
) -> None:
    one = start()
    bus.subscriptions.add("crm", on="order.*", url=hook.url, where="side = left")
    taken_on(one)
    for n in range(40):  # still on their way when the filter changes: judged by either
        bus.publish("order.placed", {"n": n, "side": "left" if n % 2 else "right"})
    bus.subscriptions.change("crm", where="side = right")
    for n in range(40, 80):
        bus.publish("order.placed", {"n": n, "side": "left" if n % 2 else "right"})
    are_called(hook, range(40, 80, 2))
    taken_on(one, times=2)
    kept_back = bus.publish("order.placed", {"n": 100, "side": "left"})
    bus.settle(kept_back, timeout=30)
    bus.subscriptions.change("crm", on=["order.*", "invoice.#"], where=None, url=hook.url.replace("hook", "other"))
    for n in range(80, 90):
        bus.publish("invoice.sent" if n % 2 else "order.placed", {"n": n, "side": "left"})
    are_called(hook, range(80, 90))
    bus.subscriptions.change("crm", on="invoice.#")
    nobody = bus.publish("order.placed", {"n": 90})
    last = bus.publish("invoice.sent", {"n": 91})
    are_called(hook, [91])
    bus.settle(last, timeout=30)
    assert [each.event.id for each in bus.unrouted()] == [nobody.id]
    assert len(called(hook)) == len({*called(hook)})
    assert not {*called(hook)} & {90, 100}
    assert {*range(80, 90), 91} <= {*hook.data(path="/other")}
    assert {row["outcome"] for row in rows(bus, agent="crm")} == {"succeeded", "filtered"}


def are_called(hook: Hook, numbers: Iterable[int]) -> None:
    wait_for(lambda: {*numbers} <= {*called(hook)}, lambda: f"calls with {sorted({*numbers} - {*called(hook)})}")


def called(hook: Hook) -> list[int]:
    return [*hook.data(), *hook.data(path="/other")]


def test_what_waits_when_a_subscription_is_removed_is_a_dead_letter_and_what_runs_ends(
    bus: Pipeline, start: StartWorker, hook: Hook
) -> None:
    one = start()
    bus.subscriptions.add("crm", on="order.*", url=hook.url, max_concurrent=1)
    hook.gate.clear()
    events = [bus.publish("order.placed", {"n": n}) for n in range(10)]
    hook.wait(1)
    removed = bus.subscriptions.remove("crm")
    assert removed.dead == 9
    letters = bus.dead_letters.list(agent="crm")
    assert len(letters) == 9
    assert {letter.error for letter in letters} == {
        "subscription crm was removed: add it again under that id, and requeue this"
    }
    late = bus.publish("order.placed", {"n": 10})
    wait_for(lambda: [each.event.id for each in bus.unrouted()] == [late.id], "nobody to listen")
    wait_for(lambda: "subscription crm is removed" in one.output(), "the worker to know")
    hook.gate.set()
    wait_for(lambda: len(rows(bus, agent="crm", outcome="succeeded")) == 1, "what runs to end")
    assert len(hook.calls) == 1
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    assert bus.dead_letters.requeue(agent="crm").number == 9
    hook.wait(10)
    for event in events:
        bus.settle(event, timeout=30)
    assert {row["outcome"] for row in rows(bus, agent="crm")} == {"succeeded"}
    assert sorted(hook.data()) == [*range(10)]


def test_what_waits_with_no_worker_there_is_a_dead_letter_too_and_the_queue_goes(
    bus: Pipeline, broker: Broker, start: StartWorker, hook: Hook
) -> None:
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    for n in range(5):
        bus.publish("order.placed", {"n": n})
    assert bus.subscriptions.remove("crm").dead == 5
    assert bus.subscriptions.list() == []
    assert backlog(bus, "agent.crm") == 5
    start()
    wait_for(lambda: backlog(bus, "agent.crm") == 0, "the queue to be deleted", 30)
    assert hook.calls == []
    assert {row["outcome"] for row in rows(bus, agent="crm")} == {"dead"}


def test_when_everything_is_restarted_it_goes_on(bus: Pipeline, start: StartWorker, hook: Hook, broker: Broker) -> None:
    one = start(name="first")
    bus.subscriptions.add("crm", on="order.*", url=hook.url, where="n < 100")
    bus.publish("order.placed", {"n": 0})
    hook.wait(1)
    one.stop()
    bus.publish("order.placed", {"n": 1})
    bus.publish("order.placed", {"n": 100})
    bus.close()
    two = start(name="second")
    hook.wait(2)
    bus.publish("order.placed", {"n": 2})
    hook.wait(3)
    assert sorted(hook.data()) == [0, 1, 2]
    two.stop()


def test_catching_up_from_a_sequence_number_leaves_no_gap_and_doubles_nothing(
    bus: Pipeline, start: StartWorker, hook: Hook
) -> None:
    start()
    for n in range(30):
        bus.publish("order.placed", {"n": n})
    since = [record.seq for record in bus.get_events(type="order.placed")][10]
    stop = threading.Event()
    published = [30]

    def flow() -> None:
        while not stop.is_set():
            bus.publish("order.placed", {"n": published[0]})
            published[0] += 1

    flowing = threading.Thread(target=flow)
    flowing.start()
    wait_for(lambda: published[0] > 40, "events to flow")
    bus.subscriptions.add("crm", on="order.*", url=hook.url, since=since, max_concurrent=50)
    before = published[0]
    wait_for(lambda: published[0] > before + 20, "events to flow on")
    stop.set()
    flowing.join()
    hook.wait(published[0] - 10)
    recorded = published[0] - 10
    wait_for(lambda: len(rows(bus, agent="crm", outcome="succeeded")) == recorded, "all to be recorded")
    assert sorted(hook.data()) == [*range(10, published[0])]


@pytest.mark.parametrize("what", ["worker", "lane"])
def test_what_is_killed_in_the_middle_of_a_call_calls_again_under_the_same_id(
    bus: Pipeline, broker: Broker, start: StartWorker, hook: Hook, what: str
) -> None:
    soon = {**SOON, "PIPELINE_RECONCILE_AFTER": "1"}
    one = start(name="first", environment=soon)
    bus.subscriptions.add("crm", on="order.*", url=hook.url, max_concurrent=1)
    hook.gate.clear()
    event = bus.publish("order.placed", {"n": 1})
    hook.wait(1)
    if what == "worker":
        one.kill()
        start(name="second", environment=soon)
    else:
        os.kill(lane_of(one), signal.SIGKILL)
    hook.wait(2, 120)  # on Redis a worker counts as dead after half a minute
    hook.gate.set()
    bus.settle(event, timeout=60)
    assert len({call.id for call in hook.calls}) == 1
    assert [row["outcome"] for row in rows(bus, agent="crm")] == ["succeeded"]


def lane_of(worker: Worker) -> int:
    """Return the process of a worker's event loop: the one that has a connection to the hook."""
    assert worker.process is not None
    (found,) = [
        child.pid
        for child in psutil.Process(worker.process.pid).children()
        if any(one.status == "ESTABLISHED" for one in child.net_connections("tcp4"))
    ]
    return int(found)


def test_of_two_workers_one_makes_each_call_and_together_they_make_no_more_at_once_than_may(
    bus: Pipeline, start: StartWorker, hook: Hook
) -> None:
    workers = [start(name=name) for name in ("one", "two")]
    bus.subscriptions.add("crm", on="order.*", url=hook.url, max_concurrent=3)
    for one in workers:
        taken_on(one)
    hook.gate.clear()
    events = [bus.publish("order.placed", {"n": n}) for n in range(20)]
    hook.wait(3)
    wait_for(lambda: len(rows(bus, agent="crm", outcome="parked")) >= 3, "others to stand in line")
    assert len(hook.calls) == 3
    hook.gate.set()
    hook.wait(20)
    for event in events:
        bus.settle(event, timeout=60)
    assert hook.most == 3
    assert set(hook.count().values()) == {1}
    assert len(hook.count()) == 20
    bus.subscriptions.change("crm", max_concurrent=6)
    hook.gate.clear()
    for n in range(20, 40):
        bus.publish("order.placed", {"n": n})
    hook.wait(26)
    hook.gate.set()
    hook.wait(40)
    assert hook.most == 6


@POOLS
@pytest.mark.parametrize("since", ["before", "afterwards"])
def test_a_paused_subscription_waits_in_its_queue(
    bus: Pipeline, start: StartWorker, hook: Hook, pool: str, since: str
) -> None:
    one = start(pool)
    if since == "before":
        bus.ledger.waiting.pauses.pause("crm", "not yet")
        time.sleep(1)  # the worker has looked, and has nothing to hold
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    taken_on(one)
    if since == "afterwards":
        bus.pause("crm")
        wait_for(lambda: "agent.crm is not consumed" in one.output(), "the worker to hold it")
    bus.publish("order.placed", {"n": 1})
    wait_for(lambda: backlog(bus, "agent.crm") == 1, "the event to wait")
    assert hook.calls == []
    bus.resume("crm")
    hook.wait(1)
