"""Messages that expire, and queues with a length limit: what every broker does with other programs' ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from kombu import Connection, Exchange, Queue

from pipeline import Pipeline
from pipeline.brokers import kinds
from tests.harness import Broker, StartWorker, backlog, declared
from tests.servers import wait_for

DEAD = Queue("test.dead", Exchange("test.dead", type="direct"), routing_key="test.dead")
ARGUMENTS = {"x-max-length": 5, "x-dead-letter-exchange": "test.dead", "x-dead-letter-routing-key": "test.dead"}
LIMITED = Queue("test.limited", Exchange("test.limited", type="direct"), "test.limited", queue_arguments=ARGUMENTS)


def foreign(id: str) -> dict[str, Any]:
    """Return an event as another program sends it, as arguments of Producer.publish."""
    event = {"specversion": "1.0", "id": id, "source": "/elsewhere", "type": "task.created", "data": {}}
    return {"body": orjson.dumps(event), "content_type": "application/cloudevents+json", "content_encoding": "utf-8"}


def test_an_event_that_has_expired_is_set_aside_and_those_that_have_not_are_handled(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    declared(worker)
    with bus.celery.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(**foreign("late"), routing_key="agent.alpha", expiration=0.001)
        producer.publish(**foreign("in time"), routing_key="agent.alpha", expiration=3600)
    worker(name="w2")
    broker.journal.wait(1, agent="alpha", id="in time")
    wait_for(lambda: backlog(bus, "agent.alpha.dead") == 1, "the dead letter")
    assert broker.journal.lines(id="late") == []


@pytest.fixture
def connection(broker: Broker) -> Iterator[Connection]:
    """A connection to a broker on which a queue takes five messages."""
    kinds.register()
    with Connection(broker.url) as connection:
        for queue in (DEAD, LIMITED):
            queue(connection.default_channel).declare()
        yield connection
        for queue in (DEAD, LIMITED):
            queue(connection.default_channel).delete()


def taken(connection: Connection, queue: Queue, number: int) -> list[Any]:
    """Take what a queue holds, at least so much: RabbitMQ moves dead letters a moment later."""
    found: list[Any] = []

    def take() -> bool:
        while message := queue(connection.default_channel).get(no_ack=True):
            found.append(message.payload)
        return len(found) >= number

    wait_for(take, f"{number} messages in {queue.name}")
    return found


def test_a_queue_with_a_length_limit_keeps_the_newest_and_gives_the_others_to_its_dead_letters(
    broker: Broker, connection: Connection
) -> None:
    with connection.Producer(serializer="json") as producer:
        for number in range(20):
            producer.publish(number, exchange=LIMITED.exchange, routing_key="test.limited")
        if broker.name != "redis":  # there they are gone: docs/brokers.md
            assert taken(connection, DEAD, 15) == list(range(15))
        assert taken(connection, LIMITED, 5) == list(range(15, 20))
