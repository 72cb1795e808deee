"""What every broker's workers have to do: share events, keep limits, survive poison, kills, restarts."""

from __future__ import annotations

import gzip
import sys
import time
from typing import Any

import pytest

from pipeline import Pipeline
from tests.amqp import UNREADABLE, Odd, event
from tests.harness import PING, SOON, Broker, StartWorker, backlog, dead_letters, run
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


def test_workers_share_an_agents_events_and_each_is_handled_once(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(name="w1")
    worker(name="w2")
    events = bus.publish_many([("task.created", {"alpha": "hold gate"}) for _ in range(100)])
    broker.journal.wait(2, agent="alpha")  # each holds one
    (broker.directory / "gate").touch()
    broker.journal.wait(300)
    assert set(broker.journal.count().values()) == {3}
    assert set(broker.journal.count(agent="alpha")) == {event.id for event in events}
    assert len({line["pid"] for line in broker.journal.lines()}) == 2


@pytest.mark.bare
def test_a_killed_worker_loses_nothing_and_bothers_only_the_agent_it_ran(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    first = worker(name="w1", concurrency=1, options=("--prefetch-multiplier", "1"), environment=SOON)
    event = bus.publish("task.created", {"alpha": "hold gate"})
    broker.journal.wait(1, agent="alpha")
    first.kill()
    (broker.directory / "gate").touch()
    worker(name="w2", concurrency=1, environment=SOON)
    broker.journal.wait(2, agent="alpha", seconds=60)
    broker.journal.wait(1, agent="beta")
    broker.journal.wait(1, agent="gamma")
    assert broker.journal.count(agent="alpha") == {event.id: 2}
    assert broker.journal.count(agent="beta") == broker.journal.count(agent="gamma") == {event.id: 1}


def test_a_stopped_worker_finishes_what_it_runs_and_the_next_one_goes_on(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    first = worker(name="w1", concurrency=1)
    bus.publish_many([("extra.only", {"n": n, "beta": "sleep 0.02"}) for n in range(50)])
    broker.journal.wait(5, agent="beta")
    first.stop()
    worker(name="w2", concurrency=1)
    broker.journal.wait(50, agent="beta")
    assert set(broker.journal.count(agent="beta").values()) == {1}


def poison(broker: Broker) -> dict[str, dict[str, Any]]:
    """Return messages that would crash or stall a bare Celery worker, each as arguments of Producer.publish."""
    task = {"task": "agent.alpha", "id": "x"}
    good = b'[["{}"], {}, {}]'
    plain = {"content_type": "application/json", "content_encoding": "utf-8"}
    event = {"content_type": "application/cloudevents+json", "content_encoding": "utf-8"}
    far = "9999-01-01T00:00:00+00:00"
    return {
        "an empty object": {**plain, "body": b"{}"},
        "an empty list": {**plain, "body": b"[]"},
        "a task without id": {**plain, "headers": {"task": "agent.alpha"}, "body": good},
        "a task with an empty body": {**plain, "headers": task, "body": b"{}"},
        "a task with a bad time limit": {**plain, "headers": {**task, "timelimit": "soon"}, "body": good},
        "a task with bad stamps": {**plain, "headers": {**task, "stamped_headers": 7}, "body": good},
        "a task for the year 9999": {**plain, "headers": {**task, "eta": far}, "body": good},
        "a task with a bad expiry": {**plain, "headers": {**task, "expires": "never"}, "body": good},
        "an unknown type mark": {**plain, "headers": task, "body": b'[[{"__type__":"x","__value__":1}], {}, {}]'},
        "pickle": {"content_type": "application/x-python-serialize", "content_encoding": "binary", "body": b"\x80"},
        "no event at all": {**event, "body": b"\xff\xfe"},
        "an event without type": {**event, "body": b'{"specversion":"1.0","id":"1","source":"/x"}'},
        "an event whose headers lie": {**event, "headers": {"id": "1", "type": "task.created"}, "body": b"{}"},
        "an event with an odd id": {**event, "headers": {"id": ["1"], "type": "task.created"}, "body": b"[1]"},
        "a large event": {**event, "headers": {"id": "1", "type": "task.created"}, "body": b" " * 300_000},
        "a gzip bomb": {**event, "headers": {"compression": "application/x-gzip"}, "body": gzip.compress(bytes(10**7))},
    }  # fmt: skip


def test_poison_is_set_aside_and_the_worker_lives(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    one = worker(concurrency=1, options=("--prefetch-multiplier", "2"))
    messages = poison(broker)
    with bus.celery.connection_for_write() as connection, connection.Producer() as producer:
        for message in messages.values():
            producer.publish(**message, exchange="", routing_key="agent.alpha")
    event = bus.publish("task.created", {"n": 1})
    broker.journal.wait(3, id=event.id)
    wait_for(lambda: backlog(bus, "agent.alpha.dead") == len(messages), f"{len(messages)} dead letters")
    assert one.is_running()
    assert backlog(bus, "agent.alpha") == 0


def test_what_is_no_message_at_all_does_not_end_a_worker_on_redis(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    if broker.name != "redis":
        pytest.skip("only in Redis can anybody write into a queue what is no message")
    import redis

    one = worker(concurrency=1)
    junk = [b"\xff\xfe", b"{", b"[1]", b"{}", b'{"properties": 7}', b'{"properties": {}, "headers": ["compression"]}']
    junk += [b'{"properties": {"body_encoding": "rot13"}, "body": "x"}', b"[" * 200_000]
    with redis.Redis.from_url(broker.url) as client:
        client.lpush("agent.alpha", *junk)
    event = bus.publish("task.created", {"n": 1})
    broker.journal.wait(3, id=event.id)
    wait_for(lambda: backlog(bus, "agent.alpha.dead") == len(junk), f"{len(junk)} dead letters")
    assert one.is_running()


def test_what_py_amqp_cannot_decode_is_set_aside_on_rabbitmq(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    if broker.name != "rabbitmq":
        pytest.skip("only RabbitMQ takes properties and routing keys that are no text")
    one = worker(concurrency=1)
    with bus.celery.connection_for_write() as connection, connection.channel() as channel:
        for properties in UNREADABLE.values():
            channel.basic_publish(Odd("{}", properties), exchange="", routing_key="agent.alpha")
        channel.queue_bind("agent.alpha", "events", "#")
        channel.basic_publish(event(), exchange="events", routing_key=b"\xff")
        channel.queue_unbind("agent.alpha", "events", "#")
    event_id = bus.publish("task.created", {"n": 1}).id
    broker.journal.wait(3, id=event_id)
    wait_for(lambda: backlog(bus, "agent.alpha.dead") == len(UNREADABLE) + 1, "the dead letters")
    assert one.output().count("set aside a message") == len(UNREADABLE) + 1
    assert "Connection to broker lost" not in one.output()


def test_a_rate_limit_holds_events_back_and_loses_none(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    bus.publish_many([("limited.thing", {"n": n}) for n in range(5)])
    lines = broker.journal.wait(5, agent="limited")
    assert lines[-1]["at"] - lines[0]["at"] >= 1.5
    assert set(broker.journal.count(agent="limited").values()) == {1}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_agent_at_its_limit_lets_events_wait_and_loses_none(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    worker(pool=pool, concurrency=6)
    events = bus.publish_many([("narrow.road", {"n": n, "fail": n % 5 == 0}) for n in range(12)])
    broker.journal.wait(12, agent="narrowed")
    marks = [(line["at"], 1) for line in broker.journal.lines(agent="narrow")]
    marks += [(line["at"], -1) for line in broker.journal.lines(agent="narrowed")]
    at_once = [sum(step for _, step in sorted(marks)[: n + 1]) for n in range(len(marks))]
    assert max(at_once) == 2
    assert broker.journal.count(agent="narrow").keys() == {event.id for event in events}


def test_what_waits_for_a_slow_agent_keeps_no_other_agents_events_back(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(pool="threads", concurrency=2)
    slow = bus.publish_many([("alone.thing", {"alone": "hold gate"}) for _ in range(60)])
    broker.journal.wait(1, agent="alone")
    quick = bus.publish_many([("task.created", {"n": n}) for n in range(60)])
    broker.journal.wait(180, type="task.created")
    assert len(broker.journal.lines(agent="alone")) == 1
    (broker.directory / "gate").touch()
    broker.journal.wait(60, agent="alone")
    one.stop()
    assert broker.journal.count() == {**{event.id: 1 for event in slow}, **{event.id: 3 for event in quick}}


@pytest.mark.bare
def test_an_async_handler_that_exceeds_its_timeout_is_cancelled_and_tried_again(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    bus.publish("slow.thing", {})
    wait_for(lambda: len(dead_letters(bus, "slow")) == 1, "the dead letter")
    assert [line["attempt"] for line in broker.journal.lines(agent="slow")] == [1, 2]


def test_a_pool_process_that_dies_is_an_attempt_and_the_event_is_tried_again(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(pool="prefork")
    event = bus.publish("task.created", {"alpha": "die"})
    broker.journal.wait(2, agent="alpha", id=event.id)
    broker.journal.wait(1, agent="beta")
    broker.journal.wait(1, agent="gamma")
    assert [line["attempt"] for line in broker.journal.lines(agent="alpha")] == [1, 2]
    assert broker.journal.count(agent="beta") == broker.journal.count(agent="gamma") == {event.id: 1}


@pytest.mark.bare
def test_an_event_that_always_kills_its_pool_process_is_set_aside(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker(pool="prefork")
    bus.publish("task.created", {"alpha": "die-always"})
    wait_for(lambda: len(dead_letters(bus, "alpha")) == 1, "the dead letter", 60)
    assert len(broker.journal.lines(agent="alpha")) == 4
    event = bus.publish("task.created", {})
    broker.journal.wait(3, id=event.id)
    assert one.is_running()


@pytest.mark.parametrize("exclusive", [True, False], ids=["own mailboxes", "open mailboxes"])
def test_a_second_worker_with_the_same_node_name_ends_and_says_so(
    broker: Broker, worker: StartWorker, exclusive: bool
) -> None:
    options = ("--", f"control.queue_exclusive={int(exclusive)}")  # the default of Celery 5.7, and of 5.6
    first = worker(name="same", options=options)
    command = [sys.executable, "-m", "celery", "-A", "contract_app", "worker", "-P", "solo", "-n", "same@test"]
    second = run([*command, *options], broker)
    assert second.returncode == 1
    assert "another worker is called same@test, so this one ends; give each its own name" in second.stderr
    assert first.is_running()
    ping = run([sys.executable, "-m", "celery", "-A", "contract_app", *PING, "same@test"], broker)
    assert "pong" in ping.stdout


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_goes_on_when_its_broker_was_restarted(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    if broker.server is None:
        pytest.skip("the embedded broker has no server that could go away")
    one = worker(pool=pool)
    first = bus.publish("task.created", {"beta": "hold open"})  # its message cannot be acked any more
    broker.journal.wait(3 if pool == "prefork" else 1, id=first.id)
    broker.server.kill()
    (broker.directory / "open").touch()
    wait_for(lambda: "Trying again in" in one.output(), "the worker to notice")
    broker.server.start()
    second = bus.publish("task.created", {"n": 2}, timeout=30)
    broker.journal.wait(3, id=second.id, seconds=60)
    assert broker.journal.count(agent="beta", id=second.id) == {second.id: 1}


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_every_pool_runs_agents_and_plain_tasks_side_by_side(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    worker(pool=pool)
    bus.publish_many([("task.created", {"beta": "next 1"}) for _ in range(20)])
    broker.journal.wait(80)
    assert len(broker.journal.lines(agent="follow")) == 20
    bus.celery.send_task("plain.add", (1, 2)).forget()
    assert bus.celery.send_task("plain.add", (20, 22)).get(timeout=60) == 42


def test_an_event_that_is_too_large_for_its_worker_is_a_dead_letter_of_the_ledger_in_the_end(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(environment={"PIPELINE_MAX_EVENT_BYTES": "2000", "PIPELINE_RECONCILE_AFTER": "4"})
    event = bus.publish("step.done", "x" * 3000)
    wait_for(lambda: bus.dead_letters.list(agent="follow"), "the dead letter", 90)
    (letter,) = bus.dead_letters.list(agent="follow")
    assert (letter.event.id, "the limit is 2,000" in letter.error) == (event.id, True)
    bus.settle(bus.publish("step.done", {"n": 1}), 60)  # which comes after all that has been sent
    set_aside = backlog(bus, "agent.follow.dead")
    time.sleep(6)  # the reconciliation has looked
    bus.settle(bus.publish("step.done", {"n": 2}), 60)
    assert backlog(bus, "agent.follow.dead") == set_aside <= 2


def test_what_is_published_as_soon_as_an_agent_is_known_does_not_wait_for_reconciliation(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(wait=False)
    wait_for(lambda: "beta" in bus.ledger.subscribers.all(), "the agent to be known", 90, 0.005)
    event = bus.publish("extra.only", {"beta": "ok"})
    wait_for(lambda: broker.journal.count(agent="beta"), "it to be handled", 40)  # reconciliation comes after 60 s
    assert broker.journal.count(agent="beta") == {event.id: 1}
