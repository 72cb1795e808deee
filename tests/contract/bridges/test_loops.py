"""Two apps with brokers and ledgers of their own, each of which takes what the other sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import Pipeline
from tests.bridges import Other, Running, cloud_event, described
from tests.harness import Broker, Worker
from tests.servers import wait_for

BOTH = {"ways": {"out": ["order.#", "stock.#"], "into": ["order.#", "stock.#"]}}
Shops = Callable[[str], Pipeline]


@pytest.fixture
def shop(both: Other, tmp_path: Path, no_settings: None) -> Iterator[Shops]:
    """Run apps, each in a directory of its own, with a worker and a process for what comes in."""
    ended: list[Callable[[], object]] = []

    def run(name: str) -> Pipeline:
        directory = tmp_path / name
        directory.mkdir()
        url = f"sqlite:///{directory / 'state' / 'broker.db'}"
        broker, about = Broker("embedded", url, directory), described(both, app=name, **BOTH)
        worker = Worker(broker, app="bridged_app", environment=about)
        bridge = Running(broker, about)
        ended.extend((bridge.kill, worker.kill))
        worker.start()
        bridge.start()
        app = Pipeline(name, broker_url=url, directory=directory / "state")
        ended.append(app.close)
        return app

    yield run
    for end in reversed(ended):
        end()


def ids(app: Pipeline) -> list[str]:
    """Return the ids of the orders that an app knows."""
    return [record.event.id for record in app.get_events(type="order.#")]


def test_what_two_bridged_apps_send_each_other_goes_there_once_and_not_back(both: Other, shop: Shops) -> None:
    one, two = shop("one"), shop("two")
    first = one.publish("order.placed", {"n": 1})
    wait_for(lambda: ids(two) == [first.id], "the event of the one in the other")
    second = two.publish("order.placed", {"n": 2})
    wait_for(lambda: len(ids(one)) == 2, "the event of the other in the one")
    # What comes behind them has come: so they would have come again, too.
    last = one.publish("order.last", {})
    wait_for(lambda: last.id in ids(two), "a last event")
    wait_for(lambda: both.left() == 0, "all messages to be done")
    assert ids(one) == ids(two) == [first.id, second.id, last.id]
    assert len(both.got()) == 3


def test_an_event_that_goes_over_too_many_bridges_is_put_aside(both: Other, tmp_path: Path) -> None:
    broker = Broker("embedded", f"sqlite:///{tmp_path / 'state' / 'broker.db'}", tmp_path)
    via = ",".join(f"bus{n}:bridge" for n in range(16))
    bridge = Running(broker, described(both)).start()
    try:
        both.put("stock.low", cloud_event("stock.low", "s1", {"n": 1}, bridgedvia=via), id="s1")
        wait_for(lambda: bridge.said("gone over 16 bridges"), "the event to be put aside")
        both.put("stock.low", cloud_event("stock.low", "s2", {"n": 2}, bridgedvia=via.partition(",")[2]), id="s2")
        with closing(Pipeline("shop", broker_url=broker.url, directory=tmp_path / "state")) as app:
            wait_for(lambda: list(app.get_events(type="stock.#")), "the other one")
            assert [record.event.id for record in app.get_events(type="stock.#")] == ["s2"]
    finally:
        bridge.kill()
