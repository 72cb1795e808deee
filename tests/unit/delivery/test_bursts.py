"""What a broker hands over in one burst: what is claimed and recorded together, and what alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import current_task
from celery.concurrency.solo import TaskPool
from celery.worker import state
from sqlalchemy import text

from pipeline import Context, Event, Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.core.event import new_event
from pipeline.delivery.delivery import Begun, NotRecordedError
from pipeline.delivery.short import burst, way
from pipeline.delivery.short.burst import short_way
from tests.ledgers import record
from tests.records import make_app, rows


class Books:
    """Keeps an app's books, and a list of what is done."""

    def __init__(self, books: Any, done: list[str]) -> None:
        self._books = books
        self._done = done

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._books, name)
        if not callable(attribute):
            return attribute

        def noted(first: Any, *more: Any) -> Any:
            self._done.append(f"{name} {len(first)}" if name.endswith("_all") or name == "send" else name)
            return attribute(first, *more)

        return noted


class Site:
    """An app, and what its solo worker knows of a connection that tells when a burst was handed over."""

    def __init__(self, app: Pipeline) -> None:
        self.app = app
        self.done: list[str] = []
        #: What handlers think that the time is.
        self.clock = 0.0
        self.long: list[tuple[str, Begun | None]] = []
        app.celery.finalize()
        for agent in app.agents:
            task = app.celery.tasks[agent.task_name]
            task.books = Books(task.books, self.done)
        app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})
        app.ledger.workers.heartbeat(app.bus.worker_id)
        self.connection = SimpleNamespace(after_burst=[], flush=lambda: self.done.append("flush"))
        consumer = SimpleNamespace(
            app=app.celery, bus=app.bus, pool=TaskPool(), hostname="w1@test", inline=None, event_dispatcher=None,
            connection=SimpleNamespace(connection=self.connection), connection_errors=(), on_task_message=set(),
            disable_rate_limits=False, task_buckets=defaultdict(lambda: None), _maximum_prefetch_restored=True,
        )  # fmt: skip
        self.way = short_way(consumer, self._by_celery)

    def _by_celery(self, message: Any, event: dict[str, Any], queue: str, run: Any = None) -> None:
        self.done.append("long way")
        self.long.append((event["id"], run and run.args[1]))

    def take(self, *data: Any, agent: str = "quick", redelivered: bool = False) -> list[str]:
        """Hand over a burst of events to an agent, and return what was done then."""
        self.hand_over(*data, agent=agent, redelivered=redelivered)
        for call in self.connection.after_burst:
            call()
        done = self.done.copy()
        self.done.clear()
        return done

    def hand_over(self, *data: Any, agent: str = "quick", redelivered: bool = False) -> None:
        """Hand over events without an end of their burst."""
        for one in data:
            event = new_event(f"{agent}.thing", one, source="/test")
            self.app.ledger.append([record(event)], due_in=0)
            message = SimpleNamespace(
                body=event.encode(), delivery_info={"redelivered": redelivered}, properties={}, headers={},
                ack_log_error=lambda *_: self.done.append("ack"),
            )  # fmt: skip
            attributes = {"id": event.key, "type": event.type, "targets": None, "bus": {"ledger": self.app.ledger.id}}
            if not self.way.takes(message, attributes, f"agent.{agent}"):
                self._by_celery(message, attributes, f"agent.{agent}")


@pytest.fixture
def site(tmp_path: Path, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    app = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)

    def handle(event: Event, ctx: Context) -> None:
        site.done.append(current_task.request.id == ctx.delivery_id and str(event.data))
        match event.data:
            case float():
                site.clock += event.data
            case "fail":
                raise RuntimeError("told to fail")
            case "write":
                ctx.session.execute(text("CREATE TABLE effects (n INTEGER)"))
            case "emit":
                ctx.publish("something.else", {})
            case "stop":
                state.should_stop = 0

    for name in ("quick", "other"):
        app.agent(on=f"{name}.#", name=name)(handle)
    app.agent(on="once.#", name="once", retry=0)(handle)
    site = Site(app)
    for module in (way, burst):
        monkeypatch.setattr(module, "monotonic", lambda: site.clock)
    yield site
    state.should_stop = None
    app.close()


ALONE = ("flush", "claim", "{}", "succeed", "ack")


def alone(*data: str) -> list[str]:
    """Return what is done for deliveries that go alone."""
    return [step.format(one) for one in data for step in ALONE]


def together(*data: str) -> list[str]:
    """Return what is done for deliveries that go together."""
    number = len(data)
    return [f"claim_all {number}", *data, f"succeed_all {number}", *["ack"] * number]


def alone_of_group(*data: str) -> list[str]:
    """Return what is done for deliveries that were claimed with others, and then go alone."""
    return [step for one in data for step in (one, "succeed_all 1", "ack")]


def outcomes(site: Site) -> set[str]:
    return {row["outcome"] for row in rows(site.app)}


def test_an_agent_is_known_to_be_quick_when_it_has_run(site: Site) -> None:
    assert site.take("1", "2", "3") == [*alone("1"), *together("2", "3")]
    assert site.take("4", "5", "6") == together("4", "5", "6")
    assert site.take("7", agent="other") == alone("7")
    assert outcomes(site) == {"succeeded"}
    assert current_task._get_current_object() is None


def test_what_several_agents_get_in_a_burst_goes_together(site: Site) -> None:
    site.take("1")
    site.take("1", agent="other")
    site.hand_over("2", "3")
    assert site.take("4", agent="other") == together("2", "3", "4")


def test_a_handler_that_has_become_slow_runs_alone_until_it_is_quick_again(site: Site) -> None:
    site.take("1")
    done = site.take("2", 0.01, "3", "4")
    assert done == ["claim_all 4", "2", "0.01", "succeed_all 2", "ack", "ack", *alone_of_group("3", "4")]
    assert site.take("5", "6") == alone("5", "6")
    site.take(*"789abcdefg")
    assert site.take("8", "9") == together("8", "9")


def test_an_outcome_waits_a_few_milliseconds_for_others_at_most(site: Site) -> None:
    site.take("1")
    done = site.take("2", 0.002, "3", 0.004, "4", "5")
    assert done == ["claim_all 6", "2", "0.002", "3", "0.004", "succeed_all 4", *["ack"] * 4, *together("4", "5")[1:]]


def test_a_delivery_without_a_second_attempt_is_claimed_alone(site: Site) -> None:
    site.take("1", agent="once")
    assert site.take("2", "3", agent="once") == alone("2", "3")


def test_what_fails_goes_the_long_way_when_what_has_ended_is_recorded(site: Site) -> None:
    site.take("1")
    assert site.take("2", "fail", "3") == [
        "claim_all 3", "2", "fail", "succeed_all 1", "ack", "long way", "3", "succeed_all 1", "ack"
    ]  # fmt: skip
    ((_, begun),) = site.long
    assert begun is not None
    assert (begun.attempt, str(begun.outcome)) == (1, "told to fail")
    assert outcomes(site) == {"succeeded", "running"}


def test_what_a_handler_writes_in_its_session_is_committed_with_its_own_outcome_alone(site: Site) -> None:
    site.take("1")
    done = site.take("2", "write", "3")
    assert done == ["claim_all 3", "2", "write", "succeed", "ack", "3", "succeed_all 2", "ack", "ack"]
    assert outcomes(site) == {"succeeded"}


def test_what_a_burst_emits_is_sent_at_once_when_it_is_recorded(site: Site) -> None:
    site.take("1")
    done = site.take("emit", "2", "emit")
    assert done == ["claim_all 3", "emit", "2", "emit", "succeed_all 3", "send 2", "ack", "ack", "ack"]


def test_what_goes_the_long_way_waits_for_what_came_before_it(site: Site) -> None:
    site.take("1")
    site.hand_over("2")
    site.hand_over("again", redelivered=True)
    assert site.take("3") == [*together("2"), "long way", *together("3")]


def test_what_is_in_the_ledger_already_goes_the_long_way(site: Site) -> None:
    site.take("1")
    site.hand_over("2")
    site.app.ledger.workers.heartbeat("another")
    (waiting,) = site.way._waiting  # type: ignore[attr-defined]
    site.app.ledger.claim(site.way._delivery(waiting), worker="another")  # type: ignore[arg-type]
    assert site.take("3") == ["claim_all 2", "long way", "3", "succeed_all 1", "ack"]
    assert [begun for _, begun in site.long] == [None]


def test_a_worker_that_ends_leaves_to_the_broker_what_has_not_begun(site: Site) -> None:
    assert site.take("stop", "1", "2") == alone("stop")
    assert site.take("3") == []
    assert outcomes(site) == {"succeeded"}


def test_a_group_is_not_larger_than_what_may_run_again(site: Site) -> None:
    site.take("1")
    done = site.take(*map(str, range(burst.MOST * 2 + 1)))
    assert [step for step in done if step.startswith("claim")] == ["claim_all 100", "claim_all 100", "claim_all 1"]


def test_a_ledger_that_is_away_sends_the_whole_burst_the_long_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.take("1")
    site.hand_over("2", "3")

    def away(*_: object, **__: object) -> Any:
        raise LedgerUnavailable("it is away")

    monkeypatch.setattr(site.app.ledger, "claim_all", away)
    assert site.take() == ["claim_all 2", "long way", "long way"]
    assert [(begun.attempt, type(begun.outcome)) for _, begun in site.long if begun] == [(0, NotRecordedError)] * 2
    monkeypatch.undo()
    monkeypatch.setattr(site.app.ledger, "succeed_all", away)
    site.long.clear()
    assert site.take("4", "5") == ["claim_all 2", "4", "5", "succeed_all 2", "long way", "long way"]
    assert [(begun.attempt, type(begun.outcome)) for _, begun in site.long if begun] == [(1, NotRecordedError)] * 2


def test_what_cannot_be_sent_without_a_ledger_goes_back_to_its_queue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.take("1")

    def send(_: object) -> None:
        raise NotRecordedError("the broker is away")

    monkeypatch.setattr(site.app.celery.tasks["agent.quick"].books, "send", send, raising=False)
    assert site.take("emit", "2") == ["claim_all 2", "emit", "2", "succeed_all 2", "long way", "long way"]
    assert [(begun.attempt, type(begun.outcome)) for _, begun in site.long if begun] == [(1, NotRecordedError)] * 2
