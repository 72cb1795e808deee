"""The sweeper: each of its duties on its own, and that it goes on whatever happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.signals import worker_shutdown

from pipeline import Pipeline
from pipeline.core.errors import BrokerUnavailable, LedgerUnavailable
from pipeline.core.ids import delivery_id
from pipeline.ledger.database.tables import agents, deliveries, outbox, timers, workers
from pipeline.ledger.due import Look
from pipeline.ledger.status import status
from pipeline.workers import chores
from pipeline.workers import step as step_module
from pipeline.workers.chores import Chores
from pipeline.workers.step import SweeperStep
from pipeline.workers.sweeper import Sweeper
from tests.ledgers import AFTER, move, old, retrying
from tests.records import AWAY, making_apps, messages, order, rows, run_agents
from tests.servers import AT_MOST, wait_for


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Make apps on one ledger."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with making_apps(url, tmp_path, reconcile_after=AFTER, publish_timeout=0.3) as make:
        yield make


@pytest.fixture
def app(make: Callable[..., Pipeline]) -> Pipeline:
    return make()


def done(app: Pipeline, chore: Callable[[Chores], int]) -> int:
    with closing(Chores(app.bus)) as one:
        return chore(one)


def swept(app: Pipeline) -> int:
    one = Sweeper(app.bus)
    try:
        return one.sweep()
    finally:
        one.leave()


def test_retries_that_the_broker_does_not_take_wait_for_it(make: Callable[..., Pipeline]) -> None:
    away = make(broker_url=AWAY)
    (id,) = retrying(away.ledger)
    move(away.ledger, timers, 60)
    assert done(away, Chores.fire) == 0
    move(away.ledger, timers, chores.PAUSE)
    app = make()
    assert done(app, Chores.fire) == 1
    ((bus, _),) = messages(app, "billing")
    assert (bus["attempt"], rows(app, timers)) == (2, [])
    assert app.ledger.deliveries.state(id)[1] == 1


def test_deliveries_that_the_broker_does_not_take_are_asked_for_again(make: Callable[..., Pipeline]) -> None:
    away = make(broker_url=AWAY)
    (event,) = old(away)
    run_agents(away, {"mail": "order.#"})
    with away.ledger.database.transaction() as connection:
        row = {"id": delivery_id(event.id, "billing"), "event_id": event.id, "agent": "billing", "outcome": "queued"}
        connection.execute(deliveries.insert(), {**row, "due": 0})
    assert done(away, Chores.send_at_once) == 0
    app = make()
    assert done(app, Chores.send_at_once) == 1
    assert [body["id"] for _, body in messages(app, "billing")] == [event.id]


def test_what_waits_in_a_queue_is_not_sent_again(app: Pipeline) -> None:
    move(app.ledger, agents, 3600, "registered")
    (event,) = old(app)
    one = Sweeper(app.bus)
    while not rows(app, agent="billing"):
        one.chores.reconcile()
    move(app.ledger, deliveries, AFTER + 1)
    assert one.chores.reconcile() == 2, "to billing and stock"
    move(app.ledger, deliveries, AFTER + 1)
    assert one.chores.reconcile() == 0, "nobody has taken it yet"
    assert [body["id"] for _, body in messages(app, "billing")] == [event.id]
    move(app.ledger, deliveries, AFTER + 1)
    assert one.chores.reconcile() == 1, "the queue is empty, and nothing came of it"
    one.leave()


def test_no_connection_stays_open_beside_the_workers_own(app: Pipeline) -> None:
    app.publish(order())
    one = Sweeper(app.bus)
    one.sweep()
    assert not one.chores._publisher._idle
    one.leave()


@pytest.mark.parametrize("url", [AWAY, "redis://127.0.0.1:1/0"])
def test_looking_at_queues_of_a_broker_that_is_away_ends_in_time(
    make: Callable[..., Pipeline], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = Chores(make(broker_url=url).bus)
    looking = threading.Thread(target=one.declare, daemon=True)
    looking.start()
    looking.join(AT_MOST)
    assert not looking.is_alive()
    assert "could not be declared again" in caplog.text
    with pytest.raises(BrokerUnavailable, match="the queue of agent billing cannot be looked at"):
        one._waiting("billing")


def test_a_worker_is_there_until_its_sweeper_leaves(app: Pipeline) -> None:
    one = Sweeper(app.bus)
    app.ledger.workers.heartbeat(app.bus.worker_id)
    assert status(app.ledger.database).workers == 1
    one.leave()
    assert status(app.ledger.database).workers == 0


def test_a_sweeper_that_cannot_say_goodbye_ends_all_the_same(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(app.ledger.workers, "leave", away)
    Sweeper(app.bus).leave()


def test_the_sweeper_goes_on_after_errors_and_logs_each_once(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [LedgerUnavailable("away")] * 3 + [ZeroDivisionError("a bug")] * 2
    tries: list[int] = []

    def sweep(_: Sweeper) -> int:
        tries.append(1)
        if len(tries) <= len(errors):
            raise errors[len(tries) - 1]
        return 0

    monkeypatch.setattr(step_module, "PAUSE", 0.001)
    monkeypatch.setattr(Sweeper, "sweep", sweep)
    worker = SimpleNamespace(app=app.celery)
    step = SweeperStep(worker)
    with caplog.at_level(logging.WARNING, "pipeline.workers.step"):
        step.start(worker)
        wait_for(lambda: len(tries) > len(errors), "a sweep without an error")
        worker_shutdown.send(sender=None)
    said = [one.getMessage().splitlines() for one in caplog.records if one.name == "pipeline.workers.step"]
    assert [(lines[0], len(lines) > 1) for lines in said] == [
        ("the sweeper goes on in 0.001 s: LedgerUnavailable: away", False),
        ("the sweeper goes on in 0.001 s: ZeroDivisionError: a bug", True),  # with its traceback
    ]


CHORES = (
    *("look", "look_for_pauses", "relay", "fire", "release", "send_at_once", "declare", "reconcile"),
    *("check_bounds", "project"),
)


@pytest.mark.parametrize("failing", CHORES)
def test_a_chore_that_fails_keeps_no_other_from_running(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    run: list[str] = []

    def chore(name: str) -> Callable[[Chores], int]:
        def do(chores: Chores) -> int:
            run.append(name)
            if name == failing:
                raise ZeroDivisionError(name)
            chores._due = Look(
                outbox=True, timers=True, waits=True, arrivals=True, pauses=True, turns=True, at_once=True
            )
            return 0

        return do

    for name in CHORES:
        monkeypatch.setattr(Chores, name, chore(name))
    one = Sweeper(app.bus)
    one.chores._due = Look(outbox=True, timers=True, waits=True, arrivals=True, pauses=True, turns=True, at_once=True)
    one.sweep()
    assert run == [*CHORES]
    run.clear()
    one.sweep()
    assert failing not in run, "it has a pause"
    one._paused.clear()
    one._next.clear()
    one.sweep()
    assert failing in run
    assert caplog.text.count(f"1 s: ZeroDivisionError: {failing}") == 1, "said once"
    one.leave()


def test_an_agent_whose_queue_is_in_trouble_keeps_no_other_from_its_lost_deliveries(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def waiting(_: Chores, agent: str) -> int:
        asked.append(agent)
        unavailable = BrokerUnavailable(f"the queue of {agent} has other arguments")
        unavailable.answered = True
        raise unavailable

    monkeypatch.setattr(Chores, "_waiting", waiting)
    monkeypatch.setattr(app.ledger.due, "agents_with_lost", lambda after: ["billing", "stock"])
    with pytest.raises(BrokerUnavailable, match="billing"):
        done(app, Chores.reconcile)
    assert asked == ["billing", "stock"]


def test_a_worker_without_a_ledger_says_what_is_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = Pipeline("t", ledger_url="", broker_url=f"sqlite:///{tmp_path / 'broker.db'}", directory=tmp_path)
    worker = SimpleNamespace(app=app.celery)
    step = SweeperStep(worker)
    step.start(worker)
    assert step_module.OFF in caplog.text
    app.close()


def test_a_worker_that_stops_lives_until_its_handlers_have_ended(app: Pipeline) -> None:
    worker = SimpleNamespace(app=app.celery)
    step = SweeperStep(worker)
    step.start(worker)
    step.stop(worker)  # the pool is stopped after this, and waits for what it runs
    assert [row["id"] for row in rows(app, workers)] == [app.bus.worker_id]
    worker_shutdown.send(sender=None)
    assert status(app.ledger.database).workers == 0


def test_a_relayed_event_is_sent_and_forgotten(app: Pipeline) -> None:
    app.bus.outbox._away_until = float("inf")
    assert not app.publish(order()).sent
    move(app.ledger, outbox, 10)
    assert swept(app) == 1
    assert rows(app, outbox) == []
