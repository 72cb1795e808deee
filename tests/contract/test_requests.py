"""Requests: whoever asks gets what an agent returns, and says which of four things went wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from pipeline import NoResponder, Pipeline, RequestFailed, RequestTimeout, UnknownEvent
from pipeline.ledger.database.tables import outbox, timers
from pipeline.ledger.database.waiting import waits
from tests.harness import Broker, StartWorker, Worker, backlog
from tests.records import logged, rows
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")


@pytest.fixture
def started(worker: StartWorker) -> Worker:
    return worker(app="asked_app", pool="threads", concurrency=4)


@pytest.mark.usefixtures("started")
def test_whoever_asks_gets_what_an_agent_returns(bus: Pipeline, broker: Broker) -> None:
    found = bus.request("price.asked", {"n": 4}, metadata={"user": "ada"})
    assert (found.result, found.agent_id, found.status) == ({"price": 8}, "quote", "success")
    (asked,) = logged(bus, "price.asked")
    assert found.original_event_id == asked.id
    assert found.processing_time_ms >= 0
    assert "replyby" in (asked.model_extra or {})
    broker.journal.wait(1, agent="audit", type="price.asked")  # who listens to all is no responder
    found = bus.request("price.asked", {"n": 4, "typed": True})
    assert found.result == {"price": 8.0}
    broker.journal.wait(1, agent="audit", type="price.quoted")  # a payload is published, too


@pytest.mark.usefixtures("started")
def test_the_four_things_that_go_wrong_are_told_apart(bus: Pipeline, broker: Broker) -> None:
    bus.ledger.subscribers.register({"nobody": (("nothing.asked",), None)})
    with pytest.raises(NoResponder, match="no worker runs"):
        bus.request("nothing.asked", {}, targets=("nobody",))
    with pytest.raises(RequestFailed, match="agent quote has failed: LookupError: no such article") as failed:
        bus.request("price.asked", {"n": 1, "fail": True}, targets=("quote",))
    assert (failed.value.code, failed.value.retryable) == ("LookupError", True)
    before = time.monotonic()
    with pytest.raises(RequestTimeout, match="in time"):
        bus.request("price.asked", {"n": 1, "wait": True}, timeout=0.5, targets=("quote",))
    assert time.monotonic() - before < 5
    (broker.directory / "gate").touch()


def test_nobody_listens(bus: Pipeline) -> None:
    bus.ledger.subscribers.register({"quote": (("price.asked",), None)})
    with pytest.raises(NoResponder, match=r"no agent listens to it; did you mean 'price\.asked'"):
        bus.request("price.askd", {})
    assert logged(bus, "price.askd") == []


def test_a_request_that_nobody_waits_for_any_more_is_not_run(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    first = worker(app="asked_app", pool="solo")
    first.stop()
    bus.ledger.workers.heartbeat("w", {"quote": ["price.asked"]})
    with pytest.raises(RequestTimeout):
        bus.request("price.asked", {"n": 1}, timeout=0.2, targets=("quote",))
    worker(app="asked_app", pool="solo", name="w2")
    wait_for(lambda: [row["outcome"] for row in rows(bus, agent="quote")] == ["filtered"], "the request to be over")
    (row,) = rows(bus, agent="quote")
    assert row["error"] == "whoever has asked waits no longer"
    assert broker.journal.lines(agent="quote") == []


@pytest.mark.usefixtures("started")
def test_all_are_asked(bus: Pipeline) -> None:
    found = bus.gather("poll.asked", {"seconds": 0.1, "fail": True}, targets=("left", "right"))
    assert {name: one.status for name, one in found.items()} == {"left": "success", "right": "failure"}
    assert (found["left"].result, found["right"].result) == ("left", "LookupError: no opinion")
    assert bus.request("poll.asked", {"seconds": 3600}).result == "right"
    with pytest.raises(RequestTimeout, match=r"1 of 2 have answered request .* in time, and not left") as caught:
        bus.gather("poll.asked", {"seconds": 3600}, targets=("left", "right"), timeout=6)
    assert {name: one.result for name, one in caught.value.answers.items()} == {"right": "right"}


def test_a_caller_that_is_killed_leaves_nothing_behind(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    first = worker(app="asked_app", pool="solo")
    first.stop()
    bus.ledger.workers.heartbeat("w", {"quote": ["price.asked"]})
    code = "from asked_app import app; app.request('price.asked', {'n': 1}, timeout=3, targets=('quote',))"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=broker.environment(), cwd=broker.directory, stderr=subprocess.DEVNULL
    ) as caller:
        wait_for(lambda: logged(bus, "price.asked"), "the request")
        (asked,) = logged(bus, "price.asked")
        caller.kill()
    until = datetime.fromisoformat((asked.model_extra or {})["replyby"])
    wait_for(lambda: datetime.now(UTC) > until, "its time to be over")
    worker(app="asked_app", pool="solo", name="w2")
    wait_for(lambda: [row["outcome"] for row in rows(bus, agent="quote")] == ["filtered"], "the request to be over")
    assert broker.journal.lines(agent="quote") == []
    wait_for(lambda: rows(bus, timers) == rows(bus, outbox) == rows(bus, waits) == [], "the ledger to be done with it")
    wait_for(lambda: backlog(bus, "agent.quote") == 0, "its queue to be empty")  # and no other was ever made for it


@pytest.mark.usefixtures("started")
def test_many_ask_at_once_from_threads_and_tasks(bus: Pipeline) -> None:
    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(lambda n: bus.request("price.asked", {"n": n}, targets=("quote",)).result, range(40)))
    assert found == [{"price": n * 2} for n in range(40)]

    async def ask() -> list[float]:
        asked = (bus.arequest("price.asked", {"n": n}, targets=("quote",)) for n in range(100))
        return [one.result["price"] for one in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [n * 2 for n in range(100)]


@pytest.mark.usefixtures("started")
def test_a_misspelt_request_is_not_answered_by_who_listens_to_everything(bus: Pipeline) -> None:
    with pytest.raises(NoResponder, match="audit listened to it among others, and returned nothing"):
        bus.request("price.askd", {"n": 1})
    assert bus.request("told", {"n": 1}, targets=("audit",)).result is None


def test_a_durable_request_is_asked_for_later(bus: Pipeline, worker: StartWorker) -> None:
    bus.ledger.subscribers.register({"quote": (("price.asked",), None)})
    id = bus.request("price.asked", {"n": 3}, durable=True, timeout=0, targets=("quote",))  # nobody runs yet
    worker(app="asked_app")
    wait_for(lambda: bus.reply(id) is not None, "the reply")
    found = bus.reply(id)
    assert found is not None
    assert found.result == {"price": 6}
    with pytest.raises(UnknownEvent, match="has no request 'nothing'"):
        bus.reply("nothing")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_handler_asks_another_agent_of_its_worker_where_there_is_room(
    bus: Pipeline, worker: StartWorker, pool: str
) -> None:
    worker(app="asked_app", pool=pool, concurrency=2)
    assert bus.request("chain.asked", {"n": 2}, targets=("chain",)).result == {"price": 4}
    assert bus.presence.agent("quote").capacity == 2


def test_a_handler_that_would_wait_for_its_own_worker_is_refused(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    first = worker(app="asked_app", pool="solo")
    with pytest.raises(RequestFailed, match=r"'chain' would wait for .*quote.*, which may be this worker's to run"):
        bus.request("chain.asked", {"n": 2}, targets=("chain",))
    assert bus.request("chained.asked", {"n": 2}, targets=("chained",)).result == {"price": 4}
    first.stop()
    for name, queue in (("w2", "agent.chain"), ("w3", "agent.quote")):
        worker(app="asked_app", pool="solo", name=name, options=("-Q", queue))
    assert bus.request("chain.asked", {"n": 3}, targets=("chain",)).result == {"price": 6}
