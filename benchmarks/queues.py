"""Queues as the benchmark needs them on any broker: declared, filled, counted, emptied."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from celery import Celery
from kombu import Connection, Queue, uuid
from kombu.serialization import dumps

from pipeline import Pipeline

from .bare import queue as bare_queue
from .workload import Work, data

#: Seconds that filling may take.
TIMEOUT = 60.0


class Queues:
    """Some queues of one broker, through a connection of their own."""

    def __init__(self, connection: Connection, queues: Iterable[Queue]) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._queues = list(queues)
        for queue in self._queues:
            queue(self._channel).declare()

    def count(self) -> int:
        """Return how many messages wait in all of them."""
        declared = (self._channel.queue_declare(queue.name, passive=True) for queue in self._queues)
        return sum(answer.message_count for answer in declared)

    def wait(self, count: int, timeout: float = TIMEOUT) -> None:
        """Wait until `count` messages wait in them: then the broker has routed all that was published."""
        deadline = time.monotonic() + timeout
        while (found := self.count()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{found} of {count} messages arrived within {timeout:g} s")
            time.sleep(0.005)  # between two looks at the queue

    def purge(self) -> None:
        """Empty them."""
        for queue in self._queues:
            self._channel.queue_purge(queue.name)

    def close(self) -> None:
        """Delete them, or every later event would be copied to them too, and close the connection."""
        for queue in self._queues:
            self._channel.queue_delete(queue.name)
        self._connection.close()


def of_agents(app: Pipeline) -> Queues:
    """Return the queues of all the application's agents, declared and bound."""
    app.celery.finalize()
    assert app.celery.conf.broker_url  # a Celery app has its queues once it is configured
    queues = app.celery.amqp.queues
    return Queues(app.celery.connection_for_write(), [queues[f"agent.{agent.name}"] for agent in app.agents])


def of_tasks(app: Celery, subscribers: int) -> Queues:
    """Return the queues of the bare tasks."""
    return Queues(app.connection_for_write(), [bare_queue(number) for number in range(subscribers)])


def fill_agents(app: Pipeline, executions: int) -> None:
    """Publish as many events as make `executions` deliveries."""
    events = executions // len(app.agents)
    app.publish_many([Work(**data()) for _ in range(events)])
    app.close()


def fill_tasks(app: Celery, subscribers: int, executions: int) -> None:
    """Send as many task messages, in turns to each task; in one go, since this is not what is measured."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        messages = [_task_message(app, channel, number % subscribers) for number in range(executions)]
        if hasattr(channel, "publish_many"):  # the embedded broker: one transaction
            channel.publish_many(messages, time.monotonic() + TIMEOUT)
            return
        for message, exchange, routing_key in messages:
            channel.basic_publish(message, exchange, routing_key)


def _task_message(app: Celery, channel: Any, number: int) -> tuple[Any, str, str]:
    task = app.amqp.as_task_v2(uuid(), f"bare.task{number}", args=(data(),), kwargs={}, ignore_result=True)
    content_type, encoding, body = dumps(task.body, serializer="json")
    properties = {**task.properties, "delivery_mode": 2}
    message = channel.prepare_message(body, 0, content_type, encoding, task.headers, properties)
    return message, "bare", f"bare{number}"
