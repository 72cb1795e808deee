"""A step of a flow goes the short way, too, and looks the same from outside as on the long one."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, dead_letters
from tests.records import rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_members_of_a_join_are_recorded_the_same(bus: Pipeline, broker: Broker, worker: StartWorker, pool: str) -> None:
    seen: list[Any] = []
    for watched in (False, True):
        environment = {"TASKS_WATCHED": "1"} if watched else {}
        one = worker(app="parts_app", name=f"watched-{watched}", pool=pool, environment=environment)
        event = bus.publish("way.parted", {"items": [{"n": n} for n in range(20)]})
        (joined,) = broker.journal.wait(1, agent="told", type="way.joined", causation=event.id)
        bus.settle(event)
        one.stop()
        steps = [row for row in rows(bus, event_id=event.id) if row["flow"]]
        lines = [line for line in broker.journal.lines(agent="part", id=event.id) if line["is_short"] is not watched]
        assert {line["about"]["id"] for line in lines} == {row["id"] for row in steps}
        assert {(line["about"]["root"], *line["about"]["flow"]) for line in lines} == {
            (event.id, steps[0]["flow"], "parts")
        }
        told = broker.journal.lines(agent="told", type="way.told", correlation=event.id)
        records = sorted((row["pos"], row["outcome"], row["result"], row["attempts"], row["emitted"]) for row in steps)
        seen.append((joined["data"], records, sorted(line["data"]["n"] for line in told)))
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == len(seen[0][2]) == 20


def test_a_member_that_fails_on_the_short_way_is_a_dead_letter_and_ends_its_join(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="parts_app", pool="threads")
    event = bus.publish("way.parted", {"items": [{"n": 1}, {"n": 2, "fail": True}, {"n": 3}]})
    (failed,) = broker.journal.wait(1, agent="told", type="way.parted.failed")
    wait_for(lambda: dead_letters(bus, "part"), "the dead letter")
    (letter,) = bus.dead_letters.list(agent="part")
    assert (letter.event.id, letter.error) == (event.id, "RuntimeError: told to fail")
    assert "RuntimeError: told to fail" in failed["data"]["error"]
