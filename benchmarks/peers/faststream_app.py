"""FastStream: n subscribers, each with a queue of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from ..workload import data
from .scene import at_once, handle, subscribers, url


def build(address: str, number: int, prefetch: int) -> RabbitBroker:
    """Return an application with `number` subscribers."""
    broker = RabbitBroker(address, default_channel=Channel(prefetch_count=prefetch), log_level=30)
    for each in range(number):
        broker.subscriber(queue(each))(_handler())
    return broker


def queue(number: int) -> RabbitQueue:
    """Return the declaration of a subscriber's queue."""
    return RabbitQueue(f"faststream{number}", durable=True)


def _handler() -> Any:
    async def work(message: dict[str, Any]) -> None:
        await handle(message)

    return work


def fill(address: str, number: int, executions: int) -> None:
    """Publish as many messages, in turns to each queue."""

    async def publish() -> None:
        async with RabbitBroker(address, log_level=30) as broker:
            for each in range(number):
                await broker.declare_queue(queue(each))
            for first in range(0, executions, 200):
                await asyncio.gather(
                    *(
                        broker.publish(data(), f"faststream{each % number}", persist=True)
                        for each in range(first, min(first + 200, executions))
                    )
                )

    asyncio.run(publish())


def pace(address: str, number: int, pauses: Iterable[None]) -> None:
    """Publish one confirmed message to the first queue after each pause, with the time at which that began."""

    async def publish() -> None:
        async with RabbitBroker(address, log_level=30) as broker:
            for _ in pauses:
                await broker.publish(data(monotonic()), "faststream0", persist=True)

    asyncio.run(publish())


if __name__ == "__main__":
    asyncio.run(FastStream(build(url(), subscribers(), at_once())).run(log_level=30))
