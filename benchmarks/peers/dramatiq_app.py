"""dramatiq: n actors, each with a queue of its own, which a worker runs with `dramatiq`."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware.asyncio import AsyncIO

from ..workload import BROKER, data, done
from .scene import handle, subscribers, url, waits


def build(address: str, number: int) -> RabbitmqBroker:
    """Return an application with `number` actors."""
    broker = RabbitmqBroker(url=address.removesuffix("//") + "/%2F")  # as pika names the default virtual host
    broker.add_middleware(AsyncIO())

    async def wait(message: dict[str, Any]) -> None:
        await handle(message)

    def work(message: dict[str, Any]) -> None:
        done(message["sent"])

    for each in range(number):
        dramatiq.actor(
            wait if waits() else work, actor_name=f"actor{each}", queue_name=f"dramatiq{each}", broker=broker
        )
    return broker


def fill(address: str, number: int, executions: int) -> None:
    """Send as many messages, in turns to each actor."""
    broker = build(address, number)
    for each in range(executions):
        broker.get_actor(f"actor{each % number}").send(data())
    broker.close()


if BROKER in os.environ:
    broker = build(url(), subscribers())
