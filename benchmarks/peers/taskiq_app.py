"""taskiq: n tasks of one queue, which a worker runs with `taskiq worker`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from taskiq_aio_pika import AioPikaBroker

from ..workload import BROKER, data
from .scene import at_once, handle, subscribers, url


def build(address: str, number: int, prefetch: int) -> AioPikaBroker:
    """Return an application with `number` tasks."""
    broker = AioPikaBroker(address, qos=prefetch, exchange_name="taskiq", queue_name="taskiq")

    async def work(message: dict[str, Any]) -> None:
        await handle(message)

    for each in range(number):
        broker.task(task_name=f"taskiq{each}")(work)
    return broker


def fill(address: str, number: int, executions: int) -> None:
    """Send as many tasks, in turns to each."""

    async def publish() -> None:
        broker = build(address, number, 100)
        await broker.startup()
        tasks = [broker.find_task(f"taskiq{each}") for each in range(number)]
        for each in range(executions):
            task = tasks[each % number]
            assert task is not None
            await task.kiq(data())
        await broker.shutdown()

    asyncio.run(publish())


if BROKER in os.environ:
    broker = build(url(), subscribers(), at_once())
