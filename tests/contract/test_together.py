"""Threads and tasks that publish at the same time: each event arrives once, and what is wrong with one is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.errors import BrokerUnavailable, EventTooLarge, IdTaken, InvalidEvent, UnknownAgent
from pipeline.core.event import new_event
from pipeline.ledger.database.tables import outbox
from pipeline.publishing import together
from tests.harness import Broker, backlog
from tests.records import event_ids, make_app, order, rows
from tests.servers import AT_MOST, wait_for
from tests.threads import in_threads

THREADS, EACH = 20, 15


def publish_in_threads(app: Pipeline, publish: Callable[[Pipeline, int], Any]) -> list[Any]:
    """Let threads publish; return what became of each number."""

    def work(thread: int) -> list[Any]:
        return [outcome(lambda n=n: publish(app, n)) for n in range(thread * EACH, thread * EACH + EACH)]

    return [one for found in in_threads(THREADS, work) for one in found]


def outcome(publish: Callable[[], Event]) -> Any:
    """Return what became of publishing: whether the broker has it, or the class of the error."""
    try:
        return publish().sent
    except Exception as exc:
        return type(exc)


@pytest.fixture(params=["", "sqlite"])
def app(request: pytest.FixtureRequest, broker: Broker, no_settings: None) -> Iterator[Pipeline]:
    """A publisher without a ledger, and with one."""
    url = request.param and f"sqlite:///{broker.directory / 'crowd.db'}"
    options = {"ledger_url": url, "publish_timeout": AT_MOST}
    with closing(Pipeline("crowd", broker_url=broker.url, directory=broker.directory, **options)) as one:
        one.publish("nobody.listens", {})
        yield one


def test_what_threads_publish_arrives_once(app: Pipeline, broker: Broker) -> None:
    found = publish_in_threads(app, lambda app, n: app.publish("nobody.listens", {"n": n}))
    assert found == [True] * THREADS * EACH
    wait_for(lambda: backlog(app, "events.unrouted") == len(found) + 1, "all have arrived")
    assert len(app.bus.publisher._idle) <= together.AT_ONCE, "they have shared connections"


def test_what_tasks_publish_arrives_once(app: Pipeline, broker: Broker) -> None:
    async def main() -> list[Event]:
        return await asyncio.gather(*(app.apublish("nobody.listens", {"n": n}) for n in range(300)))

    found = asyncio.run(main())
    assert all(event.sent for event in found)
    assert [event.data["n"] for event in found] == list(range(300))
    wait_for(lambda: backlog(app, "events.unrouted") == 301, "all have arrived")
    assert len(app.bus.publisher._idle) <= together.AT_ONCE


def wrong(app: Pipeline, n: int) -> Event:
    """Publish an event; each seventh is wrong in one way or another."""
    match n % 7, n % 3:
        case 0, 0:
            return app.publish("nobody.listens", {"n": n}, targets=("biling",))
        case 0, 1:
            return app.publish("nobody.listens", {"n": n, "text": "x" * 10_000_000})
        case 0, 2:
            return app.publish("no type", {"n": n})
        case _:
            return app.publish("nobody.listens", {"n": n})


def test_what_is_wrong_with_an_event_is_its_own(app: Pipeline, broker: Broker) -> None:
    found = publish_in_threads(app, wrong)
    errors = (UnknownAgent, EventTooLarge, InvalidEvent)
    assert found == [errors[n % 3] if n % 7 == 0 else True for n in range(THREADS * EACH)]
    wait_for(lambda: backlog(app, "events.unrouted") >= found.count(True) + 1, "the others have arrived")


def test_an_id_that_is_taken_is_that_events_trouble(tmp_path: Path, ledger_url: str, no_settings: None) -> None:
    def publish(app: Pipeline, n: int) -> Event:
        return app.publish(new_event(order(n), source="/t", id="a1" if n % 7 == 0 else f"n{n}"))

    with closing(make_app(ledger_url, tmp_path, publish_timeout=AT_MOST)) as app:
        app.publish(new_event(order(-1), source="/t", id="a1"))
        found = publish_in_threads(app, publish)
        assert found == [IdTaken if n % 7 == 0 else True for n in range(THREADS * EACH)]
        assert sorted(event_ids(app)) == sorted({"a1", *(f"n{n}" for n in range(THREADS * EACH) if n % 7)})
        assert rows(app, outbox) == []


@pytest.mark.parametrize("ledger", [False, True])
def test_what_the_broker_refuses_is_that_events_trouble(broker: Broker, no_settings: None, ledger: bool) -> None:
    if broker.name != "rabbitmq":
        pytest.skip("only RabbitMQ has a limit of its own that an event can be over")

    def publish(app: Pipeline, n: int) -> Event:
        return app.publish("order.placed", {"n": n, "text": "x" * 5_000_000 if n == 7 else ""}, timeout=30)

    url = f"sqlite:///{broker.directory / 'refused.db'}" if ledger else ""
    options = {"ledger_url": url, "max_event_bytes": 8_000_000}
    with closing(Pipeline("refused", broker_url=broker.url, directory=broker.directory, **options)) as app:
        found = publish_in_threads(app, publish)
    refused = found.pop(7)
    assert found == [True] * (THREADS * EACH - 1)
    assert refused is False if ledger else issubclass(refused, BrokerUnavailable)
