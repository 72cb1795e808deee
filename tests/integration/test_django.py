"""Agents of a Django project whose database connections are cut: sync and async ones, they recover."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker
from tests.servers import Server, wait_for

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@pytest.fixture
def site(servers: Callable[[str], Server]) -> Iterator[str]:
    """The address of the site's database."""
    server = servers("postgresql")
    url = server.database()  # type: ignore[attr-defined]
    yield url
    server.drop(url)  # type: ignore[attr-defined]


def backends(site: str, *, end: bool = False) -> set[int]:
    """Return the processes of PostgreSQL that serve the site, and end them if that is wanted."""
    what = "pg_terminate_backend(pid), pid" if end else "true, pid"
    query = f"SELECT {what} FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(site.replace("postgresql+psycopg:", "postgresql:"), autocommit=True) as connection:
        return {pid for _, pid in connection.execute(query).fetchall()}


def outcome(bus: Pipeline, event: str) -> tuple[str, int]:
    one, *_ = bus.settle(event, timeout=120)
    (delivery,) = one.deliveries
    return delivery.outcome.value, delivery.attempts


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_whose_connection_is_cut_gets_another_one(
    kind: str, pool: str, site: str, bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="django_site", pool=pool, concurrency=1, environment={"SITE_POSTGRESQL": site})
    (broker.directory / "open").touch()
    first = bus.publish(f"{kind}.asked", {"n": 1, "until": "open"})
    assert outcome(bus, first.id) == ("succeeded", 1)
    wait_for(lambda: not backends(site), "the connection to be closed")
    cut = bus.publish(f"{kind}.asked", {"n": 2, "until": "later"})
    broker.journal.wait(1, agent="ask", id=cut.id)
    assert len(backends(site, end=True)) == 1
    wait_for(lambda: not backends(site), "the connections to be cut")
    (broker.directory / "later").touch()
    assert outcome(bus, cut.id) == ("succeeded", 2)
    last = bus.publish(f"{kind}.asked", {"n": 3, "until": "open"})
    assert outcome(bus, last.id) == ("succeeded", 1)


def test_async_handlers_that_run_at_once_have_connections_of_their_own(
    site: str, bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="django_site", pool="threads", concurrency=2, environment={"SITE_POSTGRESQL": site})
    two = [bus.publish("async.asked", {"n": n, "until": f"gate-{n}"}) for n in range(2)]
    broker.journal.wait(2, agent="ask")
    for n, event in enumerate(two):  # the end of the first one leaves the other its connection
        (broker.directory / f"gate-{n}").touch()
        assert outcome(bus, event.id) == ("succeeded", 1)
    used = {line["data"]["n"]: line["data"]["backend"] for line in broker.journal.lines(agent="ask")}
    assert len(set(used.values())) == 2
    assert used == {line["data"]["n"]: line["data"]["backend"] for line in broker.journal.lines(agent="asked")}


def test_an_async_handler_that_asks_nothing_of_the_orm_costs_no_thread(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="django_site", concurrency=1)
    for event in [bus.publish("plain.asked", {"n": n}) for n in range(3)]:
        assert outcome(bus, event.id) == ("succeeded", 1)
    assert len({line["data"]["threads"] for line in broker.journal.lines(agent="plain")}) == 1


def test_an_async_handler_that_hangs_in_the_orm_ends_in_time_and_holds_up_no_other(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="django_site", concurrency=1)
    hanging = bus.publish("stuck.asked", {"until": "freed"})
    assert outcome(bus, hanging.id) == ("dead", 1)
    assert broker.journal.lines(agent="stuck")
    (broker.directory / "other").touch()
    other = bus.publish("stuck.asked", {"until": "other"})
    assert outcome(bus, other.id) == ("succeeded", 1)
    assert broker.journal.lines(agent="free", id=hanging.id) == []
    (broker.directory / "freed").touch()
    broker.journal.wait(1, agent="free", id=hanging.id)
