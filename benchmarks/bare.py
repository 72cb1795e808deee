"""What it is measured against: n plain Celery tasks, each on a queue of its own. `celery -A benchmarks.bare worker`."""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer
from kombu import Exchange, Queue

import pipeline.brokers.kinds

from .workload import BROKER, SUBSCRIBERS, done

#: Kombu's own transports, so that a bare task passes through nothing of this package; there is none for one file.
STOCK = {
    "amqp": "kombu.transport.pyamqp:Transport",
    "redis": "kombu.transport.redis:Transport",
}


class PromptAcks(Consumer):  # type: ignore[misc]  # celery's classes are untyped
    """Celery's consumer, acking at once in the event loop's own thread, as this bus's consumer does.

    Without that a solo worker with late acks sleeps with a full prefetch window and its acks still queued: measured,
    tens of executions per second on RabbitMQ. That would be no rival.
    """

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Ack at once when called by the event loop's thread."""
        if self.hub and threading.get_ident() == getattr(self.hub, "_loop_thread", None):
            p(*args, **kwargs)
            return p
        return super().call_soon_ack(p, *args, **kwargs)


def build(url: str, subscribers: int, **transport_options: Any) -> Celery:
    """Return a Celery application with `subscribers` tasks."""
    scheme = url.partition("://")[0]
    if scheme not in STOCK:
        pipeline.brokers.kinds.register()
    app = Celery("bare", broker=url, set_as_current=False)
    app.conf.update(
        broker_transport=STOCK.get(scheme),
        broker_transport_options=transport_options,
        broker_connection_retry_on_startup=True,
        worker_consumer="benchmarks.bare:PromptAcks",
        task_acks_late=True,
        task_ignore_result=True,
        task_queues=[queue(number) for number in range(subscribers)],
        task_default_queue="bare0",
    )
    for number in range(subscribers):
        app.task(handle, name=f"bare.task{number}", queue=f"bare{number}", shared=False)
    return app


def queue(number: int) -> Queue:
    """Return the declaration of a task's queue."""
    return Queue(f"bare{number}", Exchange("bare", type="direct"), routing_key=f"bare{number}")


def handle(work: dict[str, Any]) -> None:
    """Note the execution; the tasks' whole work."""
    done(work["sent"])


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = app = build(os.environ[BROKER], int(os.environ[SUBSCRIBERS]))
        return app
    raise AttributeError(name)
