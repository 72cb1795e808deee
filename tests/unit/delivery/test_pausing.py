"""The steps that hold deliveries back, and what they do where nothing can be parked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Retry as CeleryRetry
from sqlalchemy import inspect, text

from pipeline import Breaker, Context, Event, InvalidAgent, Pipeline, RateLimited, Retry
from pipeline.core.errors import LedgerUnavailable, OverBudget, Shed, Vetoed
from pipeline.core.event import Encoded, new_event
from pipeline.core.ids import delivery_id
from pipeline.core.retry import LONGEST_PAUSE, pause_for
from pipeline.delivery.steps import LONGEST_IN_MEMORY, Attempt, Done, Parks, Paused, run
from pipeline.ledger.database.waiting import attempts, pauses
from tests.records import make_app, rows


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False)
    yield one
    one.close()


def agent(app: Pipeline, do: Callable[[Context], Any], **options: Any) -> None:
    """Declare the agent `asker`, and let the ledger know it."""

    @app.agent(on="question.asked", name="asker", **options)
    def asker(data: Any, ctx: Context) -> None:
        do(ctx)

    app.ledger.subscribers.register({"asker": (("question.asked",), None)})
    app.ledger.workers.heartbeat(app.bus.worker_id)


def refuse(ctx: Context) -> None:
    raise RateLimited(7)


def attempt_of(app: Pipeline, event: Event | None = None, **options: Any) -> Attempt:
    event = event or new_event("question.asked", {}, source="/test")
    ledger = app.ledger if app.bus.has_ledger else None
    context = Context(event, "asker", delivery_id(event.id, "asker"), 1, "/t", None, ledger=ledger)
    return Attempt(app.bus, app.agents["asker"], context, **options)


def deliver(app: Pipeline, event: Event) -> Any:
    """Run the task of the agent as a worker does."""
    app.celery.finalize()
    task = app.celery.tasks["agent.asker"]
    id = delivery_id(event.id, "asker")
    task.push_request(
        id=id, retries=0, called_directly=False, is_eager=False, ignore_result=True, delivery_info={},
        bus={"ledger": app.ledger.id, "key": event.key},
    )  # fmt: skip
    try:
        return task.run(event.encode().decode())
    finally:
        task.pop_request()


def test_what_a_refused_attempt_has_written_and_published_is_undone(app: Pipeline) -> None:
    def write(ctx: Context) -> None:
        ctx.session.execute(text("CREATE TABLE effects (n INTEGER)"))
        ctx.publish("question.passed", {})
        raise RateLimited(7)

    agent(app, write, scope="gpt")
    with pytest.raises(CeleryRetry):
        deliver(app, app.publish("question.asked", {}))
    (row,) = rows(app, agent="asker")
    assert (row["outcome"], row["attempts"], row["emitted"]) == ("parked", 0, 0)
    assert row["error"].startswith("waits for gpt, paused until ")
    assert row["error"].endswith(": RateLimited: the provider asks to wait for 7 s")
    assert not inspect(app.ledger.database.engine).has_table("effects")
    assert list(app.get_events(type="question.passed")) == []


def test_the_scope_that_a_handler_names_is_paused(app: Pipeline) -> None:
    def refuse_for(ctx: Context) -> None:
        raise RateLimited(7, "gpt/tenant-1")

    agent(app, refuse_for, scope="gpt")
    found = run(attempt_of(app))
    assert isinstance(found, Parks)
    assert (found.wait.kind, found.wait.key, found.wait.name) == ("pause", "gpt/tenant-1", None)
    assert [row["name"] for row in rows(app, pauses)] == ["gpt/tenant-1"]


def test_an_error_that_the_agent_gives_up_on_is_a_failure(app: Pipeline) -> None:
    agent(app, refuse, retry=Retry(give_up_on=(RateLimited,)))
    with pytest.raises(RateLimited):
        deliver(app, app.publish("question.asked", {}))
    assert [row["outcome"] for row in rows(app, agent="asker")] == ["dead"]
    assert rows(app, pauses) == []


def test_a_member_of_a_canvas_is_called_again_later_as_it_cannot_be_parked(app: Pipeline) -> None:
    calls: list[Context] = []

    def refuse_once(ctx: Context) -> None:
        calls.append(ctx)
        refuse(ctx)

    agent(app, refuse_once, scope="gpt")
    for _ in range(2):
        found = run(attempt_of(app, in_canvas=True))
        assert isinstance(found, Paused)
        assert 6 < found.delay <= 7.7
    assert len(calls) == 1


def test_without_a_ledger_the_delivery_is_called_again_later(tmp_path: Path) -> None:
    app = Pipeline("t", broker_url=f"sqlite:///{tmp_path / 'broker.db'}", ledger_url="", directory=tmp_path)

    @app.agent(on="question.asked", scope="gpt")
    def asker(data: Any) -> None:
        raise RateLimited(100_000)

    assert run(attempt_of(app)) == Paused(LONGEST_IN_MEMORY, "RateLimited: the provider asks to wait for 100000 s")
    app.close()


def test_a_ledger_that_is_away_makes_it_a_failure(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise LedgerUnavailable("away")

    agent(app, refuse, scope="gpt")
    monkeypatch.setattr(app.ledger.waiting.pauses, "hit", away)
    with pytest.raises(RateLimited):
        run(attempt_of(app))


def test_agents_without_a_scope_read_nothing(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    agent(app, lambda _: None)
    monkeypatch.setattr(app.bus.pauses, "_table", None)
    assert run(attempt_of(app)) == Done(None)


def test_the_paused_scopes_are_read_at_most_twice_a_second(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    at, reads = SimpleNamespace(time=100.0), []
    monkeypatch.setattr("pipeline.limits.pauses.passed", lambda: at.time)
    table = SimpleNamespace(scopes=lambda: reads.append(at.time) or {})
    monkeypatch.setattr(app.bus.pauses, "_table", table)
    agent(app, lambda _: None, scope="gpt")
    for _ in range(40):
        assert run(attempt_of(app)) == Done(None)
        at.time += 0.0625
    assert reads == [100.0, 100.5, 101.0, 101.5, 102.0]


def test_who_asks_while_another_one_reads_waits_for_what_that_finds(app: Pipeline) -> None:
    asked, may_answer = threading.Semaphore(0), threading.Event()
    found = app.ledger.waiting.pauses.hit("gpt", "429", lambda _: 60)

    def scopes() -> dict[str, Any]:
        asked.release()
        assert may_answer.wait(10)
        return {"gpt": found}

    app.bus.pauses._table = SimpleNamespace(scopes=scopes)  # type: ignore[assignment]
    agent(app, lambda _: None, scope="gpt")
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(run(attempt_of(app)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert asked.acquire(timeout=10)
    assert results == []
    may_answer.set()
    for thread in threads:
        thread.join(10)
    assert [type(result) for result in results] == [Parks] * 4


def test_a_breaker_counts_successes_with_their_deliveries_and_pauses_the_agent_under_its_name(app: Pipeline) -> None:
    def fail(ctx: Context) -> None:
        if ctx.event.data["fails"]:
            raise ValueError("no")

    agent(app, fail, scope="gpt", retry=0, breaker=Breaker(min=4, share=0.5))
    for fails in (False, False, True):
        event = app.publish("question.asked", {"fails": fails})
        if fails:
            with pytest.raises(ValueError, match="no"):
                deliver(app, event)
        else:
            deliver(app, event)
    assert [(row["made"], row["failed"]) for row in rows(app, attempts)] == [(3, 1)]
    assert rows(app, pauses) == []
    with pytest.raises(ValueError, match="no"):
        deliver(app, app.publish("question.asked", {"fails": True}))
    (pause,) = app.pauses.list()
    assert (pause.name, pause.reason) == ("asker", "2 of 4 attempts have failed in 300 s: ValueError: no")
    with pytest.raises(CeleryRetry):
        deliver(app, app.publish("question.asked", {"fails": False}))
    assert len(rows(app, agent="asker", outcome="parked")) == 1


@pytest.mark.parametrize("kind", [Vetoed, OverBudget])
def test_what_somebody_has_decided_is_no_failure_to_a_breaker(app: Pipeline, kind: type[Exception]) -> None:
    def fail(ctx: Context) -> None:
        raise kind("no")

    agent(app, fail, breaker=Breaker(min=1))
    with pytest.raises(kind):
        run(attempt_of(app))
    assert rows(app, attempts) == rows(app, pauses) == []


def test_what_a_provider_has_refused_has_begun_and_is_not_shed(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.limits.bounds.FRESH", 0)
    agent(app, refuse, max_age=60, max_waiting=10, overflow="shed-oldest")
    event = app.publish("question.asked", {})
    with pytest.raises(CeleryRetry):
        deliver(app, event)
    app.pauses.clear("asker")
    assert app.ledger.waiting.pauses.release() == 1
    full = new_event("agent.backpressure", {}, source="/test")
    app.ledger.waiting.bounds.begin("asker", "shed-oldest", "10 wait", 1, Encoded(full, full.encode()))
    for old in (False, True):
        again = event.evolve(time=event.time - timedelta(hours=1)) if old else event
        assert isinstance(run(attempt_of(app, again)), Parks)
    assert app.ledger.waiting.bounds.full()["asker"].shed == 0
    with pytest.raises(Shed, match="shed-oldest"):
        run(attempt_of(app))


def test_what_a_provider_refuses_is_no_failure_to_a_breaker(app: Pipeline) -> None:
    agent(app, refuse, breaker=Breaker(min=1))
    assert isinstance(run(attempt_of(app)), Parks)
    assert rows(app, attempts) == []


@pytest.mark.parametrize(
    ("retry_after", "times", "chance", "seconds"),
    [
        (30, 0, 0.0, 30.0), (30, 0, 1.0, 33.0), (0, 0, 0.5, 0.0), (None, 0, 0.0, 1.0), (None, 3, 0.0, 8.0),
        (1, 5, 0.0, 32.0), (60, 2, 0.0, 60.0), (9e9, 0, 0.0, LONGEST_PAUSE), (None, 500, 1.0, LONGEST_PAUSE),
    ],
)  # fmt: skip
def test_a_pause_is_no_shorter_than_it_is_asked_for_and_an_hour_at_most(
    retry_after: float | None, times: int, chance: float, seconds: float
) -> None:
    assert pause_for(retry_after, times, chance) == pytest.approx(seconds)
    assert pause_for(retry_after, times, chance, longest=20.0) == pytest.approx(min(seconds, 20.0))


class Briefly(RateLimited):
    longest = 0.25


def test_a_pause_is_no_longer_than_the_error_says_however_often_it_was_refused(app: Pipeline) -> None:
    def refuse_briefly(ctx: Context) -> None:
        raise Briefly(7)

    agent(app, refuse_briefly)
    found = run(attempt_of(app))
    assert isinstance(found, Parks)
    (pause,) = app.ledger.waiting.pauses.scopes().values()
    assert pause.until is not None
    assert pause.since is not None
    assert pause.until - pause.since <= timedelta(seconds=0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scope": ""}, "scope='' is no text of 1 to 200 characters"),
        ({"scope": ["gpt", 3]}, "scope=3 is no text"),
        ({"breaker": True}, "breaker=True is no Breaker"),
        ({"scopes": "gpt"}, "did you mean 'scope'?"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_declared(app: Pipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidAgent) as caught:
        agent(app, refuse, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("wrong", [{"min": 0}, {"within": 5}, {"share": 0}, {"share": 1.5}, {"pause": 0}])
def test_a_breaker_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidAgent, match=next(iter(wrong))):
        Breaker(**wrong)
