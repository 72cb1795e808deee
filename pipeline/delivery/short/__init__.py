"""The short way: an ordinary delivery is run beside Celery's request and tracer, which nobody would miss there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.thread import TaskPool as ThreadPool

from .processes import InProcesses
from .threads import InThreads
from .way import MOST, InBursts
from .way import ShortWay as ShortWay


def short_way(consumer: Any, by_celery: Callable[..., None]) -> ShortWay:
    """Return the short way of a connection: in bursts if the connection tells of their end, else one by one."""
    connection: Any = getattr(consumer.connection, "connection", None)
    tells = hasattr(connection, "after_burst")
    if isinstance(consumer.pool, ThreadPool):
        way: InBursts = InThreads(consumer, by_celery, None, MOST if tells else 1)
    elif isinstance(consumer.pool, Prefork):
        way = InProcesses(consumer, by_celery, None, MOST if tells else 1)
    elif tells:
        way = InBursts(consumer, by_celery, getattr(connection, "flush", None))
    else:
        return ShortWay(consumer, by_celery)
    if tells:
        connection.after_burst.append(way.run)
    return way
