"""Whatever a handler does to its process, its delivery ends in one recorded state, and those after it are handled."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pipeline import Pipeline
from tests.apps.rude_app import DEADLY, HARMLESS
from tests.harness import SOON, Broker, StartWorker, Worker, backlog
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

ENDED = {"succeeded", "dead"}
POOLS = pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])


def handle(bus: Pipeline, one: Worker, things: Iterable[str]) -> list[str]:
    """Let a worker handle things, and something after each; it is started anew when it has ended. Return the ends."""

    def keep_running() -> None:
        if not one.is_running():
            one.start(wait=False)

    def all_ended() -> bool:
        keep_running()
        return [row["outcome"] in ENDED for row in rows(bus)] == [True] * len(events)

    def is_empty() -> bool:
        keep_running()  # one that was told to stop may have left a message that was sent again
        return backlog(bus, "agent.rude") == backlog(bus, "agent.polite") == 0

    events = bus.publish_many([event for thing in things for event in (("rude.thing", thing), ("polite.thing", None))])
    wait_for(all_ended, lambda: f"an end of each of {[(row['agent'], row['outcome']) for row in rows(bus)]}", 180)
    wait_for(is_empty, "empty queues")
    assert {row["outcome"] for row in rows(bus, agent="polite")} == {"succeeded"}
    return [row["outcome"] for row in rows(bus, agent="rude")]


@POOLS
def test_a_process_whose_surroundings_a_handler_has_changed_goes_on(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    one = worker(app="rude_app", pool=pool, environment=SOON)
    outcomes = handle(bus, one, HARMLESS)
    no_signals = pool == "threads"  # there Python lets no handler change them
    assert outcomes.count("dead") == (sum("SIG" in name for name in HARMLESS) if no_signals else 0)


@POOLS
def test_what_a_process_does_not_outlive_ends_its_delivery_and_not_those_after_it(
    bus: Pipeline, broker: Broker, worker: StartWorker, pool: str
) -> None:
    # What was on its way into a process that died comes again by reconciliation. Of two threads the one would end the
    # process before the other one's deed shows.
    number = 1 if pool == "threads" else 2
    one = worker(app="rude_app", pool=pool, concurrency=number, environment={**SOON, "PIPELINE_RECONCILE_AFTER": "5"})
    outcomes = handle(bus, one, DEADLY)
    assert len(outcomes) == len(DEADLY)
    # Beside a thread that has closed all, the loop's own thread may be the first to fail.
    assert pool == "threads" or "has closed the descriptors of process" in one.output()
