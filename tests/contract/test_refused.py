"""An event that the broker refuses for itself, among others that it takes."""

from __future__ import annotations

import pytest

from pipeline import Pipeline
from pipeline.agents.effects import Effects
from pipeline.core.errors import EventRefused
from pipeline.core.ids import delivery_id
from pipeline.core.times import SECOND, now
from pipeline.delivery.delivery import Ended
from pipeline.delivery.inbox import Inbox
from pipeline.ledger.database.rows import timer_row
from pipeline.ledger.database.tables import outbox
from pipeline.ledger.facts import Delivery
from pipeline.ledger.timers import PUBLISH
from tests.harness import Broker
from tests.ledgers import new_order, record, sweep
from tests.records import make_app, rows

#: What the tests' RabbitMQ takes at most is 4 MiB, see tests/servers.py.
TOO_LARGE = {"text": "x" * 5_000_000}


@pytest.fixture
def app(broker: Broker) -> Pipeline:
    if broker.name != "rabbitmq":
        pytest.skip("only RabbitMQ has a limit of its own that an event can be over")
    ledger = f"sqlite:///{broker.directory / 'refused.db'}"
    return make_app(ledger, broker.directory, broker_url=broker.url, max_event_bytes=8_000_000)


def arrived(app: Pipeline) -> set[str]:
    """Take what is in billing's queue, which is declared; return the events' ids."""
    found = set()
    with app.celery.connection_for_read() as connection:
        queue = app.bus.names.agent_queue("billing", ("order.#",))(connection.default_channel)
        queue.declare()
        while message := queue.get(no_ack=True):
            found.add(message.headers["id"])
    return found


@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_rabbitmq_refuses_is_set_aside_once_and_holds_up_nobody(app: Pipeline, place: int) -> None:
    arrived(app)
    found = [new_order() for _ in range(5)]
    found[place] = found[place].evolve(data=TOO_LARGE)
    bad = found[place].id
    good = [event.id for number, event in enumerate(found) if number != place]

    app.ledger.append([record(event) for event in found], due_in=0)
    sweep(app)
    assert arrived(app) == set(good)
    assert rows(app, outbox) == []
    (one,) = app.ledger.aside.list()
    assert (one.place, one.id) == ("outbox", bad)
    assert "larger than" in one.reason

    # As deliveries that somebody asks for.
    with app.ledger.database.transaction() as connection:
        app.ledger.deliveries.add_queued(connection, [(event.id, "billing", 0) for event in found])
    sweep(app)
    assert arrived(app) == set(good)
    (letter,) = app.dead_letters.list()
    assert (letter.id, letter.readable) == (delivery_id(bad, "billing"), True)
    assert "refuses the event" in letter.error

    # In a replay, and delayed.
    replayed = app.replay(to="billing", ids=[event.id for event in found])
    assert (replayed.number, replayed.aside) == (4, 1)
    later = [new_order(), new_order().evolve(data=TOO_LARGE), new_order()]
    due = now() - SECOND
    app.ledger.timers.add([timer_row(one.id, PUBLISH, due, one.correlation_id, one.encode()) for one in later])
    arrived(app)
    sweep(app)
    assert arrived(app) == {later[0].id, later[2].id}
    assert sorted(one.place for one in app.ledger.aside.list()) == ["outbox", "outbox", "replay"]
    app.close()


def test_publishing_what_rabbitmq_refuses_keeps_it_and_delays_nobody_else(app: Pipeline) -> None:
    assert not app.publish("order.dropped", TOO_LARGE).sent
    assert app.publish("order.dropped", {}).sent, "the broker is not away"
    with pytest.raises(EventRefused, match="refuses the event for itself"):
        app.bus.publisher.deliver("billing", [(new_order().evolve(data=TOO_LARGE), {})], app.ledger.seal)
    app.close()


def test_what_rabbitmq_refuses_of_one_delivery_delays_nothing_that_its_neighbours_emit(app: Pipeline) -> None:
    arrived(app)
    inbox = Inbox(app.bus)
    causes = [new_order() for _ in range(3)]
    app.ledger.append([record(event) for event in causes], due_in=None)
    group = [Delivery(delivery_id(event.id, "stock"), event, "stock") for event in causes]
    assert [getattr(claim, "attempt", None) for claim in inbox.claim_all(group)] == [1, 1, 1]
    emitted = [new_order(), new_order().evolve(data=TOO_LARGE), new_order()]
    found = inbox.succeed_all([Ended(one, 1, Effects((event,))) for one, event in zip(group, emitted, strict=True)])
    inbox.send([each for one in found if not isinstance(one, BaseException) for each in one])
    assert arrived(app) == {emitted[0].id, emitted[2].id}
    assert rows(app, outbox) == []
    assert [(one.place, one.id) for one in app.ledger.aside.list()] == [("outbox", emitted[1].id)]
    app.close()
