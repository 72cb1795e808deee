"""What every broker has to do: one suite, run on embedded, RabbitMQ and Redis, with real worker processes."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import chord
from kombu import Queue

from pipeline import Event, Pipeline, emit
from pipeline.event import new_event
from pipeline.ids import caused_id, delivery_id
from tests.apps import contract_app
from tests.harness import SOON, Broker, Worker, run
from tests.servers import wait_for

StartWorker = Callable[..., Worker]


def dead_letters(bus: Pipeline, agent: str) -> list[str]:
    """Return the events set aside for an agent, leaving them where they are."""
    if bus.has_ledger:
        return [letter.event.encode().decode() for letter in bus.dead_letters.list(agent=agent)]
    found = []
    with bus.celery.connection_for_read() as connection:
        queue = Queue(f"agent.{agent}.dead", no_declare=True)(connection.default_channel)
        while message := queue.get():
            found.append(message)
        for message in found:
            message.requeue()
    return [str(message.body) for message in found]


def backlog(bus: Pipeline, queue: str) -> int:
    """Return how many messages wait in a queue."""
    with bus.celery.connection_for_read() as connection:
        try:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return 0  # in Redis an empty queue does not exist


def declared(worker: StartWorker) -> None:
    """Let a worker declare the agents' queues, and leave."""
    worker(name="declarer").stop()


def test_one_event_reaches_every_agent_whose_pattern_matches_once(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    event = bus.publish("task.created", {"n": 1})
    bus.publish("task.assigned.late", {"n": 2})
    bus.publish("task", {"n": 3})
    bus.publish("extra.only", {"n": 4})
    last = bus.publish("task.created", {"n": 5}, priority=10)
    broker.journal.wait(3, id=last.id)
    by_agent = {
        name: [
            line["data"]["n"] for line in sorted(broker.journal.lines(agent=name), key=lambda line: line["data"]["n"])
        ]
        for name in ("alpha", "beta", "gamma")
    }
    assert by_agent == {"alpha": [1, 5], "beta": [1, 2, 3, 4, 5], "gamma": [1, 5]}
    for line in broker.journal.lines(id=event.id):
        assert line["delivery"] == delivery_id(event.id, line["agent"])
        assert line["correlation"] == event.id


@pytest.mark.bare
def test_a_retry_reaches_only_the_agent_that_failed(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    event = bus.publish("task.created", {"alpha": "fail 2"})
    broker.journal.wait(5, id=event.id)
    last = bus.publish("task.created", {}, priority=10)
    broker.journal.wait(3, id=last.id)
    attempts = sorted((line["agent"], line["attempt"]) for line in broker.journal.lines(id=event.id))
    assert attempts == [("alpha", 1), ("alpha", 2), ("alpha", 3), ("beta", 1), ("gamma", 1)]
    assert dead_letters(bus, "alpha") == []


@pytest.mark.bare
def test_an_event_that_fails_for_good_is_set_aside_for_that_agent_only(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    event = bus.publish("task.created", {"alpha": "fail"})
    wait_for(lambda: len(dead_letters(bus, "alpha")) == 1, "the dead letter")
    assert [line["attempt"] for line in broker.journal.lines(agent="alpha")] == [1, 2, 3, 4]
    assert json.loads(event.encode())["data"] == {"alpha": "fail"}
    assert event.id in dead_letters(bus, "alpha")[0]
    assert dead_letters(bus, "beta") == dead_letters(bus, "gamma") == []


@pytest.mark.bare
def test_an_error_that_retrying_cannot_cure_is_dead_at_once(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    bus.publish("task.created", {"alpha": "give-up"})
    bus.publish("strict.order", {"n": "no number"})
    wait_for(lambda: len(dead_letters(bus, "alpha")) == len(dead_letters(bus, "strict")) == 1, "two dead letters")
    assert [line["attempt"] for line in broker.journal.lines(agent="alpha")] == [1]
    assert broker.journal.lines(agent="strict") == []


@pytest.mark.bare
def test_events_of_a_failing_attempt_are_not_published(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    event = bus.publish("task.created", {"alpha": "emit extra.only; fail 2"})
    caused = broker.journal.wait(1, agent="beta", type="extra.only")
    bus.publish("task.created", {}, priority=10)
    broker.journal.wait(2, agent="gamma")
    assert len(broker.journal.lines(agent="beta", type="extra.only")) == 1
    assert caused[0]["id"] == caused_id(delivery_id(event.id, "alpha"), 0)


@pytest.mark.bare
def test_a_returned_payload_is_the_next_event_and_the_trace_is_inherited(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    event = bus.publish("task.assigned", {"beta": "next 7"}, priority=3, correlation_id="order-17")
    (follow,) = broker.journal.wait(1, agent="follow")
    assert follow["data"] == 7
    assert follow["correlation"] == "order-17"
    assert follow["causation"] == event.id
    assert follow["priority"] == 3
    assert follow["hops"] == 1
    assert follow["source"] == "/contract/agent/beta"


def test_urgent_events_overtake_routine_ones_that_wait(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    declared(worker)
    for n in range(20):
        bus.publish("extra.only", {"n": n}, priority=10 if n % 2 else 5)
    bus.publish("extra.only", {"n": "urgent"}, priority=1)
    worker(concurrency=1, options=("--prefetch-multiplier", "1"))
    order = [line["data"]["n"] for line in broker.journal.wait(21, agent="beta")]
    assert order[0] == "urgent"
    assert order[1:11] == list(range(0, 20, 2))
    assert order[11:] == list(range(1, 20, 2))


def test_events_of_one_priority_keep_their_order_in_each_queue(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    declared(worker)
    bus.publish_many([("task.assigned", {"n": n}) for n in range(100)])
    worker(concurrency=1)
    broker.journal.wait(200)
    for agent in ("alpha", "beta"):
        assert [line["data"]["n"] for line in broker.journal.lines(agent=agent)] == list(range(100))


def test_workers_share_an_agents_events_and_each_is_handled_once(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(name="w1")
    worker(name="w2")
    events = bus.publish_many([("task.created", {"alpha": "sleep 0.01"}) for _ in range(100)])
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
    assert one.process is not None
    assert one.process.poll() is None
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
    assert one.process is not None
    assert one.process.poll() is None


def test_a_message_cannot_name_a_task_or_a_callback(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    marks = {"callbacks": [{"task": "plain.add", "args": [1, 2]}], "chord": {"task": "plain.add"}, "task": "plain.add"}
    event = bus.publish("task.created", marks)
    broker.journal.wait(3, id=event.id)
    assert [line["data"] for line in broker.journal.lines(agent="alpha")] == [marks]


def test_an_event_that_nobody_subscribes_to_can_be_found(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    declared(worker)
    event = bus.publish("nobody.listens", {"n": 1})
    wait_for(lambda: backlog(bus, "events.unrouted") == 1, "the unrouted event")
    with bus.celery.connection_for_read() as connection:
        message = Queue("events.unrouted", no_declare=True)(connection.default_channel).get()
        message.ack()
    assert Event.decode(message.body) == event


def test_an_event_with_targets_reaches_only_those(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    targeted = bus.publish("task.created", {"n": 1}, targets=("beta",))
    last = bus.publish("task.created", {"n": 2}, priority=10)
    broker.journal.wait(3, id=last.id)
    assert [line["agent"] for line in broker.journal.lines(id=targeted.id)] == ["beta"]


@pytest.mark.bare
def test_a_join_publishes_one_event_with_all_results(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    event = bus.publish("pair.started", {"n": 5}, correlation_id="c-1")
    broker.journal.wait(2, agent="outcome")
    (complete,) = broker.journal.lines(agent="outcome", type="pair.complete")
    assert complete["data"] == {"original": {"n": 5}, "results": {"left": {"left": 5}, "right": {"n": 5}}}
    assert (complete["correlation"], complete["causation"]) == ("c-1", event.id)


@pytest.mark.bare
def test_a_join_tells_when_one_of_its_agents_is_dead(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    event = bus.publish("pair.started", {"n": 5, "left": "fail"})
    (failed,) = broker.journal.wait(1, agent="outcome", type="pair.failed")
    assert failed["data"]["original"] == {"n": 5, "left": "fail"}
    assert "left was told to fail" in failed["data"]["error"]
    assert failed["causation"] == event.id
    assert len(broker.journal.lines(agent="left")) == 4
    assert len(dead_letters(bus, "left")) == 1


@pytest.mark.bare
def test_a_member_that_is_retried_still_completes_its_join(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    bus.publish("pair.started", {"n": 5, "left": "fail 2"})
    (complete,) = broker.journal.wait(1, agent="outcome", type="pair.complete")
    assert complete["data"]["results"] == {"left": {"left": 5}, "right": {"n": 5}}


def test_any_chord_can_end_in_an_event(broker: Broker, worker: StartWorker, bus: Pipeline) -> None:
    worker()
    cause = new_event("order.placed", {"n": 3}, source="/test")
    left = bus.agent(name="left")(contract_app.left.handler)
    right = bus.agent(name="right")(contract_app.right.handler)
    chord([left.s(cause), right.s(cause)], emit("pair.done", cause=cause), app=bus.celery).apply_async()
    (done,) = broker.journal.wait(1, agent="outcome", type="pair.done")
    assert done["data"] == {"results": [{"left": 3}, {"n": 3}]}
    assert done["correlation"] == cause.id


def test_a_rate_limit_holds_events_back_and_loses_none(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    bus.publish_many([("limited.thing", {"n": n}) for n in range(5)])
    lines = broker.journal.wait(5, agent="limited")
    assert lines[-1]["at"] - lines[0]["at"] >= 1.5
    assert set(broker.journal.count(agent="limited").values()) == {1}


def test_hundreds_of_async_handlers_wait_at_once_in_a_threads_pool(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(pool="threads", concurrency=200)
    bus.publish_many([("wait.long", {"seconds": 5.0}) for _ in range(200)])
    broker.journal.wait(200, agent="waited")
    started = [line["at"] for line in broker.journal.lines(agent="wait")]
    ended = [line["at"] for line in broker.journal.lines(agent="waited")]
    at_once = max(sum(s <= end for s in started) - sum(e < end for e in ended) for end in ended)
    assert at_once >= 150
    assert len({line["pid"] for line in broker.journal.lines()}) == 1


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
    assert one.process is not None
    assert one.process.poll() is None


def test_a_second_worker_with_the_same_node_name_ends_and_says_so(broker: Broker, worker: StartWorker) -> None:
    first = worker(name="same")
    second = run(
        [sys.executable, "-m", "celery", "-A", "contract_app", "worker", "-P", "solo", "-n", "same@test"], broker
    )
    assert second.returncode == 1
    assert "another worker is called same@test; give each its own name" in second.stderr
    assert first.process is not None
    assert first.process.poll() is None
    ping = run([sys.executable, "-m", "celery", "-A", "contract_app", "inspect", "ping"], broker)
    assert "pong" in ping.stdout


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_goes_on_when_its_broker_was_restarted(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    if broker.server is None:
        pytest.skip("the embedded broker has no server that could go away")
    one = worker(pool=pool)
    first = bus.publish("task.created", {"n": 1})
    broker.journal.wait(3, id=first.id)
    broker.server.kill()
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
    started = time.monotonic()
    result = bus.celery.send_task("plain.add", (20, 22))
    assert result.get(timeout=20) == 42
    assert time.monotonic() - started < 20
