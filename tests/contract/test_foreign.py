"""Events of other programs, and what strangers send, on each broker through a real worker."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from kombu import Producer, Queue
from sqlalchemy import event as sqlalchemy_event

from pipeline import Event, IdTaken, Pipeline, UnknownEvent
from pipeline.core.event import CONTENT_TYPE, new_event
from pipeline.core.ids import delivery_id, foreign_id
from pipeline.ledger.database.tables import events, timers
from pipeline.ledger.database.tables import outbox as outbox_table
from pipeline.ledger.facts import Delivery
from tests.foreign import BODIES, HEADERS, TYPES, foreign
from tests.harness import Broker, StartWorker
from tests.ledgers import move, sweep
from tests.records import order, rows
from tests.servers import wait_for

Sent = tuple[bytes, Any, Any]


def send(bus: Pipeline, messages: list[Sent], key: str = "task.created") -> list[bytes]:
    """Publish as a program does that knows nothing of this one; return the bodies that its client could send."""
    sent = []
    with bus.celery.connection_for_write() as connection:
        bus.bus.names.declare_events(connection.default_channel)
        for body, headers, content_type in messages:
            with suppress(Exception):  # no client could send that
                Producer(connection.channel()).publish(
                    body, exchange="events", routing_key=key, headers=headers, content_type=content_type,
                    content_encoding="utf-8", delivery_mode=2,
                )  # fmt: skip
                sent.append(body)
    return sent


def set_aside(bus: Pipeline, agent: str) -> list[bytes]:
    """Return the bodies that lie in an agent's dead letters on the broker."""
    with bus.celery.connection_for_read() as connection:
        queue = Queue(f"agent.{agent}.dead", no_declare=True)(connection.default_channel)
        found = list(iter(queue.get, None))
        for message in found:
            message.requeue()
    return [body.encode() if isinstance(body, str) else bytes(body) for body in (message.body for message in found)]


def event_of(**attributes: Any) -> Sent:
    return json.dumps(foreign(type="task.created", **attributes)).encode(), {}, CONTENT_TYPE


def test_events_are_told_apart_by_their_source_and_a_producers_own_headers_do_not_matter(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    own = {"id": "7", "type": "not.this", "bus": {"ledger": bus.ledger.id, "direct": True, "replay": "r1"}}
    body, _, content_type = event_of(source="/web-shop", mood="sunny")
    send(bus, [event_of(), (body, own, content_type), (body, {}, None), event_of()])
    reverse = foreign(type="com.example.task.created", id="7")
    send(bus, [(json.dumps(reverse).encode(), {}, "Application/CloudEvents+JSON; charset=utf-8")])
    keys = [foreign_id("/crm", "1001"), foreign_id("/web-shop", "1001")]
    # Only RabbitMQ says with which key a message came.
    keys += [foreign_id("/crm", "7")] if broker.name == "rabbitmq" else []
    for key in keys:
        wait_for(lambda key=key: rows(bus, id=delivery_id(key, "gamma"), outcome="succeeded"), f"the delivery of {key}")
        assert bus.settle(key, timeout=30)
    assert len(broker.journal.lines(agent="gamma")) == len(keys)
    assert bus.get_event(keys[1]).event.encode() == body
    if broker.name != "rabbitmq":
        own_type = delivery_id(foreign_id("/crm", "7"), "gamma")
        wait_for(lambda: rows(bus, id=own_type, outcome="filtered"), "the end of what nobody listens to")
        (row,) = rows(bus, id=own_type)
        assert "listens to com.example.task.created" in row["error"]


def test_whatever_strangers_send_ends_as_an_outcome_a_dead_letter_or_a_line_in_the_log(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker()
    messages: list[Sent] = []

    @given(BODIES, HEADERS, TYPES)
    @settings(max_examples=40, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    def collect(body: bytes, headers: Any, content_type: Any) -> None:
        messages.append((body, headers, content_type))

    collect()
    sent = send(bus, messages)
    assert len(sent) >= 20
    last = bus.publish("task.created", {}, priority=10)

    def has_ended(body: bytes) -> bool:
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            said = json.loads(body)
            key = foreign_id(said["source"], said["id"])
            found = rows(bus, id=delivery_id(key, "alpha"))
            if found and found[0]["outcome"] in ("succeeded", "filtered", "dead"):
                return True
            if isinstance(said.get("targets"), str) and "its targets are " in one.output():
                return True  # it is for other agents, which is said once in a while
        return body in aside

    aside: list[bytes] = []
    broker.journal.wait(3, id=last.id)

    def all_have_ended() -> bool:
        aside[:] = set_aside(bus, "alpha")
        return all(map(has_ended, sent))

    wait_for(all_have_ended, "an end for each message", 60, interval=0.5)
    assert one.output().count("set aside a message from agent.alpha: ") >= 1
    assert one.is_running()


def test_with_the_right_to_publish_alone_nobody_runs_a_delivery_again_or_a_task(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    one = worker()
    event = bus.publish("task.created", {"n": 1})
    broker.journal.wait(3, id=event.id)
    wait_for(lambda: len(rows(bus, event_id=event.id, outcome="succeeded")) == 3, "the deliveries")
    before = rows(bus, event_id=event.id)
    claims = {"ledger": bus.ledger.id, "replay": "r1", "broadcast": True, "direct": True, "signature": "0" * 32}
    forged = {"id": event.id, "type": event.type, "correlationid": event.id, "bus": claims}
    send(bus, [(event.encode(), forged, CONTENT_TYPE)])
    task = {"task": "agent.gamma", "id": delivery_id(event.id, "gamma"), "bus": claims}
    send(bus, [(json.dumps([[event.__json__()], {}, {}]).encode(), task, "application/json")])
    key = foreign_id("/publisher", event.id)
    wait_for(lambda: len(rows(bus, event_id=key, outcome="succeeded")) == 3, "the stranger's event")
    assert rows(bus, event_id=event.id) == before
    assert {row["replay"] for row in rows(bus)} == {None}
    if broker.name == "rabbitmq":  # elsewhere a message does not say through which exchange it came
        wait_for(lambda: "'agent.gamma' was sent where only events are taken" in one.output(), "the refusal")


# -- ids that are taken, and what a database refuses


@pytest.mark.parametrize("how", ["publish", "session"])
def test_an_id_that_the_log_has_with_other_content_is_an_error_and_nothing_is_written(app: Pipeline, how: str) -> None:
    first = app.publish(new_event(order(1), source="/t", id="a1"))
    again = new_event(order(1), source="/t", id="a1")
    assert app.publish(again).sent, "the same once more, at another time"
    other, fresh = new_event(order(2), source="/t", id="a1"), new_event(order(3), source="/t")
    in_session = app.ledger.database.transaction() if how == "session" else nullcontext()
    with pytest.raises(IdTaken, match=r"id: the log has another event 'a1' of source '/t'"), in_session as connection:
        app.publish_many([fresh, other], session=connection)
    assert [(row["id"], row["body"]) for row in rows(app, events)] == [("a1", first.encode().decode())]
    assert rows(app, outbox_table) == []
    with pytest.raises(IdTaken), app.ledger.database.transaction() if how == "session" else nullcontext() as connection:
        app.publish(other, delay=60, session=connection)
    twice = [new_event(order(4), source="/t", id="b"), new_event(order(5), source="/t", id="b")]
    with pytest.raises(IdTaken):
        app.publish_many(twice)


def test_an_id_that_is_taken_costs_no_connection(app: Pipeline) -> None:
    app.publish(new_event(order(1), source="/t", id="a1"))
    opened: list[object] = []
    sqlalchemy_event.listen(app.ledger.database.engine, "connect", lambda *connection: opened.append(connection))
    for n in range(2, 6):
        with pytest.raises(IdTaken):
            app.publish(new_event(order(n), source="/t", id="a1"))
    assert opened == []
    app.publish(order(6))
    assert len(rows(app, events)) == 2


@pytest.mark.parametrize("how", ["publish", "session"])
def test_a_delayed_event_keeps_its_id_for_itself_and_may_be_put_off(app: Pipeline, how: str) -> None:
    first, other = (new_event(order(n), source="/t", id="a1") for n in (1, 2))
    for event, expected in (
        (first, nullcontext()),
        (first, nullcontext()),
        (other, pytest.raises(IdTaken, match="delayed")),
    ):
        in_session = app.ledger.database.transaction() if how == "session" else nullcontext()
        with expected, in_session as connection:  # type: ignore[attr-defined]
            app.publish(event, delay=60, session=connection)
    (timer,) = rows(app, timers)
    assert json.loads(timer["body"])["data"] == first.data


def test_a_delayed_event_whose_id_was_taken_meanwhile_is_set_aside_with_the_reason(app: Pipeline) -> None:
    late, early = (new_event(order(n), source="/t", id="a1") for n in (1, 2))
    app.publish(late, delay=60)
    app.publish(early)
    move(app.ledger, timers, 61)
    sweep(app)
    (noted,) = app.ledger.aside.list()
    assert (noted.id, rows(app, timers)) == ("a1", [])
    assert "the log has another event 'a1'" in noted.reason
    assert json.loads(noted.body or "")["data"] == late.data


def test_whoever_asks_for_an_event_by_its_programs_id_is_told_its_key(app: Pipeline) -> None:
    for source in ("/crm", "/web"):
        event = Event.decode(json.dumps(foreign(source=source)), None)
        app.ledger.claim(Delivery(delivery_id(event.key, "a"), event, "a", logged=False), worker="w")
    for ask in (app.trace, app.get_event, app.settle):
        with pytest.raises(UnknownEvent, match="the ledger knows that by its key: use") as caught:
            ask("1001")
        assert all(foreign_id(source, "1001") in str(caught.value) for source in ("/crm", "/web"))
