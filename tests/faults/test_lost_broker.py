"""The broker's data is gone in the middle of the work: what was accepted still takes effect, once (reconciliation)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.brokers.embedded.store import Outgoing, Store
from pipeline.core.errors import EmbeddedBrokerBusy
from tests.effects import LOADED, Effects
from tests.faults.conftest import embedded, empty_redis, upgrade_ledger
from tests.harness import SOON, Broker, StartWorker, flush
from tests.servers import RabbitMQ, Server, ServerMissingError, wait_for

EVENTS = 200
RECONCILE = {**SOON, "PIPELINE_RECONCILE_AFTER": "2"}


@pytest.fixture(params=["embedded+sqlite", "redis+sqlite", "rabbitmq+postgresql"])
def losable(request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], Server]) -> Iterator[Broker]:
    """An empty broker of each kind, whose data may be deleted."""
    if request.param == "embedded+sqlite":
        yield embedded(tmp_path)
    elif request.param == "redis+sqlite":
        yield empty_redis(servers("redis"), tmp_path)
    else:
        yield from rabbitmq_of_its_own(servers("postgresql"), tmp_path)


@pytest.fixture
def broker(losable: Broker) -> Broker:
    return losable


def rabbitmq_of_its_own(database: Server, directory: Path) -> Iterator[Broker]:
    server = RabbitMQ()
    try:
        server.start()
    except ServerMissingError as exc:
        pytest.skip(str(exc))
    ledger = database.database()  # type: ignore[attr-defined]  # it is a PostgreSQL
    upgrade_ledger(ledger)
    yield Broker("rabbitmq", server.url, directory, server, ledger)
    server.stop()
    database.drop(ledger)  # type: ignore[attr-defined]  # it is a PostgreSQL


def lose_everything(broker: Broker) -> None:
    """Delete the broker's data, behind the backs of all who use it."""
    if broker.name == "embedded":
        for path in (broker.directory / "state").glob("broker.db*"):
            path.unlink()
    elif broker.name == "redis":
        flush(broker)
    else:
        assert broker.server is not None
        broker.server.kill()
        shutil.rmtree(broker.server.directory / "data")
        broker.server.start()


@pytest.mark.usefixtures("nothing_disappears")
def test_events_whose_messages_are_lost_with_the_broker_take_effect_once(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    effects = Effects(bus, LOADED)
    for _ in range(2):
        worker(app="effects_app", environment=RECONCILE)
    before = bus.publish_many([("load.put", {"key": str(n)}) for n in range(EVENTS)])
    wait_for(lambda: effects.number() > EVENTS, "the work to be under way")
    lose_everything(broker)
    after = [bus.publish("load.put", {"key": str(EVENTS + n)}) for n in range(20)]
    wanted = {event.id: 1 for event in (*before, *after)}
    wait_for(lambda: effects.number() >= len(wanted) * len(LOADED), "all effects", 120, interval=0.1)
    wait_for(effects.is_at_rest, "everything to be recorded", 60, interval=0.1)
    last = bus.publish("load.put", {"key": "last"})
    bus.settle(last, 60)  # and the broker is as good as new
    for agent in LOADED:
        assert effects.events(agent) == {**wanted, last.id: 1}


def test_a_connection_to_a_deleted_file_takes_nothing_from_those_who_use_the_new_one(tmp_path: Path) -> None:
    old = fill(tmp_path / "broker.db")
    (held, *_) = old.claim(["q"], 1)
    for path in tmp_path.glob("broker.db*"):
        path.unlink()
    new = fill(tmp_path / "broker.db")
    assert [one.id for one in new.claim(["q"], 1)] == [held.id]
    old.ack(held.id)
    with pytest.raises(EmbeddedBrokerBusy):
        old.settle()
    old.close()
    assert new.size("q") == 1
    new.requeue(held.id)
    assert new.size("q") == 2
    new.close()


def fill(path: Path) -> Store:
    """Return a store with two messages in one queue."""
    store = Store(path)
    store.declare_queue("q", {})
    store.publish([Outgoing("", "q", 0, b"{}", b"x")] * 2)
    return store
