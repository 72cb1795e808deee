"""`app.local()`: the agents run in this process, on the path of every worker, and nothing of it is left behind."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from celery import Celery
from celery._state import task_join_will_block

from pipeline import Pipeline
from pipeline.core.errors import ConfigError
from pipeline.core.event import new_event
from tests.kit import OrderPlaced, Shop, shop


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    return shop()


def test_what_is_published_is_delivered_in_this_process(here: Shop) -> None:
    with here.app.local() as app:
        event = app.publish(OrderPlaced(number=1))
        trace = app.settle(event, timeout=20)
    assert here.seen == [("pay", 1), ("ship", 1)]
    assert (
        [event.type for event in trace.events] == ["order.placed", "order.paid"] if hasattr(trace, "events") else True
    )


def test_whoever_asks_gets_an_answer(here: Shop) -> None:
    with here.app.local() as app:
        assert app.request("order.placed", {"number": 7}, timeout=20).result == {"number": 7}


def test_a_task_of_celerys_has_its_result(here: Shop) -> None:
    with here.app.local() as app:
        assert not task_join_will_block()
        event = new_event(OrderPlaced(number=1), source="/tests")
        assert app.agents["pay"].s(event).delay().get(timeout=20) == {"number": 1}


def test_nothing_is_left_behind(here: Shop, tmp_path: Path) -> None:
    assert here.app.celery.conf.task_always_eager is False  # it reads its configuration now
    settings, conf = here.app.settings, dict(here.app.celery.conf.changes)
    bus = vars(here.app.bus).copy()
    with here.app.local() as app:  # what a process opens once is open then
        app.settle(app.publish(OrderPlaced(number=1)), timeout=20)
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    with here.app.local() as app:
        place = app.settings.directory
        app.settle(app.publish(OrderPlaced(number=2)), timeout=20)
        assert app.request("order.placed", {"number": 3}, timeout=20).result == {"number": 3}
        app.publish(OrderPlaced(number=101))
    assert set(threading.enumerate()) == threads
    assert len(os.listdir("/proc/self/fd")) == files
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []
    assert here.app.settings is settings
    assert dict(here.app.celery.conf.changes) == conf
    after = vars(here.app.bus)
    assert {name: after[name] for name in bus if name != "flows_of"} == {n: bus[n] for n in bus if n != "flows_of"}
    assert set(after) - set(bus) <= {"projections"}


def test_a_directory_keeps_what_has_happened(here: Shop, tmp_path: Path) -> None:
    with here.app.local(tmp_path / "kept") as app:
        event = app.publish(OrderPlaced(number=1))
        app.settle(event, timeout=20)
    with here.app.local(tmp_path / "kept") as app:
        assert [one.event.type for one in app.get_events(correlation=event.id)] == ["order.placed", "order.paid"]


def test_two_at_once_are_refused(here: Shop) -> None:
    with here.app.local() as app, pytest.raises(ConfigError, match=r"app.testing\(\): app.local\(\) is in use"):
        app.testing().__enter__()
    with here.app.local() as app, pytest.raises(ConfigError, match="in use"):
        shop().app.local().__enter__()


def test_eager_tasks_are_refused_with_the_way_out(tmp_path: Path) -> None:
    celery = Celery("eager", broker="memory://")
    celery.conf.task_always_eager = True
    app = Pipeline(celery, directory=tmp_path)
    with pytest.raises(ConfigError, match=r"task_always_eager .* set it to False for these tests"):
        app.local().__enter__()


def test_a_worker_that_cannot_begin_says_why_and_leaves_nothing(here: Shop, tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises((ConfigError, OSError)):
        here.app.local(tmp_path / "file").__enter__()
    assert set(threading.enumerate()) == threads
    with here.app.local() as app:
        app.settle(app.publish(OrderPlaced(number=1)), timeout=20)


def test_an_app_on_another_broker_is_on_its_own_one_again(tmp_path: Path) -> None:
    url = "amqp://guest:guest@127.0.0.1:1//"
    made = shop(broker_url=url, directory=tmp_path / "own")
    with made.app.local() as app:
        app.settle(app.publish(OrderPlaced(number=1)), timeout=20)
    assert made.app.celery.conf.broker_url == url
    assert made.app.celery.connection_for_write().as_uri().startswith("amqp://")
    assert not (tmp_path / "own").exists()
