"""What is measured: the scene and the environment variables that every application here reads."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ..workload import BROKER, SUBSCRIBERS, done

#: How many handlers may run at once, and how many seconds each waits.
AT_ONCE, WAIT = "BENCH_AT_ONCE", "BENCH_WAIT"


def url() -> str:
    """Return the broker's address."""
    return os.environ[BROKER]


def subscribers() -> int:
    """Return how many handlers there are, each with a queue of its own."""
    return int(os.environ[SUBSCRIBERS])


def at_once() -> int:
    """Return how many messages may be in hand."""
    return int(os.environ[AT_ONCE])


async def handle(work: Any) -> None:
    """Wait as long as the scene wants, and note the execution."""
    if wait := float(os.environ.get(WAIT, "0")):
        await asyncio.sleep(wait)
    done(work["sent"] if isinstance(work, dict) else work.sent)


def waits() -> bool:
    """Say whether the handlers wait: then they have to be coroutines."""
    return bool(float(os.environ.get(WAIT, "0")))
