"""Handlers that say how it goes, in real workers: it is heard at once, and costs no delivery anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.http.page.said import said_of
from tests.harness import Broker, StartWorker
from tests.records import rows
from tests.servers import wait_for

pytestmark = [
    pytest.mark.usefixtures("nothing_disappears"),
    pytest.mark.parametrize("broker", ["embedded", "watched"], indirect=True),  # none of it is about the broker
]


@pytest.mark.watched
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_what_a_handler_has_said_last_is_heard_though_its_process_ends(
    bus: Pipeline, worker: StartWorker, pool: str
) -> None:
    worker(app="saying_app", pool=pool, options=("--max-tasks-per-child", "1"))
    events = [bus.publish("say.plain", {"number": 200}) for _ in range(3)]
    for event in events:
        bus.settle(event, timeout=60)
        (said,) = said_of(bus.notices(event))  # who sees that it is done has heard all of it
        assert (said.agent, said.attempt, said.fraction, said.doing) == ("plain", 1, 1.0, "done")
        assert said.texts == {"answer": "".join(f"{n} " for n in range(200))}


def test_it_is_heard_while_the_handler_runs(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    worker(app="saying_app")
    event = bus.publish("say.slowly", {"number": 3, "gates": str(broker.directory)})
    for n in range(3):
        wait_for(lambda n=n: [one.doing for one in said_of(bus.notices(event))] == [f"page {n}"], f"page {n}")
        assert {row["outcome"] for row in rows(bus, agent="slowly")} == {"running"}
        Path(broker.directory, str(n)).touch()
    bus.settle(event, timeout=60)
    wait_for(lambda: len(said_of(bus.notices(event))[0].texts["answer"]) == 6, "the whole text")
    (said,) = said_of(bus.notices(event))
    assert said.texts == {"answer": "0 1 2 "}
    assert said.fraction == pytest.approx(2 / 3)


def test_a_handler_with_an_open_session_does_not_wait_for_itself(bus: Pipeline, worker: StartWorker) -> None:
    worker(app="saying_app")
    event = bus.publish("say.writing", {})
    bus.settle(event, timeout=60)
    (row,) = rows(bus, agent="writing")
    assert row["attempts"] == 1
    assert row["ended"] - row["started"] < bus.settings.ledger_timeout * 1_000_000
    wait_for(lambda: [one.text for one in bus.notices(event)] == ["from inside"], "what it has said")


def test_each_attempt_says_its_own(bus: Pipeline, worker: StartWorker) -> None:
    worker(app="saying_app")
    event = bus.publish("say.twice", {})
    bus.settle(event, timeout=60)
    assert [(one.attempt, one.text) for one in bus.notices(event)] == [(1, "attempt 1"), (2, "attempt 2")]
    (said,) = said_of(bus.notices(event))
    assert said.texts == {"answer": "attempt 2"}
