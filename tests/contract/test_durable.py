"""What the ledger promises, on every broker, with real worker processes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from pipeline import InvalidEvent, Pipeline
from pipeline.core.event import new_event
from pipeline.core.ids import delivery_id
from tests.harness import SOON, Broker, StartWorker, revoke
from tests.servers import wait_for

pytestmark = [pytest.mark.usefixtures("nothing_disappears"), pytest.mark.watched]


@pytest.fixture
def start(worker: StartWorker) -> StartWorker:
    """Start workers with the agents of durable_app."""
    return lambda **options: worker(**{"app": "durable_app", **options})


def rows(bus: Pipeline, table: str) -> list[tuple[object, ...]]:
    """Return the rows of a table that handlers have written."""
    with bus.ledger.database.reading() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]


def checked(data: dict[str, int]) -> None:
    """What the publisher knows of an agent that the workers run."""


def test_an_event_that_comes_twice_takes_effect_once(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    start()
    event = bus.publish("write.one", {})
    bus.settle(event)
    bus.publish(event)  # as a relay does that died before it could note what it had sent
    bus.settle(bus.publish("write.two", {}))
    assert broker.journal.count(agent="writer")[event.id] == 1
    assert len(rows(bus, "effects")) == 2


def test_what_a_handler_writes_in_its_session_takes_effect_once_though_it_is_retried(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start()
    event = bus.publish("write.one", {"fail": True})
    trace = bus.settle(event)
    assert [line["attempt"] for line in broker.journal.lines(agent="writer")] == [1, 2]
    assert [id for id, _ in rows(bus, "effects")] == [event.id]
    assert "writer" in str(trace)


def test_a_retry_survives_the_death_of_every_worker(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    first = start()
    event = bus.publish("order.bad", {"amount": -1})
    broker.journal.wait(1, agent="order", id=event.id)
    first.kill()
    start(environment=SOON)
    wait_for(lambda: bus.dead_letters.list(agent="order"), "the dead letter", 60)
    assert bus.dead_letters.list(agent="order")[0].attempts == 3


def test_a_delayed_event_comes_when_it_is_due_whoever_was_restarted(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start(name="before").stop()
    event = bus.publish("order.later", {"n": 1}, delay=1.0)
    assert not event.sent
    cancelled = bus.publish("order.later", {"n": 2}, delay=1.0)
    assert bus.cancel(cancelled.id)
    assert not bus.cancel(cancelled.id)
    start(name="after")
    (line,) = broker.journal.wait(1, agent="order")
    assert line["id"] == event.id
    assert datetime.fromtimestamp(line["at"], UTC) >= event.time
    settled = bus.settle(event)
    assert cancelled.id not in str(settled.as_data())
    assert not bus.cancel(event.id)


def test_what_a_handler_delays_is_published_later(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    start()
    event = bus.publish("order.paid", {"later": 0.5})
    bus.settle(event)
    assert sorted(line["type"] for line in broker.journal.lines(agent="echo")) == ["echo.later", "echo.order"]


def test_events_that_are_published_while_the_broker_is_away_are_sent_when_it_is_back(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    if broker.server is None:
        pytest.skip("the embedded broker is a file: it is never away")
    start(environment=SOON)
    broker.server.kill()
    events = [bus.publish("order.placed", {"n": n}) for n in range(5)]
    assert not any(event.sent for event in events)
    broker.server.start()
    for event in events:
        bus.settle(event, 60)
    assert broker.journal.count(agent="bystander") == {event.id: 1 for event in events}


def test_an_event_that_kills_the_whole_worker_is_set_aside_after_its_attempts(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start(name="declarer").stop()
    event = bus.publish("kill.me", {})
    for number in range(3):
        victim = start(name=f"victim{number}", wait=False, environment=SOON)
        wait_for(lambda one=victim: not one.is_running(), "the worker to die")
    start(name="survivor", environment=SOON)
    bus.settle(event, 60)
    (letter,) = bus.dead_letters.list(agent="killer")
    assert letter.event.id == event.id
    assert "WorkerDied" in letter.error
    assert broker.journal.count(agent="killer") == {event.id: 3}


def test_a_dead_letter_is_announced_and_succeeds_once_it_is_mended(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start()
    event = bus.publish("order.placed", {"amount": -5, "n": 1})
    bus.settle(event)
    (letter,) = bus.dead_letters.list()
    assert (letter.agent, letter.attempts, letter.error) == ("order", 3, "ValueError: negative amount")
    assert "raise ValueError" in letter.traceback
    (announced,) = broker.journal.wait(1, agent="letters", type="delivery.dead")
    assert announced["data"]["event_id"] == event.id
    bus.agent(name="order")(checked)  # an edited payload is checked by those who know the agent
    bus.dead_letters.requeue(letter.id, data={"amount": 5, "n": 1}, by="ada")
    broker.journal.wait(1, agent="echo")
    bus.settle(event)
    assert bus.dead_letters.list() == []
    assert broker.journal.count(agent="bystander") == {event.id: 1}, "a requeue concerns one agent"
    (audit,) = broker.journal.wait(1, agent="letters", type="delivery.requeued")
    assert (audit["data"]["before"]["amount"], audit["data"]["after"]["amount"]) == (-5, 5)


def test_what_was_published_before_an_agent_existed_is_known_and_reaches_it(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    early = bus.publish("late.news", {"n": 1})
    assert [found.event.id for found in bus.unrouted()] == [early.id]
    start()
    (line,) = broker.journal.wait(1, agent="order")  # since=0: from the first event on
    assert line["id"] == early.id
    bus.settle(early)
    assert bus.unrouted() == []
    elsewhere = bus.publish("nobody.listens", {})
    assert [found.event.id for found in bus.unrouted()] == [elsewhere.id]


def test_waiting_for_one_event_waits_for_the_whole_cascade_and_its_joins(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker()
    event = bus.publish("pair.started", {"n": 3})
    trace = bus.settle(event, 60)
    assert broker.journal.lines(agent="outcome", type="pair.complete")
    assert "pair.complete" in str(trace)


def test_a_replay_reaches_one_agent_and_nobody_else(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    start()
    events = [bus.publish("order.placed", {"n": n}) for n in range(3)]
    for event in events:
        bus.settle(event)
    replayed = bus.replay(to="order", type="order.*")
    assert replayed.number == 3
    lines = broker.journal.wait(3, agent="order", replay=True)
    assert sorted(line["id"] for line in lines) == sorted(event.id for event in events)
    bus.replay(to="order", type="order.*", id=replayed.id)  # the same replay again: the inbox knows it
    last = bus.publish("order.placed", {"n": 9})
    bus.settle(last)
    assert len(broker.journal.lines(agent="order", replay=True)) == 3
    assert len(broker.journal.lines(agent="bystander")) == 4
    # What the replayed deliveries emitted is recorded, and was sent to nobody.
    assert len(broker.journal.lines(agent="echo")) == 4
    assert len(list(bus.get_events(type="echo.order", replayed=True))) == 7
    assert len(list(bus.get_events(type="echo.order"))) == 4


def test_a_revoked_delivery_is_a_dead_letter_and_is_not_sent_again(
    bus: Pipeline, broker: Broker, start: StartWorker
) -> None:
    start(environment={"PIPELINE_RECONCILE_AFTER": "1"})
    event = new_event("order.placed", {"n": 1}, source="/test")
    delivery = delivery_id(event.id, "order")
    revoke(bus, delivery)
    bus.publish(event)
    bus.settle(event)
    (letter,) = bus.dead_letters.list()
    assert (letter.id, letter.error) == (delivery, "Revoked: revoked by `celery control revoke`")
    assert broker.journal.count(agent="bystander") == {event.id: 1}
    assert broker.journal.count(agent="order") == {}


def test_a_read_model_is_kept_up_to_date(bus: Pipeline, broker: Broker, start: StartWorker) -> None:
    start()
    for amount in (1, 2, 3):
        bus.publish("order.placed", {"amount": amount})
    wait_for(lambda: "totals" in tables(bus) and len(rows(bus, "totals")) == 3, "the read model")
    assert sum(amount for (amount,) in rows(bus, "totals")) == 6  # type: ignore[misc]


def tables(bus: Pipeline) -> list[str]:
    from sqlalchemy import inspect

    with bus.ledger.database.reading() as connection:
        return inspect(connection).get_table_names()


def test_a_target_that_no_worker_runs_is_an_error_for_the_publisher(bus: Pipeline, start: StartWorker) -> None:
    start()
    with pytest.raises(InvalidEvent, match=r"no agent is called 'bystandr'; did you mean 'bystander'\?"):
        bus.publish("order.placed", {}, targets=("bystandr",))
    assert list(bus.get_events(type="order.*")) == []
