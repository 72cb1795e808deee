"""What becomes of messages whose events are refused for good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pipeline import Event, LedgerRefused
from pipeline.bridges import RedisStream
from pipeline.bridges.bridge import Bridge
from pipeline.bridges.running import Door, Runner
from pipeline.core.errors import EventRefused, PipelineError, QueueConflict
from pipeline.core.observe import Fact


@dataclass
class Came:
    """A message that has come."""

    body: bytes
    told: list[str]
    type: str = "stock.low"
    id: str = "m1"
    headers: dict[str, str] = field(default_factory=dict)

    async def done(self) -> None:
        self.told.append("done")

    async def hold(self) -> None:
        self.told.append("held")

    async def put_aside(self, reason: str) -> None:
        self.told.append(f"aside: {reason.partition(':')[0]}")


def accepted() -> QueueConflict:
    error = QueueConflict("the queue is another one")
    error.accepted = True
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LedgerRefused("no"), ["aside: LedgerRefused", "done"]),
        (EventRefused("too large"), ["aside: EventRefused", "done"]),
        (accepted(), ["done", "done"]),
    ],
)
def test_what_is_refused_for_good_is_not_held_and_is_counted(error: PipelineError, told: list[str]) -> None:
    found: list[str] = []
    facts: list[Fact] = []

    def publish(events: Sequence[Event]) -> None:
        if any(event.data == 1 for event in events):
            raise error

    async def run() -> None:
        door = Door(lambda event: None, publish, asyncio.sleep, lambda: "bus", "/shop", 1000)
        runner = Runner(Bridge("wms", RedisStream(), "shop", into=("stock.#",)), door, lambda text: None, facts.extend)
        async with asyncio.timeout(10):
            await runner._find_out()
            await runner._take([Came(b"1", found), Came(b"2", found, id="m2")])

    asyncio.run(run())
    assert found == told
    assert {(fact.what, *fact.labels) for fact in facts} == {("aside", "wms")}
    assert sum(fact.value for fact in facts) == sum(one.startswith("aside") for one in told)
