"""Whatever a handler raises, its delivery ends in one recorded state, and the worker goes on."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline import Event, Pipeline
from tests.apps.odd_errors import ODD
from tests.harness import Broker, StartWorker, backlog, dead_letters
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.mark.bare
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_every_delivery_whose_handler_raises_is_dead_once(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    one = worker(app="odd_app", pool=pool)
    events = bus.publish_many([(f"odd.{kind}", name) for kind in ("sync", "async") for name in ODD])
    wanted = Counter((event.type, event.data) for event in events)
    wait_for(lambda: len(letters(bus)) >= len(events) or not one.is_running(), "the dead letters", 120)
    assert one.is_running()
    assert Counter((letter.type, letter.data) for letter in letters(bus)) == wanted
    wait_for(lambda: backlog(bus, "agent.plain") == backlog(bus, "agent.asynchronous") == 0, "empty queues")
    if bus.has_ledger:
        assert Counter(row["outcome"] for row in rows(bus)) == {"dead": len(events)}


def letters(bus: Pipeline) -> list[Event]:
    """Return the events that are set aside for the agents."""
    return [Event.decode(text) for agent in ("plain", "asynchronous") for text in dead_letters(bus, agent)]
