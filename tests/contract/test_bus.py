"""What every broker has to do: one suite, run on embedded, RabbitMQ and Redis, with real worker processes."""

from __future__ import annotations

import json

import pytest
from celery import chord
from kombu import Queue

from pipeline import Event, Pipeline, UnknownAgent, emit
from pipeline.core.event import new_event
from pipeline.core.ids import caused_id, delivery_id
from tests.apps import contract_app
from tests.harness import Broker, StartWorker, backlog, dead_letters, declared
from tests.servers import wait_for

pytestmark = pytest.mark.watched


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
    secret = bus.ledger.secret if bus.has_ledger else b""
    assert caused[0]["id"] == caused_id(delivery_id(event.id, "alpha"), 0, secret)


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


@pytest.mark.bare
def test_an_event_with_targets_reaches_only_those(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    targeted = bus.publish("task.created", {"n": 1}, targets=("beta",))
    last = bus.publish("task.created", {"n": 2}, priority=10)
    broker.journal.wait(3, id=last.id)
    assert [line["agent"] for line in broker.journal.lines(id=targeted.id)] == ["beta"]


@pytest.mark.bare
def test_targets_get_an_event_that_they_do_not_listen_to(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    event = bus.publish("nobody.listens", {"n": 1}, targets=("alpha", "outcome"))
    broker.journal.wait(2, id=event.id)
    assert sorted(broker.journal.count(agent="alpha")) == sorted(broker.journal.count(agent="outcome")) == [event.id]
    assert backlog(bus, "events.unrouted") == 0


@pytest.mark.bare
def test_what_a_handler_emits_for_an_agent_reaches_that_agent_only(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    event = bus.publish("task.created", {"alpha": "tell gamma"})
    broker.journal.wait(1, type="told.something")
    last = bus.publish("task.created", {"n": 2}, priority=10)
    broker.journal.wait(3, id=last.id)
    (told,) = broker.journal.lines(type="told.something")
    assert (told["agent"], told["causation"], told["data"]) == ("gamma", event.id, {"from": "alpha"})


@pytest.mark.bare
def test_a_target_that_nobody_knows_is_an_error_of_the_publisher(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    declared(worker)
    with pytest.raises(UnknownAgent, match="no agent is called 'alhpa'"):
        bus.publish("task.created", {"n": 1}, targets=("beta", "alhpa"))
    assert [backlog(bus, f"agent.{agent}") for agent in ("alpha", "beta", "gamma")] == [0, 0, 0]


def test_a_target_that_is_not_known_yet_when_a_handler_emits_is_tried_again(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    event = bus.publish("task.created", {"alpha": "hold-again known; tell newcomer"})
    broker.journal.wait(1, agent="alpha", id=event.id, attempt=2)
    bus.ledger.subscribers.register({"newcomer": ((), None)})
    (broker.directory / "known").touch()
    wait_for(lambda: backlog(bus, "agent.newcomer") == 1, "the event in the queue of the agent that came later")
    assert not bus.dead_letters.list(agent="alpha")


@pytest.mark.bare
def test_a_join_publishes_one_event_with_all_results(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    event = bus.publish("pair.started", {"n": 5}, correlation_id="c-1")
    broker.journal.wait(2, agent="outcome")
    (complete,) = broker.journal.lines(agent="outcome", type="pair.complete")
    results = {"left": {"left": 5}, "right": {"n": 5}}
    assert complete["data"] == {
        "original": {"n": 5}, "completed_by": "all", "results": results, "errors": {}, "missing": []
    }  # fmt: skip
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
    wait_for(lambda: len(dead_letters(bus, "left")) == 1, "the dead letter")


@pytest.mark.bare
def test_a_member_that_is_retried_still_completes_its_join(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker()
    bus.publish("pair.started", {"n": 5, "left": "fail 2"})
    (complete,) = broker.journal.wait(1, agent="outcome", type="pair.complete")
    assert complete["data"]["results"] == {"left": {"left": 5}, "right": {"n": 5}}


@pytest.mark.bare
def test_a_member_whose_process_dies_is_tried_again_and_still_completes_its_join(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(pool="prefork")
    bus.publish("pair.started", {"n": 5, "left": "die"})
    (complete,) = broker.journal.wait(1, agent="outcome", type="pair.complete")
    assert complete["data"]["results"] == {"left": {"left": 5}, "right": {"n": 5}}
    assert [line["attempt"] for line in broker.journal.lines(agent="left")] == [1, 2]


def test_any_chord_can_end_in_an_event(broker: Broker, worker: StartWorker, bus: Pipeline) -> None:
    worker()
    cause = new_event("order.placed", {"n": 3}, source="/test")
    left = bus.agent(name="left")(contract_app.left.handler)
    right = bus.agent(name="right")(contract_app.right.handler)
    chord([left.s(cause), right.s(cause)], emit("pair.done", cause=cause), app=bus.celery).apply_async()
    (done,) = broker.journal.wait(1, agent="outcome", type="pair.done")
    assert done["data"] == {"results": [{"left": 3}, {"n": 3}]}
    assert done["correlation"] == cause.id
