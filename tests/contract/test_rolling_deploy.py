"""While a new version of agents is rolled out, old and new workers share their queues: no event is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from kombu import pools
from sqlalchemy import update

from pipeline import Event, Pipeline
from pipeline.core.outcome import Outcome
from pipeline.core.times import SECOND
from pipeline.history.inspection import deliveries_of
from pipeline.ledger.database.rows import GONE_AFTER
from pipeline.ledger.database.tables import workers
from tests.harness import Broker, StartWorker, Worker
from tests.servers import wait_for

pytestmark = pytest.mark.usefixtures("nothing_disappears")

#: Who may handle an event of each type.
WANT = {
    "more.one": {"old", "new"}, "more.two": {"new"}, "less.one": {"old", "new"}, "less.two": {"old"},
    "named.before": {"old"}, "named.after": {"new"},
}  # fmt: skip
EACH = 8
SOON = {"PIPELINE_RECONCILE_AFTER": "2"}


def deployed(worker: StartWorker, version: str) -> Worker:
    return worker(app="deployed_app", name=version, environment={"VERSION": version, **SOON})


def retire(bus: Pipeline, worker: Worker) -> None:
    """Stop a worker, and let it be so long ago that nobody waits for its version any more."""
    assert worker.process is not None
    worker.stop()
    mine = workers.c.id.like(f"%:{worker.process.pid}:%")
    with bus.ledger.database.transaction() as connection:
        gone = update(workers).where(mine).values(seen=workers.c.seen - round(GONE_AFTER * SECOND))
        assert connection.execute(gone).rowcount == 1


def publish(bus: Pipeline, *types: str) -> list[Event]:
    return bus.publish_many([(type, {"n": n}) for n in range(EACH) for type in types])


def check_handled(bus: Pipeline, broker: Broker, events: list[Event]) -> None:
    """Wait until all events were handled, each once, by a version that wants it."""

    def left() -> list[Event]:
        done = broker.journal.count()
        return [event for event in events if event.id not in done]

    def told() -> str:
        rows = [(event, deliveries_of(bus.ledger, event.id) if bus.has_ledger else ()) for event in left()]
        return "all events to be handled, and these were not: " + "; ".join(f"{event.type} {it}" for event, it in rows)

    wait_for(lambda: not left(), told, 120)
    lines = broker.journal.lines()
    assert {line["id"]: 1 for line in lines} == broker.journal.count()
    assert all(line["version"] in WANT[line["type"]] for line in lines)


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")], ids="-then-".join)
def test_an_event_that_any_running_version_wants_is_handled_once(
    order: tuple[str, str], bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    running = {version: deployed(worker, version) for version in order}
    events = publish(bus, *WANT)
    check_handled(bus, broker, events)
    retire(bus, running["old"])
    later = publish(bus, *WANT)
    check_handled(bus, broker, [event for event in later if "new" in WANT[event.type]])
    for event in later:
        bus.settle(event, timeout=60)
        if "new" not in WANT[event.type]:
            check_ended_with_a_reason(bus, event)
    assert len(broker.journal.lines()) == len(events) + sum("new" in WANT[event.type] for event in later)


def check_ended_with_a_reason(bus: Pipeline, event: Event) -> None:
    """Either its binding was still there, so that a worker took it, or the publisher knew that nobody listens."""
    for delivery in deliveries_of(bus.ledger, event.id):
        assert delivery.outcome in (Outcome.FILTERED, Outcome.UNROUTED)
        if delivery.outcome == Outcome.FILTERED:
            assert delivery.error == f"no version of the agent that runs listens to {event.type}"


def test_a_pattern_that_no_running_version_wants_is_unbound(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    retire(bus, deployed(worker, "old"))
    new = deployed(worker, "new")
    wait_for(lambda: "no version that runs listens to named.before any more" in new.output(), "the line in the log")
    wait_for(lambda: not bus.ledger.subscribers.left_over(["less", "named"]), "the bindings to be gone")
    (event,) = bus.publish_many([("named.before", {})])
    assert [one.outcome for one in deliveries_of(bus.ledger, event.id)] == [Outcome.UNROUTED]
    (last,) = bus.publish_many([("named.after", {})])
    bus.settle(last)
    assert broker.journal.count() == {last.id: 1}
    assert event.id not in new.output()


class TestWithoutLedger:
    """Nobody knows who else runs: what one version does not want is offered to the others a number of times."""

    @pytest.fixture
    def broker(self, broker: Broker) -> Broker:
        return replace(broker, ledger="")

    @pytest.fixture
    def bus(self, broker: Broker, no_settings: None) -> Iterator[Pipeline]:
        app = Pipeline("publisher", broker_url=broker.url, directory=broker.directory / "state", ledger_url="")
        yield app
        app.close()
        app.celery.close()
        pools.reset()

    @pytest.mark.parametrize("order", [("old", "new"), ("new", "old")], ids="-then-".join)
    def test_an_event_that_any_running_version_wants_is_handled_once(
        self, order: tuple[str, str], bus: Pipeline, broker: Broker, worker: StartWorker
    ) -> None:
        for version in order:
            deployed(worker, version)
        check_handled(bus, broker, publish(bus, *WANT))
